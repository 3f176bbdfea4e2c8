"""`trudi tasks`: every task of the installed simulators, or the paper's with what stands for each here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from trudi.runtime.commands.common import EXIT_OK, reports_errors, write_json
from trudi.train.commands.common import parse_arguments
from trudi.train.config import presets, read_yaml
from trudi.train.envs.base import TaskInfo
from trudi.train.envs.registry import BACKENDS, adapter, describe_task, finish, split_task, task_names
from trudi.train.errors import TrainError
from trudi.train.suites import PAPER, PAPER_TASKS, Suite, SuiteTask, load_suite, suite_names


@dataclass(frozen=True)
class TasksArgs:
    """List tasks with their sizes, observation order and control period, or the paper's tasks by suite."""

    match: Annotated[str, tyro.conf.Positional] = ""
    """Only tasks whose name contains this (any case). `mjlab:` asks one simulator alone, `mjlab:cartpole` too."""
    suite: str | None = None
    """The paper's tasks instead: `paper` for all, or one of dmc, playground, maniskill, humanoidbench, isaaclab."""
    sizes: bool = False
    """Sizes of all tasks, of simulators too that take seconds for each. Where a match is given they are always listed."""
    json: Path | None = None
    """File for the list, with every observation key in order."""


@reports_errors("tasks")
def main(argv: list[str]) -> int:
    """Prints one row a task."""
    args = parse_arguments(TasksArgs, "trudi tasks", argv)
    if args.suite is not None:
        list_suite(args.suite, args)
    else:
        list_installed(args)
    finish()
    return EXIT_OK


def list_installed(args: TasksArgs) -> None:
    """Every task of the installed simulators."""
    names = [name for name in _names(args.match) if _contains(name, args.match)]
    if not names:
        raise TrainError(f"no task's name contains '{args.match}'")
    preset_of = {read_yaml(path).get("task"): name for name, path in presets().items()}
    table = _table("task", "actor obs", "critic obs", "actions", "control period (s)", "episode (steps)", "preset")
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    undescribed: set[str] = set()
    for name in names:
        backend = name.partition(":")[0]
        info: TaskInfo | str = "use --sizes, or name the task"
        if args.sizes or args.match or not BACKENDS[backend].is_costly:
            info = _describe(name)
            failures += [f"{name}: {info}"] if isinstance(info, str) else []
        else:
            undescribed.add(backend)
        table.add_row(name, *_sizes(info), preset_of.get(name, ""))
        rows.append(_row(name, info))
    _print_table(table)
    if undescribed:
        print(f"sizes take seconds a task with {', '.join(sorted(undescribed))}: add --sizes, or a part of a task's name")
    for failure in failures:
        print(failure)
    write_json(args.json, rows)


def _names(match: str) -> list[str]:
    """All tasks that could match; importing a simulator takes seconds, so only the one that a match names."""
    backend, colon, _ = match.lower().partition(":")
    if not colon or backend not in BACKENDS:
        return task_names()
    split_task(f"{backend}:any")
    return [f"{backend}:{name}" for name in adapter(backend).task_names()]


def _contains(name: str, match: str) -> bool:
    """Whether a task is meant: by a part of its name, or by `backend:` and a part of what follows."""
    backend, _, own = name.lower().partition(":")
    wanted, colon, part = match.lower().partition(":")
    return match.lower() in name.lower() or (colon == ":" and wanted == backend and part in own)


def _describe(name: str) -> TaskInfo | str:
    """A task's description, or why there is none: some need an option that `trudi tasks` does not have."""
    try:
        return describe_task(name)
    except TrainError as error:
        return str(error)


def _sizes(info: TaskInfo | str) -> list[str]:
    if isinstance(info, str):
        return ["-"] * 5
    sizes = (sum(info.actor.values()), sum(info.critic.values()), info.action_size)
    return [*map(str, sizes), f"{info.control_period_s:g}", str(info.max_episode_steps)]


