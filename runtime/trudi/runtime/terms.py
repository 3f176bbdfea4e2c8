"""The observation, term by term, from what the robot measures: by name, in the frame, unit, delay and scale of training.

o = scale * clip(raw - offset, clip)        each term; delayed, then stacked over `history` frames, oldest first
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.contract import Contract
from trudi.runtime.errors import near_matches
from trudi.runtime.history import StateHistory
from trudi.runtime.interface import Term
from trudi.runtime.robots.base import Float64, RobotDescription, RobotError, RobotState

Measure = Callable[[RobotState, Float64], None]
"""Writes a term's raw value into an array of its size."""

SENSOR_KINDS: Final = ("base_linear_velocity", "base_angular_velocity", "projected_gravity", "base_quaternion")
JOINT_ARRAYS: Final = ("joint_position", "joint_velocity", "joint_effort")
"""Kinds of joint terms, named like the state's arrays."""


def projected_gravity(quaternion_xyzw: Float64, out: Float64) -> None:
    """The unit vector of gravity in the frame that the quaternion, of any length, rotates into the world: R^T (0, 0, -1)."""
    x, y, z, w = quaternion_xyzw.tolist()
    two = 2.0 / max(x * x + y * y + z * z + w * w, 1e-12)
    out[0] = two * (w * y - x * z)
    out[1] = -two * (w * x + y * z)
    out[2] = two * (x * x + y * y) - 1.0


def tilt(quaternion_xyzw: Float64) -> float:
    """The angle between the frame's z axis and the world's; rad. Any length of the quaternion gives the same."""
    x, y, z, w = quaternion_xyzw.tolist()
    horizontal = 2.0 * math.hypot(x, y) * math.hypot(z, w)
    vertical = w * w + z * z - x * x - y * y
    return math.atan2(horizontal, vertical)


def gait_phase(time_s: float, frequency_hz: float, offsets_rad: Float64, out: Float64) -> None:
    """cos(2 pi f t + offset), one an element."""
    np.cos(offsets_rad + 2.0 * math.pi * ((frequency_hz * time_s) % 1.0), out=out)


def joint_indices(wanted: Sequence[str], description: RobotDescription, where: str) -> NDArray[np.intp]:
    """Where the robot measures each of the joints; RobotError names one that it does not have."""
    place = {name: index for index, name in enumerate(description.joint_names)}
    for name in wanted:
        if name not in place:
            raise RobotError(
                f"{where} needs the joint {name}, which {description.name} does not have; {near_matches(name, place)}"
            )
    return np.array([place[name] for name in wanted], np.intp)


