"""`trudi conform TASK`: is a simulator what training takes it for?"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, check_writable, reports_errors, write_json
from trudi.train.commands.common import parse_arguments
from trudi.train.devices import pick_device
from trudi.train.envs.base import SimCfg, VectorEnv
from trudi.train.envs.conformance import Report, Verdict, check
from trudi.train.envs.registry import finish, make_env, split_task

COLOURS: dict[Verdict, str] = {"passed": "green", "failed": "red", "excepted": "yellow", "not exercised": "dim"}


@dataclass(frozen=True)
class ConformArgs:
    """Check that a simulator keeps every promise that training relies on: true terminal observations, time limits told
    from terminations, seeds that reproduce, memory of its own, and the rest of the `VectorEnv` protocol."""

    task: Annotated[str, tyro.conf.Positional]
    """Task, `backend:name`."""
    num_envs: int = 8
    """Parallel environments."""
    steps: int | None = None
    """Largest number of steps of each of about seven runs; by default two whole episodes, or about 1000 steps."""
    seed: int = 0
    """Seed of the simulator and of the actions."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    sim: SimCfg = field(default_factory=SimCfg)
    """What the simulator is told beyond the task's name."""
    json: Path | None = None
    """File for the machine-readable result."""


@reports_errors("conform")
def main(argv: list[str]) -> int:
    """Prints what each check found; exit code 1 where one failed that the simulator does not declare as an exception."""
    args = parse_arguments(ConformArgs, "trudi conform", argv)
    check_writable("--json", args.json)
    split_task(args.task)
    device = pick_device(args.device)

    def make(num_envs: int, seed: int, stagger: bool) -> VectorEnv:
        return make_env(args.task, num_envs, seed, device=device, stagger=stagger, sim=args.sim)

    report = check(make, steps=args.steps, num_envs=args.num_envs, seed=args.seed)
    Console(width=None if Console().is_terminal else 140).print(table(report))
    counts = Counter(one.verdict for one in report.findings)
    print(f"{args.task}: {', '.join(f'{counts[verdict]} {verdict}' for verdict in COLOURS)}")
    write_json(args.json, {"passed": report.passed, "device": args.device, "seed": args.seed, **dataclasses.asdict(report)})
    if report.passed:  # the end of Isaac Sim's application would hide another exit code
        finish()
    return EXIT_OK if report.passed else EXIT_CHECK_FAILED


def table(report: Report) -> Table:
    """A row a check; contracts are shown where they do not hold."""
    shown = Table("check", "verdict", "seen")
    for one in report.findings:
        broken = one.verdict in ("failed", "excepted")
        seen = f"{one.contract}: {one.seen}" if broken else one.seen
        shown.add_row(one.check, Text(one.verdict, COLOURS[one.verdict]), Text(seen))
    return shown
