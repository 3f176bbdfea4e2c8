"""How well a policy walks: velocities against commands, falls, energy and smoothness, measured in lock step.

Velocities are those of the base's origin in the base's frame, from the physics and not from the robot's noisy sensors:
forward and left (m/s), and the turning rate about its z axis (rad/s).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trudi.runtime.contract import Contract
from trudi.runtime.engines.base import Engine
from trudi.runtime.robots.base import Float64, RobotError
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.lockstep import LockStep
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.variation import base_body
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event, FaultCode

UNITS = ("m/s", "m/s", "rad/s")
GRAVITY = 9.81
FALL = "fall"
STANDING_PART = 0.1
"""Of the random commands, those that ask for nothing."""
HALTED_S = (2.5, 4.5)
"""For how long nothing is asked for before `set_off`, drawn evenly; s."""


@dataclass(frozen=True)
class WalkCfg:
    """What counts."""

    settle_s: float = 1.0
    """Time after a new command that is not counted as tracking; s."""
    fall_tilt_rad: float = 1.0
    """Angle between the base's up axis and the world's that is a fall; rad."""
    fall_height: float = 0.5
    """Height of the base, as a part of that in the initial pose, below which it has fallen."""
    lie_s: float = 0.5
    """Time for which anything but the last body of a limb may touch the ground; longer is a fall; s."""
    max_linear_error: float = 0.25
    """Largest error of a mean linear velocity with which it still walks; m/s."""
    max_turning_error: float = 0.3
    """The same of the turning rate; rad/s."""

    def __post_init__(self) -> None:
        for name in ("fall_tilt_rad", "fall_height", "max_linear_error", "max_turning_error"):
            if not getattr(self, name) > 0.0:
                raise RobotError(f"{name} is {getattr(self, name)}: must be above 0")
        for name in ("settle_s", "lie_s"):
            if not getattr(self, name) >= 0.0:
                raise RobotError(f"{name} is {getattr(self, name)}: must be 0 or more")


@dataclass(frozen=True)
class Life:
    """One walk from the policy's start to a fall, a stop by the supervisor, or the end of the measurement."""

    period_s: float
    """Of a control step; the arrays have a row each."""
    command: Float64
    """(steps, 3), as the policy was shown it: neutral while it is blended in; m/s, m/s, rad/s."""
    velocity: Float64
    """(steps, 3), at the end of each step; m/s, m/s, rad/s."""
    power: Float64
    """(steps,), mean over the step of what the motors give to the joints, sum of max(torque * speed, 0): what they take
    back counts as lost; W."""
    action: Float64
    """(steps, m), before scale and offset."""
    ended: str | None = None
    """`fall`, the supervisor's fault (`observation_range`), or None where the time was over."""

    @property
    def seconds(self) -> float:
        """How long the policy drove."""
        return len(self.command) * self.period_s


@dataclass(frozen=True)
class SetDown:
    """One walk that STOP ended in mid-stride."""

    command: tuple[float, float, float]
    """Given all the time, also after STOP; m/s, m/s, rad/s."""
    drove_s: float
    """How long the policy drove before STOP; s."""
    asked: bool
    """Whether it came so far that it was stopped."""
    took_s: float
    """From STOP to STAND; s."""
    ended: str | None
    """`fall` or the supervisor's fault; None where it stood in its default pose until the end."""


