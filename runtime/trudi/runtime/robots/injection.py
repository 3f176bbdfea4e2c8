"""Faults by schedule: which there are, how a schedule is read, and what they do to the robot and its messages.

`at_s` counts from the first command of the state ACTIVE that the robot receives. A fault without `duration_s` lasts for
good where it lies in messages or clocks, and happens once where it moves the robot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trudi.runtime.errors import TrudiRuntimeError, near_matches, quoted
from trudi.runtime.robots.base import RobotError
from trudi.runtime.yaml_file import load_yaml

_NAMED_FIELDS = ("joint_position", "joint_velocity", "quaternion_xyzw", "angular_velocity", "linear_velocity", "height")

# Kind -> what `value` is, with its unit; "" where there is none.
ROBOT_KINDS: dict[str, str] = {
    "state_stop": "",
    "state_freeze": "",
    "state_back": "how far the stamps jump back; s",
    "state_nan": "part of the state whose first number is hit; default joint_position",
    "state_inf": "part of the state whose first number is hit; default joint_position",
    "state_size": "",
    "state_layout": "",
    "clock_step": "how far the robot's clock jumps, forwards or (-) backwards; s",
    "state_dropout": "probability that a state is lost",
    "state_noise": "factor on the standard deviations of the noise",
    "quantise": "step to whose multiples every measured number is rounded",
    "command_latency": "additional time until a command takes effect; s",
    "push": "change of speed to the world's left (of the first joint where there is no free base); m/s or rad/s",
    "tip_over": "roll of the base; rad",
    "joint_position": "how far the first limited joint is beyond its upper limit; rad or m",
    "joint_velocity": "speed of the first driven joint; rad/s or m/s",
    "robot_kill": "",
    "robot_stall": "how long the robot's process hangs; s",
}
RUNTIME_KINDS: dict[str, str] = {
    "command_stop": "",
    "inference_slow": "times the budget: the part of the control period after which an action is late",
    "engine_error": "",
    "action_nan": "",
}
KINDS = {**ROBOT_KINDS, **RUNTIME_KINDS}

# Held for this long unless stated otherwise: a control loop must be able to see it in several states.
FORCED_S = 0.1
FORCED_KINDS = frozenset({"joint_position", "joint_velocity"})
ONCE_KINDS = frozenset({"clock_step", "push", "tip_over", "robot_kill", "robot_stall"})
_NEEDS_VALUE = frozenset(kind for kind, what in KINDS.items() if what and kind not in ("state_nan", "state_inf"))
MAX_FAULTS = 256


@dataclass(frozen=True)
class Fault:
    """One entry of a schedule."""

    kind: str
    """What happens: one of `KINDS`."""
    at_s: float
    """When it begins, from the first command of the state ACTIVE; s."""
    duration_s: float | None = None
    """How long it lasts; s. None: for good, or once."""
    value: float | str | None = None
    """How much: `KINDS` says what of."""

    def __post_init__(self) -> None:
        if str(self.kind) not in KINDS:
            raise RobotError(f"unknown kind {quoted(self.kind)}; {near_matches(str(self.kind), KINDS)}")
        if not _is_number(self.at_s) or self.at_s < 0:
            raise RobotError(f"at_s of {self.kind} is {quoted(self.at_s)}: must be a time of 0 s or more")
        if self.duration_s is not None and (not _is_number(self.duration_s) or self.duration_s <= 0):
            raise RobotError(f"duration_s of {self.kind} is {quoted(self.duration_s)}: must be a time above 0 s, or absent")
        if self.duration_s is not None and self.kind in ONCE_KINDS:
            raise RobotError(f"{self.kind} happens once and takes no duration_s; {quoted(self.duration_s)} is given")
        self._check_value()

    def _check_value(self) -> None:
        if self.kind in ("state_nan", "state_inf"):
            if self.value is not None and self.value not in _NAMED_FIELDS:
                names = ", ".join(_NAMED_FIELDS)
                raise RobotError(f"value of {self.kind} is {quoted(self.value)}; a part of the state is one of {names}")
        elif self.kind in _NEEDS_VALUE:
            if not _is_number(self.value):
                raise RobotError(f"value of {self.kind} is {quoted(self.value)}: must be a number ({KINDS[self.kind]})")
            self._check_number(float(cast("float", self.value)))
        elif self.value is not None:
            raise RobotError(f"{self.kind} takes no value, and {quoted(self.value)} is given")

    def _check_number(self, value: float) -> None:
        if self.kind == "state_dropout" and not 0.0 <= value <= 1.0:
            raise RobotError(f"value of state_dropout is {value:g}: a probability is 0 to 1")
        if self.kind in ("state_back", "quantise", "inference_slow") and value <= 0.0:
            raise RobotError(f"value of {self.kind} is {value:g}: must be above 0")
        if self.kind in ("command_latency", "robot_stall", "state_noise", "joint_position") and value < 0.0:
            raise RobotError(f"value of {self.kind} is {value:g}: must be 0 or more")

    @property
    def number(self) -> float:
        """`value` of a kind that has one."""
        return float(cast("float", self.value))

    @property
    def by_robot(self) -> bool:
        """Whether the robot injects it, rather than the runtime."""
        return self.kind in ROBOT_KINDS

    def lasts(self, now_s: float) -> bool:
        """Whether the fault is there at `now_s`, on the clock of `at_s`."""
        duration_s = FORCED_S if self.kind in FORCED_KINDS and self.duration_s is None else self.duration_s
        return now_s >= self.at_s and (duration_s is None or now_s < self.at_s + duration_s)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def parse_schedule(entries: object, where: str) -> tuple[Fault, ...]:
    """The faults in a list of mappings, or in the list under `faults`; `where` it came from begins every error."""
    if isinstance(entries, Mapping):
        mapping = cast("Mapping[object, object]", entries)
        if unknown := [key for key in mapping if key != "faults"]:
            raise RobotError(f"{where}: unknown key {quoted(unknown[0])}; a schedule is a list of faults, or has `faults`")
        entries = mapping.get("faults")
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise RobotError(f"{where}: must hold a list of faults, each with kind and at_s (got {quoted(entries)})")
    listed = cast("Sequence[object]", entries)
    if len(listed) > MAX_FAULTS:
        raise RobotError(f"{where}: {len(listed)} faults; at most {MAX_FAULTS} can be scheduled")
    return tuple(_parse_entry(entry, f"{where}: fault {number}") for number, entry in enumerate(listed, start=1))


def _parse_entry(entry: object, where: str) -> Fault:
    fields = ("kind", "at_s", "duration_s", "value")
    if not isinstance(entry, Mapping):
        raise RobotError(f"{where}: must be a mapping with {', '.join(fields)} (got {quoted(entry)})")
    given = cast("Mapping[Any, Any]", entry)
    for key in given:
        if key not in fields:
            raise RobotError(f"{where}: unknown field {quoted(key)}; {near_matches(str(key), fields)}")
    for key in ("kind", "at_s"):
        if key not in given:
            raise RobotError(f"{where}: {key} is missing; a fault has {', '.join(fields)}, the last two if wanted")
    try:
        return Fault(**{str(key): value for key, value in given.items()})
    except RobotError as error:
        raise RobotError(f"{where}: {error}") from error


def read_schedule(path: Path) -> tuple[Fault, ...]:
    """The faults in a YAML or JSON file. RobotError names the file, the entry and what is available."""
    try:
        entries = load_yaml(path)
    except TrudiRuntimeError as error:
        raise RobotError(str(error)) from None
    return parse_schedule(entries, str(path))


def check_fits(schedule: Sequence[Fault], robot: str, *, has_free_base: bool, has_limited_joint: bool) -> None:
    """RobotError where a fault cannot happen to this robot."""
    for fault in schedule:
        if fault.kind == "tip_over" and not has_free_base:
            raise RobotError(f"tip_over at {fault.at_s:g} s needs a robot with a free base; {robot} has none")
        if fault.kind == "joint_position" and not has_limited_joint:
            raise RobotError(f"joint_position at {fault.at_s:g} s needs a joint with a limit; {robot} has none")
