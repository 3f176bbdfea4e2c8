"""Configuration of an environment of managers."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.envs import mdp
from isaaclab.managers import EventTermCfg, RecorderManagerBaseCfg
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass

from .common import ViewerCfg


@configclass
class DefaultEventManagerCfg:
    """Everything to its default state at a reset."""

    reset_scene_to_default = EventTermCfg(func=mdp.reset_scene_to_default, mode="reset")


@configclass
class ManagerBasedEnvCfg:
    """Scene, observations, actions, events."""

    viewer: ViewerCfg = ViewerCfg()
    sim: SimulationCfg = SimulationCfg()
    ui_window_class_type: type | None = None
    seed: int | None = None
    decimation: int = MISSING  # type: ignore[assignment]
    scene: Any = MISSING
    """An `InteractiveSceneCfg`."""
    recorders: object = RecorderManagerBaseCfg()
    observations: Any = MISSING
    actions: Any = MISSING
    events: Any = DefaultEventManagerCfg()
    rerender_on_reset: bool = False
    num_rerenders_on_reset: int = 0
    wait_for_textures: bool = True
    export_io_descriptors: bool = False
    log_dir: str | None = None
