"""The live view of a training run."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from trudi.train.loop import Progress


class Display:
    """A bar with ETA and the numbers to watch; one plain line per evaluation stays on the screen.

    Where the output is no terminal (a file, CI), only the lines are printed.
    """

    def __init__(self, total: int, done: int) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar = RichProgress(
            TextColumn("{task.fields[status]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total, completed=done, status="starting")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Shows one iteration."""
        m = progress.metrics
        shown_return = f"{m['rollout/return_mean']:.1f}" if "rollout/return_mean" in m else "-"
        status = (
            f"{m['time/steps_per_s']:,.0f} steps/s  return {shown_return}  KL {m['actor/kl']:.3f}  "
            f"H {m['actor/entropy']:.2f}  alpha {m['duals/alpha']:.4f}  lambda {m['duals/lambda']:.3f}"
        )
        self._bar.update(self._task, completed=progress.counters.iteration, status=status)
        if progress.evaluation is not None:
            counters = progress.counters
            self._console.print(
                f"iteration {counters.iteration}/{progress.max_iterations}  {counters.env_steps:,} steps  "
                f"{counters.elapsed_s:.0f} s  evaluation {progress.evaluation.mean:.1f} +- {progress.evaluation.std:.1f}  | "
                f"{status}"
            )
