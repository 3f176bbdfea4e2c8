"""Event terms."""

from __future__ import annotations

from typing import Any

import torch

from isaaclab.managers import ManagerTermBase, SceneEntityCfg
from isaaclab.utils.math import sample_uniform

__all__ = ["push_by_setting_velocity", "randomize_actuator_gains", "reset_joints_by_offset", "reset_scene_to_default"]

_AXES = ("x", "y", "z", "roll", "pitch", "yaw")


class randomize_actuator_gains(ManagerTermBase):
    """Uniform factors on the gains: the defaults stay what they were."""

    def __call__(  # type: ignore[override]
        self,
        env: Any,
        env_ids: Any,
        asset_cfg: SceneEntityCfg,
        stiffness_distribution_params: tuple[float, float] | None = None,
        damping_distribution_params: tuple[float, float] | None = None,
        operation: str = "abs",
        distribution: str = "uniform",
    ) -> None:
        if operation != "scale" or distribution != "uniform":
            raise NotImplementedError("only uniform factors are implemented")
        data = env.scene[asset_cfg.name].data
        rows = slice(None) if env_ids is None else env_ids
        gains = (
            (data.joint_stiffness, data.default_joint_stiffness, stiffness_distribution_params),
            (data.joint_damping, data.default_joint_damping, damping_distribution_params),
        )
        for gain, default, bounds in gains:
            if bounds is not None:
                factor = sample_uniform(*bounds, tuple(default[rows].shape), default.device)
                gain[rows] = default[rows] * factor


def push_by_setting_velocity(
    env: Any,
    env_ids: Any,
    velocity_range: dict[str, tuple[float, float]],
    asset_cfg: SceneEntityCfg = SceneEntityCfg("robot"),  # noqa: B008 - the real signature
) -> None:
    """Adds to the base's velocity."""
    robot = env.scene[asset_cfg.name]
    velocity = robot.data.root_vel_w[env_ids]
    bounds = torch.tensor([velocity_range.get(axis, (0.0, 0.0)) for axis in _AXES], device=velocity.device)
    velocity += sample_uniform(bounds[:, 0], bounds[:, 1], tuple(velocity.shape), velocity.device)
    robot.write_root_velocity_to_sim(velocity, env_ids=env_ids)


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
