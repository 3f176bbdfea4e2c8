"""The supervisor: which state the robot is in, what may change it, and what the motors are sent in each.

Everything it may do is a row of `TABLE`; nothing else changes the state. A fault leads from every state to FAULT, and only a
reset leaves that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from trudi.runtime.robots.base import SupervisorState as State

__all__ = ["TABLE", "Conditions", "Event", "Fault", "FaultCode", "Motors", "Supervisor", "Transition", "Violation"]


class Event(IntEnum):
    """What may ask for another state."""

    CONFIGURE = 0
    """The bundle is verified, its engine reproduced the golden actions and is warm, the robot fits."""
    ACTIVATE = 1
    STAND = 2
    START = 3
    STOP = 4
    COMMAND_LOST = 5
    """No command for longer than `command_lost_s`; the controller's own event."""
    DEACTIVATE = 6
    CLEANUP = 7
    FAULT = 8
    RESET = 9


class Motors(IntEnum):
    """What the motors are sent."""

    NOTHING = 0
    """No command at all: a robot that hears none damps by itself."""
    DAMP = 1
    """No stiffness, only damping: the robot sinks to rest."""
    RAMP = 2
    """A smooth way from where the joints are to the default pose, then that pose."""
    POLICY = 3
    """The policy's targets, blended in from the default pose."""
    FREEZE = 4
    """The last target, held with the policy's stiffness."""


class FaultCode(IntEnum):
    """Why the robot was stopped; the numbers are stable, for logs and other languages."""

    CONFIGURATION = 1
    STATE_LOST = 11
    STATE_BACKWARDS = 12
    STATE_FUTURE = 13
    STATE_MALFORMED = 14
    STATE_LAYOUT = 15
    STATE_NOT_FINITE = 16
    ORIENTATION = 17
    STATE_SOURCE = 18
    JOINT_POSITION = 20
    JOINT_VELOCITY = 21
    JOINT_EFFORT = 22
    TILT = 23
    OBSERVATION_NOT_FINITE = 30
    OBSERVATION_RANGE = 31
    LATENT_SPREAD = 32
    ENGINE = 40
    ACTION_NOT_FINITE = 41
    ACTION_RATE = 42
    OVERRUN = 50
    ROBOT_WRITE = 51
    INTERNAL = 60
    EMERGENCY_STOP = 70


@dataclass(frozen=True)
class Violation:
    """A watch that found something: what a fault is made of."""

    code: FaultCode
    sentence: str
    """What happened, with names and units."""
    value: float
    """What was measured."""
    threshold: float
    """What it was held against."""


@dataclass(frozen=True)
class Fault:
    """A violation that stopped the robot."""

    violation: Violation
    at_ns: int
    """CLOCK_MONOTONIC of the tick that found it."""
    state: State
    """Where the supervisor stood then."""

    def __str__(self) -> str:
        return f"{self.violation.code.name}: {self.violation.sentence}"


@dataclass(frozen=True)
class Conditions:
    """What guards ask, as sentences: None where all is well, otherwise why not."""

    state: str | None = None
    """Why the robot's state cannot be relied on now."""
    ramp: str | None = None
    """Why the stand-up is not finished."""
    command: str | None = None
    """Why there is no command to follow."""


@dataclass(frozen=True)
class Transition:
    """One row of the table."""

    state: State
    event: Event
    guard: tuple[str, ...]
    """Fields of `Conditions` that must be None; or, for a reset, the state in which the fault arose."""
    next: State
    motors: Motors
    """What the motors are sent from then on."""


def _rows(text: str) -> tuple[Transition, ...]:
    """The rows of the drawn table: state, event, guard, next state, motors; a guard `-` asks nothing."""
    rows: list[Transition] = []
    for line in text.strip().splitlines():
        state, event, guard, following, motors = (cell.strip() for cell in line.split("|"))
        asked = () if guard == "-" else tuple(guard.split())
        rows.append(Transition(State[state], Event[event], asked, State[following], Motors[motors]))
    return tuple(rows)


