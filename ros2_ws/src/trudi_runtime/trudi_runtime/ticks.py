"""What each tick of the control loop took and did, as integers on `~/ticks`: with them a bag is computed again exactly.

A bag holds what was said on topics, not when the control thread looked. So each tick tells its time, the states that it
took (by the stamps of the messages they were made of), the commands in force, what the operator asked, and what became of
the action. Numbers that are no integers travel as their 64 bits.

    row = [now_ns, slot, missed, request, stopped, stepped, outcome, spread, offset_ns, states, commands,
           (kind, stamp_ns, received_ns, joint_states, imu, odom, sensors) for each state,
           (given_ns, count, value ...) for each command]
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trudi.runtime.controller import Outcome
from trudi.runtime.supervisor import Event, FaultCode

NONE: Final = -1
"""Stands for a request, a fault or a time that there was not."""
KINDS: Final = ("state", "malformed", "layout")
PARTS: Final = ("joint_states", "imu", "odom", "sensors")


@dataclass(frozen=True)
class TakenState:
    """A state, or a rejected message, that the loop took in a tick."""

    kind: str
    """One of `KINDS`."""
    stamp_ns: int
    """As the loop saw it: CLOCK_MONOTONIC where clocks are shared."""
    received_ns: int
    """CLOCK_MONOTONIC."""
    parts: tuple[int, ...]
    """Stamps in the headers of the messages it was made of, in the order of `PARTS`; ROS time, ns. 0: not used."""


@dataclass(frozen=True)
class TickRow:
    """One tick."""

    now_ns: int
    """CLOCK_MONOTONIC."""
    slot: int
    missed: int
    request: Event | None
    stopped: FaultCode | None
    """A fault from outside the loop."""
    stepped: bool
    outcome: Outcome
    spread: float
    offset_ns: int
    """Stamp of the command that was sent last (ROS time) minus `now_ns`: where this tick sent one, its own."""
    states: tuple[TakenState, ...]
    commands: tuple[tuple[int | None, tuple[float, ...]], ...]
    """For each command of the policy when it was given (CLOCK_MONOTONIC) and its values."""

    def encode(self) -> array[int]:
        """As the data of an Int64MultiArray."""
        row = [self.now_ns, self.slot, self.missed, NONE if self.request is None else int(self.request)]
        row += [NONE if self.stopped is None else int(self.stopped), int(self.stepped), int(self.outcome)]
        row += [_bits(self.spread), self.offset_ns, len(self.states), len(self.commands)]
        for state in self.states:
            row += [KINDS.index(state.kind), state.stamp_ns, state.received_ns, *state.parts]
        for given_ns, values in self.commands:
            row += [NONE if given_ns is None else given_ns, len(values), *map(_bits, values)]
        return array("q", row)

    @classmethod
    def decode(cls, data: Sequence[int]) -> TickRow:
        """The inverse of `encode`. ValueError where `data` is no row."""
        numbers = iter(data)
        try:
            now_ns, slot, missed, request, stopped, stepped, outcome, spread, offset_ns, states, commands = (
                next(numbers) for _ in range(11)
            )
            taken = tuple(
                TakenState(KINDS[next(numbers)], next(numbers), next(numbers), tuple(next(numbers) for _ in PARTS))
                for _ in range(states)
            )
            given: list[tuple[int | None, tuple[float, ...]]] = []
            for _ in range(commands):
                at_ns, count = next(numbers), next(numbers)
                given.append((None if at_ns == NONE else at_ns, tuple(_number(next(numbers)) for _ in range(count))))
        except (StopIteration, RuntimeError, IndexError):
            raise ValueError("a row of ~/ticks that is cut off") from None
        return cls(
            now_ns,
            slot,
            missed,
            None if request == NONE else Event(request),
            None if stopped == NONE else FaultCode(stopped),
            bool(stepped),
            Outcome(outcome),
            _number(spread),
            offset_ns,
            taken,
            tuple(given),
        )


def _bits(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]


def _number(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<q", bits))[0]
