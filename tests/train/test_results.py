"""What a report is made of: results files, and what a run folder shows."""

import json
from dataclasses import replace

import pytest

from trudi.train.config import TrainCfg, write_config
from trudi.train.errors import TrainError
from trudi.train.results import Results, RunResult, Scale, read_results, result_of
from trudi.train.runfolder import RunFolder
from trudi.train.trust_region import TrustRegionCfg

CFG = TrainCfg(task="envpool:CartpoleSwingup-v1", seed=3, trust_region=TrustRegionCfg(bound=0.25))


def made(path, cfg=CFG, iterations=6, every=3):
    """A run's folder with what `result_of` reads."""
    path.mkdir()
    write_config(cfg, path / "config.yaml")
    (path / "run.json").write_text(json.dumps({"git_commit": "0123456789ab", "git_dirty": True}))
    with (path / "metrics.jsonl").open("w") as file:
        for i in range(1, iterations + 1):
            row = {"iteration": i, "actor/kl": 0.125 * i, "time/env_steps": 100 * i, "time/elapsed_s": 2.0 * i}
            if i % every == 0:
                row |= {"eval/return_mean": 10.0 * i, "eval/return_std": 1.0}
            file.write(json.dumps(row) + "\n")
    return RunFolder.open(path)


def test_a_run_folder_in_short(tmp_path):
    run = result_of(made(tmp_path / "run"), name="a", options=["--seed", "3"], final={"ode": [1.0, 2.0]})
    assert (run.variant, run.algo, run.seed, run.state, run.bound) == ("trudi", "trudi", 3, "done", 0.25)
    assert run.commit == "0123456+"
    assert run.curve["env_steps"] == (300, 600)
    assert run.curve["return_mean"] == (30.0, 60.0)
    assert run.diagnostics["env_steps"] == (100, 200, 300, 400, 500, 600)
    assert set(run.diagnostics) == {"env_steps", "actor/kl"}  # what the run does not have is not made up
    assert run.final == {"ode": (1.0, 2.0)}


def test_long_diagnostics_are_thinned_to_the_end(tmp_path):
    run = result_of(made(tmp_path / "run", iterations=450), name="a")
    assert run.diagnostics["env_steps"] == tuple(range(300, 45001, 300))


def test_without_a_trust_region_there_is_no_bound(tmp_path):
    free = replace(CFG, trust_region=TrustRegionCfg(direction="none"))
    assert result_of(made(tmp_path / "run", free), name="a").bound is None


def test_a_results_file_comes_back(tmp_path):
    failed = RunResult(
        "b", "envpool:X", "ppo", 0, "failed", reason="out of memory", curve={"cpu_s": (float("nan"), 1.23456789)}
    )
    run = result_of(made(tmp_path / "run"), name="a")
    path = tmp_path / "results.json"
    Results((run, failed), {"envpool:X": Scale(0.0, 1000.0)}, {"title": "t"}).write(path)
    again = read_results(path)
    # This run's log says nothing of processor time.
    assert replace(again.runs[0], curve={}) == replace(run, curve={})
    assert again.runs[0].curve["return_mean"] == run.curve["return_mean"]
    assert again.runs[0].curve["cpu_s"][0] != again.runs[0].curve["cpu_s"][0]
    assert again.runs[1].reason == "out of memory"
    assert again.runs[1].curve["cpu_s"][1] == 1.23457
    assert again.scales["envpool:X"].high == 1000.0
    assert "NaN" not in path.read_text()
    again.write(tmp_path / "twice.json")
    assert (tmp_path / "twice.json").read_text() == path.read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "it has no runs"),
        ('{"format": 9, "runs": []}', "format 9"),
        ('{"format": 1, "runs": [{"name": "a"}]}', r"runs\.0\.task"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, text, says):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(TrainError, match=says):
        read_results(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainError, match=r"nothing\.json cannot be read"):
        read_results(tmp_path / "nothing.json")
