"""The report: what was run, how it learned, how it compares, what the trust region did, and how actions form."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from trudi.train.errors import TrainError
from trudi.train.report import figures
from trudi.train.report.aggregates import RESAMPLES, Aggregates, Estimate, aggregate
from trudi.train.report.curves import NEAR, TOLERANCE, Axis, Comparison, bootstrap_interval, comparison
from trudi.train.report.denoising import BANDWIDTH, VALLEY, Picture, find_modes
from trudi.train.report.page import Cell, Section, number, page, significant, spread, tables, text
from trudi.train.report.published import Published
from trudi.train.report.sources import Gathered, final_score, has_cpu_time, last, mean_of, seconds
from trudi.train.report.style import Panel, slug, styles, to_png
from trudi.train.results import RunResult

PAGE, TABLES, FIGURES = "report.html", "tables.md", "figures"
ALL_RUNS = "All runs"
UNFINISHED = ("waiting", "running", "interrupted")


@dataclass(frozen=True)
class Report:
    """All that a report shows, computed."""

    gathered: Gathered
    published: Sequence[Published]
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    """On what could not be drawn."""

    @property
    def title(self) -> str:
        """That of the first source which has one."""
        return next((str(about["title"]) for about in self.gathered.abouts if about.get("title")), "Results")

    def write(self, folder: Path) -> list[Path]:
        """Writes the page, its tables as Markdown and the figures' PNGs; returns their paths.

        The same input gives the same bytes.
        """
        found = aggregate(self.gathered)
        drawn = self._figures(found)
        sections = self._sections(found, drawn)
        try:
            (folder / FIGURES).mkdir(parents=True, exist_ok=True)
            (folder / PAGE).write_text(page(self.title, [one for one in sections if one.parts]))
            (folder / TABLES).write_text(self._tables(sections))
        except OSError as error:
            raise TrainError(f"the report cannot be written to {folder}: {error.strerror}") from None
        written = [folder / PAGE, folder / TABLES]
        for name, panels in drawn.items():
            if panels:
                written.append(folder / FIGURES / f"{name}.png")
                to_png(panels, written[-1], columns=3)
        return written

    def tables(self) -> str:
        """The page's tables as Markdown, but for that of all runs."""
        return self._tables(self._sections(aggregate(self.gathered), defaultdict(list)))

    def _tables(self, sections: Sequence[Section]) -> str:
        return tables(self.title, [one for one in sections if one.title != ALL_RUNS])

    def _sections(self, found: Aggregates, drawn: Mapping[str, Sequence[Panel]]) -> list[Section]:
        return [
            what_was_run(self.gathered),
            learning_curves(self.gathered, drawn),
            final_scores(self.gathered),
            samplers(self.gathered),
            *(equal_budgets(self.gathered, axis) for axis in ("steps", "time")),
            aggregates(found, drawn),
            trust_region(self.gathered, drawn),
            denoising(self.pictures, drawn, self.notes),
            published_figures(self.gathered, self.published),
            all_runs(self.gathered),
        ]

    def _figures(self, found: Aggregates) -> dict[str, list[Panel]]:
        """By the name of their PNG."""
        looks = styles(self.gathered.variants)
        is_compared = len(found.runs) > 1
        drawn = {f"curves-{axis}": figures.learning_curves(self.gathered, axis, looks) for axis in ("steps", "time")}
        drawn["aggregates"] = figures.aggregate_panels(found, looks) if is_compared else []
        drawn["comparisons"] = figures.comparison_panels(found, looks) if is_compared else []
        for task in self.gathered.tasks:
            drawn[_diagnostics(task)] = figures.diagnostic_panels(self.gathered, task, looks)
        for picture in self.pictures:
            drawn[_denoising(picture)] = figures.denoising_panels(picture)
        return drawn


