"""The one simulation of the process."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, ClassVar

from isaaclab._kit import SimulationApp

from .simulation_cfg import SimulationCfg


class SimulationContext:
    """Steps whatever registered itself with it. There is one at a time: a second needs `clear_instance` first."""

    class RenderMode(enum.IntEnum):
        NO_GUI_OR_RENDERING = -1
        NO_RENDERING = 0
        PARTIAL_RENDERING = 1
        FULL_RENDERING = 2

    _instance: ClassVar[SimulationContext | None] = None

    def __init__(self, cfg: SimulationCfg | None = None) -> None:
        app = SimulationApp.running()
        assert app is not None, "importing this module needs the app"
        self.cfg = cfg or SimulationCfg()
        self._has_gui = not app.config.get("headless", False) or bool(app.config.get("livestream", 0))
        if self._has_gui:
            self.render_mode = self.RenderMode.FULL_RENDERING
        elif app.config.get("offscreen_render", False):
            self.render_mode = self.RenderMode.PARTIAL_RENDERING
        else:
            self.render_mode = self.RenderMode.NO_GUI_OR_RENDERING
        self.num_envs = 0
        """Set by the scene; the real robots count the prims that match their path."""
        self._steps: list[Callable[[float], None]] = []
        self._on_play: list[Callable[[], None]] = []
        self._playing = False
        self.render_count = 0
        SimulationContext._instance = self

    @classmethod
    def instance(cls) -> SimulationContext | None:
        return cls._instance

    @classmethod
    def clear_instance(cls) -> None:
        SimulationContext._instance = None

    def clear_all_callbacks(self) -> None:
        self._steps.clear()
        self._on_play.clear()

    @property
    def device(self) -> str:
        return self.cfg.device

    def on_play(self, start: Callable[[], None]) -> None:
        """Registers what is created when the simulation starts to play; the real one does it by a timeline event."""
        self._on_play.append(start)

    def on_step(self, step: Callable[[float], None]) -> None:
        """Registers a dynamics to step. Not in the real class, whose scene is on the USD stage."""
        self._steps.append(step)

    def has_gui(self) -> bool:
        return self._has_gui

    def has_rtx_sensors(self) -> bool:
        return False

    def is_playing(self) -> bool:
        return self._playing

    def reset(self, soft: bool = False) -> None:
        """Starts playing: from here on robots have their tensors."""
        self._playing = True
        for start in self._on_play:
            start()

    def step(self, render: bool = True) -> None:
        for step in self._steps:
            step(self.cfg.dt)

    def forward(self) -> None:
        """Kinematics after a write of the state; the dynamics here have none to update."""

    def render(self, mode: Any = None) -> None:
        self.render_count += 1
