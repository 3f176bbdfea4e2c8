"""What the training loop needs from a vectorised simulator: one small protocol, whatever simulates behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from trudi.train.errors import TrainError


@dataclass(frozen=True)
class SimCfg:
    """What a user may tell a simulator beyond the task's name. None leaves a choice to the adapter."""

    action_bound: float | None = None
    """Largest raw action where the simulator does not bound its actions (Isaac Lab, mjlab): the policy's [-1, 1] becomes
    [-bound, bound], before the action term's own scale."""

    overrides: tuple[str, ...] = ()
    """KEY=VALUE settings of the task's own configuration, such as `episode_length_s=10`."""
    training_overrides: tuple[str, ...] = ()
    """The same, for what the policy learns from alone: a reward or a range of commands that is easier to begin with.
    Evaluations and everything after training have the task as it is."""
    final_overrides: tuple[str, ...] = ()
    """Where numbers of `training_overrides` end: they move there evenly over `final_span`, a step at each checkpoint
    (`save_every`), when the simulator starts over. What is learned first is easier, what is learned last is what counts."""
    final_span: tuple[float, float] = (0.0, 1.0)
    """Shares of the run at which `final_overrides` begin to be approached, and are reached."""
    imports: tuple[str, ...] = ()
    """Packages to import first: those that register tasks of your own (not EnvPool)."""
    render: bool = False
    """Whether the simulator prepares to draw frames (Isaac Lab, mjlab); `--video` sets it."""

    def __post_init__(self) -> None:
        if self.action_bound is not None and not 0.0 < self.action_bound < float("inf"):
            raise TrainError(f"sim.action_bound is {self.action_bound}; it must be positive and finite")
        begin, end = self.final_span
        if not 0.0 <= begin < end <= 1.0:
            raise TrainError(f"sim.final_span is {begin} to {end}; it is a part of the run, such as 0.2 to 0.8")
        starts = dict(_number(one) for one in self.training_overrides)
        for key, value in map(_number, self.final_overrides):
            if value is None or starts.get(key) is None:
                raise TrainError(
                    f"sim.final_overrides: {key} needs a number here and in sim.training_overrides, to start from"
                )

    def at(self, progress: float) -> SimCfg:
        """The same with `training_overrides` as they are at `progress` in [0, 1] of the run, which then stay so."""
        begin, end = self.final_span
        share = min(max((progress - begin) / (end - begin), 0.0), 1.0)
        finals = dict(map(_number, self.final_overrides))
        now: list[str] = []
        for one in self.training_overrides:
            key, start = _number(one)
            final = finals.get(key)
            now.append(one if start is None or final is None else f"{key}={start + share * (final - start)}")
        return replace(self, training_overrides=tuple(now), final_overrides=())

    def for_training(self, progress: float = 0.0) -> SimCfg:
        """What training's own simulator is made with at `progress` in [0, 1] of the run."""
        now = self.at(progress)
        return replace(now, overrides=(*now.overrides, *now.training_overrides), training_overrides=())

    def refuse(self, backend: str, *, but: Collection[str] = ()) -> None:
        """TrainError where something is set, in the name of a simulator that takes none of it, `but` some."""
        if self.action_bound is not None:
            raise TrainError(f"sim.action_bound is for simulators without bounds; {backend}'s tasks have their own")
        for name in ("overrides", "imports"):
            if getattr(self, name) and name not in but:
                raise TrainError(f"sim.{name} is for simulators with tasks of Python; {backend} has no use for it")
        if self.render:
            raise TrainError(f"{backend} draws nothing while it trains; `trudi eval RUN --video FILE` films EnvPool's runs")


def _number(override: str) -> tuple[str, float | None]:
    """Key and value of KEY=VALUE; None for a value that is no number."""
    key, _, text = override.partition("=")
    try:
        return key, float(text)
    except ValueError:
        return key, None


@dataclass(frozen=True)
class Observation:
    """What actor and critic see; the same tensor twice where a task gives the critic nothing more."""

    actor: Tensor
    """(envs, actor observations), float32."""
    critic: Tensor
    """(envs, critic observations), float32."""

    def __getitem__(self, index: Tensor | slice) -> Observation:
        actor = self.actor[index]
        return Observation(actor, actor if self.critic is self.actor else self.critic[index])


@dataclass(frozen=True)
class EpisodeStats:
    """The episodes that ended in one step. Episodes cut short to stagger their starts are left out."""

    returns: Tensor
    """Undiscounted sum of rewards (episodes,)."""
    lengths: Tensor
    """Steps taken (episodes,)."""


