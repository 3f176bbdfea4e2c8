"""Learning curves over seeds, and what they say at equal steps and at equal time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trudi.train.report.sources import Gathered, last, mean_of, seconds
from trudi.train.results import RunResult

Axis = Literal["steps", "time"]
Floats = NDArray[np.float64]

GRID = 60
"""Points of a mean curve: what a small figure can show."""
RESAMPLES = 2000
NEAR = 0.1
"""Share of the budget before its end whose evaluations count as near it."""
TOLERANCE: dict[Axis, float] = {"steps": 0.02, "time": 0.15}
"""By how much a variant's budget may differ from the first one's to be compared at equal steps or time."""


@dataclass(frozen=True)
class MeanCurve:
    """Mean over seeds and its 95 % bootstrap interval, pointwise (points,)."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Reading:
    """A variant's returns at a common budget."""

    variant: str
    scores: tuple[float, ...]
    """A seed each."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.scores))

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds, NaN of one."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """Variants whose budgets are equal, read where the first of them to end ends."""

    task: str
    budget: float
    """Environment steps, or seconds."""
    readings: tuple[Reading, ...]


def curve_of(run: RunResult, axis: Axis) -> tuple[Floats, Floats]:
    """A run's evaluations: where (environment steps or minutes) and the mean return; those that are no numbers left out."""
    where = run.curve.get("env_steps", ()) if axis == "steps" else tuple(value / 60.0 for value in seconds(run))
    x, y = np.array(where, dtype=np.float64), np.array(run.curve.get("return_mean", ()), dtype=np.float64)
    is_known = np.isfinite(x) & np.isfinite(y)
    return x[is_known], y[is_known]


def mean_curve(runs: Sequence[RunResult], axis: Axis) -> MeanCurve | None:
    """Of the runs' evaluations, as `mean_of_curves` takes it."""
    return mean_of_curves([curve_of(run, axis) for run in runs])


def mean_of_curves(every: Sequence[tuple[Floats, Floats]]) -> MeanCurve | None:
    """Over the stretch that all curves (x, y) cover, linear between their points; None where they share none."""
    curves = [curve for curve in every if len(curve[0])]
    if not curves:
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if end < start:
        return None
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > GRID:
        grid = np.linspace(start, end, GRID)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])  # (seeds, points)
    low, high = bootstrap_interval(values)
    return MeanCurve(grid, values.mean(0), low, high)


def bootstrap_interval(values: Floats, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """95 % percentile interval of the mean over the first axis of `values` (seeds, ...), each (...)."""
    drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(1), (2.5, 97.5), axis=0)
    return low, high


def diagnostic_of(run: RunResult, key: str) -> tuple[Floats, Floats]:
    """Where (environment steps) and what one of a run's diagnostics was; what is no number left out."""
    x, y = (np.array(run.diagnostics.get(name, ()), dtype=np.float64) for name in ("env_steps", key))
    if len(x) != len(y):
        return x[:0], y[:0]
    is_known = np.isfinite(x) & np.isfinite(y)
    return x[is_known], y[is_known]


def comparison(gathered: Gathered, task: str, axis: Axis) -> Comparison | None:
    """The task's variants whose budget is the first variant's within `TOLERANCE`; None where fewer than two are.

    A budget is the mean over finished runs of where their curves end. All are read at the largest number of steps or
    seconds that every one of their runs reached: the mean of its evaluations in the last tenth before it, or, where there
    is none, the last one before.
    """
    finished = {variant: gathered.finished(task, variant) for variant in gathered.variants}
    ends = {variant: mean_of(runs, lambda run: _end(run, axis)) for variant, runs in finished.items() if runs}
    ends = {variant: end for variant, end in ends.items() if math.isfinite(end)}
    if not ends:
        return None
    first = next(iter(ends.values()))
    taking_part = [variant for variant, end in ends.items() if abs(end - first) <= TOLERANCE[axis] * first]
    if len(taking_part) < 2:
        return None
    runs = {variant: [run for run in finished[variant] if math.isfinite(_end(run, axis))] for variant in taking_part}
    budget = min(_end(run, axis) for each in runs.values() for run in each)
    readings = tuple(Reading(variant, tuple(read_at(run, budget, axis) for run in each)) for variant, each in runs.items())
    return Comparison(task, budget, readings)


def read_at(run: RunResult, budget: float, axis: Axis) -> float:
    """Mean of a run's evaluations near `budget` (steps or seconds), up to it; NaN where there is none before it."""
    where, y = curve_of(run, axis)
    x = where * 60.0 if axis == "time" else where
    slack = 1e-9 * budget  # minutes and back
    near = y[(x > (1.0 - NEAR) * budget) & (x <= budget + slack)]
    before = y[x <= budget + slack]
    if len(near):
        return float(near.mean())
    return float(before[-1]) if len(before) else math.nan


def _end(run: RunResult, axis: Axis) -> float:
    return last(run.curve.get("env_steps", ())) if axis == "steps" else last(seconds(run))
