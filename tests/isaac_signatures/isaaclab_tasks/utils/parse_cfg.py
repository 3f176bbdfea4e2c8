"""A task's configuration from its registered entry point."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
from isaaclab.envs import DirectRLEnvCfg, ManagerBasedRLEnvCfg


def load_cfg_from_registry(task_name: str, entry_point_key: str) -> Any:
    """ValueError where the task has no such entry point; gymnasium's own error where there is no such task."""
    entry_point = gym.spec(task_name.rsplit(":", maxsplit=1)[-1]).kwargs.get(entry_point_key)
    if entry_point is None:
        raise ValueError(f"task {task_name!r} is registered without {entry_point_key!r}")
    print(f"[INFO]: Parsing configuration from: {entry_point}")
    if isinstance(entry_point, str):
        module, name = entry_point.split(":")
        entry_point = getattr(importlib.import_module(module), name)
    return entry_point() if callable(entry_point) else entry_point


def parse_env_cfg(
    task_name: str, device: str = "cuda:0", num_envs: int | None = None, use_fabric: bool | None = None
) -> ManagerBasedRLEnvCfg | DirectRLEnvCfg:
    """The task's configuration, on a device, with so many environments."""
    cfg = load_cfg_from_registry(task_name.rsplit(":", maxsplit=1)[-1], "env_cfg_entry_point")
    if isinstance(cfg, dict):
        raise RuntimeError(f"the configuration of {task_name!r} is a dictionary; expected a class")
    cfg.sim.device = device
    if use_fabric is not None:
        cfg.sim.use_fabric = use_fabric
    if num_envs is not None:
        cfg.scene.num_envs = num_envs
    return cfg
