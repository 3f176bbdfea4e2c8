"""mjlab: Isaac Lab's manager API on MuJoCo Warp, on a GPU or (slowly) on a CPU.

Resets are this adapter's (`auto_reset=False`), so that the last observation of an episode is seen.
"""

from __future__ import annotations

import contextlib
import gc
import io
from importlib import import_module

import torch
import warp
from mjlab.envs import ManagerBasedRlEnv
from mjlab.tasks.registry import list_tasks, load_env_cfg

from trudi.train.devices import release_free_memory
from trudi.train.envs.base import SimCfg, TaskInfo
from trudi.train.envs.manager_based import ManagerBasedEnv
from trudi.train.envs.overrides import apply_overrides, import_packages, made
from trudi.train.envs.randomness import Randomness
from trudi.train.errors import TrainError, near_matches

import_module("mjlab.tasks")  # registers the tasks
warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)  # else a line a kernel, into the progress display


def task_names() -> list[str]:
    """mjlab's registered tasks."""
    return list_tasks()


def describe_task(name: str) -> TaskInfo:
    """Sizes, observation order and control period of a task, from one environment of it on the CPU."""
    env = make(name, 1, 0, device=torch.device("cpu"), num_threads=1, stagger=False, sim=SimCfg())
    try:
        return env.info
    finally:
        env.close()


def make(
    name: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int, stagger: bool, sim: SimCfg
) -> ManagerBasedEnv:
    """A fresh mjlab environment on `device`; TrainError for an unknown task, or one that needs a file it was not given."""
    import_packages(sim.imports)
    if name not in (known := list_tasks()):
        raise TrainError(f"unknown mjlab task '{name}'; {near_matches(name, known)} (`trudi tasks` lists them all)")
    cfg = load_env_cfg(name)
    cfg.scene.num_envs, cfg.seed, cfg.auto_reset = num_envs, seed, False
    apply_overrides(cfg, sim.overrides)
    motion = cfg.commands.get("motion")
    if motion is not None and getattr(motion, "motion_file", None) == "":
        raise TrainError(f"{name} follows a recorded motion: --sim.overrides commands.motion.motion_file=FILE.npz")
    mode = "rgb_array" if sim.render else None
    randomness = Randomness(device, seed)
    # Its tables of terms would bury the run's own output.
    with randomness, contextlib.redirect_stdout(io.StringIO()):
        unwrapped = made(lambda: ManagerBasedRlEnv(cfg, device=str(device), render_mode=mode), name, sim.overrides)
    return ManagerBasedEnv(
        unwrapped,
        f"mjlab:{name}",
        randomness=randomness,
        seed=seed,
        stagger=stagger,
        sim=sim,
        on_close=_free,
    )


def _free() -> None:
    gc.collect()  # Environment, managers and terms refer to each other.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    release_free_memory()