# `state`: the robot's state is fresh, finite and within its limits. `ramp`: the stand-up is finished. `command`: somebody
# says what to do. Behind a fault, RESET's guard is the state in which the fault arose.
TABLE: Final = _rows("""
    UNCONFIGURED | CONFIGURE    | -                  | INACTIVE     | NOTHING
    INACTIVE     | CLEANUP      | -                  | UNCONFIGURED | NOTHING
    INACTIVE     | ACTIVATE     | state              | STANDBY      | DAMP
    STANDBY      | STAND        | state              | STAND        | RAMP
    STANDBY      | DEACTIVATE   | -                  | INACTIVE     | NOTHING
    STAND        | START        | state ramp command | ACTIVE       | POLICY
    STAND        | STOP         | -                  | STANDBY      | DAMP
    STAND        | DEACTIVATE   | -                  | INACTIVE     | NOTHING
    ACTIVE       | STOP         | -                  | STAND        | RAMP
    ACTIVE       | COMMAND_LOST | -                  | STAND        | RAMP
    ACTIVE       | DEACTIVATE   | -                  | INACTIVE     | NOTHING
    UNCONFIGURED | FAULT        | -                  | FAULT        | NOTHING
    INACTIVE     | FAULT        | -                  | FAULT        | NOTHING
    STANDBY      | FAULT        | -                  | FAULT        | DAMP
    STAND        | FAULT        | -                  | FAULT        | DAMP
    ACTIVE       | FAULT        | -                  | FAULT        | DAMP
    FAULT        | DEACTIVATE   | -                  | FAULT        | NOTHING
    FAULT        | RESET        | UNCONFIGURED       | UNCONFIGURED | NOTHING
    FAULT        | RESET        | INACTIVE           | INACTIVE     | NOTHING
    FAULT        | RESET        | state STANDBY      | STANDBY      | DAMP
    FAULT        | RESET        | state STAND        | STANDBY      | DAMP
    FAULT        | RESET        | state ACTIVE       | STANDBY      | DAMP
""")

# A falling or burning robot is never held stiff, whatever the site file asks for.
# Nor is one whose state nobody knows, or that cannot be told what to do.
ALWAYS_DAMP: Final = frozenset(code for code in FaultCode if code.name.startswith("STATE_")) | {
    FaultCode.TILT,
    FaultCode.JOINT_EFFORT,
    FaultCode.ORIENTATION,
    FaultCode.ROBOT_WRITE,
    FaultCode.INTERNAL,
    FaultCode.EMERGENCY_STOP,
}


class Supervisor:
    """Holds the state and the latched fault, and moves along `TABLE` alone."""

    def __init__(self, *, freeze_on_fault: bool = False, holding: tuple[State, ...] = (State.STAND, State.ACTIVE)) -> None:
        """`holding`: the states in which there is a last target that can be held."""
        self.state: State = State.UNCONFIGURED
        self.motors: Motors = Motors.NOTHING
        self.fault: Fault | None = None
        """The first fault since the last reset."""
        self.more_faults = 0
        """Faults found since, while that one was latched."""
        self._freeze_in = holding if freeze_on_fault else ()

    def request(self, event: Event, conditions: Conditions) -> str | None:
        """Follows `event` where the table and its guards allow it; otherwise says why not and changes nothing."""
        rows = [row for row in TABLE if row.state is self.state and row.event is event and self._arose(row)]
        if event is Event.FAULT or not rows:
            allowed = sorted({row.event.name.lower() for row in TABLE if row.state is self.state} - {"fault"})
            latched = f" by {self.fault}" if self.fault is not None else ""
            return f"{event.name.lower()} is refused in {self.state.name}{latched}; possible: {', '.join(allowed)}"
        for guard in rows[0].guard:
            if (reason := getattr(conditions, guard, None)) is not None:
                return f"{event.name.lower()} is refused: {reason}"
        self._follow(rows[0])
        return None

    def raise_fault(self, violation: Violation, now_ns: int) -> None:
        """Latches the fault and stops the robot; one found while another is latched is counted, and ends a freeze."""
        if self.fault is not None:
            self.more_faults += 1
            if self.motors is Motors.FREEZE and violation.code in ALWAYS_DAMP:
                self.motors = Motors.DAMP
            return
        self.fault = Fault(violation, now_ns, self.state)
        row = next(row for row in TABLE if row.state is self.state and row.event is Event.FAULT)
        held = self.state in self._freeze_in and violation.code not in ALWAYS_DAMP
        self._follow(row)
        if held:
            self.motors = Motors.FREEZE

    def _arose(self, row: Transition) -> bool:
        """Whether a reset's row is the one for the state in which the fault arose."""
        return row.event is not Event.RESET or (self.fault is not None and self.fault.state.name in row.guard)

    def _follow(self, row: Transition) -> None:
        if row.event is Event.RESET:
            self.fault, self.more_faults = None, 0
        self.state, self.motors = row.next, row.motors