def what_was_run(gathered: Gathered) -> Section:
    """Commands, code, machines and budgets; and what went wrong, where nobody can miss it."""
    section = Section("What was run")
    failed = [run for run in gathered.runs if run.state == "failed"]
    unfinished = [run for run in gathered.runs if run.state in UNFINISHED]
    if failed:
        section.warning(
            f"Failed runs: {len(failed)} of {len(gathered.runs)}",
            "A failed run counts in the aggregates as its task's lowest score. Its curve is drawn dotted up to where it "
            "ended; means over seeds in curves and tables are of the runs that finished.",
            ("run", "reason", "task", "variant", "seed"),
            [_told(run) for run in failed],
        )
    if unfinished:
        section.warning(
            f"Unfinished runs: {len(unfinished)} of {len(gathered.runs)}",
            "They are left out of means, tables and aggregates, which may change when they finish; what they have of a "
            "curve is drawn dotted.",
            ("run", "state and reason", "task", "variant", "seed"),
            [_told(run, with_state=True) for run in unfinished],
        )
    for about in gathered.abouts:
        told = {key.replace("_", " "): value for key, value in about.items() if value not in (None, "", {}, [])}
        section.facts([(key, _plain(value)) for key, value in told.items() if not isinstance(value, dict)])
        for key, value in told.items():
            if isinstance(value, dict):
                each = cast("dict[str, Any]", value)
                section.table(("of", key), [[text(name), _told_cell(one)] for name, one in each.items()], closed=key)
    done = len(gathered.runs) - len(failed) - len(unfinished)
    commits = dict.fromkeys(run.commit for run in gathered.runs if run.commit)
    machines = dict.fromkeys(run.machine for run in gathered.runs if run.machine)
    steps = [last(run.curve.get("env_steps", ())) for run in gathered.runs if run.state == "done"]
    minutes = [last(seconds(run)) / 60.0 for run in gathered.runs if run.state == "done"]
    facts = [
        ("runs", f"{len(gathered.runs)}: {done} finished, {len(failed)} failed, {len(unfinished)} unfinished"),
        ("tasks", ", ".join(gathered.tasks)),
        ("variants", "; ".join(gathered.variants)),
        ("environment steps of a finished run", _range(steps, 0)),
        ("minutes of a finished run", _range(minutes, 1)),
        ("commits (+: with changes)", ", ".join(commits) or "not known"),
        ("machines", "; ".join(machines) or "not known"),
    ]
    section.facts(facts)
    return section


def learning_curves(gathered: Gathered, drawn: Mapping[str, Sequence[Panel]]) -> Section:
    """Return over steps, and over time."""
    section = Section("Learning curves")
    section.text(
        "Thick: the mean return of evaluations over the seeds that finished, with the 95 % bootstrap interval over "
        "seeds as a band. Thin: the single runs; dotted ones, with a cross where they end, failed or are unfinished. "
        "With three seeds a band is rough: it can only lie between the lowest and the highest run.",
    )
    section.heading("Against environment steps: what a variant makes of the same experience")
    section.figures(drawn["curves-steps"])
    section.heading("Against time: what it makes of the same minutes")
    section.text(_time_note(gathered))
    section.figures(drawn["curves-time"])
    return section


def final_scores(gathered: Gathered) -> Section:
    """A table of the last policies."""
    section = Section("Final scores")
    section.text(
        "Mean \u00b1 standard deviation over seeds of the last policy's mean return under the ODE (or, where a run has "
        "no such measurement, of its last five evaluations), whatever its budget was. A mean is bold only where its 95 "
        "% bootstrap interval over seeds lies above those of all others and none of its runs failed: with few seeds "
        "that is a hint, not a test.",
    )
    rows: list[list[Cell]] = []
    for task in gathered.tasks:
        scores = {variant: _scores(gathered.finished(task, variant)) for variant in gathered.variants}
        best = _best(gathered, task, scores)
        for variant in gathered.variants:
            runs, every = gathered.finished(task, variant), gathered.of(task, variant)
            if not every:
                continue
            values = scores[variant]
            mean, std = _mean_std(values)
            steps = mean_of(runs, lambda run: last(run.curve.get("env_steps", ())))
            rows.append(
                [
                    text(task),
                    text(variant),
                    number(mean, spread(mean, std), best=variant == best),
                    _interval(values),
                    number(steps, _steps(steps)),
                    number(mean_of(runs, lambda run: last(seconds(run)) / 60.0)),
                    number(len(values), _seeds(values, every)),
                ]
            )
    columns = ("task", "variant", "return", "95 % interval", "environment steps", "minutes", "seeds")
    section.table(columns, rows)
    return section


