"""Event terms."""

from __future__ import annotations

from typing import Any

from isaaclab.managers import SceneEntityCfg
from isaaclab.utils.math import sample_uniform

__all__ = ["reset_joints_by_offset", "reset_scene_to_default"]


def reset_scene_to_default(env: Any, env_ids: Any, reset_joint_targets: bool = False) -> None:
    for robot in env.scene.articulations.values():
        data = robot.data
        robot.write_root_velocity_to_sim(data.default_root_state[env_ids, 7:], env_ids=env_ids)
        robot.write_joint_state_to_sim(data.default_joint_pos[env_ids], data.default_joint_vel[env_ids], env_ids=env_ids)


def reset_joints_by_offset(
    env: Any,
    env_ids: Any,
    position_range: tuple[float, float],
    velocity_range: tuple[float, float],
    asset_cfg: SceneEntityCfg = SceneEntityCfg("robot"),  # noqa: B008 - the real signature
) -> None:
    """Around the defaults, within the soft limits."""
    robot = env.scene[asset_cfg.name]
    rows = env_ids if isinstance(asset_cfg.joint_ids, slice) else env_ids[:, None]
    position = robot.data.default_joint_pos[rows, asset_cfg.joint_ids].clone()
    velocity = robot.data.default_joint_vel[rows, asset_cfg.joint_ids].clone()
    position += sample_uniform(*position_range, tuple(position.shape), position.device)
    velocity += sample_uniform(*velocity_range, tuple(velocity.shape), velocity.device)
    limits = robot.data.soft_joint_pos_limits[rows, asset_cfg.joint_ids]
    fastest = robot.data.soft_joint_vel_limits[rows, asset_cfg.joint_ids]
    robot.write_joint_state_to_sim(
        position.clamp(limits[..., 0], limits[..., 1]),
        velocity.clamp(-fastest, fastest),
        joint_ids=asset_cfg.joint_ids,
        env_ids=env_ids,
    )
