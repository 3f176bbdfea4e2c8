"""Two processes over Gloo, started by torchrun, against one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from json import loads
from pathlib import Path

import pytest
import torch
import two_ranks
from safetensors import safe_open
from safetensors.torch import load_file

from trudi.train import checkpoint, distributed, state
from trudi.train.commands.train import main
from trudi.train.distributed import ALONE, combined, generator_seed, joined
from trudi.train.errors import TrainError
from trudi.train.loop import StopRequest, simulator_seed
from trudi.train.runfolder import METRICS, RunFolder, read_metrics

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@dataclass
class Ended:
    """What two ranks left behind, and what torchrun said of them."""

    out: Path
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    command = [*TORCHRUN, two_ranks.__file__, str(out)]
    run = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)
    assert (out / "heard.json").exists(), run.stderr
    return Ended(out, run.returncode, run.stdout, run.stderr)


@pytest.mark.parametrize(("name", "kind"), two_ranks.CASES)
def test_two_ranks_learn_what_one_learns_of_all_their_samples(ended, name, kind):
    """Parameters, duals, Adam's moments and statistics after 12 steps, clipped and unclipped, inside the bound and outside.

    Another order of summation is all that differs: in float64 1e-12 of each value or 1e-14, in float32 1e-4 or 1e-6.
    """
    relative, absolute = (1e-12, 1e-14) if kind == torch.float64 else (1e-4, 1e-6)
    found = [load_file(ended.out / f"rank{rank}.safetensors") for rank in (0, 1)]
    one = two_ranks.learned(name, kind)
    inside = 1.0 - one.pop("seen")[:, 0]
    assert 0.1 < float(inside.mean()) < 0.9
    for key, expected in one.items():
        ours, theirs = (tensors[f"{name} {kind}/{key}"] for tensors in found)
        assert torch.equal(ours, theirs), key
        torch.testing.assert_close(ours, expected, rtol=relative, atol=absolute, msg=lambda text, key=key: f"{key}: {text}")


def test_what_one_rank_meets_all_hear_of(ended):
    heard = loads((ended.out / "heard.json").read_text())
    assert heard["any"] == [True, False]
    assert heard["first"] == "made by 0"
    assert heard["error"] == "reward is not finite (process 1 of 2)"
    same, different = heard["bits"]
    assert same == "same"
    assert "the processes' networks are not the same" in different


def test_a_rank_that_dies_ends_the_others_by_name(ended):
    """At once, and not after the time limit; torchrun reports the dead one's exit code."""
    heard = loads((ended.out / "heard.json").read_text())
    assert heard["end"].startswith("another process of this training ended")
    assert ended.code != 0 and "exitcode  : 3" in ended.stderr


def test_a_run_of_two_ranks_is_one_run(ended):
    """Equal networks, random numbers of their own, one folder; a NaN on one rank took both back."""
    ends = [load_file(ended.out / f"end{rank}.safetensors") for rank in (0, 1)]
    assert {key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])} == {"generator"}
    for rank in (0, 1):
        with safe_open(ended.out / f"end{rank}.safetensors", "pt") as file:
            assert file.metadata()["retried"].startswith("reward is not finite")
    last = RunFolder.open(ended.out / "run").load_checkpoint()
    assert state.of_rank(dict(last.tensors), 1, 2).keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][key]) for key, value in state.of_rank(dict(last.tensors), 1, 2).items())
    rows = read_metrics(ended.out / "run" / METRICS)
    assert [row["time/env_steps"] for row in rows] == [256, 512, 768, 1024]  # 2 ranks x 8 environments x 16 steps
    assert [row["iteration"] for row in rows if "eval/return_mean" in row] == [2, 4]
    assert all(0.0 <= row["actor/kl"] <= row["actor/kl_max"] for row in rows)
    assert ended.stdout.count("run folder:") == 1
    assert len(list((ended.out / "run").glob("events.*"))) == 1


