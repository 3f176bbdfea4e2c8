"""Configuration of a task that is one class."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass
from isaaclab.utils.noise import NoiseModelCfg

from .common import ViewerCfg


@configclass
class DirectRLEnvCfg:
    """Spaces are given as numbers (a box of that size) or as gymnasium spaces."""

    viewer: ViewerCfg = ViewerCfg()
    sim: SimulationCfg = SimulationCfg()
    ui_window_class_type: type | None = None
    seed: int | None = None
    decimation: int = MISSING  # type: ignore[assignment]
    is_finite_horizon: bool = False
    episode_length_s: float = MISSING  # type: ignore[assignment]
    scene: Any = MISSING
    """An `InteractiveSceneCfg`."""
    events: Any = None
    observation_space: Any = MISSING
    num_observations: int | None = None
    state_space: Any = None
    num_states: int | None = None
    observation_noise_model: NoiseModelCfg | None = None
    action_space: Any = MISSING
    num_actions: int | None = None
    action_noise_model: NoiseModelCfg | None = None
    rerender_on_reset: bool = False
    num_rerenders_on_reset: int = 0
    wait_for_textures: bool = True
    log_dir: str | None = None
