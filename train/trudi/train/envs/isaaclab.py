"""Isaac Lab 2.3 and 3.0: the simulator that users bring.

Its application must run before anything of it can be imported: `launch` starts it from the command line's own flags, `make`
starts it without a window where nobody did. A process has one environment at a time.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any

import torch

from trudi.train.envs.base import SimCfg, TaskInfo
from trudi.train.envs.manager_based import ManagerBasedEnv
from trudi.train.envs.overrides import apply_overrides, import_packages, made
from trudi.train.envs.randomness import Randomness
from trudi.train.errors import TrainError, near_matches

DEFAULT_DEVICE = "cuda:0"


class _Application:
    """Isaac Sim's application, of which a process has one."""

    def __init__(self) -> None:
        self.app: Any = None
        self.environments = 0
        """Environments made so far."""
        self.is_busy = False
        """Whether one is open."""


_application = _Application()


def launch(argv: list[str]) -> list[str]:
    """Starts the application with the flags of `AppLauncher` in `argv`; returns the others, and `--device` in any case.

    `--headless`, `--enable_cameras`, `--livestream`, `--experience`, `--kit_args`, ... keep their meaning. `--video` needs
    cameras, and `--distributed` a GPU for each process: both stay in what is returned.
    """
    launcher = import_module("isaaclab.app").AppLauncher
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launcher.add_app_launcher_args(parser)
    flags, rest = parser.parse_known_args(argv)
    flags.enable_cameras |= "--video" in rest
    flags.distributed = "--distributed" in rest
    device = flags.device or DEFAULT_DEVICE
    started = launcher(flags)
    _application.app = started.app
    if flags.distributed:
        device = f"cuda:{started.device_id}"
    return [*rest, "--device", device]


def shut_down() -> None:
    """Ends the application, if it runs. It may end the process with it: write everything first."""
    if _application.app is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        app, _application.app = _application.app, None
        app.close()


def task_names() -> list[str]:
    """The registered tasks that Isaac Lab can configure."""
    _ensure_application(DEFAULT_DEVICE)
    registry: Any = import_module("gymnasium").registry
    import_module("isaaclab_tasks")
    return sorted(name for name, spec in registry.items() if "env_cfg_entry_point" in (spec.kwargs or {}))


def describe_task(name: str) -> TaskInfo:
    """Sizes, observation order and control period of a task, from one environment of it."""
    device = torch.device(DEFAULT_DEVICE if torch.cuda.is_available() else "cpu")
    env = make(name, 1, 0, device=device, num_threads=1, stagger=False, sim=SimCfg())
    try:
        return env.info
    finally:
        env.close()


def make(
    name: str,
    num_envs: int,
    seed: int,
    *,
    device: torch.device,
    num_threads: int,
    stagger: bool,
    sim: SimCfg,
) -> ManagerBasedEnv:
    """A fresh environment of a registered task, manager-based or direct.

    TrainError for an unknown task, for one of several agents, and where another environment is still open.
    """
    _ensure_application(str(device))
    import_packages(sim.imports)
    if name not in (known := task_names()):
        raise TrainError(
            f"unknown Isaac Lab task '{name}'; {near_matches(name, known)}. Tasks of a package of your own are registered "
            "when it is imported: --sim.imports PACKAGE"
        )
    if _application.is_busy:
        raise TrainError("Isaac Lab simulates one environment a process: close the first one before making another")
    cfg: Any = import_module("isaaclab_tasks.utils").parse_env_cfg(name, device=str(device), num_envs=num_envs)
    cfg.seed = seed
    apply_overrides(cfg, sim.overrides)
    # Isaac Lab 3.0; not known to put the last frame into histories, which `TerminalHook` does.
    gives_final = hasattr(cfg, "compute_final_obs") and not _shows_history(cfg)
    if hasattr(cfg, "compute_final_obs"):
        cfg.compute_final_obs = gives_final
    if _application.environments:
        _new_stage()
    mode = "rgb_array" if sim.render else None
    randomness = Randomness(device, seed)
    with randomness:
        gym: Any = import_module("gymnasium")
        gym_env: Any = made(lambda: gym.make(name, cfg=cfg, render_mode=mode), name, sim.overrides)
    _application.environments, _application.is_busy = _application.environments + 1, True
    unwrapped = gym_env.unwrapped
    if isinstance(unwrapped, import_module("isaaclab.envs").DirectMARLEnv):
        gym_env.close()
        _released()
        raise TrainError(f"{name} has several agents; one policy is trained here")
    try:
        return ManagerBasedEnv(
            unwrapped,
            f"isaaclab:{name}",
            randomness=randomness,
            seed=seed,
            stagger=stagger,
            sim=sim,
            final_observation=(lambda extras: extras.get("final_obs")) if gives_final else None,
            on_close=_released,
        )
    except TrainError:
        gym_env.close()
        _released()
        raise


def _shows_history(cfg: Any) -> bool:
    """Whether a term of any observation group, or a whole group, shows more than the present."""
    groups = [
        group for group in vars(getattr(cfg, "observations", None) or argparse.Namespace()).values() if group is not None
    ]
    parts = groups + [term for group in groups if hasattr(group, "__dict__") for term in vars(group).values()]
    return any((getattr(part, "history_length", 0) or 0) > 0 for part in parts)


def _ensure_application(device: str) -> None:
    if _application.app is None:
        launch(["--headless", "--device", device])


def _released() -> None:
    _application.is_busy = False


def _new_stage() -> None:
    """An empty scene for the next environment: what the last one put there stays otherwise."""
    try:
        usd = import_module("omni.usd")
    except ImportError:  # not Isaac Sim, but something with Isaac Lab's signatures
        return
    usd.get_context().new_stage()
