"""What stands between a simulated robot and a perfect one: noise, lost messages, and the faults of a schedule."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from trudi.runtime.robots.base import Float64, RobotDescription, RobotState
from trudi.runtime.robots.checker import Checker
from trudi.runtime.robots.injection import Fault, check_fits
from trudi.runtime.robots.simulation import Simulation

# Standard deviations of a noise factor of 1: those of the uniform noise that Go1 is trained with, half width / sqrt(3).
JOINT_POSITION_STD, JOINT_VELOCITY_STD = 0.03 / math.sqrt(3), 1.5 / math.sqrt(3)
TILT_STD, GYRO_STD, LINEAR_VELOCITY_STD = 0.05 / math.sqrt(3), 0.2 / math.sqrt(3), 0.1 / math.sqrt(3)
HEIGHT_STD = CUSTOM_STD = 0.01
UNKNOWN_JOINT = "unknown_joint"


class Layout(Enum):
    """How a state's message is laid out; `OTHER` has `UNKNOWN_JOINT` in place of the first joint."""

    RIGHT = "right"
    SHORT = "state_size"
    OTHER = "state_layout"


@dataclass(frozen=True)
class SensorCfg:
    """What is always imperfect."""

    noise: float = 0.0
    """Factor on the noise of training; 0 is none."""
    quantise: float = 0.0
    """Step to whose multiples every measured number is rounded; its unit. 0 is none."""
    dropout: float = 0.0
    """Probability that a state is lost."""
    command_latency_s: float = 0.0
    """Time from the arrival of a command until it takes effect; s."""


@dataclass(frozen=True)
class _Timed:
    """A fault and its clock."""

    fault: Fault
    zero_ns: int
    """When its `at_s` is 0; CLOCK_MONOTONIC."""

    @property
    def begins_ns(self) -> float:
        return self.zero_ns + self.fault.at_s * 1e9

    def due(self, now_ns: int) -> bool:
        return (now_ns - self.zero_ns) / 1e9 >= self.fault.at_s

    def lasts(self, now_ns: int) -> bool:
        return self.fault.lasts((now_ns - self.zero_ns) / 1e9)


