"""A picture of the first environment. Not in the real package, which has a renderer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def render_scene(env: Any, recompute: bool) -> np.ndarray[Any, Any] | None:
    """None or RGB (height, width, 3), by the rules of the real `render`."""
    if not env.sim.has_rtx_sensors() and not recompute:
        env.sim.render()
    if env.render_mode in {None, "human"}:
        return None
    if env.render_mode != "rgb_array":
        raise NotImplementedError(f"render mode {env.render_mode!r}; use one of {env.metadata['render_modes']}")
    if env.sim.render_mode < env.sim.RenderMode.PARTIAL_RENDERING:
        raise RuntimeError(f"Cannot render 'rgb_array' in mode {env.sim.render_mode.name}. If headless, enable the cameras.")
    width, height = env.cfg.viewer.resolution
    frame = np.full((height, width, 3), 255, dtype=np.uint8)
    for robot in env.scene.articulations.values():
        for joint, angle in enumerate(robot.data.joint_pos[0].tolist()):
            _draw_hand(frame, (joint + 0.5) / robot.num_joints, angle)
    return frame


def _draw_hand(frame: np.ndarray[Any, Any], across: float, angle: float) -> None:
    """A line from the picture's middle height, at a joint's angle from upright."""
    height, width, _ = frame.shape
    steps = np.linspace(0.0, 0.4 * height, height)
    rows = np.clip(height / 2 - steps * math.cos(angle), 0, height - 1).astype(int)
    columns = np.clip(across * width + steps * math.sin(angle), 0, width - 1).astype(int)
    frame[rows, columns] = (40, 80, 160)
