"""The tensors of a robot. A reader gets the buffers themselves, as in the real package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ArticulationData:
    """State, targets, gains and limits of all environments."""

    joint_names: list[str]
    default_root_state: Tensor
    """Position, quaternion (w x y z), linear and angular velocity (envs, 13)."""
    default_joint_pos: Tensor
    default_joint_vel: Tensor
    default_joint_stiffness: Tensor
    default_joint_damping: Tensor
    default_joint_armature: Tensor
    default_joint_friction_coeff: Tensor
    default_joint_pos_limits: Tensor
    """(envs, joints, 2)."""
    joint_pos_target: Tensor
    joint_vel_target: Tensor
    joint_effort_target: Tensor
    applied_torque: Tensor
    computed_torque: Tensor
    joint_stiffness: Tensor
    joint_damping: Tensor
    joint_armature: Tensor
    joint_friction_coeff: Tensor
    joint_pos_limits: Tensor
    joint_vel_limits: Tensor
    joint_effort_limits: Tensor
    soft_joint_pos_limits: Tensor
    soft_joint_vel_limits: Tensor

    def __init__(self, root_physx_view: Any, device: str) -> None:
        self._view = root_physx_view
        self.device = device

    @property
    def joint_pos(self) -> Tensor:
        return self._view.position

    @property
    def joint_vel(self) -> Tensor:
        return self._view.velocity

    @property
    def root_lin_vel_b(self) -> Tensor:
        return self._view.base_vel[:, :3]

    @property
    def root_ang_vel_b(self) -> Tensor:
        return self._view.base_vel[:, 3:]

    @property
    def root_vel_w(self) -> Tensor:
        """The base does not turn away from the world here: its frame is the world's (envs, 6)."""
        return self._view.base_vel

    @property
    def projected_gravity_b(self) -> Tensor:
        """The base never tilts here."""
        return torch.tensor([0.0, 0.0, -1.0], device=self.device).repeat(len(self._view.position), 1)

    @property
    def default_joint_friction(self) -> Tensor:
        return self.default_joint_friction_coeff
