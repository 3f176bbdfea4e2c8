"""Tasks of several agents: the names alone, for `isinstance`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from isaaclab.utils import configclass


@configclass
class DirectMARLEnvCfg:
    """Nothing is implemented."""


class DirectMARLEnv(gym.Env[Any, Any]):
    """Nothing is implemented."""
