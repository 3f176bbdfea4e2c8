"""ROS time and CLOCK_MONOTONIC: what a header's stamp is on the clock that the control loop lives on.

Only the difference of the two clocks is kept. It is read again for every stamp, so that setting the machine's clock
shifts nothing, but replaced only where it has really changed: a reading that the scheduler interrupted would move stamps
about. Just after the clock was set, a message that was stamped before is still converted by the difference of then.
"""

from __future__ import annotations

import time
from typing import Protocol

from builtin_interfaces.msg import Time
from rclpy.clock import Clock

SECOND_NS = 1_000_000_000
SETTLED_NS = 200_000_000
"""Time after which no message is on its way any more that was stamped before the clock was set; ns."""
TIGHT_NS = 50_000
"""Longest that the reading of both clocks may take to be believed."""
DRIFT_NS = 200_000
"""Difference at which a new reading replaces the one that is kept: below the shortest period of states."""


class RosClock(Protocol):
    """ROS time beside CLOCK_MONOTONIC."""

    def to_monotonic_ns(self, ros_ns: int) -> int: ...

    def to_ros_ns(self, monotonic_ns: int) -> int: ...


class SystemClock:
    """ROS time without simulated time: the machine's wall clock."""

    def __init__(self) -> None:
        self._offset_ns = self._earlier_ns = self._changed_ns = 0
        """Wall clock minus CLOCK_MONOTONIC, what it was before the clock was set, and when that was."""
        while not self._read():
            pass
        self._earlier_ns = self._offset_ns

    def to_monotonic_ns(self, ros_ns: int) -> int:
        """A stamp of ROS time as CLOCK_MONOTONIC."""
        self._read()
        time_ns, now_ns = ros_ns - self._offset_ns, time.monotonic_ns()
        if now_ns - self._changed_ns < SETTLED_NS and not _plausible(now_ns - time_ns):
            earlier_ns = ros_ns - self._earlier_ns  # stamped before the clock was set, arrived after it
            return earlier_ns if _plausible(now_ns - earlier_ns) else time_ns
        return time_ns

    def to_ros_ns(self, monotonic_ns: int) -> int:
        """A time of CLOCK_MONOTONIC as ROS time."""
        self._read()
        return monotonic_ns + self._offset_ns

    def _read(self) -> bool:
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        took_ns = time.monotonic_ns() - before_ns
        if took_ns > TIGHT_NS:
            return False
        offset_ns = wall_ns - before_ns - took_ns // 2
        if abs(offset_ns - self._offset_ns) > DRIFT_NS:
            self._earlier_ns, self._offset_ns, self._changed_ns = self._offset_ns, offset_ns, before_ns
        return True


def _plausible(age_ns: int) -> bool:
    return -TIGHT_NS - DRIFT_NS <= age_ns <= SETTLED_NS


class SimulatedClock:
    """ROS time of a simulation, which goes in steps and at its own pace: good enough to stamp a command that is made now."""

    def __init__(self, clock: Clock) -> None:
        """`clock`: of a node with use_sim_time."""
        self._clock = clock

    def to_monotonic_ns(self, ros_ns: int) -> int:
        """By the age that the simulation gives it, from now."""
        return time.monotonic_ns() - (self._clock.now().nanoseconds - ros_ns)

    def to_ros_ns(self, monotonic_ns: int) -> int:
        """By its age, from the simulation's present."""
        return self._clock.now().nanoseconds - (time.monotonic_ns() - monotonic_ns)


def to_ns(stamp: Time) -> int:
    """A message's stamp; ns."""
    return stamp.sec * SECOND_NS + stamp.nanosec


def set_stamp(stamp: Time, ns: int) -> None:
    """The inverse of `to_ns`, in place."""
    stamp.sec, stamp.nanosec = divmod(ns, SECOND_NS)
