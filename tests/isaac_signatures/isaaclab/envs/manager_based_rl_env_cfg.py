"""Configuration of a task of managers."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.utils import configclass

from .manager_based_env_cfg import ManagerBasedEnvCfg


@configclass
class ManagerBasedRLEnvCfg(ManagerBasedEnvCfg):
    """Rewards, ends, curriculum and commands as well."""

    is_finite_horizon: bool = False
    episode_length_s: float = MISSING  # type: ignore[assignment]
    rewards: Any = MISSING
    terminations: Any = MISSING
    curriculum: Any = None
    commands: Any = None
