"""The viewer of a simulated robot, as the thread that steps its physics uses it."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.simulation import Simulation
from trudi.runtime.viewer.choice import has_display, parse_view
from trudi.runtime.viewer.link import ViewerAddress, ViewerLink, ViewerProcess


class RobotViewer(Protocol):
    """Shows the robot, now and then, without waiting for anybody."""

    address: ViewerAddress | None
    """Where its page is, if it has one."""

    def show(self, glance: dict[str, Any]) -> None:
        """The robot is as it is in the simulation's data now, and `glance` is what else is to be told."""

    def close(self) -> None:
        """Closes it."""


class Window:
    """MuJoCo's own viewer; it shares the process, and draws in a thread of its own."""

    address: ViewerAddress | None = None

    def __init__(self, simulation: Simulation) -> None:
        if not has_display():
            raise RobotError("a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; take --view browser")
        try:
            self._viewer = importlib.import_module("mujoco.viewer").launch_passive(
                simulation.model, simulation.data, show_left_ui=False, show_right_ui=False
            )
        except Exception as error:
            raise RobotError(f"MuJoCo's viewer does not open: {error}; take --view browser") from error

    def show(self, glance: dict[str, Any]) -> None:
        self._viewer.sync()

    def close(self) -> None:
        self._viewer.close()


class Browser:
    """A page, served by a process of its own, which compiles the same model with its meshes and is told poses."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self._process = ViewerProcess(cfg)
        self.address: ViewerAddress | None = self._process.address()
        self._link = ViewerLink(self.address.port)

    def show(self, glance: dict[str, Any]) -> None:
        self._link.tell("robot", glance)

    def close(self) -> None:
        self._link.close()
        self._process.close()


def wants_meshes(view: str) -> bool:
    """Whether the robot's own process is to draw. RobotError where `view` is no viewer."""
    cfg = parse_view(view)
    return cfg is not None and cfg.kind == "window"


def open_viewer(view: str, task: str, model: str | None, simulation: Simulation) -> RobotViewer | None:
    """The viewer that `view` asks for; None where it is empty. RobotError where it does not open."""
    cfg = parse_view(view)
    if cfg is None:
        return None
    if cfg.kind == "window":
        return Window(simulation)
    return Browser({"task": task, "model": model, "host": cfg.host, "port": cfg.port})
