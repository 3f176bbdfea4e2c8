"""What a user types, and what comes back: exit codes and one-line errors."""

import json
import shutil

import pytest

from trudi import cli
from trudi.train import checkpoint
from trudi.train.commands.train import parse, spelled_out
from trudi.train.envs import registry

pytestmark = pytest.mark.usefixtures("short_episodes")

TASK = "envpool:CartpoleSwingup-v1"
SMALL = ["--num-envs", "4", "--rollout-steps", "8", "--policy.width", "8", "--critic.width", "8", "--max-iterations", "1"]
SMALL += ["--evaluation.episodes", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of one iteration, made by the real command."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["train", TASK, "--out", str(out), *SMALL, "--json", str(out.parent / "train.json")]) == 0
    return out


@pytest.fixture
def copy(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_training_reports_itself_for_machines(trained):
    summary = json.loads((trained.parent / "train.json").read_text())
    assert summary["iteration"] == 1
    assert summary["env_steps"] == 32
    assert summary["interrupted"] is False


@pytest.mark.parametrize("sampler", ["ode", "zero"])
def test_eval_reports_what_the_product_promises(trained, tmp_path, sampler):
    out = tmp_path / "eval.json"
    assert cli.main(["eval", str(trained), "--episodes", "2", "--sampler", sampler, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert {"return_mean", "return_std", "return_ci95", "episodes", "sampler", "seed"} <= result.keys()
    assert result["return_ci95"][0] <= result["return_mean"] <= result["return_ci95"][1]
    assert result["sampler"] == sampler


def test_tasks_lists_sizes_and_order(tmp_path, capsys):
    out = tmp_path / "tasks.json"
    assert cli.main(["tasks", "envpool:cheetah", "--json", str(out)]) == 0
    assert "envpool:CheetahRun-v1" in capsys.readouterr().out
    assert json.loads(out.read_text()) == [
        {
            "task": "envpool:CheetahRun-v1",
            "actor": {"position": 8, "velocity": 9},
            "critic": {"position": 8, "velocity": 9},
            "action_size": 6,
            "control_period_s": 0.01,
            "max_episode_steps": 1000,
        }
    ]


def refused(capsys, *argv):
    """Runs a command that must be refused; returns its one line."""
    assert cli.main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_wrong_option_is_one_line_too(capsys):
    """tyro draws boxes of ten lines."""
    task = "envpool:CartpoleSwingup-v1"
    wrong_type = refused(capsys, "train", task, "--num-envs", "many")
    assert "Error parsing --num-envs: invalid literal for int() with base 10: 'many'" in wrong_type
    assert "did you mean --policy.width?" in refused(capsys, "train", task, "--policy.widht", "3")
    assert "--num-envs" in refused(capsys, "train", task, "--num-env", "4")
    assert "invalid choice 'euler' for argument '--sampler'" in refused(capsys, "eval", "runs/x", "--sampler", "euler")
    assert "`trudi tasks --help` explains" in refused(capsys, "tasks", "--nope")


def test_a_backend_whose_extra_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(
        registry.BACKENDS, "envpool", registry.Backend("a_package_nobody_has", "pip install 'trudi[envpool]'")
    )
    line = refused(capsys, "train", "envpool:CartpoleSwingup-v1")
    assert "the backend 'envpool' is not installed: pip install 'trudi[envpool]'" in line


def test_unknown_tasks_and_backends(capsys, tmp_path):
    out = ("--out", str(tmp_path / "x"))
    assert "did you mean CartpoleSwingup-v1" in refused(capsys, "train", "envpool:CartpoleSwingup", *out)
    assert "write backend:name" in refused(capsys, "train", "CartpoleSwingup-v1", *out)
    assert "unknown backend 'gazebo' in 'gazebo:X'; available: envpool" in refused(capsys, "train", "gazebo:X", *out)
    assert "no task given" in refused(capsys, "train")
    assert "no task's name contains 'zzz'" in refused(capsys, "tasks", "zzz")
    assert not (tmp_path / "x").exists()


def test_no_cuda(capsys, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    line = refused(capsys, "train", TASK, "--device", "cuda", "--out", str(tmp_path / "x"))
    assert "--device cuda: CUDA is not available" in line and "--device cpu" in line
    assert "unknown device 'gpu'" in refused(capsys, "train", TASK, "--device", "gpu", "--out", str(tmp_path / "x"))


def test_a_wrong_type_in_a_file(capsys, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(f"task: {TASK}\npolicy: {{width: wide}}\n")
    assert "policy.width" in refused(capsys, "train", "--config", str(path))


def test_a_run_folder_that_exists(capsys, trained):
    line = refused(capsys, "train", TASK, "--out", str(trained))
    assert f"{trained} exists already; continue it with `trudi train --resume {trained}`" in line


def test_resuming_another_tasks_run(capsys, trained):
    line = refused(capsys, "train", "envpool:CheetahRun-v1", "--resume", str(trained))
    assert f"is a run of {TASK}, not of envpool:CheetahRun-v1" in line


def test_resuming_with_a_changed_setting(capsys, trained):
    line = refused(capsys, "train", "--resume", str(trained), "--policy.width", "9")
    assert "keeps its policy.width (8, not 9); only" in line and "max_iterations" in line


def test_resuming_what_is_no_run(capsys, tmp_path, trained):
    assert "is not a run folder" in refused(capsys, "train", "--resume", str(tmp_path))
    assert "did you mean" in refused(capsys, "eval", str(trained / "checkpoints" / "last"))


def test_a_truncated_checkpoint(capsys, copy):
    path = copy / "checkpoints" / "last" / checkpoint.TENSORS
    path.write_bytes(path.read_bytes()[:-9])
    assert "is damaged" in refused(capsys, "train", "--resume", str(copy), "--max-iterations", "2")
    assert "is damaged" in refused(capsys, "eval", str(copy))


def test_a_checkpoint_of_another_shape(capsys, copy):
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("width: 8", "width: 16"))
    line = refused(capsys, "eval", str(copy))
    assert "has shape" in line and "this configuration needs" in line


def test_resuming_goes_on(copy):
    assert cli.main(["train", "--resume", str(copy), "--max-iterations", "3"]) == 0
    assert checkpoint.load(copy / "checkpoints" / "last").counters.iteration == 3


def test_the_ablations_have_short_forms():
    short = ["--trust-region", "none", "--steps", "1", "--trust-region=none", "--steps=2", "--trust-region.bound", "none"]
    assert spelled_out(short) == [
        "--trust-region.direction", "none", "--policy.steps", "1", "--trust-region.direction=none", "--policy.steps=2",
        "--trust-region.bound", "none",
    ]  # fmt: skip
    args, _ = parse(["envpool:CartpoleSwingup-v1", "--trust-region", "none", "--steps", "1"])
    assert (args.cfg.trust_region.direction, args.cfg.policy.steps) == ("none", 1)