def samplers(gathered: Gathered) -> Section:
    """A table of the last policies under each sampler, where some were measured under several."""
    section = Section("Samplers")
    several = [run for run in gathered.runs if run.state == "done" and len(run.final) > 1]
    if not several:
        return section
    section.text(
        "Mean \u00b1 standard deviation over seeds of the last policy's mean return, the same policy and the same starts "
        "under each sampler: the ODE from a random or the zero latent, the SDE it was trained by, the best of several "
        "samples by the critic. For a Gaussian policy the ODE is its mean.",
    )
    names = list(dict.fromkeys(name for run in several for name in run.final))
    rows: list[list[Cell]] = []
    for task in gathered.tasks:
        for variant in gathered.variants:
            runs = [run for run in several if (run.task, run.variant) == (task, variant)]
            cells: list[Cell] = []
            for name in names:
                mean, std = _mean_std([float(np.mean(run.final[name])) for run in runs if run.final.get(name)])
                cells.append(number(mean, spread(mean, std)))
            if runs:
                rows.append([text(task), text(variant), *cells, number(len(runs), str(len(runs)))])
    section.table(("task", "variant", *names, "seeds"), rows)
    return section


def equal_budgets(gathered: Gathered, axis: Axis) -> Section:
    """A table of returns at the same number of steps, or of minutes."""
    name = "environment steps" if axis == "steps" else "minutes"
    section = Section(f"At equal {'steps' if axis == 'steps' else 'time'}")
    section.text(
        f"Each task's variants at the same budget of {name}. A variant takes part where its finished runs' budget is the "
        f"first variant's within {TOLERANCE[axis]:.0%}; all are read at the largest budget that every one of their runs "
        f"reached, as the mean of a run's evaluations in the last {NEAR:.0%} before it, then mean \u00b1 standard "
        "deviation over seeds. Others are left out of this table: runs that are longer or shorter on purpose belong to "
        "the other one.",
    )
    found = [one for one in (comparison(gathered, task, axis) for task in gathered.tasks) if one is not None]
    if not found:
        section.text("No task has two variants of equal budgets.")
        return section
    variants = [name for name in gathered.variants if any(_reading(one, name) for one in found)]
    rows: list[list[Cell]] = []
    for one in found:
        budget = one.budget if axis == "steps" else one.budget / 60.0
        shown = _steps(budget) if axis == "steps" else significant(budget)
        cells: list[Cell] = []
        for variant in variants:
            reading = _reading(one, variant)
            cells.append(number(reading[0], spread(*reading)) if reading else number(math.nan))
        rows.append([text(one.task), number(budget, shown), *cells])
    section.table(("task", name, *variants), rows)
    return section


def aggregates(found: Aggregates, drawn: Mapping[str, Sequence[Panel]]) -> Section:
    """What is said over all tasks together."""
    section = Section("Over all tasks")
    if len(found.runs) < 2:
        section.text("There are no two variants that ran on the same tasks: nothing to compare.")
        return section
    section.text(
        f"Final scores, normalised by task, over {len(found.tasks)} tasks. The interquartile mean (IQM) is the mean of "
        "the middle half of all runs and the figure to look at first; the optimality gap is by how much runs fall short "
        f"of a score of 1. Intervals are 95 % bootstrap intervals ({RESAMPLES:,} resamples of seeds within each task; "
        "the tasks are taken as given). Failed runs count as 0, the lowest score; unfinished ones are left out.",
    )
    if found.left_out:
        section.text(f"Left out because they did not run on all of these tasks: {'; '.join(found.left_out)}.")
    counts = [
        [
            text(variant),
            number(counted, f"{counted}" + (f" ({failed} failed, as 0)" if failed else "")),
            *(_estimate(found.estimates[name][variant]) for name in found.estimates),
        ]
        for variant, (counted, failed) in found.runs.items()
    ]
    section.table(("variant", "runs", *found.estimates), counts)
    section.figures(drawn["aggregates"])
    section.text(
        "A profile says which share of runs scores above \u03c4: the higher line is better, and where two cross, the "
        "one is better at getting somewhere and the other at getting far. The probability of improvement is the chance "
        "that a run of the first beats a run of the second on a task drawn at random; 0.5 is even, and an interval that "
        "holds 0.5 decides nothing.",
    )
    section.figures(drawn["comparisons"])
    names = list(found.runs)
    pairs = [[text(x), text(y), _estimate(found.improvement[x, y])] for i, x in enumerate(names) for y in names[i + 1 :]]
    section.table(("first", "second", "P(first better)"), pairs)
    scales = [
        [text(task), number(scale.low), number(scale.high), text(scale.note, long=True)]
        for task, scale in found.scales.items()
    ]
    section.heading("What counts as 0 and as 1")
    section.table(("task", "return of score 0", "return of score 1", "where from"), scales)
    return section