@dataclass(frozen=True)
class Figures:
    """Measures of one or several lives together."""

    seconds: float
    """How long the policy drove, all lives together; s."""
    error: tuple[float, float, float] | None
    """|mean velocity - command| of each time that a command was held, forward, left, turning (m/s, m/s, rad/s); the mean
    over all of them, weighted by how long. None where no command was held for longer than `settle_s`."""
    error_now: tuple[float, float, float] | None
    """Mean over all settled moments of |velocity - command|: the sway of each stride counts, too; m/s, m/s, rad/s."""
    falls: int
    stops: dict[str, int] = field(default_factory=dict[str, int])
    """How often the supervisor stopped a robot that had not fallen, by its fault."""
    falls_per_hour: float = math.nan
    """Falls and stops in an hour of driving."""
    time_to_fall_s: float | None = None
    """Driving time a fall or stop; None where there was none in `seconds`."""
    power_w: float = math.nan
    """Mean mechanical power; W."""
    energy_j_per_m: float | None = None
    """Mechanical energy a metre of the base's path over the ground; J/m. None where it went less than a metre."""
    transport_cost: float | None = None
    """That over the robot's weight, energy / (mass g distance): the mechanical cost of transport."""
    action_rate: float = math.nan
    """Mean |a_t - a_(t-1)| over elements and steps."""
    action_bend: float = math.nan
    """Mean |a_t - 2 a_(t-1) + a_(t-2)|; 0 for actions that change evenly."""

    @property
    def ends(self) -> int:
        """Falls and stops."""
        return self.falls + sum(self.stops.values())

    def tracks(self, cfg: WalkCfg) -> bool:
        """Whether the errors of mean velocities are within the bounds of `cfg`."""
        if self.error is None:
            return False
        return max(self.error[:2]) <= cfg.max_linear_error and self.error[2] <= cfg.max_turning_error

    def walks(self, cfg: WalkCfg) -> bool:
        """Whether it tracks, and nothing ended a life."""
        return not self.ends and self.tracks(cfg)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(lives: Sequence[Life], cfg: WalkCfg, mass_kg: float) -> Figures:
    """The figures of `lives`, of a robot of `mass_kg`. RobotError where there are none."""
    if not lives:
        raise RobotError("no walk to be measured")
    seconds = sum(life.seconds for life in lives)
    held = [part for life in lives for part in _settled(life, cfg.settle_s)]
    # Each for as long as it was seen: of a command during which the robot fell there may be a moment alone.
    means = [np.tile(np.abs(velocity.mean(0) - command), (len(velocity), 1)) for command, velocity in held]
    moments = [np.abs(velocity - command) for command, velocity in held]
    ended = [life.ended for life in lives if life.ended is not None]
    stops = {name: ended.count(name) for name in sorted({*ended} - {FALL})}
    energy = sum(float(life.power.sum()) * life.period_s for life in lives)
    path = sum(float(np.hypot(*life.velocity[:, :2].T).sum()) * life.period_s for life in lives)
    return Figures(
        seconds=seconds,
        error=_three(np.concatenate(means)) if held else None,
        error_now=_three(np.concatenate(moments)) if held else None,
        falls=ended.count(FALL),
        stops=stops,
        falls_per_hour=3600.0 * len(ended) / seconds if seconds else math.inf,
        time_to_fall_s=seconds / len(ended) if ended else None,
        power_w=energy / seconds if seconds else math.nan,
        energy_j_per_m=energy / path if path >= 1.0 else None,
        transport_cost=energy / (path * mass_kg * GRAVITY) if path >= 1.0 else None,
        action_rate=_mean_difference(lives, 1),
        action_bend=_mean_difference(lives, 2),
    )


def _settled(life: Life, settle_s: float) -> list[tuple[Float64, Float64]]:
    """For each time that one command was held: the command (3,), the velocities (steps, 3) after it had settled."""
    changes = np.flatnonzero(np.any(np.diff(life.command, axis=0), axis=1)) + 1
    bounds, skip = [0, *changes.tolist(), len(life.command)], round(settle_s / life.period_s)
    pairs = [(begin, end) for begin, end in itertools.pairwise(bounds) if end - begin > skip]
    return [(life.command[begin], life.velocity[begin + skip : end]) for begin, end in pairs]


def _three(rows: Float64) -> tuple[float, float, float]:
    return _triple(rows.mean(0))


def _triple(values: Sequence[float] | Float64) -> tuple[float, float, float]:
    forward, left, turning = (float(value) for value in values)
    return forward, left, turning


def _mean_difference(lives: Sequence[Life], order: int) -> float:
    parts = [np.abs(np.diff(life.action, order, axis=0)).ravel() for life in lives if len(life.action) > order]
    return float(np.concatenate(parts).mean()) if parts else math.nan


