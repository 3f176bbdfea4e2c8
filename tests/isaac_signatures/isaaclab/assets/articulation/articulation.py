"""A robot of closed-form dynamics behind the real class's methods."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from isaaclab.actuators import ActuatorBaseCfg
from isaaclab.sim import SimulationContext
from isaaclab.utils.string import resolve_matching_names

from .articulation_cfg import ArticulationCfg, Dynamics
from .articulation_data import ArticulationData

Ids = Sequence[int] | Tensor | slice | None
UNLIMITED = 1.0e9


class DynamicsView:
    """The simulator's own state: joint positions and velocities (envs, joints), the base's velocity (envs, 6)."""

    def __init__(self, dynamics: Dynamics, num_envs: int, device: str) -> None:
        self.dynamics = dynamics
        joints = len(dynamics.joint_names)
        self.position = torch.zeros(num_envs, joints, device=device)
        self.velocity = torch.zeros(num_envs, joints, device=device)
        self.base_vel = torch.zeros(num_envs, 6, device=device)
        self.stiffness = self.damping = self.effort_limit = torch.zeros(num_envs, joints, device=device)
        self.lower, self.upper = torch.tensor(dynamics.joint_pos_limits, device=device).unbind(-1)
        self.target = tuple(torch.zeros(num_envs, joints, device=device) for _ in range(3))
        """Position, velocity and effort that were last written to the simulation."""

    def effort(self) -> tuple[Tensor, Tensor]:
        """The PD law's effort, and what its limit leaves of it (envs, joints)."""
        position, velocity, effort = self.target
        asked = effort + self.stiffness * (position - self.position) + self.damping * (velocity - self.velocity)
        return asked, asked.clamp(-self.effort_limit, self.effort_limit)

    def step(self, dt: float) -> None:
        """Semi-implicit Euler in place, joints stop at their limits; whoever holds the buffers sees the new state."""
        _, effort = self.effort()
        self.base_vel += dt * self.dynamics.base_acceleration(self.base_vel, self.position, self.velocity)
        self.velocity += dt * self.dynamics.acceleration(self.position, self.velocity, effort)
        self.position += dt * self.velocity
        stopped = self.position.clamp(self.lower, self.upper)
        self.velocity[stopped != self.position] = 0.0
        self.position[:] = stopped