def trust_region(gathered: Gathered, drawn: Mapping[str, Sequence[Panel]]) -> Section:
    """Diagnostics over steps."""
    section = Section("Trust region")
    section.text(
        "Means over seeds, over environment steps. The mean KL between an iteration's old and new policy should stay "
        "below its bound (dashed): states at or beyond it learn from the trust region and not from Q. lambda, the "
        "weight of that, rises while the mean KL is above the bound. alpha, the weight of the entropy, falls while H is "
        "above its target (dashed). A policy that stops exploring shows "
        "in the noise of a step and in the friction; throughput is that of one process on a machine that others may "
        "share.",
    )
    panels = [(task, drawn[_diagnostics(task)]) for task in gathered.tasks]
    for index, (task, each) in enumerate(panels):
        if each:
            section.figures(each, closed=None if index == 0 and len(panels) == 1 else task)
    if not any(each for _, each in panels):
        section.parts.clear()
    return section


def denoising(pictures: Sequence[Picture], drawn: Mapping[str, Sequence[Panel]], notes: Sequence[str]) -> Section:
    """Latents on their way, and modes."""
    section = Section("How actions form")
    section.text(*notes)
    if not pictures:
        return section
    section.text(
        "At a few states of one evaluation episode: each line is a latent on its way from noise (left) to an action "
        "(right), with the density of the actions that come out beside it. ODE: deterministic from a random start, as "
        "on a robot. SDE: with noise at every step, as in training. Colours are modes: maxima of the actions' density "
        f"(Gaussian kernel of width {BANDWIDTH:g}) that a valley of less than {VALLEY:.0%} of their height parts from "
        "higher ones. Several modes mean that the policy knows several ways; the entropy of their shares is 0 for one "
        "mode and 1 where all are taken equally often. It is of single actions at one state, not of whole behaviours.",
    )
    for picture in pictures:
        section.heading(f"{picture.name}: {picture.algo} on {picture.task}, {picture.steps} steps")
        section.table(("tick", "chosen", "sampler", "modes", "shares", "entropy", "spread"), _mode_rows(picture))
        section.figures(drawn[_denoising(picture)])
    return section


def published_figures(gathered: Gathered, published: Sequence[Published]) -> Section:
    """The literature's, beside ours."""
    section = Section("Published figures beside ours")
    for one in published:
        rows: list[list[Cell]] = []
        variants = [v for v in gathered.variants if any(one.named(t) and gathered.finished(t, v) for t in gathered.tasks)]
        for task in gathered.tasks:
            name = one.named(task)
            if name is None:
                continue
            for variant in variants:
                runs = gathered.finished(task, variant)
                if not runs:
                    continue
                mean, std = _mean_std(_scores(runs))
                steps = mean_of(runs, lambda run: last(run.curve.get("env_steps", ())))
                theirs = [one.figures[name].get(key) for key in one.about.columns]
                cells = [number(each.mean, str(each)) if each else number(math.nan) for each in theirs]
                times = number(one.about.budget / steps, f"{significant(one.about.budget / steps)} \u00d7")
                rows.append(
                    [text(task), text(variant), number(mean, spread(mean, std)), number(steps, _steps(steps)), *cells, times]
                )
        if rows:
            section.heading(one.about.title)
            section.text(
                f"{one.about.source}; {one.about.budget:,} environment steps; {one.about.simulator}. These are other "
                "experiments: other simulators or physics options, other budgets, other machines. They say what is "
                "known to be possible on tasks of these names; they do not say that one implementation is better than "
                "another.",
            )
            columns = [f"{label}, published" for label in one.about.columns.values()]
            section.table(("task", "our variant", "our return", "our steps", *columns, "their steps / ours"), rows)
    return section


def all_runs(gathered: Gathered) -> Section:
    """Every run, whatever became of it."""
    section = Section(ALL_RUNS)
    rows = [
        [
            text(run.name),
            text(run.task),
            text(run.variant),
            number(run.seed, str(run.seed)),
            text(run.state),
            number(final_score(run)),
            number(last(run.curve.get("env_steps", ())), _steps(last(run.curve.get("env_steps", ())))),
            number(last(seconds(run)) / 60.0),
            text(run.commit or "\u2013"),
            text(" ".join(run.options) or run.algo, long=True),
        ]
        for run in gathered.runs
    ]
    columns = ("run", "task", "variant", "seed", "state", "return", "environment steps", "minutes", "commit", "options")
    section.table(columns, rows)
    return section


