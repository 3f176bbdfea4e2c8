"""A made-up robot: decoupled second-order joints, and a base that follows them.

    I q'' = effort                 (a joint; the effort is the actuator's PD law, cut at its limit)
    tau v' = drive(q) - v          (the base's velocity in its own frame)

drive: both hips forwards move it forwards, the difference of the hips turns it, the waist moves it sideways.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

JOINT_NAMES = ("left_hip", "right_hip", "waist", "left_knee", "right_knee")
"""In the simulator's order; an action over the legs alone has a gap."""
DEFAULT_JOINT_POS = {".*_hip": 0.1, ".*_knee": -0.4, "waist": 0.0}
JOINT_POS_LIMITS = ((-1.0, 1.0), (-1.0, 1.0), (-0.6, 0.6), (-1.5, 0.0), (-1.5, 0.0))


@dataclass(frozen=True)
class TestBot:
    """Its numbers are chosen, not measured."""

    __test__ = False  # pytest collects classes by that name

    inertia_kg_m2: float = 0.02
    base_time_s: float = 0.2
    forward_m_s_rad: float = 2.0
    sideways_m_s_rad: float = 1.0
    turning_rad_s_rad: float = 1.5
    joint_names: tuple[str, ...] = JOINT_NAMES
    joint_pos_limits: tuple[tuple[float, float], ...] = JOINT_POS_LIMITS

    def acceleration(self, position: Tensor, velocity: Tensor, effort: Tensor) -> Tensor:
        """Of the joints (envs, joints)."""
        return effort / self.inertia_kg_m2

    def base_acceleration(self, base_vel: Tensor, position: Tensor, velocity: Tensor) -> Tensor:
        """Linear and angular, in the base's frame (envs, 6)."""
        rest = DEFAULT_JOINT_POS[".*_hip"]
        left, right, waist = position[:, 0] - rest, position[:, 1] - rest, position[:, 2]
        drive = torch.zeros_like(base_vel)
        drive[:, 0] = self.forward_m_s_rad * (left + right) / 2.0
        drive[:, 1] = self.sideways_m_s_rad * waist
        drive[:, 5] = self.turning_rad_s_rad * (right - left)
        return (drive - base_vel) / self.base_time_s
