"""The live view of a training run."""

from __future__ import annotations

import sys
from collections.abc import Callable
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

Status = Callable[[dict[str, float]], str]


def training_status(m: dict[str, float]) -> str:
    """The numbers to watch in a training."""
    return (
        f"{m['time/steps_per_s']:,.0f} steps/s  return {_shown_return(m)}  KL {m['actor/kl']:.3f}  "
        f"H {m['actor/entropy']:.2f}  alpha {m['duals/alpha']:.4f}  lambda {m['duals/lambda']:.3f}"
    )


def ppo_status(m: dict[str, float]) -> str:
    """The numbers to watch in a training by PPO."""
    return (
        f"{m['time/steps_per_s']:,.0f} steps/s  return {_shown_return(m)}  KL {m['actor/kl']:.3f}  "
        f"H {m['actor/entropy']:.2f}  value loss {m['critic/loss']:.2g}  rate {m['ppo/learning_rate']:.1e}"
    )


def distillation_status(m: dict[str, float]) -> str:
    """The numbers to watch in a distillation."""
    return (
        f"{m['time/steps_per_s']:,.0f} steps/s  return {_shown_return(m)}  loss {m['distill/loss']:.2g}  "
        f"action gap {m['distill/action_gap']:.4f}  teacher drives {m['distill/teacher_share']:.0%}"
    )


def _shown_return(m: dict[str, float]) -> str:
    return f"{m['rollout/return_mean']:.1f}" if "rollout/return_mean" in m else "-"


class Display:
    """A bar with ETA and the numbers to watch; one plain line per evaluation stays on the screen.

    Where the output is no terminal (a file, CI), only the lines are printed.
    """

    def __init__(self, total: int, done: int, status: Status = training_status) -> None:
        self._status = status
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
        status = self._status(progress.metrics)
        self._bar.update(self._task, completed=progress.counters.iteration, status=status)
        if progress.evaluation is not None:
            counters = progress.counters
            self._console.print(
                f"iteration {counters.iteration}/{progress.max_iterations}  {counters.env_steps:,} steps  "
                f"{counters.elapsed_s:.0f} s  evaluation {progress.evaluation.mean:.1f} +- {progress.evaluation.std:.1f}  | "
                f"{status}"
            )