def _told(run: RunResult, *, with_state: bool = False) -> list[Cell]:
    reason = ": ".join(filter(None, (run.state if with_state else "", run.reason))) or "no reason given"
    return [text(run.name), text(reason, long=True), text(run.task), text(run.variant), number(run.seed, str(run.seed))]


def _time_note(gathered: Gathered) -> str:
    wall = dict.fromkeys(run.variant for run in gathered.runs if run.curve.get("env_steps") and not has_cpu_time(run))
    note = (
        "Minutes are processor time of the training process, evaluations included: the minutes that it takes on a core "
        "of its own, whatever else ran beside it."
    )
    return (
        f"{note} Some runs have wall-clock time only, which others beside them stretch: {'; '.join(wall)}." if wall else note
    )


def _scores(runs: Sequence[RunResult]) -> list[float]:
    return [score for score in map(final_score, runs) if math.isfinite(score)]


def _mean_std(values: Sequence[float]) -> tuple[float, float]:
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _interval(values: Sequence[float]) -> Cell:
    if len(values) < 2:
        return number(math.nan)
    low, high = (float(end) for end in bootstrap_interval(np.array(values)))
    return number(low, f"{significant(low)} to {significant(high)}")


def _best(gathered: Gathered, task: str, scores: Mapping[str, Sequence[float]]) -> str | None:
    """The variant whose interval is above all others', if it is one of several and none of its runs failed."""
    known = {variant: values for variant, values in scores.items() if values}
    if len(known) < 2 or any(len(values) < 2 for values in known.values()):
        return None
    ends = {variant: tuple(map(float, bootstrap_interval(np.array(values)))) for variant, values in known.items()}
    best = max(ends, key=lambda variant: ends[variant][0])
    is_clear = all(ends[best][0] > high for variant, (_, high) in ends.items() if variant != best)
    return best if is_clear and all(run.state != "failed" for run in gathered.of(task, best)) else None


def _seeds(values: Sequence[float], every: Sequence[RunResult]) -> str:
    failed = sum(run.state == "failed" for run in every)
    unfinished = sum(run.state in UNFINISHED for run in every)
    notes = [f"{count} {word}" for count, word in ((failed, "failed"), (unfinished, "unfinished")) if count]
    return f"{len(values)} ({', '.join(notes)})" if notes else str(len(values))


def _reading(found: Comparison, variant: str) -> tuple[float, float] | None:
    return next(((each.mean, each.std) for each in found.readings if each.variant == variant), None)


def _estimate(found: Estimate) -> Cell:
    return number(found.value, f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]")


def _mode_rows(picture: Picture) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for state in picture.states:
        for sampler, chains in state.chains.items():
            actions = np.array(chains.actions, dtype=np.float64)
            modes = find_modes(actions)
            shares = np.bincount(modes.of, minlength=len(modes.centres)) / len(actions)
            spreads = ", ".join(f"{value:.2f}" for value in actions.std(0))
            rows.append(
                [
                    number(state.tick, str(state.tick)),
                    text(state.why),
                    text(figures.SAMPLER_NAMES.get(sampler, sampler)),
                    number(len(shares), str(len(shares))),
                    text(", ".join(f"{share:.0%}" for share in shares)),
                    number(modes.entropy, f"{modes.entropy:.2f}"),
                    text(spreads),
                ]
            )
    return rows


def _plain(value: Any) -> str:
    """What a source says of itself, in words."""
    if isinstance(value, list):
        return ", ".join(map(_plain, cast("list[Any]", value)))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _told_cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(float(value), f"{value:g}") if is_number else text(_plain(value), long=True)


def _range(values: Sequence[float], digits: int) -> str:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "not known"
    low, high = (f"{each:,.{digits}f}" for each in (min(known), max(known)))
    return low if low == high else f"{low} to {high}"


def _steps(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "\u2013"


def _diagnostics(task: str) -> str:
    return f"trust-region-{slug(task)}"


def _denoising(picture: Picture) -> str:
    return f"denoising-{slug(picture.name)}"
