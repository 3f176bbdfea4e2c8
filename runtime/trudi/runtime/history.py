"""The states of the last moments, so that a term can be as old as it was in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.robots.base import RobotDescription, RobotState


class StateHistory:
    """A ring of the latest states, copied in; nothing is made after construction."""

    def __init__(self, description: RobotDescription, longest_delay_s: float) -> None:
        depth = 2 + math.ceil(longest_delay_s / description.state_period_s)
        self._ring = [RobotState.zeros(description) for _ in range(depth)]
        self._newest = -1
        self.count = 0
        """States ever pushed."""

    @property
    def depth(self) -> int:
        """States kept."""
        return len(self._ring)

    def push(self, state: RobotState) -> None:
        """Copies a state in, over the oldest one."""
        self._newest = (self._newest + 1) % len(self._ring)
        slot = self._ring[self._newest]
        slot.values[:] = state.values
        slot.stamp_ns, slot.received_ns, slot.sequence = state.stamp_ns, state.received_ns, state.sequence
        self.count += 1

    @property
    def latest(self) -> RobotState:
        """The state pushed last; before the first, one at rest."""
        return self._ring[self._newest]

    def at(self, delay_ns: int) -> RobotState:
        """The state whose stamp is nearest to `delay_ns` before the latest one's; the oldest where none is that old."""
        best = self._ring[self._newest]
        target = best.stamp_ns - delay_ns
        for back in range(1, min(self.count, len(self._ring))):
            older = self._ring[self._newest - back]
            if abs(older.stamp_ns - target) > abs(best.stamp_ns - target):
                break
            best = older
        return best

    def memory(self) -> dict[str, NDArray[Any]]:
        """The ring as it is, for a keyframe of the recording."""
        times = [[state.stamp_ns, state.received_ns, state.sequence] for state in self._ring]
        return {
            "values": np.array([state.values for state in self._ring]),
            "times": np.array(times, np.int64),
            "place": np.array([self._newest, self.count], np.int64),
        }

    def restore(self, memory: dict[str, NDArray[Any]]) -> None:
        """Goes on from a keyframe."""
        self._newest, self.count = (int(value) for value in memory["place"])
        for state, values, times in zip(self._ring, memory["values"], memory["times"].tolist(), strict=True):
            state.values[:] = values
            state.stamp_ns, state.received_ns, state.sequence = times
