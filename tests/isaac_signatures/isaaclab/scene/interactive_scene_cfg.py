"""Configuration of the scene."""

from __future__ import annotations

from dataclasses import MISSING

from isaaclab.utils import configclass


@configclass
class InteractiveSceneCfg:
    """How many environments, and in a subclass what is in each."""

    num_envs: int = MISSING  # type: ignore[assignment]
    env_spacing: float = MISSING  # type: ignore[assignment]
    lazy_sensor_update: bool = True
    replicate_physics: bool = True
    filter_collisions: bool = True
    clone_in_fabric: bool = False