class Walker:
    """A policy under velocity commands on one simulated robot, in lock step."""

    def __init__(
        self,
        contract: Contract,
        engine: Engine,
        robot: MujocoCfg,
        cfg: WalkCfg | None = None,
        file: SiteFile | None = None,
    ) -> None:
        """TrudiRuntimeError where bundle and robot do not fit, or there is nothing that walks."""
        self.cfg = cfg or WalkCfg()
        self._place = velocity_command(contract)
        self._neutral = [list(command.neutral) for command in contract.commands]
        self.range = np.array(contract.commands[self._place].range)
        """(3, 2), of the contract; m/s, m/s, rad/s."""
        self.lock = LockStep(contract, engine, robot, file)
        simulation = self.lock.robot.simulation
        if not simulation.has_free_base:
            raise RobotError(f"{self.lock.robot.description.name} has no free base: it cannot walk")
        self._model, self._data = simulation.model, simulation.data
        self._base = base_body(self._model)
        _, self._dof = simulation.joint_addresses(self.lock.robot.description.drives)
        self._height = self.height
        count, parents = self._model.nbody, self._model.body_parentid
        self._ground = self._model.body_weldid == 0
        self._may_touch = self._ground | ~np.isin(np.arange(count), parents)
        self.mass_kg = float(self._model.body_subtreemass[self._base])
        """Of the whole robot, with what its variation adds; kg."""
        self._energy = 0.0
        self.lock.after_physics = self._count_energy

    @property
    def velocity(self) -> Float64:
        """Of the base now (3,): forward, left, turning; m/s, m/s, rad/s."""
        dof = int(self._model.body_dofadr[self._base])
        linear = self._data.xmat[self._base].reshape(3, 3).T @ self._data.qvel[dof : dof + 3]
        return np.array([linear[0], linear[1], self._data.qvel[dof + 5]])

    @property
    def height(self) -> float:
        """Of the base's origin above the ground; m."""
        return float(self._data.xpos[self._base, 2])

    @property
    def fallen(self) -> bool:
        """Whether the base is tilted or low, by the bounds of `cfg`."""
        upright = float(self._data.xmat[self._base, 8])  # the cosine of its tilt
        return upright < math.cos(self.cfg.fall_tilt_rad) or self.height < self.cfg.fall_height * self._height

    @property
    def lies(self) -> bool:
        """Whether anything but the last bodies of the limbs touches the ground."""
        bodies = self._model.geom_bodyid[self._data.contact.geom]  # (contacts, 2)
        return bool((self._ground[bodies].any(1) & ~self._may_touch[bodies].all(1)).any())

    def follow(self, course: Float64) -> Life:
        """Stands the robot up in its initial pose and gives it `course`, a command (steps, 3) for each control step.

        While the policy is blended in, the time of the course passes, and the runtime shows it neutral commands instead.
        A life without any step is one of a robot that was stopped, or fell, while it stood up.
        """
        lock, commands = self.lock, [list(values) for values in self._neutral]
        commands[self._place] = course[0].tolist()
        rows: list[tuple[Float64, Float64, float, Float64]] = []
        shown = lock.controller.observer.commands[self._place]
        ended, lying_s, period_s = None, 0.0, lock.contract.control_period_s
        started = lock.start(commands)
        if not started:
            ended = self._stop()
        for command in course if started else ():
            commands[self._place] = command.tolist()
            self._energy = 0.0
            drives = lock.step(commands)
            if not drives:
                ended = self._stop()
                break
            rows.append((shown.copy(), self.velocity, self._energy / period_s, lock.controller.action.copy()))
            lying_s = lying_s + period_s if self.lies else 0.0
            if self.fallen or lying_s > self.cfg.lie_s:
                ended = FALL
                break
        count, m = len(rows), lock.contract.action.size
        seen, velocity, power, action = zip(*rows, strict=True) if rows else ((), (), (), ())
        shapes = np.array(seen).reshape(count, 3), np.array(velocity).reshape(count, 3)
        return Life(period_s, *shapes, np.array(power), np.array(action).reshape(count, m), ended=ended)

    def set_down(self, command: Sequence[float], seconds: float, rest_s: float = 1.0) -> SetDown:
        """Stands the robot up, drives it for `seconds` under `command` (3,) and asks for STOP: it halts and stands.

        Whoever commands has not heard of that and goes on. The robot is looked at until it has been in its default pose for
        `rest_s`.
        """
        lock, commands, period_s = self.lock, [list(values) for values in self._neutral], self.lock.contract.control_period_s
        commands[self._place] = list(command)
        told, supervisor = _triple(command), lock.controller.supervisor
        steps = round(seconds / period_s)
        drives = lock.start(commands)
        while drives and steps and not self.fallen:
            drives, steps = lock.step(commands), steps - 1
        drove_s = seconds - steps * period_s
        if not drives or self.fallen:
            return SetDown(told, drove_s, asked=False, took_s=0.0, ended=FALL if self.fallen else self._stop())
        refused = lock.controller.request(Event.STOP, lock.now_ns)
        assert refused is None, refused
        took_s, rested_s, ended = 0.0, 0.0, None
        while ended is None and rested_s < rest_s:
            lock.step(commands)
            stands = supervisor.state is State.STAND
            took_s += 0.0 if stands else period_s
            rested_s += period_s if stands and lock.controller.ramp_left_s(lock.now_ns) == 0.0 else 0.0
            if self.fallen or supervisor.state is State.FAULT:
                ended = FALL if self.fallen else self._stop()
        return SetDown(told, drove_s, asked=True, took_s=took_s, ended=ended)

    def roam(self, seconds: float, *, every_s: float = 4.0, seed: int = 0) -> list[Life]:
        """Random commands, a new one each `every_s`."""
        return self.run(self.course(seconds, every_s, seed))

    def set_off(self, count: int, *, every_s: float = 4.0, seed: int = 0) -> list[Life]:
        """Sets off from a halt, `count` times: nothing is asked for during HALTED_S, then for `every_s` a random command of
        half of the contract's range. A slow step from a stand is not easier than one in full stride."""
        rng, period_s = np.random.default_rng(seed), self.lock.contract.control_period_s
        low, high = 0.5 * self.range.T
        parts: list[Float64] = []
        for _ in range(count):
            parts.append(np.tile(self._neutral[self._place], (round(rng.uniform(*HALTED_S) / period_s), 1)))
            parts.append(np.tile(rng.uniform(low, high), (round(every_s / period_s), 1)))
        return self.run(np.concatenate(parts))

    def run(self, course: Float64) -> list[Life]:
        """`follow`, and after a fall or a stop it stands up and the course goes on.

        A robot that does not come through the first control step of a life is not tried again.
        """
        lives, done = list[Life](), 0
        while done < len(course):
            lives.append(self.follow(course[done:]))
            if not len(lives[-1].command):
                break
            done += len(lives[-1].command)
        return lives

    def course(self, seconds: float, every_s: float, seed: int) -> Float64:
        """Commands (steps, 3), drawn evenly from the contract's range; one in ten asks for nothing."""
        rng, period_s = np.random.default_rng(seed), self.lock.contract.control_period_s
        held, steps = max(1, round(every_s / period_s)), round(seconds / period_s)
        low, high = self.range[:, 0], self.range[:, 1]
        drawn = rng.uniform(low, high, (-(-steps // held), 3))
        drawn[rng.random(len(drawn)) < STANDING_PART] = self._neutral[self._place]
        return np.repeat(drawn, held, axis=0)[:steps]

    def figures(self, lives: Sequence[Life]) -> Figures:
        """`measure` with this robot's mass."""
        return measure(lives, self.cfg, self.mass_kg)

    def _count_energy(self) -> None:
        """Adds what the motors gave to the joints in a physics step; a joint's viscous damping is the motor's (docs)."""
        data, dof = self._data, self._dof
        speed = data.qvel[dof]
        torque = data.qfrc_actuator[dof] + data.qfrc_applied[dof] - self._model.dof_damping[dof] * speed
        self._energy += float(np.maximum(torque * speed, 0.0).sum()) * self._model.opt.timestep

    def _stop(self) -> str:
        fault = self.lock.controller.supervisor.fault
        if fault is None:
            return "stand"
        return FALL if fault.violation.code is FaultCode.TILT else fault.violation.code.name.lower()


def velocity_command(contract: Contract) -> int:
    """Which of the contract's commands is a velocity of the base; RobotError where none is."""
    for index, command in enumerate(contract.commands):
        if tuple(command.units) == UNITS and command.frame == "base":
            return index
    known = ", ".join(f"{command.name} ({', '.join(command.units)} in {command.frame})" for command in contract.commands)
    raise RobotError(
        f"walking is measured under a command in {', '.join(UNITS)} in the frame base; the bundle has {known or 'none'}"
    )
