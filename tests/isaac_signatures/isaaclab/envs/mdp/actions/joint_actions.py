"""Actions on joints: processed = clip(raw * scale + offset)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isaaclab.managers.action_manager import ActionTerm
from isaaclab.managers.manager_base import EnvIds
from isaaclab.utils.string import resolve_matching_names_values


class JointAction(ActionTerm):
    """An affine function of the raw action, one entry for each joint."""

    _scale: Tensor | float
    _offset: Tensor | float
    _clip: Tensor

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        ids, self._joint_names = self._asset.find_joints(cfg.joint_names, preserve_order=cfg.preserve_order)
        self._num_joints = len(ids)
        everything = self._num_joints == self._asset.num_joints and not cfg.preserve_order
        self._joint_ids: list[int] | slice = slice(None) if everything else ids
        self._raw_actions = torch.zeros(self.num_envs, self.action_dim, device=self.device)
        self._processed_actions = torch.zeros_like(self._raw_actions)
        self._scale = self._per_joint(cfg.scale, 1.0)
        self._offset = self._per_joint(cfg.offset, 0.0)
        if cfg.clip is not None:
            self._clip = torch.tensor([-torch.inf, torch.inf], device=self.device).repeat(*self._raw_actions.shape, 1)
            columns, _, values = resolve_matching_names_values(cfg.clip, self._joint_names)
            self._clip[:, columns] = torch.tensor(values, device=self.device)

    @property
    def action_dim(self) -> int:
        return self._num_joints

    @property
    def raw_actions(self) -> Tensor:
        return self._raw_actions

    @property
    def processed_actions(self) -> Tensor:
        return self._processed_actions

    @property
    def IO_descriptor(self) -> Any:
        """`offset` and `clip` are the first environment's lists; `scale` is left as it is, number or tensor."""
        descriptor = super().IO_descriptor
        descriptor.shape = (self.action_dim,)
        descriptor.dtype = str(self._raw_actions.dtype)
        descriptor.action_type = "JointAction"
        descriptor.joint_names = self._joint_names
        descriptor.scale = self._scale
        offset = self._offset
        descriptor.offset = offset[0].cpu().tolist() if isinstance(offset, Tensor) else offset
        descriptor.clip = None if self.cfg.clip is None else self._clip[0].cpu().tolist()
        return descriptor

    def process_actions(self, actions: Tensor) -> None:
        self._raw_actions[:] = actions
        self._processed_actions = self._raw_actions * self._scale + self._offset
        if self.cfg.clip is not None:
            self._processed_actions = self._processed_actions.clamp(self._clip[..., 0], self._clip[..., 1])

    def reset(self, env_ids: EnvIds = None) -> None:
        self._raw_actions[env_ids] = 0.0  # type: ignore[index]

    def _per_joint(self, value: float | dict[str, float], default: float) -> Tensor | float:
        """A number stays a number; a dictionary becomes a tensor (envs, joints)."""
        if not isinstance(value, dict):
            return float(value)
        row = torch.full((self.num_envs, self.action_dim), default, device=self.device)
        columns, _, values = resolve_matching_names_values(value, self._joint_names)
        row[:, columns] = torch.tensor(values, device=self.device)
        return row


class JointPositionAction(JointAction):
    """Position targets, around the default positions where `use_default_offset` is set."""

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        if cfg.use_default_offset:
            self._offset = self._asset.data.default_joint_pos[:, self._joint_ids].clone()

    def apply_actions(self) -> None:
        self._asset.set_joint_position_target(self.processed_actions, joint_ids=self._joint_ids)


class JointVelocityAction(JointAction):
    """Velocity targets."""

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        if cfg.use_default_offset:
            self._offset = self._asset.data.default_joint_vel[:, self._joint_ids].clone()

    def apply_actions(self) -> None:
        self._asset.set_joint_velocity_target(self.processed_actions, joint_ids=self._joint_ids)


class JointEffortAction(JointAction):
    """Efforts."""

    def apply_actions(self) -> None:
        self._asset.set_joint_effort_target(self.processed_actions, joint_ids=self._joint_ids)
