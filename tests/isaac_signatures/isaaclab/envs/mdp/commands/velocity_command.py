"""A velocity of the base: forwards, sideways, turning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isaaclab.managers import CommandTerm


class UniformVelocityCommand(CommandTerm):
    """Uniform in the ranges, and zero for a share of the environments."""

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        self.robot = env.scene[cfg.asset_name]
        self.vel_command_b = torch.zeros(self.num_envs, 3, device=self.device)
        self.is_standing_env = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.metrics["error_vel_xy"] = torch.zeros(self.num_envs, device=self.device)
        self.metrics["error_vel_yaw"] = torch.zeros(self.num_envs, device=self.device)

    @property
    def command(self) -> Tensor:
        return self.vel_command_b

    def _update_metrics(self) -> None:
        steps = self.cfg.resampling_time_range[1] / self._env.step_dt
        linear = self.vel_command_b[:, :2] - self.robot.data.root_lin_vel_b[:, :2]
        self.metrics["error_vel_xy"] += linear.norm(dim=-1) / steps
        turning = self.vel_command_b[:, 2] - self.robot.data.root_ang_vel_b[:, 2]
        self.metrics["error_vel_yaw"] += turning.abs() / steps

    def _resample_command(self, env_ids: Any) -> None:
        count = len(self.vel_command_b[env_ids])
        ranges = self.cfg.ranges
        for column, bounds in enumerate((ranges.lin_vel_x, ranges.lin_vel_y, ranges.ang_vel_z)):
            self.vel_command_b[env_ids, column] = torch.empty(count, device=self.device).uniform_(*bounds)
        standing = torch.empty(count, device=self.device).uniform_(0.0, 1.0) <= self.cfg.rel_standing_envs
        self.is_standing_env[env_ids] = standing

    def _update_command(self) -> None:
        """Standing starts here, one `compute` after the command was drawn."""
        self.vel_command_b[self.is_standing_env] = 0.0
