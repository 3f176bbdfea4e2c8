"""Configuration of the simulation."""

from __future__ import annotations

from typing import Literal

from isaaclab.utils import configclass


@configclass
class RenderCfg:
    """What the renderer does; nothing here."""

    rendering_mode: Literal["performance", "balanced", "quality"] | None = None


@configclass
class SimulationCfg:
    """Physics steps and where they run."""

    device: str = "cuda:0"
    dt: float = 1.0 / 60.0
    render_interval: int = 1
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.81)
    use_fabric: bool = True
    render: RenderCfg = RenderCfg()
    create_stage_in_memory: bool = False
    log_dir: str | None = None
