"""Termination terms (envs,) bool."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isaaclab.managers import SceneEntityCfg

__all__ = ["joint_pos_out_of_limit", "joint_pos_out_of_manual_limit", "time_out"]

_ROBOT = SceneEntityCfg("robot")


def time_out(env: Any) -> Tensor:
    return env.episode_length_buf >= env.max_episode_length


def joint_pos_out_of_limit(env: Any, asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    data = env.scene[asset_cfg.name].data
    position = data.joint_pos[:, asset_cfg.joint_ids]
    limits = data.soft_joint_pos_limits[:, asset_cfg.joint_ids]
    return ((position > limits[..., 1]) | (position < limits[..., 0])).any(dim=1)


def joint_pos_out_of_manual_limit(env: Any, bounds: tuple[float, float], asset_cfg: SceneEntityCfg = _ROBOT) -> Tensor:
    position = env.scene[asset_cfg.name].data.joint_pos[:, asset_cfg.joint_ids]
    return ((position > bounds[1]) | (position < bounds[0])).any(dim=1)