def _row(name: str, info: TaskInfo | str) -> dict[str, Any]:
    if not isinstance(info, str):
        return dataclasses.asdict(info)
    empty = {entry.name: None for entry in dataclasses.fields(TaskInfo)}
    return empty | {"task": name, "not_described": info}


def list_suite(name: str, args: TasksArgs) -> None:
    """The paper's tasks, with what stands for each here, how to get it, and the command that trains it."""
    if args.sizes:
        raise TrainError("--sizes lists the installed simulators' tasks, --suite the paper's; give one of them")
    loaded = {key: load_suite(key) for key in suite_names(name)}
    tasks = [task for _, listed in loaded.values() for task in listed if _matches(task, args.match)]
    if not tasks:
        raise TrainError(f"no task of the suite '{name}' contains '{args.match}'")
    rows = [_suite_row(task) for task in tasks]
    table = _table("suite", "paper's task", "task here", "available", "preset")
    for row in rows:
        marks = f"{row['task'] or ''}{' ~' if row['stand_in'] else ''}"
        table.add_row(row["suite"], f"{row['name']}{'' if row['certain'] else ' ?'}", marks, row["available"], row["preset"])
    _print_table(table)
    suites = {key: suite for key, (suite, _) in loaded.items() if any(row["suite"] == key for row in rows)}
    for line in _footnotes(suites, rows):
        print(line)
    if name == PAPER and not args.match:
        certain = sum(row["certain"] for row in rows)
        print(f"\nThe paper has {PAPER_TASKS} tasks. These are {len(rows)} candidates, of which {certain} are certain.")
        print("With commands: `trudi tasks --suite SUITE`, or a part of a task's name")
    else:
        _print_commands(rows)
    write_json(args.json, {"suite": name, "suites": {key: _about(suite) for key, suite in suites.items()}, "tasks": rows})


def _matches(task: SuiteTask, match: str) -> bool:
    return match.lower() in task.name.lower() or any(_contains(name, match) for name in task.candidates)


def _suite_row(task: SuiteTask) -> dict[str, Any]:
    chosen = task.chosen()
    return {
        **dataclasses.asdict(task),
        "candidates": [dataclasses.asdict(candidate) for candidate in task.here()],
        "task": chosen.task if chosen else None,
        "available": chosen.available if chosen else "no package",
        "install": chosen.install if chosen else None,
        "stand_in": chosen is not None and chosen.task != task.candidates[0],
        "command": task.command(chosen.task) if chosen else None,
    }


def _footnotes(suites: dict[str, Suite], rows: list[dict[str, Any]]) -> list[str]:
    """How to get what is missing, what the marks mean, and where each list is from; each once."""
    lines = [f"{row['task'].partition(':')[0]} is not installed: {row['install']}" for row in rows if row["install"]]
    missing = [row["task"].partition(":")[0] for row in rows if row["available"] == "no adapter"]
    lines += [f"no adapter: this version cannot run {backend}" for backend in missing]
    stand_ins = {row["suite"] for row in rows if row["stand_in"]}
    lines += [f"~ not the paper's simulator: {suite.stand_in}" for key, suite in suites.items() if key in stand_ins]
    doubtful = {row["suite"] for row in rows if not row["certain"]}
    lines += [f"? perhaps not in the paper: {suite.note}" for key, suite in suites.items() if key in doubtful]
    lines += [f"{row['name']}: {row['note']}" for row in rows if row["note"]]
    return list(dict.fromkeys(lines)) + [f"{key}'s list: {suite.source}" for key, suite in suites.items()]


def _print_commands(rows: list[dict[str, Any]]) -> None:
    commands = [row["command"] for row in rows if row["command"]]
    if commands:
        print("\nCommands (add --device cuda: these are settings for a GPU):")
    for command in commands:
        print(command)


def _about(suite: Suite) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(suite).items() if key not in ("tasks", "candidates")}


def _table(*headers: str) -> Table:
    """A table whose cells are wrapped where they are too long: a name cut short could not be typed."""
    table = Table()
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _print_table(table: Table) -> None:
    """As wide as the terminal, or as the longest names need where there is none."""
    Console(width=None if Console().is_terminal else 170).print(table)
