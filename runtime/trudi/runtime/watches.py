"""The watches: each looks at one thing and says what is wrong with it, with the value and the threshold.

They hold counters of what must happen several times in a row, and nothing else; the supervisor decides.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.limits import Thresholds
from trudi.runtime.robots.base import Float64, RobotDescription, RobotState
from trudi.runtime.supervisor import FaultCode, Violation
from trudi.runtime.terms import tilt

FUTURE_TOLERANCE_NS = 5_000_000
"""How far ahead of this clock a state of a robot that shares it may be stamped."""
QUATERNION_TOLERANCE = 0.05
"""How far a quaternion's length may be from 1."""
EFFORT_MARGIN = 1.05
"""How far beyond its limit an effort is measured before that is a fault: motors saturate at it, and sensors are noisy."""


class Watches:
    """All of them, for one robot under one bundle."""

    def __init__(self, robot: RobotDescription, limits: Thresholds, observation_names: tuple[str, ...]) -> None:
        self._robot, self._limits = robot, limits
        self._names = observation_names
        self._low = limits.position_low - limits.position_margin
        self._high = limits.position_high + limits.position_margin
        self._most_effort = limits.effort * EFFORT_MARGIN
        self._out_of_range = self._spread_out = self.overruns = 0
        self._last_action: Float64 | None = None
        self.out_of_range_total = 0
        """Control steps whose observation lay outside the training range."""

    def reset(self) -> None:
        """Forgets what was counted: the policy starts anew."""
        self._out_of_range = self._spread_out = self.overruns = 0
        self._last_action = None

    def stamp(self, state: RobotState, last_stamp_ns: int) -> Violation | None:
        """A new state's stamp against the last one's and, where the clock is shared, against this clock."""
        back_s = (last_stamp_ns - state.stamp_ns) * 1e-9
        if back_s > 0:
            sentence = f"a state is stamped {back_s:.6g} s before the one that came before it"
            return Violation(FaultCode.STATE_BACKWARDS, sentence, back_s, 0.0)
        ahead_ns = state.stamp_ns - state.received_ns
        if self._robot.shared_clock and ahead_ns > FUTURE_TOLERANCE_NS:
            sentence = f"a state is stamped {ahead_ns * 1e-9:.6g} s ahead of this machine's clock"
            return Violation(FaultCode.STATE_FUTURE, sentence, ahead_ns * 1e-9, FUTURE_TOLERANCE_NS * 1e-9)
        return None

    def age(self, age_s: float) -> Violation | None:
        """Age of the latest state; s."""
        if age_s > self._limits.state_age_lost_s:
            sentence = f"the robot's state is {age_s:.3f} s old: no newer one arrives"
            return Violation(FaultCode.STATE_LOST, sentence, age_s, self._limits.state_age_lost_s)
        return None

    def state(self, state: RobotState) -> Violation | None:
        """Finite, upright, within the joints' limits; what must never be held stiff comes before what may be."""
        if not math.isfinite(state.values.sum()):  # One sum sees any NaN or infinity; two infinities make a NaN.
            return self._not_finite(state)
        if self._robot.has_imu and (violation := self._orientation(state)) is not None:
            return violation
        if (np.abs(state.joint_effort) > self._most_effort).any():
            return self._beyond(FaultCode.JOINT_EFFORT, "pulls with", state.joint_effort, self._most_effort, "N m or N")
        position = state.joint_position
        if (position < self._low).any() or (position > self._high).any():
            return self._beyond_position(state)
        if (np.abs(state.joint_velocity) > self._limits.velocity).any():
            return self._beyond(
                FaultCode.JOINT_VELOCITY, "moves at", state.joint_velocity, self._limits.velocity, "rad/s or m/s"
            )
        return None

    def observation(self, observation: NDArray[np.float32]) -> Violation | None:
        """The graph's input (1, n): finite, and not out of the training range for too many steps in a row."""
        row = observation[0]
        if not math.isfinite(float(row.sum(dtype=np.float64))):
            index = int(np.argmin(np.isfinite(row)))
            sentence = f"the observation's {self._names[index]} is {row[index]}"
            return Violation(FaultCode.OBSERVATION_NOT_FINITE, sentence, float(row[index]), math.inf)
        low, high = self._limits.observation_low, self._limits.observation_high
        if low is None or high is None:
            return None
        outside = (row < low) | (row > high)
        if not outside.any():
            self._out_of_range = 0
            return None
        self._out_of_range += 1
        self.out_of_range_total += 1
        if self._out_of_range < self._limits.out_of_range_steps:
            return None
        index = int(np.argmax(outside))
        value, bound = float(row[index]), float(low[index] if row[index] < low[index] else high[index])
        sentence = (
            f"the observation's {self._names[index]} is {value:.4g}, outside of training's [{low[index]:.4g}, "
            f"{high[index]:.4g}], for {self._out_of_range} control steps in a row"
        )
        return Violation(FaultCode.OBSERVATION_RANGE, sentence, value, bound)

    def spread(self, spread: float) -> Violation | None:
        """The standard deviation of the action over a few latents; NaN where it was not measured."""
        limit = self._limits.max_latent_spread
        if limit is None or not spread > limit:
            self._spread_out = 0
            return None
        self._spread_out += 1
        if self._spread_out < self._limits.out_of_range_steps:
            return None
        sentence = f"actions differ by {spread:.4g} between latents, for {self._spread_out} control steps in a row"
        return Violation(FaultCode.LATENT_SPREAD, sentence, spread, limit)

    def action(self, action: Float64, period_s: float) -> Violation | None:
        """The policy's action (m,) before scale and offset: finite, and not faster than it may change."""
        if not math.isfinite(action.sum()):
            index = int(np.argmin(np.isfinite(action)))
            sentence = f"the policy's action {index} is {action[index]}"
            return Violation(FaultCode.ACTION_NOT_FINITE, sentence, float(action[index]), math.inf)
        limit = self._limits.max_action_rate_per_s
        if limit is None:
            return None
        found: Violation | None = None
        if self._last_action is not None:
            rate = np.abs(action - self._last_action) / period_s
            if rate.max() > limit:
                index = int(rate.argmax())
                sentence = f"the policy's action {index} changes by {rate[index]:.4g} a second"
                found = Violation(FaultCode.ACTION_RATE, sentence, float(rate[index]), limit)
        self._last_action = action.copy()
        return found

    def overrun(self, periods: int) -> Violation | None:
        """Control periods missed just now; 0 says that this one was kept."""
        self.overruns = self.overruns + periods if periods else 0
        if self.overruns < self._limits.max_overruns_in_row:
            return None
        sentence = f"{self.overruns} control periods in a row had no action in time"
        return Violation(FaultCode.OVERRUN, sentence, float(self.overruns), float(self._limits.max_overruns_in_row))

    def memory(self) -> dict[str, Any]:
        """The counters, for a keyframe of the recording."""
        last = np.zeros(0) if self._last_action is None else self._last_action.copy()
        return {"counters": np.array([self._out_of_range, self._spread_out, self.overruns], np.int64), "last_action": last}

    def restore(self, memory: dict[str, Any]) -> None:
        """Goes on from a keyframe."""
        self._out_of_range, self._spread_out, self.overruns = (int(value) for value in memory["counters"])
        self._last_action = memory["last_action"].copy() if memory["last_action"].size else None

    def _not_finite(self, state: RobotState) -> Violation:
        joints, robot = len(self._robot.joints), self._robot
        names = [f"{what} of {name}" for what in ("position", "velocity", "effort") for name in robot.joint_names]
        names += [f"quaternion {axis}" for axis in "xyzw"]
        names += [f"{what} velocity {axis}" for what in ("angular", "linear") for axis in "xyz"] + ["height"]
        names += [f"{sensor.name}[{place}]" for sensor in robot.custom for place in range(sensor.size)]
        finite = np.isfinite(state.values)
        index = int(np.argmin(finite))
        if finite.all():  # The sum overflowed: finite numbers that no robot measures.
            index = int(np.abs(state.values).argmax())
        assert len(names) == len(state.values), (joints, len(names), len(state.values))
        value = float(state.values[index])
        return Violation(FaultCode.STATE_NOT_FINITE, f"the state's {names[index]} is {value}", value, math.inf)

    def _beyond_position(self, state: RobotState) -> Violation:
        position = state.joint_position
        beyond = np.maximum(self._low - position, position - self._high)
        index = int(beyond.argmax())
        value = float(position[index])
        low = value < self._low[index]
        threshold = float((self._low if low else self._high)[index])
        name, margin = self._robot.joint_names[index], self._limits.position_margin
        sentence = f"joint {name} is at {value:.4f}, beyond its limit {threshold:.4f} (margin of {margin:g} included)"
        return Violation(FaultCode.JOINT_POSITION, sentence, value, threshold)

    def _beyond(self, code: FaultCode, verb: str, values: Float64, limits: Float64, unit: str) -> Violation:
        index = int((np.abs(values) - limits).argmax())
        value, limit = float(values[index]), float(limits[index])
        sentence = f"joint {self._robot.joint_names[index]} {verb} {value:.4g}, limit {limit:.4g} {unit}"
        return Violation(code, sentence, value, limit)

    def _orientation(self, state: RobotState) -> Violation | None:
        quaternion = state.quaternion_xyzw
        length = math.sqrt(float(quaternion @ quaternion))
        if abs(length - 1.0) > QUATERNION_TOLERANCE:
            sentence = f"the orientation's quaternion has length {length:.4g}: it is no rotation"
            return Violation(FaultCode.ORIENTATION, sentence, length, 1.0 + QUATERNION_TOLERANCE)
        limit = self._limits.max_tilt_rad
        if limit is not None and (angle := tilt(quaternion)) > limit:
            return Violation(FaultCode.TILT, f"the robot is tilted by {angle:.3f} rad", angle, limit)
        return None