class Articulation:
    """A robot in every environment."""

    def __init__(self, cfg: ArticulationCfg) -> None:
        sim = SimulationContext.instance()
        assert sim is not None
        self.cfg = cfg
        self._sim = sim
        self.device = sim.device
        sim.on_play(self._initialize_impl)

    def _initialize_impl(self) -> None:
        num_envs = self._sim.num_envs
        dynamics = self.cfg.spawn()
        self._view = DynamicsView(dynamics, num_envs, self.device)
        self._ALL_INDICES = torch.arange(num_envs, device=self.device)
        self._data = ArticulationData(self._view, self.device)
        self._data.joint_names = list(dynamics.joint_names)
        self._create_limits(num_envs)
        self._create_defaults(num_envs)
        self._create_actuators(num_envs)
        self._sim.on_step(self._view.step)

    @property
    def data(self) -> ArticulationData:
        return self._data

    @property
    def num_instances(self) -> int:
        return len(self._view.position)

    @property
    def num_joints(self) -> int:
        return len(self._data.joint_names)

    @property
    def joint_names(self) -> list[str]:
        return self._data.joint_names

    def find_joints(
        self, name_keys: str | Sequence[str], joint_subset: list[str] | None = None, preserve_order: bool = False
    ) -> tuple[list[int], list[str]]:
        return resolve_matching_names(name_keys, joint_subset or self.joint_names, preserve_order)

    def reset(self, env_ids: Ids = None) -> None:
        """Actuator states and external forces; joints and targets stay."""

    def write_data_to_sim(self) -> None:
        data = self._data
        for sim, target in zip(
            self._view.target, (data.joint_pos_target, data.joint_vel_target, data.joint_effort_target), strict=True
        ):
            sim[:] = target
        data.computed_torque[:], data.applied_torque[:] = self._view.effort()

    def update(self, dt: float) -> None:
        """The buffers are the simulator's own; there is nothing to read back."""

    def write_joint_state_to_sim(
        self, position: Tensor, velocity: Tensor, joint_ids: Ids = None, env_ids: Ids = None
    ) -> None:
        self._assign(self._view.position, position, joint_ids, env_ids)
        self._assign(self._view.velocity, velocity, joint_ids, env_ids)

    def write_root_velocity_to_sim(self, root_velocity: Tensor, env_ids: Ids = None) -> None:
        self._assign(self._view.base_vel, root_velocity, None, env_ids)

    def write_root_pose_to_sim(self, root_pose: Tensor, env_ids: Ids = None) -> None:
        """Where the robot stands has no influence on these dynamics."""

    def set_joint_position_target(self, target: Tensor, joint_ids: Ids = None, env_ids: Ids = None) -> None:
        self._assign(self._data.joint_pos_target, target, joint_ids, env_ids)

    def set_joint_velocity_target(self, target: Tensor, joint_ids: Ids = None, env_ids: Ids = None) -> None:
        self._assign(self._data.joint_vel_target, target, joint_ids, env_ids)

    def set_joint_effort_target(self, target: Tensor, joint_ids: Ids = None, env_ids: Ids = None) -> None:
        self._assign(self._data.joint_effort_target, target, joint_ids, env_ids)

    @staticmethod
    def _assign(buffer: Tensor, value: Tensor, joint_ids: Ids, env_ids: Ids) -> None:
        rows = slice(None) if env_ids is None else env_ids
        columns = slice(None) if joint_ids is None else joint_ids
        if isinstance(rows, Tensor) and not isinstance(columns, slice):
            rows = rows[:, None]
        buffer[rows, columns] = value

    def _create_limits(self, num_envs: int) -> None:
        limits = torch.tensor(self._view.dynamics.joint_pos_limits, device=self.device).repeat(num_envs, 1, 1)
        middle, half = limits.mean(-1), (limits[..., 1] - limits[..., 0]) / 2.0 * self.cfg.soft_joint_pos_limit_factor
        self._data.joint_pos_limits = limits
        self._data.default_joint_pos_limits = limits.clone()
        self._data.soft_joint_pos_limits = torch.stack((middle - half, middle + half), dim=-1)

    def _create_defaults(self, num_envs: int) -> None:
        data, initial = self._data, self.cfg.init_state
        data.default_joint_pos = self._row(initial.joint_pos, 0.0).repeat(num_envs, 1)
        data.default_joint_vel = self._row(initial.joint_vel, 0.0).repeat(num_envs, 1)
        root = torch.tensor([*initial.pos, 1.0, *[0.0] * 9], device=self.device)
        data.default_root_state = root.repeat(num_envs, 1)
        for name in ("joint_pos_target", "joint_vel_target", "joint_effort_target", "computed_torque", "applied_torque"):
            setattr(data, name, torch.zeros_like(data.default_joint_pos))
        self._view.position[:] = data.default_joint_pos
        self._view.velocity[:] = data.default_joint_vel

    def _create_actuators(self, num_envs: int) -> None:
        rows = {
            "stiffness": torch.zeros(self.num_joints, device=self.device),
            "damping": torch.zeros(self.num_joints, device=self.device),
            "armature": torch.zeros(self.num_joints, device=self.device),
            "friction": torch.zeros(self.num_joints, device=self.device),
            "effort_limit_sim": torch.full((self.num_joints,), UNLIMITED, device=self.device),
            "velocity_limit_sim": torch.full((self.num_joints,), UNLIMITED, device=self.device),
        }
        for actuator in self.cfg.actuators.values():
            self._fill(rows, actuator)
        full = {name: row.repeat(num_envs, 1) for name, row in rows.items()}
        data = self._data
        data.joint_stiffness, data.default_joint_stiffness = full["stiffness"], full["stiffness"].clone()
        data.joint_damping, data.default_joint_damping = full["damping"], full["damping"].clone()
        data.joint_armature, data.default_joint_armature = full["armature"], full["armature"].clone()
        data.joint_friction_coeff, data.default_joint_friction_coeff = full["friction"], full["friction"].clone()
        data.joint_effort_limits = full["effort_limit_sim"]
        data.joint_vel_limits = full["velocity_limit_sim"]
        data.soft_joint_vel_limits = full["velocity_limit_sim"].clone()
        self._view.stiffness, self._view.damping = data.joint_stiffness, data.joint_damping
        self._view.effort_limit = data.joint_effort_limits

    def _fill(self, rows: dict[str, Tensor], actuator: ActuatorBaseCfg) -> None:
        joints, _ = self.find_joints(actuator.joint_names_expr)
        for name, row in rows.items():
            value = getattr(actuator, name)
            if value is not None:
                row[joints] = self._row(value, 0.0)[joints]

    def _row(self, value: dict[str, float] | float, default: float) -> Tensor:
        """One number for each joint (joints,)."""
        if not isinstance(value, dict):
            value = {".*": value}
        found = [
            next((number for key, number in value.items() if re.fullmatch(key, name)), default) for name in self.joint_names
        ]
        return torch.tensor(found, device=self.device)
