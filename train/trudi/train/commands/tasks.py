"""`trudi tasks`: every task of the installed simulators."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from trudi.runtime.commands.common import EXIT_OK, reports_errors, write_json
from trudi.train.commands.common import parse_arguments
from trudi.train.config import preset_for
from trudi.train.envs.registry import describe_task, task_names
from trudi.train.errors import TrainError


@dataclass(frozen=True)
class TasksArgs:
    """List tasks with their sizes, observation order and control period."""

    match: Annotated[str, tyro.conf.Positional] = ""
    """Only tasks whose name contains this (any case)."""
    json: Path | None = None
    """File for the list, with every observation key in order."""


@reports_errors("tasks")
def main(argv: list[str]) -> int:
    """Prints one row a task."""
    args = parse_arguments(TasksArgs, "trudi tasks", argv)
    names = [name for name in task_names() if args.match.lower() in name.lower()]
    if not names:
        raise TrainError(f"no task's name contains '{args.match}'")
    table = Table("task", "actor obs", "critic obs", "actions", "control period (s)", "episode (steps)", "preset")
    rows = [describe_task(name) for name in names]
    for row in rows:
        preset = preset_for(row.task)
        sizes = (sum(row.actor.values()), sum(row.critic.values()), row.action_size)
        table.add_row(
            row.task,
            *map(str, sizes),
            f"{row.control_period_s:g}",
            str(row.max_episode_steps),
            preset.stem if preset else "",
        )
    Console(width=None if Console().is_terminal else 140).print(table)
    write_json(args.json, [dataclasses.asdict(row) for row in rows])
    return EXIT_OK
