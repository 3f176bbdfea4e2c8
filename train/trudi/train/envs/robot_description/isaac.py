"""An Isaac Lab articulation by names, out of its default tensors and actuator models: as configured, not randomised."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from trudi.runtime.interface import Joint
from trudi.train.envs.robot_description.parts import (
    XYZ,
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

PD = ("ImplicitActuator", "IdealPDActuator", "DCMotor", "DelayedPDActuator", "RemotizedPDActuator")
ALL_TURN = "The simulator did not say which joints slide: all are said to turn, with units to match."
NO_RANGE = 1e3
"""A joint that may turn this far has no limit; rad or m."""


class IsaacMachine:
    """A `Machine` of Isaac Lab."""

    def __init__(self, env: Any, entity: str) -> None:
        self.entity = entity
        self._scene: Any = env.scene
        self._asset: Any = env.scene[entity]
        self._data: Any = self._asset.data
        self.joint_names = tuple(map(str, self._asset.joint_names))
        count = len(self.joint_names)
        initial = getattr(self._asset.cfg, "init_state", None)
        self.default_position = self._nominal(self._data.default_joint_pos, getattr(initial, "joint_pos", {}))
        self.default_velocity = by_name(self.joint_names, self._data.default_joint_vel, "the default joint velocity")
        soft = row(self._data.soft_joint_pos_limits, count, "the soft joint limits")
        self.soft_limits = {
            name: (float(low), float(high)) for name, (low, high) in zip(self.joint_names, soft, strict=True)
        }
        self.is_fixed_base = bool(getattr(self._asset, "is_fixed_base", False))
        usd = getattr(getattr(self._asset.cfg, "spawn", None), "usd_path", None)
        self.name = robot_name(PurePosixPath(str(usd or "")).stem, entity)
        centre = getattr(self._data, "body_com_pos_b", None)
        place = np.zeros(3) if centre is None else np.median(plain(centre)[:, 0].astype(float), axis=0)
        self.base = Frame("base", np.eye(3), place)
        view = getattr(self._asset, "root_physx_view", None)
        self._types: Any = getattr(getattr(view, "shared_metatype", None), "dof_types", None)
        self.doubts: tuple[str, ...] = () if self._types is not None else (ALL_TURN,)

    def joint_type(self, name: str) -> JointType:
        kind = "" if self._types is None else str(self._types[self.joint_names.index(name)])
        return "prismatic" if kind.endswith("Translation") else "revolute"

    def joint(self, name: str, kind: Kind) -> Joint:
        actuator, place = self._actuator(name)
        if own_name(type(actuator), ".actuators.") not in PD:
            raise Undescribed(f"the motor of {name} ({type(actuator).__name__}) follows no PD law that is known")
        stiffness, damping = (self._number(f"default_joint_{what}", name) for what in ("stiffness", "damping"))
        if kind != "joint_position" and stiffness:
            raise Undescribed(f"the motor of {name} pulls towards a position, too")
        if kind != "joint_velocity" and hasattr(self._data, "default_joint_viscous_friction_coeff"):
            damping += self._number("default_joint_viscous_friction_coeff", name)
        low, high = self._row("default_joint_pos_limits", "joint_pos_limits")[self.joint_names.index(name)].tolist()
        return Joint(
            name=name,
            type=self.joint_type(name),
            default_position=self.default_position[name],
            stiffness=stiffness,
            damping=damping,
            position_limit=(low, high) if -NO_RANGE < low < high < NO_RANGE else None,
            velocity_limit=limit(first(actuator.velocity_limit, place)),
            effort_limit=limit(first(actuator.effort_limit, place)),
        )

    def command_factor(self, name: str, kind: Kind) -> float:
        return 1.0

    def command_range(self, name: str, kind: Kind) -> tuple[float, float]:
        most = self.joint(name, kind).effort_limit if kind == "joint_effort" else None
        return (-math.inf, math.inf) if most is None else (-most, most)

    def sensor(self, name: str, function: str) -> Reading:
        kinds = {"imu_ang_vel": ("base_angular_velocity", "rad/s"), "imu_projected_gravity": ("projected_gravity", "1")}
        if function not in kinds:
            raise Undescribed(f"{function} is not known")
        cfg = self._scene[name].cfg
        on_root = str(cfg.prim_path).rpartition("/")[2] == str(self._asset.body_names[0])
        turned = tuple(cfg.offset.rot) != tuple(type(cfg.offset)().rot)  # w, x, y, z or, from 3.0, x, y, z, w
        kind, unit = kinds[function]
        return Reading(kind, XYZ, unit, Frame(name, np.eye(3) if on_root and not turned else None))

    def notes(self, commanded: tuple[str, ...]) -> list[str]:
        factor = float(getattr(self._asset.cfg, "soft_joint_pos_limit_factor", 1.0))
        soft = "" if factor == 1.0 else f" (the simulator's soft limits are {factor:g} of it)"
        found = [
            "Gains and limits are those that were configured, without what training drew around them. position_limit is the "
            f"joint's own range{soft}; damping is the actuator's plus the joint's viscous friction."
        ]
        groups = {title: group for title, group in self._groups().items() if set(group.joint_names) & set(commanded)}
        for title, group in groups.items():
            if hasattr(group, "_saturation_effort"):
                found.append(f"The motors {title} lose torque with speed, down to 0 at velocity_limit.")
            if hasattr(group, "_torque_limit"):
                found.append(f"The motors {title} have an effort limit for each angle, which the contract has no place for.")
            if hasattr(group.cfg, "max_delay"):
                low, high = group.cfg.min_delay, group.cfg.max_delay
                found.append(f"Commands reached the motors {title} {low} to {high} physics steps late.")
        if held := [name for group in self._groups().values() for name in group.joint_names if name not in commanded]:
            found.append(f"Driven in the simulator, but not by the policy: {', '.join(held)}.")
        if getattr(self._asset, "num_fixed_tendons", 0) or getattr(self._asset, "num_spatial_tendons", 0):
            found.append("Tendons couple joints of this machine; the contract says nothing of them.")
        return found

    def _nominal(self, values: Any, configured: dict[str, float]) -> dict[str, float]:
        """Default positions; where training draws them around the configured ones, those."""
        try:
            return by_name(self.joint_names, values, "the default pose")
        except Undescribed:
            found = {
                name: [float(value) for key, value in configured.items() if re.fullmatch(key, name)]
                for name in self.joint_names
            }
            return {name: value[0] if value else 0.0 for name, value in found.items()}

    def _groups(self) -> dict[str, Any]:
        return dict(getattr(self._asset, "actuators", {}))

    def _actuator(self, name: str) -> tuple[Any, int]:
        """The joint's actuator model, and the joint's place in it."""
        for group in self._groups().values():
            if name in group.joint_names:
                return group, list(group.joint_names).index(name)
        raise Undescribed(f"the joint {name} has no motor")

    def _row(self, *attributes: str) -> Any:
        values = next(found for name in attributes if (found := getattr(self._data, name, None)) is not None)
        return row(values, len(self.joint_names), attributes[0])

    def _number(self, attribute: str, name: str) -> float:
        return float(self._row(attribute)[self.joint_names.index(name)])
