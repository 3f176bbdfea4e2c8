"""Reward terms (envs,)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isaaclab.managers import SceneEntityCfg

__all__ = ["action_rate_l2", "is_alive", "is_terminated", "joint_vel_l1", "track_ang_vel_z_exp", "track_lin_vel_xy_exp"]

_ROBOT = SceneEntityCfg("robot")


def is_alive(env: Any) -> Tensor:
    return (~env.termination_manager.terminated).float()


def is_terminated(env: Any) -> Tensor:
    return env.termination_manager.terminated.float()


def joint_vel_l1(env: Any, asset_cfg: SceneEntityCfg) -> Tensor:
    return env.scene[asset_cfg.name].data.joint_vel[:, asset_cfg.joint_ids].abs().sum(dim=1)


def action_rate_l2(env: Any) -> Tensor:
    return (env.action_manager.action - env.action_manager.prev_action).square().sum(dim=1)


def track_lin_vel_xy_exp(env: Any, std: float, command_name: str, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    velocity = env.scene[asset_cfg.name].data.root_lin_vel_b[:, :2]
    error = (env.command_manager.get_command(command_name)[:, :2] - velocity).square().sum(dim=1)
    return torch.exp(-error / std**2)


def track_ang_vel_z_exp(env: Any, std: float, command_name: str, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    velocity = env.scene[asset_cfg.name].data.root_ang_vel_b[:, 2]
    error = (env.command_manager.get_command(command_name)[:, 2] - velocity).square()
    return torch.exp(-error / std**2)
