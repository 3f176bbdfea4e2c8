"""What a flight is told to do, moment by moment: a joystick's course written down.

```yaml
- {at_s: 0.0}             # time under the policy; an element that is not named is neutral
- {at_s: 2.0, vx: 0.5}
- {at_s: 6.0, vx: 0.3, wz: 0.4}   # holds until the end
```
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trudi.runtime.command_words import parse_commands
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.interface import Command
from trudi.runtime.yaml_file import load_yaml

MAX_LEGS = 10_000
ENTRY = "{at_s: SECONDS, ELEMENT: NUMBER, ...}"


@dataclass(frozen=True)
class Leg:
    """Commands that hold from one moment on."""

    at_s: float
    """Time under the policy; s."""
    values: Mapping[str, tuple[float, ...]]
    """Every command of the policy, by name."""


def values_at(legs: Sequence[Leg], seconds: float) -> Mapping[str, tuple[float, ...]]:
    """The commands of the last leg that has begun `seconds` after the policy took over; of the first before that."""
    return next((leg.values for leg in reversed(legs) if leg.at_s <= seconds), legs[0].values)


def read_script(path: Path, commands: Sequence[Command]) -> tuple[Leg, ...]:
    """The legs in the YAML file at `path`, for a policy that takes `commands`.

    TrudiRuntimeError says in one line what is wrong: no list of `at_s` and elements, times that do not rise from 0, an
    element that the policy does not take, or a value that it was not trained with.
    """
    legs: list[Leg] = []
    loaded = load_yaml(path)
    rows = cast("list[Any]", loaded) if isinstance(loaded, list) else []
    if not 1 <= len(rows) <= MAX_LEGS:
        raise TrudiRuntimeError(f"{path}: a script is a list of 1 to {MAX_LEGS} entries {ENTRY}")
    for number, row in enumerate(rows, 1):
        where = f"{path}: entry {number}"
        if not isinstance(row, dict) or "at_s" not in row:
            raise TrudiRuntimeError(f"{where}: write {ENTRY}")
        given = dict(cast("dict[str, Any]", row))
        at_s = _number(where, "at_s", given.pop("at_s"))
        words = [f"{name}={_number(where, name, value)!r}" for name, value in given.items()]
        legs.append(Leg(at_s, parse_commands(words, commands, f"{where}:")))
    times = [leg.at_s for leg in legs]
    if times[0] != 0.0 or any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise TrudiRuntimeError(f"{path}: at_s begins with 0 and rises from entry to entry; it is {times[:6]}")
    return tuple(legs)


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TrudiRuntimeError(f"{where}: {name} is {value!r}, which is no number")
    return float(value)
