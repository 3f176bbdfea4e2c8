"""What a benchmark shows: a live table on a terminal, lines elsewhere, and the table at its end."""

from __future__ import annotations

import time
from math import isfinite
from statistics import mean, stdev
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from trudi.train.benchmark.grid import Grid, Run
from trudi.train.benchmark.plan import Cell, Plan
from trudi.train.results import State


def console() -> Console:
    """Where it is shown; what is no terminal has room for a wide table."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


class Board:
    """The view of a grid at work."""

    def __init__(self, grid: Grid, slots: int) -> None:
        self._grid, self._slots = grid, slots
        self._console = console()
        self._live = Live(console=self._console, refresh_per_second=1, auto_refresh=False)
        self._drawn = 0.0

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, run: Run | None) -> None:
        """Shows a run that changed, or none."""
        if run is not None:
            self._console.print(f"{time.strftime('%H:%M:%S')}  {described(run)}; {summary(self._grid, self._slots)}")
        if self._console.is_terminal and (run is not None or time.monotonic() - self._drawn > 2.0):
            self._drawn = time.monotonic()
            self._live.update(live_table(self._grid, self._slots), refresh=True)


def described(run: Run) -> str:
    """A run and its state in a few words."""
    text = f"{run.job.name} {run.state}"
    if run.state == "failed":
        return f"{text}: {run.result.reason}"
    if run.state == "done":
        scores = [f"{sampler} {mean(values):.1f}" for sampler, values in run.result.final.items()]
        return f"{text}: return {', '.join(scores)}, {_minutes(run) or 0.0:.1f} min"
    return text


def summary(grid: Grid, slots: int) -> str:
    """Counts and the time to go."""
    left = left_seconds(grid, slots)
    counts = f"{len(grid.of('done'))} of {len(grid.runs)} done, {len(grid.of('failed'))} failed"
    return counts if left is None else f"{counts}, about {duration(left)} to go"


def left_seconds(grid: Grid, slots: int) -> float | None:
    """Time to the end of the grid, without final evaluations and cells of unknown speed, in seconds; None where all are."""
    left = [
        run.cell.seconds * max(0.0, 1.0 - _steps(run) / run.cell.env_steps)
        for run in grid.of("waiting", "interrupted", "running")
        if run.cell.seconds is not None
    ]
    return sum(left) / slots if left else None


def live_table(grid: Grid, slots: int) -> Table:
    """Task by variant: how far, how good."""
    table = Table(caption=summary(grid, slots))
    for name in ("task", "variant", "done", "running", "failed", "last evaluation", "steps"):
        table.add_column(name, justify="left" if name in ("task", "variant") else "right")
    for cell in grid.plan.cells:
        runs = _runs(grid, cell)
        last = [run.result.curve["return_mean"][-1] for run in runs if run.result.curve.get("return_mean")]
        table.add_row(
            cell.task,
            cell.variant,
            f"{_count(runs, 'done')} of {cell.seeds}",
            str(_count(runs, "running") or ""),
            str(_count(runs, "failed") or ""),
            f"{mean(last):.1f}" if last else "",
            f"{max(map(_steps, runs)):,.0f}",
        )
    return table


def final_table(grid: Grid) -> Table:
    """Task by variant: the final evaluation, mean and standard deviation over seeds, what it took and what failed."""
    sampler = "ode" if "ode" in grid.plan.samplers else grid.plan.samplers[0]
    table = Table(caption=f"final return ({sampler}, {grid.plan.episodes} episodes), mean and deviation over seeds")
    for name in ("task", "variant", "seeds", "return", "steps", "minutes", "failed"):
        table.add_column(name, justify="left" if name in ("task", "variant") else "right")
    for cell in grid.plan.cells:
        runs = _runs(grid, cell)
        finals = [mean(run.result.final[sampler]) for run in runs if sampler in run.result.final and run.state == "done"]
        minutes = [spent for run in runs if run.state == "done" and (spent := _minutes(run)) is not None]
        spread = f" +- {stdev(finals):.1f}" if len(finals) > 1 else ""
        table.add_row(
            cell.task,
            cell.variant,
            f"{len(finals)} of {cell.seeds}",
            f"{mean(finals):.1f}{spread}" if finals else "-",
            f"{cell.env_steps:,}",
            f"{mean(minutes):.1f}" if minutes else "-",
            str(_count(runs, "failed") or ""),
        )
    return table


def plan_table(plan: Plan, slots: int) -> Table:
    """What would be run."""
    total = [cell.seconds * cell.seeds if cell.seconds is not None else None for cell in plan.cells]
    known = [seconds for seconds in total if seconds is not None]
    runs = sum(cell.seeds for cell in plan.cells)
    whole = f"about {duration(sum(known) / slots)}, evaluations left out" if len(known) == len(total) else "time unknown"
    table = Table(caption=f"{runs} runs, {slots} at a time: {whole}")
    for name in ("task", "variant", "seeds", "iterations", "steps", "a run"):
        table.add_column(name, justify="left" if name in ("task", "variant") else "right")
    for cell in plan.cells:
        took = duration(cell.seconds) if cell.seconds is not None else "-"
        table.add_row(cell.task, cell.variant, str(cell.seeds), f"{cell.iterations:,}", f"{cell.env_steps:,}", took)
    return table


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _runs(grid: Grid, cell: Cell) -> list[Run]:
    return [run for run in grid.runs.values() if run.cell.name == cell.name]


def _count(runs: list[Run], state: State) -> int:
    return sum(run.state == state for run in runs)


def _steps(run: Run) -> float:
    columns = (run.result.curve, run.result.diagnostics)
    return max((column["env_steps"][-1] for column in columns if column.get("env_steps")), default=0.0)


def _minutes(run: Run) -> float | None:
    """Processor time, or wall-clock where there is none."""
    for name in ("cpu_s", "elapsed_s"):
        spent = run.result.curve.get(name, ())
        if spent and isfinite(spent[-1]):
            return spent[-1] / 60
    return None
