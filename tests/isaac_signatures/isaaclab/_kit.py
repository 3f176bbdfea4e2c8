"""Stands for Omniverse Kit: what is importable, and when. Nothing of this is in the real package."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

_MODULES = ("omni", "omni.kit", "omni.kit.app", "omni.physx", "omni.timeline", "carb")
EXIT_ON_CLOSE = "ISAAC_SIGNATURES_EXIT_ON_CLOSE"
"""Environment variable: set to 1, closing the app ends the process at once, as Kit's fast shutdown does."""


def require(module: str = "omni.physx") -> None:
    """ModuleNotFoundError where the app was not launched first, exactly as importing a Kit module raises it."""
    importlib.import_module(module)


class SimulationApp:
    """Kit's process-wide application: its modules exist only once it was started, and it starts once."""

    _running: SimulationApp | None = None

    def __init__(self, launch_config: dict[str, Any] | None = None, experience: str = "") -> None:
        if SimulationApp._running is not None:
            raise RuntimeError("a SimulationApp is running in this process already")
        self.config = dict(launch_config or {})
        self.experience = experience
        self.argv = list(sys.argv)
        """What Kit read from the command line when it started."""
        for name in _MODULES:
            sys.modules.setdefault(name, ModuleType(name))
        SimulationApp._running = self

    @classmethod
    def running(cls) -> SimulationApp | None:
        return cls._running

    def is_running(self) -> bool:
        return SimulationApp._running is self

    def update(self) -> None:
        """Draws the windows; there are none."""

    def close(self, wait_for_replicator: bool = True, skip_cleanup: bool = False) -> None:
        if os.environ.get(EXIT_ON_CLOSE) == "1":
            os._exit(0)  # no flush, no `finally`, no exit code of the script: the real one under fast shutdown
        SimulationApp._running = None
        for name in _MODULES:
            sys.modules.pop(name, None)
