"""An mjlab entity by names, out of its compiled MuJoCo model: the nominal one, before anything is randomised."""

from __future__ import annotations

import math
from typing import Any, cast

import mujoco
import numpy as np

from trudi.runtime.interface import Joint
from trudi.train.envs.robot_description.parts import (
    XYZ,
    Float64,
    Frame,
    JointType,
    Kind,
    Reading,
    Undescribed,
    by_name,
    first,
    limit,
    own_name,
    plain,
    robot_name,
    row,
)

mj = cast("Any", mujoco)  # its stubs name a part of it
SLIDE, HINGE = int(mj.mjtJoint.mjJNT_SLIDE), int(mj.mjtJoint.mjJNT_HINGE)
# What an actuator's class reads of a joint's targets; one of the model (Xml) says it itself.
READS: dict[str, Kind] = {
    "BuiltinPositionActuator": "joint_position",
    "BuiltinPdActuator": "joint_position",
    "BuiltinVelocityActuator": "joint_velocity",
    "BuiltinMotorActuator": "joint_effort",
}
FIELDS: dict[str, Kind] = {"position": "joint_position", "velocity": "joint_velocity", "effort": "joint_effort"}
ACTUATORS = ".actuator."
IDEAL = ("IdealPdActuator", "DcMotorActuator")


