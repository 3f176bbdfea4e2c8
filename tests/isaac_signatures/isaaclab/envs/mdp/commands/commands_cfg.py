"""Configuration of the command terms."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.managers import CommandTermCfg
from isaaclab.utils import configclass

from .velocity_command import UniformVelocityCommand


@configclass
class VelocityRanges:
    """In m/s, m/s and rad/s."""

    lin_vel_x: tuple[float, float] = MISSING  # type: ignore[assignment]
    lin_vel_y: tuple[float, float] = MISSING  # type: ignore[assignment]
    ang_vel_z: tuple[float, float] = MISSING  # type: ignore[assignment]


@configclass
class UniformVelocityCommandCfg(CommandTermCfg):
    """Whose velocity, and how fast."""

    Ranges = VelocityRanges

    class_type: Any = UniformVelocityCommand
    asset_name: str = MISSING  # type: ignore[assignment]
    rel_standing_envs: float = 0.0
    ranges: VelocityRanges = MISSING  # type: ignore[assignment]
