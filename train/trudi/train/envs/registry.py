"""From `backend:name` to a simulator."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import torch

from trudi.train.envs.base import SimCfg, TaskInfo, VectorEnv
from trudi.train.errors import TrainError, near_matches


class Adapter(Protocol):
    """What a module of this folder offers for one simulator. Importing the module imports the simulator."""

    def task_names(self) -> list[str]:
        """Its tasks' names, without the backend."""
        ...

    def describe_task(self, name: str) -> TaskInfo:
        """What `trudi tasks` says of one; TrainError where there is none of that name."""
        ...

    def make(
        self, name: str, num_envs: int, seed: int, *, device: torch.device, num_threads: int, stagger: bool, sim: SimCfg
    ) -> VectorEnv:
        """A fresh simulator; with `stagger`, first episodes are cut at random lengths. `sim` holds the user's settings."""
        ...


@dataclass(frozen=True)
class Backend:
    """A simulator that tasks can come from."""

    package: str
    """The importable package it needs."""
    install: str
    """How a user gets it."""
    is_costly: bool = False
    """Whether making a simulator takes long: `trudi tasks` asks for sizes only where told to."""
    is_restartable: bool = False
    """Whether a run keeps one simulator and starts it over (`Restartable`), where others are made anew."""
    is_alone: bool = False
    """Whether a process can have one simulator at a time: evaluations then borrow the one that trains."""

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.package) is not None


BACKENDS: dict[str, Backend] = {
    "envpool": Backend(package="envpool", install="pip install 'trudi[envpool]'"),
    "mujoco": Backend(package="mujoco", install="pip install 'trudi[mujoco]'"),
    "mjlab": Backend(package="mjlab", install="pip install 'trudi[mjlab]'", is_costly=True, is_restartable=True),
    "isaaclab": Backend(
        package="isaaclab",
        install="install Isaac Lab (docs/isaac_lab.md), and trudi into its Python",
        is_costly=True,
        is_restartable=True,
        is_alone=True,
    ),
    "playground": Backend(package="mujoco_playground", install="pip install 'trudi[playground]'", is_costly=True),
    "maniskill": Backend(package="mani_skill", install="pip install 'trudi[maniskill]'", is_costly=True),
}


def split_task(task: str) -> tuple[str, str]:
    """(backend, name) of `backend:name`; TrainError names near matches, or how to install what a backend needs."""
    backend, colon, name = task.partition(":")
    if not colon or not name:
        raise TrainError(f"task '{task}' has no backend; write backend:name, such as envpool:{task or 'CheetahRun-v1'}")
    if backend not in BACKENDS:
        raise TrainError(f"unknown backend '{backend}' in '{task}'; {near_matches(backend, BACKENDS)}")
    if not BACKENDS[backend].is_installed:
        raise TrainError(f"the backend '{backend}' is not installed: {BACKENDS[backend].install}")
    return backend, name


def backend_of(task: str) -> Backend:
    """The simulator of `backend:name`; TrainError as `split_task`."""
    return BACKENDS[split_task(task)[0]]


def make_env(
    task: str,
    num_envs: int,
    seed: int,
    *,
    device: torch.device,
    num_threads: int = 0,
    stagger: bool = True,
    sim: SimCfg | None = None,
) -> VectorEnv:
    """A fresh simulator of `num_envs` environments; the same seed gives the same episodes, where the simulator can."""
    backend, name = split_task(task)
    return adapter(backend).make(
        name, num_envs, seed, device=device, num_threads=num_threads, stagger=stagger, sim=sim or SimCfg()
    )


def prepare(task: str, argv: list[str]) -> list[str]:
    """Starts what must run before a simulator can be imported, from a command's own arguments; returns the others."""
    if not task.startswith("isaaclab:") or not BACKENDS["isaaclab"].is_installed:
        return argv  # What is not installed is said when the task is used.
    from trudi.train.envs import isaaclab

    return isaaclab.launch(argv)


def finish() -> None:
    """Ends what `prepare`, or a simulator, started, and maybe the process with it: everything must be written by now."""
    isaac = sys.modules.get("trudi.train.envs.isaaclab")
    if isaac is not None:
        isaac.shut_down()


def adapter(backend: str) -> Adapter:
    """The module that speaks to an installed simulator."""
    return cast("Adapter", import_module(f"trudi.train.envs.{backend}"))


def task_names() -> list[str]:
    """Every task of the installed simulators, `backend:name`; TrainError, with the ways to get one, where none is."""
    installed = [name for name, backend in BACKENDS.items() if backend.is_installed]
    if not installed:
        ways = " or ".join(backend.install for backend in BACKENDS.values())
        raise TrainError(f"no simulator is installed: {ways}")
    return [f"{backend}:{name}" for backend in installed for name in adapter(backend).task_names()]


def describe_task(task: str) -> TaskInfo:
    """What `trudi tasks` says of a task."""
    backend, name = split_task(task)
    return adapter(backend).describe_task(name)
