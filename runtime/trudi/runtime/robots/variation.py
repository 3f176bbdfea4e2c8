"""A simulated robot that differs from the one a policy was trained on: on the floor, in its load, motors and peace.

Noise, lost states and late commands are fields of `MujocoCfg`; what is in the body itself is here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from trudi.runtime.errors import near_matches, quoted
from trudi.runtime.robots.base import Float64, JointCommand, RobotError, RobotState, SupervisorState
from trudi.runtime.robots.simulation import Simulation, load_mujoco

# Of a rigid body no principal inertia is larger than the sum of the other two; rounding may cost this part of it.
TRIANGLE_SLACK = 1e-9


@dataclass(frozen=True)
class Variation:
    """How a robot with a free base differs from its model; as it stands here, in nothing."""

    friction: float = 1.0
    """Factor on the sliding friction of everything that touches."""
    base_mass_kg: float = 0.0
    """Mass added to the base, or (-) taken from it; kg."""
    base_mass_at_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where that mass is, as a point, from the base's centre of mass in the base's frame; m."""
    motor_strength: float = 1.0
    """Factor on what every motor gives for a command (gains and effort), and on its force range."""
    armature: float = 1.0
    """Factor on the rotors' inertia at the driven joints."""
    push_speed: float = 0.0
    """Change of the base's horizontal velocity at a push, in a direction drawn at random; m/s. 0: nobody pushes."""
    push_every_s: float = 5.0
    """Time between two pushes, and before the first, while the policy drives; s."""

    def __post_init__(self) -> None:
        for name in ("friction", "motor_strength", "armature", "push_every_s"):
            if not (is_number(getattr(self, name)) and getattr(self, name) > 0.0):
                raise RobotError(f"variation: {name} is {quoted(getattr(self, name))}: must be a number above 0")
        if not (is_number(self.push_speed) and self.push_speed >= 0.0):
            raise RobotError(f"variation: push_speed is {quoted(self.push_speed)}: must be a number of 0 or more")
        if not is_number(self.base_mass_kg):
            raise RobotError(f"variation: base_mass_kg is {quoted(self.base_mass_kg)}: must be a number")
        place = cast("object", self.base_mass_at_m)
        if (
            not isinstance(place, (tuple, list))
            or len(self.base_mass_at_m) != 3
            or not all(map(is_number, self.base_mass_at_m))
        ):
            raise RobotError(f"variation: base_mass_at_m is {quoted(place)}: must be three numbers")
        object.__setattr__(self, "base_mass_at_m", tuple(self.base_mass_at_m))  # a list, where it comes from JSON

    @classmethod
    def from_values(cls, values: object, where: str) -> Variation:
        """From plain values, any of which may be absent; RobotError, which begins with `where`, says what is wrong."""
        if isinstance(values, Variation):
            return values
        if not isinstance(values, Mapping):
            raise RobotError(f"{where}: variation must be an object, not {quoted(values)}")
        given, fields = cast("Mapping[str, Any]", values), cls.__dataclass_fields__
        for key in given:
            if key not in fields:
                raise RobotError(f"{where}: variation has no field {quoted(key)}; {near_matches(str(key), fields)}")
        try:
            return cls(**given)
        except TypeError as error:
            raise RobotError(f"{where}: variation: {error}") from error

    @classmethod
    def parse(cls, texts: Sequence[str], where: str) -> Variation:
        """From `FIELD=VALUE` each, the value in JSON; RobotError, which begins with `where`, says what is wrong."""
        values: dict[str, object] = {}
        for text in texts:
            name, _, value = text.partition("=")
            try:
                values[name.strip()] = json.loads(value)
            except ValueError:
                raise RobotError(f"{where} {text}: give it as FIELD=NUMBER, friction=0.5") from None
        return cls.from_values(values, where)


