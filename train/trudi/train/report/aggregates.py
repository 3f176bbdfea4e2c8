"""Aggregates over tasks of normalised scores, as Agarwal et al. (arXiv 2108.13264) recommend them.

A score is (return - low) / (high - low) on its task's scale; a failed run's is 0. From the scores x[t][s] of a variant on
tasks t with seeds s:

    IQM      mean of the middle half of all x (a quarter of them cut at either end, rounded down)
    mean     mean over tasks of the mean over seeds               median   median over tasks of the mean over seeds
    gap      mean of max(0, 1 - x), the optimality gap            profile  share of all x above a threshold
    P(X > Y) mean over tasks of the share of pairs of seeds in which X is better, ties counting half

Intervals: 95 % percentile bootstrap, seeds drawn anew within each task (stratified), tasks kept. `rliable` computes the
same figures, but its release 1.2.0 cannot be imported with pandas 3 (it needs arch < 8) and does not use the random state
it is given, so the few lines are here; tests compare them with values computed by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from trudi.train.report.sources import Gathered, final_score
from trudi.train.results import Scale

Floats = NDArray[np.float64]
Scores = list[Floats]
"""Of a variant, a task each (seeds,)."""
Drawn = list[Floats]
"""Resamples of these (resamples, seeds)."""

RESAMPLES = 10_000
THRESHOLDS = 41
FAILED_SCORE = 0.0


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Profile:
    """Share of runs above each threshold, with its pointwise 95 % interval (thresholds,)."""

    share: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Aggregates:
    """What is said over all tasks."""

    tasks: tuple[str, ...]
    scales: Mapping[str, Scale]
    left_out: tuple[str, ...]
    """Variants that have no counted run on some of the tasks."""
    runs: Mapping[str, tuple[int, int]]
    """Of each variant: how many runs count, and how many of them as failed."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """By the names of `MEASURES`, then by variant."""
    improvement: Mapping[tuple[str, str], Estimate]
    """P(X > Y) of every ordered pair."""
    thresholds: Floats
    profiles: Mapping[str, Profile]


def iqm(drawn: Drawn) -> Floats:
    """Interquartile mean of each resample (resamples,)."""
    return np.asarray(stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1))


def mean(drawn: Drawn) -> Floats:
    """Mean over tasks (resamples,)."""
    return np.stack([task.mean(1) for task in drawn]).mean(0)


def median(drawn: Drawn) -> Floats:
    """Median over tasks of the means over seeds (resamples,)."""
    return np.median(np.stack([task.mean(1) for task in drawn]), axis=0)


def optimality_gap(drawn: Drawn) -> Floats:
    """By how much runs fall short of 1, on average (resamples,)."""
    return np.maximum(0.0, 1.0 - np.concatenate(drawn, axis=1)).mean(1)


def improvement(x: Drawn, y: Drawn) -> Floats:
    """P(X > Y) (resamples,)."""
    return np.stack([_wins(one, other) for one, other in zip(x, y, strict=True)]).mean(0)


MEASURES: dict[str, Callable[[Drawn], Floats]] = {
    "IQM": iqm,
    "Mean": mean,
    "Median": median,
    "Optimality gap": optimality_gap,
}


def profile(drawn: Drawn, thresholds: Floats) -> Floats:
    """Share of runs above each threshold (resamples, thresholds)."""
    together = np.concatenate(drawn, axis=1)
    return np.stack([(together > threshold).mean(1) for threshold in thresholds], axis=1)


def aggregate(gathered: Gathered) -> Aggregates:
    """All of it for the variants that have counted runs, done or failed, on every task of the one that has most tasks."""
    counted = {variant: _counted_tasks(gathered, variant) for variant in gathered.variants}
    tasks = max(counted.values(), key=len)
    compared = [variant for variant in counted if set(tasks) <= set(counted[variant]) and tasks]
    scales = {task: scale_of(gathered, task) for task in tasks}
    scores = {variant: [scores_of(gathered, task, variant, scales[task]) for task in tasks] for variant in compared}
    drawn = {variant: resample(each) for variant, each in scores.items()}
    rivals = {variant: resample(each, seed=1) for variant, each in scores.items()}
    highest = max((float(one.max()) for each in scores.values() for one in each), default=1.0)
    thresholds = np.linspace(0.0, max(1.0, math.ceil(10.0 * highest) / 10.0), THRESHOLDS)
    estimates = {
        name: {variant: _estimate(measure(_once(scores[variant])), measure(drawn[variant])) for variant in compared}
        for name, measure in MEASURES.items()
    }
    better = {
        (x, y): _estimate(improvement(_once(scores[x]), _once(scores[y])), improvement(drawn[x], rivals[y]))
        for x in compared
        for y in compared
        if x != y
    }
    return Aggregates(
        tasks=tuple(tasks),
        scales=scales,
        left_out=tuple(variant for variant in counted if variant not in compared),
        runs={variant: _counts(gathered, tasks, variant) for variant in compared},
        estimates=estimates,
        improvement=better,
        thresholds=thresholds,
        profiles={variant: _profile(scores[variant], drawn[variant], thresholds) for variant in compared},
    )


def scale_of(gathered: Gathered, task: str) -> Scale:
    """The task's scale: the one that the results name, or from 0 to the best variant's mean."""
    if task in gathered.scales:
        return gathered.scales[task]
    every = [[final_score(run) for run in gathered.finished(task, variant)] for variant in gathered.variants]
    known = [[score for score in scores if math.isfinite(score)] for scores in every]
    means = [float(np.mean(scores)) for scores in known if scores]
    best = max(means, default=1.0)
    if best > 0.0:
        return Scale(0.0, best, "0 to the best variant's mean here")
    worst = min((min(scores) for scores in known if scores), default=best)
    return Scale(min(worst, best - 1.0), best, "the worst run here to the best variant's mean here")


def scores_of(gathered: Gathered, task: str, variant: str, scale: Scale) -> Floats:
    """Normalised scores of a variant's runs that are done (finite ones) or failed, which count as 0 (seeds,)."""
    scores: list[float] = []
    for run in gathered.of(task, variant):
        score = (final_score(run) - scale.low) / (scale.high - scale.low)
        if run.state == "failed":
            scores.append(FAILED_SCORE)
        elif run.state == "done" and math.isfinite(score):
            scores.append(score)
    return np.array(scores)


