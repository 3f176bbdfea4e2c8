"""From `backend:name` to a simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from trudi.train.envs.base import VectorEnv
from trudi.train.errors import TrainError, near_matches

EnvFactory = Callable[..., VectorEnv]


@dataclass(frozen=True)
class Backend:
    """A simulator that tasks can come from."""

    package: str
    """The importable package it needs."""
    extra: str
    """The extra that installs it."""


BACKENDS: dict[str, Backend] = {"envpool": Backend(package="envpool", extra="envpool")}


def split_task(task: str) -> tuple[str, str]:
    """(backend, name) of `backend:name`; TrainError names near matches, or the extra that a backend needs."""
    backend, colon, name = task.partition(":")
    if not colon or not name:
        raise TrainError(f"task '{task}' has no backend; write backend:name, such as envpool:{task or 'CheetahRun-v1'}")
    if backend not in BACKENDS:
        raise TrainError(f"unknown backend '{backend}' in '{task}'; {near_matches(backend, BACKENDS)}")
    if find_spec(BACKENDS[backend].package) is None:
        extra = BACKENDS[backend].extra
        raise TrainError(f"the backend '{backend}' is not installed: pip install 'trudi[{extra}]'")
    return backend, name


def make_env(
    task: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int = 0, stagger: bool = True
) -> VectorEnv:
    """A fresh simulator of `num_envs` environments; the same seed gives the same episodes."""
    _, name = split_task(task)
    from trudi.train.envs.envpool import EnvPoolEnv

    return EnvPoolEnv(name, num_envs, seed, device=device, num_threads=num_threads, stagger=stagger)
