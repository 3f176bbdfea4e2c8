"""One short training that the export tests share."""

import pytest

from trudi.cli import main


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of CartpoleSwingup: two iterations, evaluated once."""
    folder = tmp_path_factory.mktemp("export") / "run"
    options = [
        "--num-envs",
        "2",
        "--rollout-steps",
        "128",
        "--max-iterations",
        "2",
        "--policy.width",
        "32",
        "--critic.width",
        "16",
    ]
    options += ["--evaluation.episodes", "2"]
    assert main(["train", "envpool:CartpoleSwingup-v1", "--out", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="session")
def bundle(run, tmp_path_factory):
    """That run's bundle, with a real TensorRT-RTX engine."""
    target = tmp_path_factory.mktemp("bundles") / "cartpole"
    argv = ["export", str(run), "--out", str(target), "--engine", "tensorrt-rtx", "--episodes", "2"]
    assert main(argv) == 0
    return target