def test_a_resumed_run_equals_an_uninterrupted_one_and_sigterm_leaves_a_checkpoint(ended, tmp_path):
    """The real command: from iteration 2 past iteration 4, where it equals the run above to the last bit, to a SIGTERM."""
    run = tmp_path / "run"
    shutil.copytree(ended.out / "run", run, symlinks=True)
    whole = checkpoint.load(checkpoint.find(run / "checkpoints", "4"))
    shutil.rmtree(checkpoint.find(run / "checkpoints", "4"))
    (run / "checkpoints" / "last").unlink()
    (run / "checkpoints" / "last").symlink_to(checkpoint.find(run / "checkpoints", "2").name)
    command = [*TORCHRUN, "-m", "trudi.train", "--resume", str(run), "--distributed", "--max-iterations", "100000"]
    command += ["--evaluation.every", "0", "--evaluation.episodes", "1", "--keep-checkpoints", "1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while read_metrics(run / METRICS)[-1]["iteration"] < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert f"torchrun --nproc-per-node 2 -m trudi.train --resume {run} --distributed" in stdout, stderr
    reached = checkpoint.load(run / "checkpoints" / "last").counters.iteration
    assert reached == read_metrics(run / METRICS)[-1]["iteration"] >= 5
    again = checkpoint.load(checkpoint.find(run / "checkpoints", "4"))
    assert whole.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(whole.tensors[key], again.tensors[key]) for key in whole.tensors)


def test_a_run_goes_on_with_as_many_processes(ended, capsys):
    tensors = dict(RunFolder.open(ended.out / "run").load_checkpoint().tensors)
    with pytest.raises(TrainError, match=r"by 2 process\(es\), not by 1: go on with torchrun --nproc-per-node 2"):
        state.of_rank(tensors, 0, 1)
    with pytest.raises(TrainError, match=r"by 1 process\(es\), not by 3: leave out --distributed"):
        state.of_rank({"generator": torch.zeros(1)}, 0, 3)
    assert main(["--resume", str(ended.out / "run")]) == 2
    assert "not by 1" in capsys.readouterr().err


def started(monkeypatch, **variables):
    for name in distributed.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_and_without_the_flag(monkeypatch, tmp_path, capsys):
    arguments = [two_ranks.RUN.task, "--out", str(tmp_path / "run")]
    started(monkeypatch)
    assert main([*arguments, "--distributed"]) == 2
    assert "torchrun did not start this process (RANK is not set)" in capsys.readouterr().err
    started(monkeypatch, RANK="0", WORLD_SIZE="2")
    assert main(arguments) == 2
    assert "torchrun started 2 processes: add --distributed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_gpus_and_nccl_are_asked_for_by_name(monkeypatch):
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    started(monkeypatch, **variables, LOCAL_WORLD_SIZE="2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainError, match=r"2 processes for 1 GPU\(s\) on this machine: --nproc-per-node 1"), joined("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(TrainError, match="needs NCCL"), joined("cuda"):
        pass
    ranks = distributed.TorchRanks(1, 2, 1)
    assert ranks.device("cuda") == ranks.device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(TrainError, match="say --device cuda"):
        ranks.device("cuda:0")


def test_metrics_of_all_ranks_are_one_set():
    ranks = [
        {"a": 1.0, "a_max": 1.0, "time/steps_per_s": 10.0},
        {"a": 2.0, "a_max": 3.0, "time/steps_per_s": 20.0, "b": 5.0},
    ]
    assert combined(ranks) == {"a": 1.5, "a_max": 3.0, "time/steps_per_s": 30.0, "b": 5.0}
    assert combined(ranks[:1]) == ranks[0]


def test_one_process_waits_for_nothing_and_changes_nothing():
    tensor = torch.tensor([3.0])
    ALONE.average([tensor], torch.tensor([0.0]))
    assert float(tensor) == 3.0
    assert ALONE.exchange("x") == ["x"] and ALONE.is_any(True) and not ALONE.is_any(False)
    assert ALONE.of_first(lambda: 4) == 4
    assert generator_seed(7, 0) == 7
    assert simulator_seed(7, 3, 1, rank=0) == simulator_seed(7, 3, 1)


def test_seeds_of_ranks_are_apart():
    assert len({generator_seed(seed, rank) for seed in range(20) for rank in range(16)}) == 320
    assert len({simulator_seed(0, iteration, 0, rank) for iteration in range(50) for rank in range(16)}) == 800


def test_signals_that_torchrun_repeats_do_not_break_off_the_checkpoint():
    patient, hasty = StopRequest(is_patient=True), StopRequest()
    for stop in (patient, hasty):
        stop(signal.SIGTERM, None)
    patient(signal.SIGINT, None)
    assert patient.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        hasty(signal.SIGTERM, None)