class MjlabMachine:
    """A `Machine` of mjlab."""

    doubts: tuple[str, ...] = ()

    def __init__(self, env: Any, entity: str) -> None:
        self.entity = entity
        self._entity: Any = env.scene[entity]
        self._model: Any = env.sim.mj_model
        self._ids: dict[str, int] = {}
        for name, joint in zip(self._entity.joint_names, self._entity.indexing.joints, strict=True):
            self._ids[str(name)] = int(joint.id)
        for name, index in self._ids.items():
            if int(self._model.jnt_type[index]) not in (SLIDE, HINGE):
                raise Undescribed(f"the joint {name} has more than one degree of freedom")
        self.name = robot_name(self._model_name(), entity)
        self.joint_names = tuple(self._ids)
        data = self._entity.data
        self.default_position = by_name(self.joint_names, data.default_joint_pos, "the default pose")
        self.default_velocity = by_name(self.joint_names, data.default_joint_vel, "the default joint velocity")
        soft = row(data.soft_joint_pos_limits, len(self.joint_names), "the soft joint limits")
        self.soft_limits = {name: (float(low), float(high)) for name, (low, high) in zip(self._ids, soft, strict=True)}
        self.is_fixed_base = bool(self._entity.is_fixed_base)
        self._root = int(self._entity.indexing.root_body_id)
        self.base = Frame("base", np.eye(3), np.zeros(3))
        self._kinematics: Any = mj.MjData(self._model)
        mj.mj_kinematics(self._model, self._kinematics)

    def joint_type(self, name: str) -> JointType:
        return "prismatic" if int(self._model.jnt_type[self._ids[name]]) == SLIDE else "revolute"

    def joint(self, name: str, kind: Kind) -> Joint:
        index = self._ids[name]
        stiffness, damping, efforts, velocity = self._law(name, kind)
        if kind != "joint_velocity":  # there it would brake the wanted velocity, too
            damping += float(self._model.dof_damping[self._model.jnt_dofadr[index]])
        if self._model.jnt_actfrclimited[index]:
            efforts = [*efforts, *np.abs(self._model.jnt_actfrcrange[index]).tolist()]
        limited = bool(self._model.jnt_limited[index])
        return Joint(
            name=name,
            type=self.joint_type(name),
            default_position=self.default_position[name],
            stiffness=stiffness,
            damping=damping,
            position_limit=_pair(self._model.jnt_range[index]) if limited else None,
            velocity_limit=velocity,
            effort_limit=limit(min(efforts, default=math.inf)),
        )

    def command_factor(self, name: str, kind: Kind) -> float:
        if kind != "joint_effort":
            return 1.0
        control = self._control(*self._actuator(name))
        return float(self._model.actuator_gear[control, 0] * self._model.actuator_gainprm[control, 0])

    def command_range(self, name: str, kind: Kind) -> tuple[float, float]:
        actuator, place = self._actuator(name)
        control, model = self._control(actuator, place), self._model
        low, high = -math.inf, math.inf
        if model.actuator_ctrllimited[control] and own_name(type(actuator), ACTUATORS) not in IDEAL:
            low, high = sorted((self.command_factor(name, kind) * model.actuator_ctrlrange[control]).tolist())
        if kind == "joint_effort" and (most := self.joint(name, kind).effort_limit) is not None:
            low, high = max(low, -most), min(high, most)
        return low, high

    def sensor(self, name: str, function: str) -> Reading:
        model = self._model
        sensor = model.sensor(name)
        kind, cutoff = int(sensor.type[0]), float(sensor.cutoff[0])
        if cutoff > 0.0:
            raise Undescribed(f"the sensor {name} is cut off at {cutoff:g}")
        if function == "projected_gravity_from_sensor":
            is_up = kind == int(mj.mjtSensor.mjSENS_FRAMEZAXIS) and int(sensor.objid[0]) == 0
            if is_up and int(sensor.reftype[0]) == int(mj.mjtObj.mjOBJ_SITE):
                return Reading("projected_gravity", XYZ, "1", self._site(int(sensor.refid[0])).turned_only())
        elif kind == int(mj.mjtSensor.mjSENS_GYRO):
            return Reading("base_angular_velocity", XYZ, "rad/s", self._site(int(sensor.objid[0])).turned_only())
        elif kind == int(mj.mjtSensor.mjSENS_VELOCIMETER):
            return Reading("base_linear_velocity", XYZ, "m/s", self._site(int(sensor.objid[0])))
        raise Undescribed(f"the sensor {name} is a {mj.mjtSensor(kind).name.removeprefix('mjSENS_').lower()}")

    def notes(self, commanded: tuple[str, ...]) -> list[str]:
        found = [
            "Limits, gains and efforts are those of the nominal model. position_limit is the joint's own range"
            f"{self._softness()}; damping is the actuator's plus the joint's viscous damping; velocity_limit is null where "
            "the simulator has none."
        ]
        late = {
            (int(each.cfg.delay_min_lag), int(each.cfg.delay_max_lag)) for each in self._entity.actuators if each.has_delay
        }
        found += [f"Commands reached the motors {low} to {high} physics steps late." for low, high in sorted(late)]
        held = [
            str(name)
            for each in self._entity.actuators
            for name in each.target_names
            if name in self._ids and name not in commanded
        ]
        if held:
            found.append(f"Driven in the simulator, but not by the policy: {', '.join(held)}.")
        found += self._couplings()
        bias = np.abs(plain(self._entity.data.encoder_bias)).max(initial=0.0)
        if bias > 0.0:
            found.append("Joint positions had a constant error, drawn for each robot, in what was seen and in the targets.")
        return found

    def _model_name(self) -> str:
        """The model's own name; mjlab hangs a fixed machine into a body of another model, which has none."""
        name = str(self._entity.spec.modelname)
        return name if name != mj.MjSpec().modelname else str(self._entity.cfg.spec_fn().modelname)

    def _law(self, name: str, kind: Kind) -> tuple[float, float, list[float], float | None]:
        """(stiffness, damping, effort limits, speed limit) of the joint's motor under a command of that kind."""
        actuator, place = self._actuator(name)
        own = own_name(type(actuator), ACTUATORS)
        if own in IDEAL:
            gains = [first(getattr(actuator, f"default_{what}"), place) for what in ("stiffness", "damping")]
            if kind != "joint_position" and gains[0]:
                raise Undescribed(f"the motor of {name} pulls towards the position 0, too")
            speed = getattr(actuator.cfg, "velocity_limit", None)
            most = first(actuator.default_force_limit, place)
            return gains[0], gains[1], [most], None if speed is None else float(speed)
        reads = FIELDS[actuator.command_field] if own == "XmlActuator" else READS.get(own)
        if reads is None:
            raise Undescribed(f"the motor of {name} ({type(actuator).__name__}) follows no PD law that is known")
        if reads != kind:
            raise Undescribed(f"the motor of {name} takes a {reads}, the action gives a {kind}")
        stiffness, damping, efforts = self._gains(name, self._control(actuator, place), kind)
        if own == "BuiltinPdActuator":
            damping = self._gains(name, self._control(actuator, place + actuator.num_targets), "joint_velocity")[1]
        return stiffness, damping, efforts, None

    def _gains(self, name: str, control: int, kind: Kind) -> tuple[float, float, list[float]]:
        """(stiffness, damping, effort limits) of one actuator of the model: f = gain * u + bias1 * q + bias2 * dq."""
        model, index = self._model, self._ids[name]
        gain, gear = float(model.actuator_gainprm[control, 0]), float(model.actuator_gear[control, 0])
        bias = model.actuator_biasprm[control]
        fixed = int(model.actuator_gaintype[control]) == int(mj.mjtGain.mjGAIN_FIXED)
        still = int(model.actuator_dyntype[control]) == int(mj.mjtDyn.mjDYN_NONE)
        if int(model.actuator_trnid[control, 0]) != index or not fixed or not still or bias[0]:
            raise Undescribed(f"the motor of {name} has dynamics of its own")
        efforts = np.abs(gear * model.actuator_forcerange[control]).tolist() if model.actuator_forcelimited[control] else []
        if kind == "joint_effort":
            if bias.any():
                raise Undescribed(f"the motor of {name} is no plain motor")
            if model.actuator_ctrllimited[control]:
                efforts += np.abs(gear * gain * model.actuator_ctrlrange[control]).tolist()
            return 0.0, 0.0, efforts
        wanted = -float(bias[1]) if kind == "joint_position" else -float(bias[2])
        if gear != 1.0 or gain != wanted or (kind == "joint_velocity" and bias[1]):
            raise Undescribed(f"the motor of {name} has a gear, or gains that make no PD law")
        return 0.0 - float(bias[1]), 0.0 - float(bias[2]), efforts

    def _actuator(self, name: str) -> tuple[Any, int]:
        """The joint's only actuator, and the joint's place among its targets."""
        found = [
            (each, list(each.target_names).index(name))
            for each in self._entity.actuators
            if str(each.transmission_type.value) == "joint" and name in each.target_names
        ]
        if len(found) != 1:
            raise Undescribed(f"the joint {name} has {len(found)} motors")
        return found[0]

    @staticmethod
    def _control(actuator: Any, place: int) -> int:
        return int(plain(actuator.global_ctrl_ids)[place])

    def _site(self, index: int) -> Frame:
        """A site's frame; moving against the root where a joint lies between."""
        model, data, root = self._model, self._kinematics, self._root
        body = int(model.site_bodyid[index])
        name, link = (str(each.name).removeprefix(f"{self.entity}/") for each in (model.site(index), model.body(body)))
        about = f"{name} is the site of that name on {link}, {np.round(model.site_pos[index], 5).tolist()} m from its origin"
        if int(model.body_weldid[body]) != int(model.body_weldid[root]):
            return Frame(name, about=f"{about}, and moves against the base")
        turned: Float64 = np.array(data.xmat[root]).reshape(3, 3)
        rotation = turned.T @ np.array(data.site_xmat[index]).reshape(3, 3)
        return Frame(name, rotation, turned.T @ np.array(data.site_xpos[index] - data.xpos[root]), about)

    def _softness(self) -> str:
        articulation = self._entity.cfg.articulation
        factor = 1.0 if articulation is None else float(articulation.soft_joint_pos_limit_factor)
        return "" if factor == 1.0 else f" (rewards began to count at {factor:g} of it)"

    def _couplings(self) -> list[str]:
        model, names = self._model, {index: name for name, index in self._ids.items()}
        pairs = [
            (names[first], names[second])
            for kind, first, second in zip(model.eq_type, model.eq_obj1id, model.eq_obj2id, strict=True)
            if int(kind) == int(mj.mjtEq.mjEQ_JOINT) and first in names and second in names
        ]
        return [f"{one} and {other} move together, by the mechanism." for one, other in pairs]


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