@dataclass(frozen=True)
class StepResult:
    """One step of all environments, on the training device. Nothing here is written to by a later step.

    | field         | of env i, when its episode goes on | when it ended in this step                 |
    |---------------|------------------------------------|--------------------------------------------|
    | `observation` | after the step                     | the first one of the next episode          |
    | `terminal`    | (row absent)                       | the true last one, the row `ended.nonzero` |
    """

    observation: Observation
    reward: Tensor
    """(envs,), float32."""
    terminated: Tensor
    """The task's own end: nothing follows, no bootstrap (envs,), bool."""
    truncated: Tensor
    """Cut by a time limit: the value of the terminal observation follows (envs,), bool. Never with `terminated`."""
    terminal: Observation | None
    """Last observations of the ended episodes, in the order of `(terminated | truncated).nonzero()`; None where the
    simulator cannot give them: those steps are then left out of the critic's loss."""
    episodes: EpisodeStats

    @property
    def ended(self) -> Tensor:
        """(envs,), bool."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class TaskInfo:
    """What `trudi tasks` says of a task."""

    task: str
    actor: dict[str, int]
    """Actor observation: key -> size, in the order they are concatenated."""
    critic: dict[str, int]
    """Critic observation: key -> size, in the order they are concatenated."""
    action_size: int
    control_period_s: float
    max_episode_steps: int


class VectorEnv(Protocol):
    """A vectorised simulator. Actions are in [-1, 1]; tensors live on `device`.

    `trudi.train.envs.conformance` checks everything that is said here.
    """

    task: str
    """The task as the user names it, `backend:name`."""
    num_envs: int
    device: torch.device
    actor_size: int
    critic_size: int
    action_size: int
    control_period_s: float
    """Simulated seconds per step."""
    max_episode_steps: int
    info: TaskInfo
    """The task's sizes and the order of its observations."""
    notes: Sequence[str]
    """What a user should know of how the simulator is used, a line each; `trudi train` prints them."""
    exceptions: Mapping[str, str]
    """Checks of the conformance suite that this simulator cannot pass, by name, each with the reason."""

    def reset(self) -> Observation:
        """Starts every environment's first episode; called once, before the first step."""
        ...

    def step(self, action: Tensor) -> StepResult:
        """Steps all environments by one action each (envs, actions); an ended one starts its next episode."""
        ...

    def robot_file(self, control_steps: int) -> str | None:
        """The task's robot file (docs/robots.md) as YAML, where the simulator can tell it.

        `control_steps` is how many steps each environment takes in the whole training.
        """
        ...

    def log(self) -> dict[str, float]:
        """What the simulator has reported since the last call (terms of the reward, curriculum), averaged; often nothing."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What outlives an episode and steers the task (curriculum, commands), for checkpoints; often nothing."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts a `state` back, after `reset`; TrainError where it is another task's."""
        ...

    def close(self) -> None:
        """Frees the simulator; closing twice is allowed."""
        ...


@runtime_checkable
class Restartable(Protocol):
    """A `VectorEnv` that can be started over."""

    def restart(self, seed: int, *, stagger: bool = True) -> None:
        """Draws from `seed` from now on; the next `reset` starts first episodes. What `state` says goes on."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A `VectorEnv` whose simulator takes raw actions, which the policy's [-1, 1] stand for."""

    action_low: Tensor
    """Raw actions that -1 stands for (actions,)."""
    action_high: Tensor
    """Raw actions that 1 stands for (actions,)."""


class Stateless:
    """What `VectorEnv` asks of a simulator that passes every check, reports nothing and carries nothing between episodes."""

    notes: Sequence[str] = ()
    exceptions: Mapping[str, str] = {}

    def robot_file(self, control_steps: int) -> str | None:
        """None."""
        return None

    def log(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes nothing."""
        if state:
            raise TrainError(f"the simulator's state in the checkpoint ({', '.join(sorted(state))}) is another task's")


class EpisodeTracker:
    """Sums reward and counts steps of every environment's current episode."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._returns = torch.zeros(num_envs, device=device)
        self._lengths = torch.zeros(num_envs, device=device)
        self._none = EpisodeStats(torch.empty(0, device=device), torch.empty(0, device=device))

    def step(self, reward: Tensor, ended: Tensor, counted: Tensor) -> EpisodeStats:
        """Adds one step; returns the episodes that `ended`, those alone for which `counted` holds (all (envs,))."""
        self._returns += reward
        self._lengths += 1
        if not bool(ended.any()):
            return self._none
        stats = EpisodeStats(self._returns[ended & counted], self._lengths[ended & counted])
        self._returns[ended] = 0.0
        self._lengths[ended] = 0.0
        return stats