class Varied:
    """A variation carried out on one simulation. The caller resets the simulation afterwards."""

    def __init__(self, simulation: Simulation, variation: Variation, seed: int) -> None:
        """Changes the simulation's model; RobotError where it cannot be changed so."""
        self._simulation, self._variation = simulation, variation
        description = simulation.describe()
        if variation != Variation() and not simulation.has_free_base:
            raise RobotError(f"variation: {description.name} has no free base; only robots that have one are varied")
        self._command = JointCommand.zeros(len(description.drives))
        self._strength = variation.motor_strength
        self._rng = np.random.default_rng(seed)
        self._steps = 0
        self._every = max(1, round(variation.push_every_s / simulation.physics_step_s))
        if variation != Variation():
            self._change(simulation.model, [simulation.joint_address(name)[1] for name in description.drives])

    def _change(self, model: Any, driven: list[int]) -> None:
        variation = self._variation
        model.geom_friction[:, 0] *= variation.friction
        model.pair_friction[:, :2] *= variation.friction
        model.dof_armature[driven] *= variation.armature
        model.actuator_forcerange[:] *= variation.motor_strength
        if variation.base_mass_kg:
            _add_mass(model, variation.base_mass_kg, np.array(variation.base_mass_at_m))
        mujoco = load_mujoco()
        mujoco.mj_setConst(model, mujoco.MjData(model))  # what the compiler derives from masses and armatures

    def command(self, command: JointCommand | None) -> JointCommand | None:
        """What the motors make of a command; the next call overwrites it. Their own damping stays as it is."""
        if command is None or self._strength == 1.0:
            return command
        np.copyto(self._command.values, command.values)
        self._command.stiffness *= self._strength
        self._command.damping *= self._strength
        self._command.effort *= self._strength
        return self._command

    def measured(self, state: RobotState) -> None:
        """Motors tell the effort that they would give with the strength they are built for."""
        if self._strength != 1.0:
            state.joint_effort /= self._strength

    def push(self, state: SupervisorState) -> None:
        """Before each physics step, under a command of the supervisor's `state`: pushes the base when it is time."""
        if not self._variation.push_speed or state is not SupervisorState.ACTIVE:
            return
        self._steps += 1
        if self._steps % self._every == 0:
            angle = self._rng.uniform(-math.pi, math.pi)
            push = self._variation.push_speed * np.array([math.cos(angle), math.sin(angle)])
            self._simulation.data.qvel[:2] += push  # of a free joint: linear, in the world
            self._simulation.refresh()


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def base_body(model: Any) -> int:
    """The body of the model's free joint."""
    free = int(load_mujoco().mjtJoint.mjJNT_FREE)
    return int(model.jnt_bodyid[list(model.jnt_type).index(free)])


def _add_mass(model: Any, mass_kg: float, at_m: Float64) -> None:
    """A point of `mass_kg` at `at_m` from the base's centre of mass becomes part of the base.

    I' = I + M (|c|^2 1 - c c^T) + m (|r - c|^2 1 - (r - c)(r - c)^T)       about the new centre of mass c = m r / (M + m)
    """
    mujoco, body = load_mujoco(), base_body(model)
    old = float(model.body_mass[body])
    new = old + mass_kg
    if new <= 0.0:
        raise RobotError(f"variation: base_mass_kg is {mass_kg:g}, and the base has {old:g} kg")
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.body_iquat[body])
    turn = rotation.reshape(3, 3)
    centre = mass_kg * at_m / new
    inertia = turn @ np.diag(model.body_inertia[body]) @ turn.T
    inertia += old * _of_point(centre) + mass_kg * _of_point(at_m - centre)
    principal, axes = np.linalg.eigh(inertia)
    if principal[0] <= 0.0 or principal[2] > (principal[0] + principal[1]) * (1.0 + TRIANGLE_SLACK):
        raise RobotError(f"variation: no rigid body is left after {mass_kg:g} kg at {at_m.tolist()} m; take less, or nearer")
    axes[:, 2] *= np.linalg.det(axes)  # a rotation, not a reflection
    model.body_mass[body], model.body_inertia[body] = new, principal
    model.body_ipos[body] += centre
    mujoco.mju_mat2Quat(model.body_iquat[body], axes.reshape(9))
    model.body_sameframe[body] = int(mujoco.mjtSameFrame.mjSAMEFRAME_NONE)


def _of_point(at_m: Float64) -> Float64:
    """Inertia of a point of 1 kg about the origin (3, 3); m^2."""
    return float(at_m @ at_m) * np.eye(3) - np.outer(at_m, at_m)