class Disturbance:
    """Carries out a schedule on one robot, and spoils its states."""

    def __init__(
        self, simulation: Simulation, schedule: Sequence[Fault], sensors: SensorCfg, checker: Checker, seed: int
    ) -> None:
        description = simulation.describe()
        self._simulation, self._sensors, self._checker = simulation, sensors, checker
        driven = _driven(description)
        self._first_measured, self._first_driven = description.joint_names[0], driven[0]
        self._limited = next((name for name in driven if simulation.joint_range(name) is not None), None)
        self._name = description.name
        self._schedule = tuple(schedule)
        self.check_fits(self._schedule)
        self._waiting: list[_Timed] = []
        self._begun: list[_Timed] = []
        self._rng = np.random.default_rng(seed)
        self._started = False
        self._clock_ns = 0
        self._sent = RobotState.zeros(description)
        self._frozen: tuple[Float64, int] | None = None
        self.layout = Layout.RIGHT
        """How the message of the last state is to be laid out."""

    def check_fits(self, faults: Sequence[Fault]) -> None:
        """RobotError where one of `faults` cannot happen to this robot."""
        has_limited_joint = self._limited is not None
        check_fits(faults, self._name, has_free_base=self._simulation.has_free_base, has_limited_joint=has_limited_joint)

    def start(self, now_ns: int) -> None:
        """A command of the state ACTIVE arrived: at the first one the schedule's clock starts."""
        if not self._started:
            self._started = True
            self._add(self._schedule, now_ns)

    def inject(self, faults: Sequence[Fault], now_ns: int) -> None:
        """Further faults, with a clock that starts now. RobotError where one of them cannot happen to this robot."""
        self.check_fits(faults)
        self._begun = [timed for timed in self._begun if timed.lasts(now_ns)]
        self._add(faults, now_ns)

    def begin_due(self, now_ns: int) -> None:
        """Begins what is due; what happens once happens here."""
        while self._waiting and self._waiting[0].due(now_ns):
            timed = self._waiting.pop(0)
            self._begun.append(timed)
            self._checker.watch(timed.fault.kind, now_ns, timed.zero_ns)
            self._do_once(timed.fault)

    def force(self, now_ns: int) -> None:
        """Moves the joints that faults hold somewhere, after a physics step."""
        data = self._simulation.data
        for fault in self._active(now_ns):
            if fault.kind == "joint_position" and self._limited is not None:
                position, velocity = self._simulation.joint_address(self._limited)
                upper = (self._simulation.joint_range(self._limited) or (0.0, 0.0))[1]
                data.qpos[position], data.qvel[velocity] = upper + fault.number, 0.0
                self._simulation.refresh()
            elif fault.kind == "joint_velocity":
                data.qvel[self._simulation.joint_address(self._first_driven)[1]] = fault.number
                self._simulation.refresh()

    def latency_ns(self, now_ns: int) -> int:
        """Time until a command that arrives now takes effect."""
        extra_s = sum(fault.number for fault in self._active(now_ns) if fault.kind == "command_latency")
        return round((self._sensors.command_latency_s + extra_s) * 1e9)

    def disturb(self, state: RobotState, now_ns: int) -> RobotState | None:
        """`state`, measured at `now_ns`, as it is to be sent; None where it is lost. The next call overwrites it."""
        active = self._active(now_ns)
        kinds = {fault.kind for fault in active}
        if "state_stop" in kinds or self._rng.random() < self._lost(active):
            return None
        sent = self._sent
        np.copyto(sent.values, state.values)
        back_s = sum(fault.number for fault in active if fault.kind == "state_back")
        sent.stamp_ns = now_ns + self._clock_ns - round(back_s * 1e9)
        self._spoil(sent, active)
        self._freeze(sent, "state_freeze" in kinds)
        sent.sequence += 1
        wrong = (layout for layout in (Layout.SHORT, Layout.OTHER) if layout.value in kinds)
        self.layout = next(wrong, Layout.RIGHT)
        return sent

    def _add(self, faults: Sequence[Fault], zero_ns: int) -> None:
        self._waiting += [_Timed(fault, zero_ns) for fault in faults]
        self._waiting.sort(key=lambda timed: timed.begins_ns)

    def _active(self, now_ns: int) -> list[Fault]:
        return [timed.fault for timed in self._begun if timed.lasts(now_ns)]

    def _lost(self, active: Sequence[Fault]) -> float:
        return max((fault.number for fault in active if fault.kind == "state_dropout"), default=self._sensors.dropout)

    def _freeze(self, sent: RobotState, frozen: bool) -> None:
        if not frozen:
            self._frozen = None
        elif self._frozen is None:
            self._frozen = sent.values.copy(), sent.stamp_ns
        else:
            sent.values[:], sent.stamp_ns = self._frozen

    def _spoil(self, sent: RobotState, active: Sequence[Fault]) -> None:
        noise, step = self._sensors.noise, self._sensors.quantise
        for fault in active:
            noise = fault.number if fault.kind == "state_noise" else noise
            step = fault.number if fault.kind == "quantise" else step
        if noise:
            self._add_noise(sent, noise)
        if step:
            np.round(sent.values / step, out=sent.values)
            sent.values *= step
        for fault in active:
            if fault.kind in ("state_nan", "state_inf"):
                getattr(sent, str(fault.value or "joint_position"))[0] = math.nan if fault.kind == "state_nan" else math.inf

    def _add_noise(self, sent: RobotState, factor: float) -> None:
        draw = self._rng.standard_normal
        sent.joint_position += factor * JOINT_POSITION_STD * draw(sent.joint_position.size)
        sent.joint_velocity += factor * JOINT_VELOCITY_STD * draw(sent.joint_velocity.size)
        sent.custom += factor * CUSTOM_STD * draw(sent.custom.size)
        if not self._simulation.has_free_base:
            return
        sent.angular_velocity += factor * GYRO_STD * draw(3)
        sent.linear_velocity += factor * LINEAR_VELOCITY_STD * draw(3)
        sent.height += factor * HEIGHT_STD * draw(1)
        # A small turn d of the sensor: q * (d / 2, 1), normalised.
        sent.quaternion_xyzw[:] = _times(sent.quaternion_xyzw, np.append(0.5 * factor * TILT_STD * draw(3), 1.0))
        sent.quaternion_xyzw /= np.linalg.norm(sent.quaternion_xyzw)

    def _do_once(self, fault: Fault) -> None:
        if fault.kind == "clock_step":
            self._clock_ns += round(fault.number * 1e9)
        elif fault.kind == "push":
            self._push(fault.number)
        elif fault.kind == "tip_over":
            self._tip_over(fault.number)
        elif fault.kind == "robot_kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "robot_stall":
            time.sleep(fault.number)  # not busy: its real-time priority would take the core from the runtime, too

    def _push(self, speed: float) -> None:
        simulation = self._simulation
        first = 1 if simulation.has_free_base else simulation.joint_address(self._first_measured)[1]
        simulation.data.qvel[first] += speed
        simulation.refresh()

    def _tip_over(self, roll: float) -> None:
        """Turns the base about its own x axis; MuJoCo's quaternion is w, x, y, z."""
        base = self._simulation.data.qpos[3:7]
        turned = _times(np.roll(base, -1), np.array([math.sin(roll / 2), 0.0, 0.0, math.cos(roll / 2)]))
        base[:] = np.roll(turned, 1)
        self._simulation.refresh()


def _driven(description: RobotDescription) -> tuple[str, ...]:
    """The driven joints: where drives are actuators, the joints that are not the root's."""
    if description.pd:
        return description.drives
    return tuple(name for name in description.joint_names if not name.startswith("root"))


def _times(left: Float64, right: Float64) -> Float64:
    """The product of two quaternions x, y, z, w."""
    x, y, z, w = left
    a, b, c, d = right
    return np.array(
        [
            w * a + x * d + y * c - z * b,
            w * b - x * c + y * d + z * a,
            w * c + x * b - y * a + z * d,
            w * d - x * a - y * b - z * c,
        ]
    )
