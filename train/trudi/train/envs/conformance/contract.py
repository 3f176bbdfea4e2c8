"""What a check is: a name, what must hold, and how to look whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from trudi.train.envs.conformance.runs import Runs

NO_END = "no episode ended"


@dataclass(frozen=True)
class Outcome:
    """What a look found, before the simulator's exceptions count."""

    verdict: Literal["passed", "failed", "not exercised"]
    seen: str


@dataclass(frozen=True)
class Check:
    """What must hold, and how to look whether it does."""

    contract: str
    look: Callable[[Runs], Outcome]


class Checks(dict[str, Check]):
    """Checks by name, in the order in which they are shown."""

    def add(self, look: Callable[[Runs], Outcome]) -> Callable[[Runs], Outcome]:
        """Enters a look: `time_limit` as `time-limit`, with its docstring's first line as the contract."""
        contract = (look.__doc__ or "").partition("\n")[0]
        self[look.__name__.replace("_", "-")] = Check(contract.rstrip("."), look)
        return look


def unless(fault: str, seen: str = "") -> Outcome:
    """Failed with the fault, or passed with what was seen."""
    return Outcome("failed", fault) if fault else Outcome("passed", seen)


def unexercised(why: str) -> Outcome:
    """Nothing can be said."""
    return Outcome("not exercised", why)


def first(faults: Iterable[str]) -> str:
    """The first of some faults that is one."""
    return next((fault for fault in faults if fault), "")
