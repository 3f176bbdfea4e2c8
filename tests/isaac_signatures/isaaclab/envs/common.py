"""Types and the viewer."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from isaaclab.utils import configclass


@configclass
class ViewerCfg:
    """Where the camera stands, and how large its picture is."""

    eye: tuple[float, float, float] = (7.5, 7.5, 7.5)
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cam_prim_path: str = "/OmniverseKit_Persp"
    resolution: tuple[int, int] = (1280, 720)
    """Width and height."""
    origin_type: Literal["world", "env", "asset_root", "asset_body"] = "world"
    env_index: int = 0
    asset_name: str | None = None
    body_name: str | None = None


VecEnvObs = dict[str, Tensor | dict[str, Tensor]]
VecEnvStepReturn = tuple[VecEnvObs, Tensor, Tensor, Tensor, dict[str, Any]]
"""Observations, rewards, terminated, timed out, extras."""