def resample(scores: Scores, count: int = RESAMPLES, seed: int = 0) -> Drawn:
    """Seeds drawn anew with replacement within each task."""
    random = np.random.default_rng(seed)
    return [task[random.integers(len(task), size=(count, len(task)))] for task in scores]


def _counted_tasks(gathered: Gathered, variant: str) -> list[str]:
    unit = Scale(0.0, 1.0)
    return [task for task in gathered.tasks if len(scores_of(gathered, task, variant, unit))]


def _counts(gathered: Gathered, tasks: Sequence[str], variant: str) -> tuple[int, int]:
    unit = Scale(0.0, 1.0)
    counted = sum(len(scores_of(gathered, task, variant, unit)) for task in tasks)
    failed = sum(run.state == "failed" for task in tasks for run in gathered.of(task, variant))
    return counted, failed


def _once(scores: Scores) -> Drawn:
    return [task[None] for task in scores]


def _wins(x: Floats, y: Floats) -> Floats:
    difference = x[:, :, None] - y[:, None, :]  # (resamples, seeds of X, seeds of Y)
    return ((difference > 0.0) + 0.5 * (difference == 0.0)).mean((1, 2))


def _estimate(value: Floats, resampled: Floats) -> Estimate:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Estimate(float(value[0]), float(low), float(high))


def _profile(scores: Scores, drawn: Drawn, thresholds: Floats) -> Profile:
    low, high = np.percentile(profile([task[:2000] for task in drawn], thresholds), (2.5, 97.5), axis=0)
    return Profile(profile(_once(scores), thresholds)[0], low, high)
