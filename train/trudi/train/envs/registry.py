"""From `backend:name` to a simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from trudi.train.envs.base import TaskInfo, VectorEnv
from trudi.train.errors import TrainError, near_matches

EnvFactory = Callable[..., VectorEnv]


@dataclass(frozen=True)
class Backend:
    """A simulator that tasks can come from."""

    package: str
    """The importable package it needs."""
    extra: str
    """The extra that installs it."""

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.package) is not None


BACKENDS: dict[str, Backend] = {
    "envpool": Backend(package="envpool", extra="envpool"),
    "mujoco": Backend(package="mujoco", extra="mujoco"),
}


def split_task(task: str) -> tuple[str, str]:
    """(backend, name) of `backend:name`; TrainError names near matches, or the extra that a backend needs."""
    backend, colon, name = task.partition(":")
    if not colon or not name:
        raise TrainError(f"task '{task}' has no backend; write backend:name, such as envpool:{task or 'CheetahRun-v1'}")
    if backend not in BACKENDS:
        raise TrainError(f"unknown backend '{backend}' in '{task}'; {near_matches(backend, BACKENDS)}")
    if not BACKENDS[backend].is_installed:
        extra = BACKENDS[backend].extra
        raise TrainError(f"the backend '{backend}' is not installed: pip install 'trudi[{extra}]'")
    return backend, name


def make_env(
    task: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int = 0, stagger: bool = True
) -> VectorEnv:
    """A fresh simulator of `num_envs` environments; the same seed gives the same episodes."""
    backend, name = split_task(task)
    return _factory(backend)(name, num_envs, seed, device=device, num_threads=num_threads, stagger=stagger)


def _factory(backend: str) -> EnvFactory:
    if backend == "mujoco":
        from trudi.train.envs.mujoco import MujocoEnv

        return MujocoEnv
    from trudi.train.envs.envpool import EnvPoolEnv

    return EnvPoolEnv


def task_names() -> list[str]:
    """Every task of the installed simulators, `backend:name`; TrainError, with the extras, where none is installed."""
    names: list[str] = []
    if BACKENDS["envpool"].is_installed:
        from trudi.train.envs import envpool

        names += [f"envpool:{name}" for name in envpool.task_names()]
    if BACKENDS["mujoco"].is_installed:
        from trudi.train.envs import mujoco

        names += [f"mujoco:{name}" for name in mujoco.task_names()]
    if not names:
        extras = " or ".join(f"'trudi[{backend.extra}]'" for backend in BACKENDS.values())
        raise TrainError(f"no simulator is installed: pip install {extras}")
    return names


def describe_task(task: str) -> TaskInfo:
    """What `trudi tasks` says of a task."""
    backend, name = split_task(task)
    if backend == "mujoco":
        from trudi.train.envs import mujoco

        return mujoco.describe_task(name)
    from trudi.train.envs import envpool

    return envpool.describe_task(name)
