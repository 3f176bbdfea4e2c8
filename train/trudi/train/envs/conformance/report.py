"""All checks on one simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trudi.train.envs.conformance import episode_checks, observation_checks, tensor_checks
from trudi.train.envs.conformance.contract import Check, Checks, Outcome, first, unexercised, unless
from trudi.train.envs.conformance.recording import STEPS_AFTER, Make
from trudi.train.envs.conformance.runs import Runs
from trudi.train.errors import TrainError, near_matches

Verdict = Literal["passed", "failed", "excepted", "not exercised"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    contract: str
    """What must hold."""
    verdict: Verdict
    """`excepted`: it does not hold, as the simulator declares. `not exercised`: the runs did not come to it."""
    seen: str
    """The numbers behind the verdict, or why there are none."""


@dataclass(frozen=True)
class Report:
    """What all checks found."""

    task: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(finding.check for finding in self.findings if finding.verdict == "failed")

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failed

    def __getitem__(self, check: str) -> Finding:
        return next(finding for finding in self.findings if finding.check == check)

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"{one.check:<{width}}  {one.verdict:<13}  {one.seen}".rstrip() for one in self.findings]
        return "\n".join([self.task, *lines])


def check(make: Make, *, steps: int | None = None, num_envs: int = 8, seed: int = 0) -> Report:
    """Runs `make(num_envs, seed, stagger)`'s simulator several times, one after another, and says what it found.

    `steps` bounds each run; by default it is two whole episodes, or about 1000 steps. With few of them, or one
    environment, some checks are not exercised. Simulators that do not reproduce are compared as far as they do.
    """
    if num_envs < 1 or (steps is not None and steps < 2 * STEPS_AFTER):
        given = f"{num_envs} environments" + ("" if steps is None else f" and {steps} steps")
        raise TrainError(f"{given} are too few; it takes at least 1, and {2 * STEPS_AFTER} steps")
    runs = Runs(make, num_envs, seed, steps)
    findings = tuple(_find(name, runs) for name in CHECKS)
    return Report(runs.whole.info.task, findings)


def _find(name: str, runs: Runs) -> Finding:
    one, declared = CHECKS[name], runs.whole.exceptions
    is_possible = name in ALWAYS or not runs.is_broken
    outcome = one.look(runs) if is_possible else unexercised("what was returned cannot be compared (see sizes, dtypes)")
    verdict, seen = outcome.verdict, outcome.seen
    if name in declared and verdict == "failed":
        return Finding(name, one.contract, "excepted", f"{declared[name]} ({seen})")
    if name in declared and verdict == "passed":
        seen = f"{seen}; note: it holds, although it is declared that it does not ({declared[name]})"
    return Finding(name, one.contract, verdict, seen)


OWN = Checks()


@OWN.add
def exceptions(runs: Runs) -> Outcome:
    """Every declared exception names a check and gives the reason."""
    declared = runs.whole.exceptions
    unknown = [f"unknown check '{name}'; {near_matches(name, CHECKS)}" for name in declared if name not in CHECKS]
    unexplained = [f"'{name}' is declared without a reason" for name, reason in declared.items() if not reason.strip()]
    return unless(first(unknown + unexplained), f"{len(declared)} declared")


CHECKS: dict[str, Check] = {**OWN, **tensor_checks.CHECKS, **observation_checks.CHECKS, **episode_checks.CHECKS}
ALWAYS = ("exceptions", "sizes", "dtypes", "devices")
"""Checks that can look at anything; the others need tensors of the right sizes."""
