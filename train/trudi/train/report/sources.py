"""What a report is made of: results files, benchmark folders and run folders, as one `Results`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trudi.train.errors import TrainError
from trudi.train.results import Results, RunResult, Scale, State, read_results, result_of
from trudi.train.runfolder import CONFIG, METRICS, VERDICT, RunFolder, read_metrics

RESULTS_FILE = "results.json"
LAST_EVALUATIONS = 5
"""Evaluations whose mean stands for a final score where a run has none of its own."""


@dataclass(frozen=True)
class Gathered:
    """All sources together, in the order in which they were given."""

    runs: tuple[RunResult, ...]
    scales: Mapping[str, Scale]
    abouts: tuple[Mapping[str, Any], ...]
    """Of each source that says something of itself."""
    folders: Mapping[Path, RunResult]
    """Those sources that are run folders."""

    @property
    def tasks(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(run.task for run in self.runs))

    @property
    def variants(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def of(self, task: str, variant: str) -> list[RunResult]:
        """The runs of a variant on a task, whatever became of them."""
        return [run for run in self.runs if run.task == task and run.variant == variant]

    def finished(self, task: str, variant: str) -> list[RunResult]:
        """Those that are done."""
        return [run for run in self.of(task, variant) if run.state == "done"]


def gather(paths: Sequence[Path]) -> Gathered:
    """Reads every path; TrainError names one that is neither a results file, nor a benchmark folder, nor a run folder.

    A variant that an earlier source has too, with the same task and seed, is told from it by its source's name.
    """
    runs: list[RunResult] = []
    scales: dict[str, Scale] = {}
    abouts: list[Mapping[str, Any]] = []
    folders: dict[Path, RunResult] = {}
    for path in paths:
        found = _read(path)
        _check_unique(found, path)
        taken = {(run.task, run.variant, run.seed) for run in runs}
        doubles = {run.variant for run in found.runs if (run.task, run.variant, run.seed) in taken}
        for run in found.runs:
            label = f"{run.variant} ({_name(path)})" if run.variant in doubles else run.variant
            runs.append(dataclasses.replace(run, variant=label))
        _check_unique(Results(tuple(runs)), path)
        for task, scale in found.scales.items():
            if scales.setdefault(task, scale) != scale:
                raise TrainError(f"{path} and an earlier path count {task} on different scales; report them apart")
            if not scale.high > scale.low:
                raise TrainError(f"{path}: the scale of {task} is from {scale.low:g} to {scale.high:g}; it must rise")
        if _is_run(path):
            folders[path] = runs[-1]
        if found.about:
            abouts.append(found.about)
    if not runs:
        raise TrainError(f"no runs in {', '.join(map(str, paths))}: there is nothing to report")
    return Gathered(tuple(runs), scales, tuple(abouts), folders)


def final_score(run: RunResult) -> float:
    """The last policy's mean return under the ODE, or the mean of the last five evaluations; NaN where there is neither."""
    if run.final.get("ode"):
        return float(np.mean(run.final["ode"]))
    measured = [value for value in run.curve.get("return_mean", ()) if math.isfinite(value)]
    return float(np.mean(measured[-LAST_EVALUATIONS:])) if measured else math.nan


def seconds(run: RunResult) -> tuple[float, ...]:
    """When its evaluations were made: processor time, which other runs beside it do not stretch, else wall-clock (s)."""
    measured = run.curve.get("cpu_s", ())
    is_known = bool(measured) and all(map(math.isfinite, measured))
    return tuple(measured) if is_known else tuple(run.curve.get("elapsed_s", ()))


def has_cpu_time(run: RunResult) -> bool:
    """Whether `seconds` is processor time."""
    measured = run.curve.get("cpu_s", ())
    return bool(measured) and all(map(math.isfinite, measured))


def last(column: Sequence[float]) -> float:
    """The last element, NaN of none."""
    return column[-1] if column else math.nan


def mean_of(runs: Sequence[RunResult], measure: Callable[[RunResult], float]) -> float:
    """Mean over runs of what can be measured, NaN of none."""
    values = [value for value in map(measure, runs) if math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan


def _read(path: Path) -> Results:
    if path.is_file():
        return read_results(path)
    if (path / RESULTS_FILE).is_file():
        return read_results(path / RESULTS_FILE)
    if _is_run(path):
        return Results((_run(path),))
    what = "is neither a results file, a benchmark folder (results.json) nor a run folder (config.yaml)"
    raise TrainError(f"{path} {what}" if path.exists() else f"{path} does not exist")


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() and not (path / RESULTS_FILE).is_file()


def _run(path: Path) -> RunResult:
    folder = RunFolder.open(path)
    cfg = folder.config()
    rows = read_metrics(path / METRICS) if (path / METRICS).exists() else []
    done = int(rows[-1]["iteration"]) if rows else 0
    is_done = (path / VERDICT).is_file() if folder.is_student else done >= cfg.max_iterations
    state: State = "done" if is_done else "interrupted"
    reason = "" if is_done else f"{done} of {cfg.max_iterations} iterations"
    variant = "student" if folder.is_student else None
    found = result_of(folder, name=_name(path), variant=variant, state=state, reason=reason)
    return dataclasses.replace(found, curve=_as_written(found.curve), diagnostics=_as_written(found.diagnostics))


def _as_written(columns: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """With the six digits that a results file keeps, so that such a file gives the same report as the folder."""
    return {key: tuple(float(f"{value:.6g}") for value in column) for key, column in columns.items()}


def _name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.stem if resolved.is_file() and resolved.name != RESULTS_FILE else resolved.name


def _check_unique(results: Results, path: Path) -> None:
    seen: set[tuple[str, str, int]] = set()
    for run in results.runs:
        key = (run.task, run.variant, run.seed)
        if key in seen:
            raise TrainError(f"{path}: two runs of {run.variant} on {run.task} have seed {run.seed}; give one of them")
        seen.add(key)