class Observer:
    """Assembles the graph's observation from states, commands and past actions; all its arrays are made once."""

    def __init__(self, contract: Contract, description: RobotDescription) -> None:
        self._period_s = contract.control_period_s
        self._description = description
        self.observation = np.zeros((1, contract.observation_size), np.float32)
        """(1, n), the graph's input."""
        self.commands = [np.array(command.neutral, float) for command in contract.commands]
        """The commands as the policy is to see them, each (elements,); written by the controller."""
        late = [int(term.delay_steps) + 1 for term in contract.observation if term.kind == "last_action"]
        self.actions = np.zeros((max(late, default=1), contract.action.size))
        """The policy's past actions before scale and offset, newest first (k, m)."""
        self._command_places = {command.name: place for place, command in enumerate(contract.commands)}
        self._slots = [_Slot(term, self._measure(term), self._period_s) for term in contract.observation]
        self._place_slots()
        self.steps = 0
        """Control steps since the last reset."""

    @property
    def longest_delay_s(self) -> float:
        """The oldest age at which any measured term is taken; s."""
        return max((slot.delay_ns * 1e-9 for slot in self._slots), default=0.0)

    def reset(self) -> None:
        """Forgets past actions and frames: the next observation is a policy's first."""
        self.actions[:] = 0.0
        self.steps = 0

    def remember(self, action: Float64) -> None:
        """Takes note of the action before scale and offset (m,), after the control step that gave it."""
        self.actions[1:] = self.actions[:-1]
        self.actions[0] = action

    def miss(self, action: Float64) -> None:
        """A control step that never was: the robot went on under the action (m,), and the gait's clock with it."""
        self.remember(action)
        self.steps += 1

    def observe(self, states: StateHistory) -> NDArray[np.float32]:
        """The observation of this control step, in the array that is the graph's input."""
        latest = states.latest
        for slot in self._slots:
            slot.update(states.at(slot.delay_ns) if slot.delay_ns else latest, first=self.steps == 0)
        self.steps += 1
        return self.observation

    def memory(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """What the next observation depends on beside states and commands, for a keyframe of the recording."""
        frames = {f"frames_{index}": slot.frames.copy() for index, slot in enumerate(self._slots)}
        return {"actions": self.actions.copy(), "steps": np.array(self.steps, np.int64), **frames}

    def restore(self, memory: dict[str, NDArray[np.float64] | NDArray[np.int64]]) -> None:
        """Goes on from a keyframe."""
        self.actions[:] = memory["actions"]
        self.steps = int(memory["steps"])
        for index, slot in enumerate(self._slots):
            slot.frames[:] = memory[f"frames_{index}"]

    def _place_slots(self) -> None:
        start = 0
        for slot in self._slots:
            end = start + slot.frames.size
            slot.out = self.observation[0, start:end]
            start = end

    def _measure(self, term: Term) -> Measure:
        """How this robot measures the term; RobotError where it cannot."""
        where = f"observation term {term.name}"
        if term.kind in JOINT_ARRAYS:
            return _joints(term.kind, joint_indices(term.joints or term.element_names, self._description, where))
        if term.kind in SENSOR_KINDS:
            return self._sensor(term, where)
        if term.kind == "base_height":
            self._require(self._description.has_height, where, "the base's height")
            return _copy("height")
        own = {"command": self._command, "last_action": self._last_action, "phase": self._phase, "custom": self._custom}
        return own[term.kind](term, where)

    def _command(self, term: Term, _: str) -> Measure:
        return _constant(self.commands[self._command_places[str(term.command)]])

    def _last_action(self, term: Term, where: str) -> Measure:
        if term.delay_steps % 1:
            raise RobotError(f"{where}: delay_steps {term.delay_steps}; an action's age is a whole number of control steps")
        return _constant(self.actions[int(term.delay_steps)])

    def _sensor(self, term: Term, where: str) -> Measure:
        robot = self._description
        if term.frame != robot.sensor_frame:
            raise RobotError(
                f"{where} is in the frame {term.frame}, {robot.name} measures in {robot.sensor_frame}: "
                "the robot must give it in the policy's frame (and name that its sensor_frame)"
            )
        if term.kind == "base_linear_velocity":
            self._require(robot.has_linear_velocity, where, "linear velocity (an estimator gives it)")
            return _copy("linear_velocity")
        self._require(robot.has_imu, where, "orientation and angular velocity (an imu)")
        if term.kind == "base_angular_velocity":
            return _copy("angular_velocity")
        return _copy("quaternion_xyzw") if term.kind == "base_quaternion" else _gravity

    def _require(self, present: bool, where: str, what: str) -> None:
        if not present:
            raise RobotError(f"{where} needs {what}, which {self._description.name} does not measure")

    def _phase(self, term: Term, where: str) -> Measure:
        frequency, offsets = term.phase_frequency_hz, term.phase_offsets_rad
        if frequency is None or offsets is None:
            raise RobotError(
                f"{where}: the bundle does not say the gait's clock; "
                "give the term phase_frequency_hz and phase_offsets_rad in the robot file and export again"
            )
        array = np.array(offsets)

        def measure(_: RobotState, out: Float64) -> None:
            gait_phase(self.steps * self._period_s, frequency, array, out)

        return measure

    def _custom(self, term: Term, where: str) -> Measure:
        start = 0
        for sensor in self._description.custom:
            if sensor.name == term.name:
                if sensor.size != term.size:
                    raise RobotError(f"{where} has {term.size} elements, the robot's sensor of that name {sensor.size}")
                return _slice(start, start + sensor.size)
            start += sensor.size
        known = [sensor.name for sensor in self._description.custom]
        raise RobotError(
            f"{where} is custom, and {self._description.name} has no sensor {term.name}; {near_matches(term.name, known)}"
        )


class _Slot:
    """One term's frames and its place in the observation."""

    def __init__(self, term: Term, measure: Measure, period_s: float) -> None:
        self._measure = measure
        timed = term.kind not in ("command", "last_action", "phase")
        self.delay_ns = round(term.delay_steps * period_s * 1e9) if timed else 0
        self.frames = np.zeros((term.history, term.size))
        self.out: NDArray[np.float32] = np.zeros(term.total_size, np.float32)
        self._newest, self._flat = self.frames[-1], self.frames.reshape(-1)
        self._offset = None if term.offset is None else np.array(term.offset)
        self._scale = None if term.scale is None else np.array(term.scale)
        self._clip = term.clip

    def update(self, state: RobotState, *, first: bool) -> None:
        """Measures, shapes and stacks; a policy's first frame stands for all frames before it."""
        frames, newest = self.frames, self._newest
        if len(frames) > 1:
            frames[:-1] = frames[1:]
        self._measure(state, newest)
        if self._offset is not None:
            np.subtract(newest, self._offset, out=newest)
        if self._clip is not None:
            np.clip(newest, *self._clip, out=newest)
        if self._scale is not None:
            np.multiply(newest, self._scale, out=newest)
        if first and len(frames) > 1:
            frames[:-1] = newest
        self.out[:] = self._flat


def _joints(name: str, index: NDArray[np.intp]) -> Measure:
    def measure(state: RobotState, out: Float64) -> None:
        np.take(getattr(state, name), index, out=out, mode="clip")  # "raise", the default, would buffer

    return measure


def _copy(name: str) -> Measure:
    def measure(state: RobotState, out: Float64) -> None:
        out[:] = getattr(state, name)

    return measure


def _slice(start: int, end: int) -> Measure:
    def measure(state: RobotState, out: Float64) -> None:
        out[:] = state.custom[start:end]

    return measure


def _constant(array: Float64) -> Measure:
    def measure(_: RobotState, out: Float64) -> None:
        out[:] = array

    return measure


def _gravity(state: RobotState, out: Float64) -> None:
    projected_gravity(state.quaternion_xyzw, out)
