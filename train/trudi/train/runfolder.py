"""A run's folder: what was run, on what, and everything measured.

config.yaml     resolved configuration          run.json        versions, machine, git state, command
git.diff        uncommitted changes             metrics.jsonl   one line an iteration
events.*        the same for TensorBoard        checkpoints/    see `checkpoint`
robot.yaml      the robot, where the simulator can describe it (docs/robots.md)
videos/         films of the training (`--video`)
init.json       the policy that training started from (`--init-from`)

A student's has three more (see `distill`): distill.yaml, teacher/ and, at its end, distill.json.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from trudi.runtime.bench import processor
from trudi.train import checkpoint
from trudi.train.config import TrainCfg, load_config, write_config
from trudi.train.envs.robot_description import ROBOT_FILE
from trudi.train.errors import TrainError

PACKAGES = (
    "trudi",
    "torch",
    "numpy",
    "envpool",
    "mujoco",
    "mjlab",
    "isaaclab",
    "rsl-rl-lib",
    "safetensors",
    "tyro",
    "pydantic",
)
CONFIG, ABOUT, DIFF, METRICS, CHECKPOINTS = "config.yaml", "run.json", "git.diff", "metrics.jsonl", "checkpoints"
INIT = "init.json"
DISTILL, TEACHER, VERDICT = "distill.yaml", "teacher", "distill.json"


class RunFolder:
    """Paths and writers of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS

    @classmethod
    def create(cls, path: Path, cfg: TrainCfg) -> RunFolder:
        """A new run's folder; TrainError where it exists with anything in it."""
        require_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_config(cfg, path / CONFIG)
            (path / ABOUT).write_text(json.dumps(describe_machine(), indent=2) + "\n")
            (path / DIFF).write_text(_git("diff", "HEAD") or "")
        except OSError as error:
            raise TrainError(f"the run folder {path} cannot be written: {error.strerror}") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder; TrainError where it is none."""
        if not (path / CONFIG).is_file():
            hint = f"did you mean {path.parent.parent}?" if path.parent.name == CHECKPOINTS else f"it has no {CONFIG}"
            raise TrainError(f"{path} is not a run folder: {hint}")
        return cls(path)

    def write_robot(self, text: str | None) -> None:
        """The robot file that the simulator gave, if it gave one. A resumed run writes it again: it may train for longer."""
        if text is not None:
            (self.path / ROBOT_FILE).write_text(text)

    def write_init(self, source: Mapping[str, Any]) -> None:
        """What the policy was that training starts from."""
        try:
            (self.path / INIT).write_text(json.dumps(source, indent=2) + "\n")
        except OSError as error:
            raise TrainError(f"the run folder {self.path} cannot be written: {error.strerror}") from None

    @property
    def is_student(self) -> bool:
        """Whether the run distilled another one."""
        return (self.path / DISTILL).is_file()

    def config(self) -> TrainCfg:
        """The configuration the run was started with."""
        return load_config(self.path / CONFIG, None)

    def load_checkpoint(self, which: str = checkpoint.LAST) -> checkpoint.Checkpoint:
        """`last`, `best` or an iteration's number."""
        return checkpoint.load(checkpoint.find(self.checkpoints, which))


def require_free(path: Path, command: str = "train") -> None:
    """TrainError where a run of `trudi COMMAND` cannot start in `path` because something is there."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TrainError(
            f"{path} exists already; continue it with `trudi {command} --resume {path}`, or choose another --out"
        )


class MetricsLog:
    """Every iteration's metrics, to JSON Lines and TensorBoard."""

    def __init__(self, folder: RunFolder, resume_from: int = 0) -> None:
        """Continues the files after iteration `resume_from`; later lines are kept aside in `metrics.superseded.jsonl`."""
        path = folder.path / METRICS
        if path.exists():
            _set_aside(path, resume_from)
        try:
            self._file: TextIO = path.open("a")
            self._board = SummaryWriter(str(folder.path), purge_step=resume_from + 1 if resume_from else None)
        except OSError as error:
            raise TrainError(f"metrics cannot be written to {folder.path}: {error.strerror}") from None

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        """One line, flushed."""
        try:
            self._file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
            self._file.flush()
            for key, value in metrics.items():
                self._board.add_scalar(key, value, iteration)
        except OSError as error:
            raise TrainError(
                f"metrics cannot be written to {self._file.name}: {error.strerror}. Checkpoints are intact: free some space "
                "and continue with `trudi train --resume RUN`"
            ) from None

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    rows: list[dict[str, float]] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def describe_machine() -> dict[str, Any]:
    """Versions, machine and git state: what another person needs to repeat a run."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
    }


def machine() -> str:
    """This machine in a few words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {processor()}, Python {platform.python_version()}"


def _set_aside(path: Path, resume_from: int) -> None:
    rows = read_metrics(path)
    later = [row for row in rows if row["iteration"] > resume_from]
    if later:
        with path.with_suffix(".superseded.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in later)
    kept = path.with_suffix(".tmp")
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows if row["iteration"] <= resume_from))
    kept.replace(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    """What git says of the repository this package lies in; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
