"""Observation terms, with their descriptions for deployment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isaaclab.envs.utils.io_descriptors import (
    generic_io_descriptor,
    record_dtype,
    record_joint_names,
    record_joint_pos_offsets,
    record_joint_vel_offsets,
    record_shape,
)
from isaaclab.managers import SceneEntityCfg

__all__ = [
    "base_ang_vel",
    "base_lin_vel",
    "generated_commands",
    "joint_pos",
    "joint_pos_rel",
    "joint_vel",
    "joint_vel_rel",
    "last_action",
    "projected_gravity",
]

_ROBOT = SceneEntityCfg("robot")
_JOINTS = [record_joint_names, record_dtype, record_shape]
_BASE: dict[str, Any] = {
    "axes": ["X", "Y", "Z"],
    "observation_type": "RootState",
    "on_inspect": [record_shape, record_dtype],
}


@generic_io_descriptor(units="m/s", **_BASE)
def base_lin_vel(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """The base's linear velocity in its own frame."""
    return env.scene[asset_cfg.name].data.root_lin_vel_b


@generic_io_descriptor(units="rad/s", **_BASE)
def base_ang_vel(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """The base's angular velocity in its own frame."""
    return env.scene[asset_cfg.name].data.root_ang_vel_b


@generic_io_descriptor(units="m/s^2", **_BASE)
def projected_gravity(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """Gravity's direction in the base's frame."""
    return env.scene[asset_cfg.name].data.projected_gravity_b


@generic_io_descriptor(observation_type="JointState", on_inspect=_JOINTS, units="rad")
def joint_pos(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """Joint positions."""
    return env.scene[asset_cfg.name].data.joint_pos[:, asset_cfg.joint_ids]


@generic_io_descriptor(observation_type="JointState", on_inspect=[*_JOINTS, record_joint_pos_offsets], units="rad")
def joint_pos_rel(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """Joint positions from their defaults."""
    data = env.scene[asset_cfg.name].data
    return data.joint_pos[:, asset_cfg.joint_ids] - data.default_joint_pos[:, asset_cfg.joint_ids]


@generic_io_descriptor(observation_type="JointState", on_inspect=_JOINTS, units="rad/s")
def joint_vel(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """Joint velocities."""
    return env.scene[asset_cfg.name].data.joint_vel[:, asset_cfg.joint_ids]


@generic_io_descriptor(observation_type="JointState", on_inspect=[*_JOINTS, record_joint_vel_offsets], units="rad/s")
def joint_vel_rel(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    """Joint velocities from their defaults."""
    data = env.scene[asset_cfg.name].data
    return data.joint_vel[:, asset_cfg.joint_ids] - data.default_joint_vel[:, asset_cfg.joint_ids]


@generic_io_descriptor(dtype=torch.float32, observation_type="Action", on_inspect=[record_shape])
def last_action(env: Any, action_name: str | None = None) -> Tensor:
    """The action of the step that led here, raw; zeros after a reset."""
    if action_name is None:
        return env.action_manager.action
    return env.action_manager.get_term(action_name).raw_actions


@generic_io_descriptor(dtype=torch.float32, observation_type="Command", on_inspect=[record_shape])
def generated_commands(env: Any, command_name: str | None = None) -> Tensor:
    """A command."""
    return env.command_manager.get_command(command_name)
