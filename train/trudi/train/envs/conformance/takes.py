"""One run of a simulator, as copies of all that it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor

from trudi.train.envs.base import Observation, StepResult, TaskInfo


@dataclass(frozen=True)
class End:
    """An episode that ended."""

    step: int
    env: int
    length: int
    """Its steps, counted from outside."""
    kind: Literal["terminated", "truncated", "cut"]
    """`cut`: a first episode that was truncated early, in a run with staggered starts."""


@dataclass(frozen=True)
class Take:
    """What T steps of N environments gave, as copies on the CPU."""

    info: TaskInfo
    exceptions: Mapping[str, str]
    stagger: bool
    first: Observation
    steps: list[StepResult]
    state: dict[str, Tensor]
    """The simulator's, after the last step."""
    layout: dict[str, str]
    """The first fault of sizes, dtypes and devices each, by the name of the check."""
    broken: bool
    """The run stopped, since what was returned cannot be compared at all."""
    changed: str
    """The first returned tensor that did not stay as it was."""
    action_changed: str
    """The first action that a step wrote to."""
    logs: tuple[dict[str, float], dict[str, float]]
    """What it reported at the end of the run, and when it was asked again at once."""
    error: str = ""
    """What it raised, where that is no reason to give up."""

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def seen(self) -> Tensor:
        """Observations (T + 1, N, actor + critic): the first ones, then those that each step returned."""
        return torch.stack([rows(self.first), *(rows(step.observation) for step in self.steps)])

    @cached_property
    def reward(self) -> Tensor:
        """(T, N)."""
        return torch.stack([step.reward for step in self.steps])

    @cached_property
    def terminated(self) -> Tensor:
        """(T, N)."""
        return torch.stack([step.terminated for step in self.steps])

    @cached_property
    def truncated(self) -> Tensor:
        """(T, N)."""
        return torch.stack([step.truncated for step in self.steps])

    @property
    def ended(self) -> Tensor:
        """(T, N)."""
        return self.terminated | self.truncated

    @cached_property
    def ends(self) -> list[End]:
        """Every end, by step and then by environment."""
        age, is_first = [0] * self.reward.shape[1], [True] * self.reward.shape[1]
        found: list[End] = []
        for t, step in enumerate(self.steps):
            age = [steps + 1 for steps in age]
            for env in ended_envs(step):
                found.append(End(t, env, age[env], self._kind(step, env, age[env], is_first[env])))
                age[env], is_first[env] = 0, False
        return found

    def ends_at(self, step: int) -> list[End]:
        """Those of one step, by environment."""
        return self._ends_by_step.get(step, [])

    @cached_property
    def _ends_by_step(self) -> dict[int, list[End]]:
        by_step: dict[int, list[End]] = {}
        for end in self.ends:
            by_step.setdefault(end.step, []).append(end)
        return by_step

    @cached_property
    def terminal(self) -> dict[tuple[int, int], Tensor]:
        """Terminal observations (actor + critic,) by step and environment, where a row for every end was given."""
        given: dict[tuple[int, int], Tensor] = {}
        for t, step in enumerate(self.steps):
            envs = ended_envs(step)
            if step.terminal is not None and len(step.terminal.actor) == len(envs):
                given |= {(t, env): row for env, row in zip(envs, rows(step.terminal), strict=True)}
        return given

    def _kind(self, step: StepResult, env: int, length: int, is_first: bool) -> Literal["terminated", "truncated", "cut"]:
        if bool(step.terminated[env]):
            return "terminated"
        return "cut" if self.stagger and is_first and length < self.info.max_episode_steps else "truncated"


def rows(observation: Observation) -> Tensor:
    """Actor and critic observations side by side (envs, actor + critic)."""
    return torch.cat([observation.actor, observation.critic], dim=-1)


def ended_envs(step: StepResult) -> list[int]:
    """The environments whose episode ended, in order."""
    return cast("list[int]", step.ended.nonzero().flatten().tolist())


def place(end: End) -> str:
    """Where it was, in words."""
    return f"step {end.step}, environment {end.env} ({end.kind})"
