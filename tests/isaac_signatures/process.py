"""These packages in the running process, for as long as a test needs them."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent
_OWN = {"isaaclab", "isaaclab_tasks", "cartpole_dynamics", "testbot_dynamics", "omni", "carb"}


@contextlib.contextmanager
def isaaclab_importable() -> Iterator[None]:
    """`import isaaclab` finds this folder's package; afterwards neither it, its app nor its tasks are left."""
    import gymnasium as gym

    if str(ROOT) in sys.path:
        raise RuntimeError("already importable: nest nothing, end the other first")
    signals = (signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV)
    handlers = {number: signal.getsignal(number) for number in signals}
    registered, out, argv = set(gym.registry), sys.stdout, list(sys.argv)
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        _close()
        sys.path.remove(str(ROOT))
        for name in [name for name in sys.modules if name.partition(".")[0] in _OWN]:
            del sys.modules[name]
        for task in set(gym.registry) - registered:
            del gym.registry[task]
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.stdout, sys.argv = out, argv


def _close() -> None:
    """Ends a simulation and an app that a test left open."""
    sim = sys.modules.get("isaaclab.sim")
    if sim is not None:
        sim.SimulationContext.clear_instance()
    kit = sys.modules.get("isaaclab._kit")
    if kit is not None and kit.SimulationApp.running() is not None:
        kit.SimulationApp.running().close()
