"""The paper's tasks, by suite: what stands for each here, with which preset, and how certain the list is.

A suite is a file of `configs/suites/`. Nothing here imports a simulator.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from trudi.train.config import parse_values, presets, presets_folder, read_yaml
from trudi.train.envs.registry import BACKENDS
from trudi.train.errors import TrainError, near_matches

PAPER = "paper"
PAPER_SUITES = ("dmc", "playground", "maniskill", "humanoidbench", "isaaclab")
PAPER_TASKS = 73  # on four benchmarks (arXiv 2606.15260, abstract); the first two suites are one of them

Availability = Literal["installed", "not installed", "no adapter", "no package"]


@dataclass(frozen=True)
class Candidate:
    """A task of one of our backends that stands for a paper's."""

    task: str
    """`backend:name`."""
    available: Availability
    install: str | None
    """How to get its simulator, where that is what is missing."""


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite."""

    name: str
    """What the paper calls it."""
    suite: str
    preset: str
    """The algorithm preset with the authors' settings for the suite."""
    certain: bool
    """Whether it is known to be in the paper's list."""
    candidates: tuple[str, ...] = ()
    """`backend:name` in order of preference, the paper's own simulator first; none where there is nothing to install."""
    episode_steps: int | None = None
    """Length of an episode, where the overrides follow from it."""
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of this task beyond its preset's, nested as in a preset."""
    note: str = ""
    """What a reader must know of this task alone."""

    @property
    def options(self) -> list[str]:
        """The overrides as options of `trudi train`."""
        return as_options(self.overrides)

    def here(self) -> list[Candidate]:
        """The candidates, in order of preference, each with whether it can be run here."""
        return [_candidate(task) for task in self.candidates]

    def chosen(self) -> Candidate | None:
        """The first candidate that is installed, else the first that can be, else the first; None where there is none."""
        order: tuple[Availability, ...] = ("installed", "not installed", "no adapter")
        return min(self.here(), key=lambda candidate: order.index(candidate.available), default=None)

    def command(self, task: str) -> str:
        """The command line that trains `task`, one of the candidates, with the authors' settings."""
        return shlex.join(["trudi", "train", task, "--config", self.preset, *self.options])


@dataclass(frozen=True)
class Suite:
    """A suite of the paper."""

    title: str
    preset: str
    certain: bool
    """Of its tasks that do not say otherwise."""
    source: str
    """Where the list of tasks is from."""
    tasks: dict[str, dict[str, Any]]
    """What each task says beyond the suite, by the paper's name of it."""
    candidates: tuple[str, ...] = ()
    """Of its tasks that do not say otherwise; `{name}` becomes the task's name."""
    note: str = ""
    """What a reader of the list must know."""
    stand_in: str = ""
    """How candidates after the first differ from the paper's simulator."""


def suites() -> dict[str, Path]:
    """All suites' files by name."""
    return {path.stem: path for path in sorted((presets_folder() / "suites").glob("*.yaml"))}


def suite_names(name: str) -> tuple[str, ...]:
    """The suites that a user means: all of the paper, or one; TrainError names near matches."""
    if name == PAPER:
        return PAPER_SUITES
    if name not in (known := suites()):
        raise TrainError(f"unknown suite '{name}'; {near_matches(name, [PAPER, *known])}")
    return (name,)


def load_suite(name: str) -> tuple[Suite, list[SuiteTask]]:
    """A suite and its tasks, in the file's order; TrainError says what is wrong with the file."""
    path = suites()[name]
    suite = parse_values(Suite, read_yaml(path), str(path))
    if suite.preset not in (known := presets()):
        raise TrainError(f"{path}: no preset '{suite.preset}'; {near_matches(suite.preset, known)}")
    return suite, [_task(name, suite, key, own, f"{path}: tasks.{key}") for key, own in suite.tasks.items()]


def _task(suite_name: str, suite: Suite, name: str, own: dict[str, Any], where: str) -> SuiteTask:
    values = {"suite": suite_name, "name": name, "preset": suite.preset, "certain": suite.certain} | own
    task = parse_values(SuiteTask, {"candidates": suite.candidates} | values, where)
    return replace(task, candidates=tuple(text.replace("{name}", name) for text in task.candidates))


def _candidate(task: str) -> Candidate:
    backend = BACKENDS.get(task.partition(":")[0])
    if backend is None:
        return Candidate(task, "no adapter", None)
    if backend.is_installed:
        return Candidate(task, "installed", None)
    return Candidate(task, "not installed", backend.install)


def as_options(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings nested as in a preset, as options of `trudi train`."""
    options: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            options += as_options(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            words = cast("list[object]", value) if isinstance(value, list) else [value]
            options += [f"--{prefix}{key}".replace("_", "-"), *map(str, words)]
    return options
