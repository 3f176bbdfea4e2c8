"""What runs showed, in a few kilobytes each: evaluations, the trust region, how they ended. Reports are made of this alone.

A results file is JSON: `format`, `about` (what was asked for, by which command), `scales` (a task's returns that count as 0
and as 1) and `runs`, one `RunResult` each, failed and unfinished ones too. Numbers have six significant digits;
null is a number that there was not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from trudi.train.errors import TrainError
from trudi.train.runfolder import ABOUT, METRICS, RunFolder, machine, read_metrics

FORMAT_VERSION = 1
State = Literal["waiting", "running", "interrupted", "failed", "done"]
DIAGNOSTICS = (
    "actor/kl",
    "actor/kl_max",
    "actor/outside_fraction",
    "actor/entropy",
    "actor/entropy_target",
    "duals/alpha",
    "duals/lambda",
    "policy/step_std_mean",
    "policy/friction_mean",
    "critic/loss",
    "rollout/return_mean",
    "time/steps_per_s",
)
CURVE = {
    "env_steps": "time/env_steps",
    "elapsed_s": "time/elapsed_s",
    "cpu_s": "time/cpu_s",
    "return_mean": "eval/return_mean",
    "return_std": "eval/return_std",
}
LONGEST_DIAGNOSTICS = 200


@dataclass(frozen=True)
class RunResult:
    """One run of one variant of an algorithm on a task."""

    name: str
    """Within its results file, unique."""
    task: str
    """`backend:name`."""
    variant: str
    """What is compared: an algorithm (`trudi`, `reppo`, `ppo`), or one with other settings, by a name of its own."""
    seed: int
    state: State
    reason: str = ""
    """Why it failed, in one line."""
    options: tuple[str, ...] = ()
    """Of `trudi train`, beyond task, seed and folder."""
    commit: str | None = None
    """Of the code that started it; with a `+` where files had been changed."""
    machine: str = ""
    algo: str = ""
    """`algo` of its configuration."""
    bound: float | None = None
    """The trust region's, in nats; None where there is none."""
    curve: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, "tuple[float, ...]"])
    """Evaluations in order: the columns `env_steps`, `elapsed_s` (wall-clock), `cpu_s` (processor time of the process, all
    threads: the wall-clock of a run that has one core to itself), `return_mean` and `return_std`."""
    diagnostics: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, "tuple[float, ...]"])
    """Every so many iterations, `LONGEST_DIAGNOSTICS` rows at most: `env_steps` and those of `DIAGNOSTICS` it has."""
    final: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, "tuple[float, ...]"])
    """Returns of the last policy, an episode each, by sampler (`ode`, `sde`, `best`); the same seeds in every run."""


@dataclass(frozen=True)
class Scale:
    """A task's returns that count as 0 and as 1."""

    low: float
    high: float
    note: str = ""
    """Where they are from."""


@dataclass(frozen=True)
class Results:
    """A results file."""

    runs: tuple[RunResult, ...]
    scales: Mapping[str, Scale] = field(default_factory=dict[str, Scale])
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of a benchmark: `title`, `command`, `budget`; whatever it tells the reader."""

    def write(self, path: Path) -> None:
        """Writes the file, replacing it in one step."""
        content = {"format": FORMAT_VERSION, **_short(asdict(self))}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(_dump(content))
            temporary.replace(path)
        except OSError as error:
            raise TrainError(f"the results cannot be written to {path}: {error.strerror}") from None


def read_results(path: Path) -> Results:
    """Reads a results file; TrainError says what is wrong with it."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise TrainError(f"{path} is no results file: not JSON") from None
    if not isinstance(content, dict) or "runs" not in content:
        raise TrainError(f"{path} is no results file: it has no runs")
    content = cast("dict[str, Any]", content)
    if (found := content.pop("format", None)) != FORMAT_VERSION:
        raise TrainError(f"{path} has format {found}, this version reads {FORMAT_VERSION}")
    for run in content["runs"]:
        for part in ("curve", "diagnostics", "final"):
            for key, column in run.get(part, {}).items():
                run[part][key] = [_NAN if value is None else value for value in column]
    try:
        return TypeAdapter(Results).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def result_of(
    folder: RunFolder,
    *,
    name: str,
    variant: str | None = None,
    state: State = "done",
    reason: str = "",
    options: Sequence[str] = (),
    final: Mapping[str, Sequence[float]] | None = None,
) -> RunResult:
    """What a run folder shows; `variant` is its algorithm by default."""
    cfg = folder.config()
    about = _about(folder.path / ABOUT)
    rows = read_metrics(folder.path / METRICS) if (folder.path / METRICS).exists() else []
    measured = [row for row in rows if "eval/return_mean" in row]
    stride = -(-len(rows) // LONGEST_DIAGNOSTICS) or 1
    kept = rows[stride - 1 :: stride]
    present = [key for key in DIAGNOSTICS if any(key in row for row in kept)]
    is_bounded = cfg.algo != "ppo" and cfg.trust_region.direction != "none"
    commit = about.get("git_commit")
    return RunResult(
        name=name,
        task=cfg.task,
        variant=variant or cfg.algo,
        seed=cfg.seed,
        state=state,
        reason=reason,
        options=tuple(options),
        commit=f"{commit[:7]}{'+' if about.get('git_dirty') else ''}" if commit else None,
        machine=about.get("machine") or machine(),
        algo=cfg.algo,
        bound=cfg.trust_region.bound if is_bounded else None,
        curve={key: tuple(row.get(source, _NAN) for row in measured) for key, source in CURVE.items()},
        diagnostics={
            "env_steps": tuple(row["time/env_steps"] for row in kept),
            **{key: tuple(row.get(key, _NAN) for row in kept) for key in present},
        },
        final={key: tuple(values) for key, values in (final or {}).items()},
    )


_NAN = float("nan")


def _about(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_short(each) for each in cast("Sequence[Any]", value)]
    return value


def _dump(content: dict[str, Any]) -> str:
    """A line a run, so that versions of the file can be compared."""
    runs = ",\n".join(json.dumps(run) for run in content["runs"])
    rest = {key: value for key, value in content.items() if key != "runs"}
    return json.dumps(rest, indent=1)[:-2] + f',\n "runs": [\n{runs}\n]}}\n'
