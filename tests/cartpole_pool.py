"""One MDP behind two simulators: a cart-pole in episodes of half a second, where much depends on what follows an end.

`CartPolePool` speaks EnvPool's protocol; `OVERRIDES` make the same MDP of Isaac Lab's `Isaac-Cartpole-v0`
(`isaac_signatures`). Both kinds of ends are frequent: 30 steps of time, and a cart beyond 1.8 m for good. Catching the pole
takes longer than that and starts are far from upright, so the value of a start says nothing of the value where time ran out.

`FirstAsTerminal` and `CartPolePool(keeps_reset_step=True)` are wrong on purpose: the two mistakes that adapters prevent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as Spaces
from isaac_signatures.cartpole_dynamics import CartPoleTask
from numpy.typing import NDArray
from torch import Tensor

from trudi.train.envs import envpool
from trudi.train.envs.base import StepResult, VectorEnv
from trudi.train.envs.manager_based import ManagerBasedEnv

NAME = "ClosedFormCartpole-v1"
EPISODE_STEPS = 30

Starts = Callable[[Tensor], Tensor]
"""Indices of environments (n,) -> the states in which their next episodes start (n, 4)."""


@dataclass(frozen=True)
class ShortTask(CartPoleTask):
    """Wider starts, half the force, a nearer end, and a reward that is positive, so that nobody gains by an early end."""

    episode_steps: int = EPISODE_STEPS
    force_n: float = 50.0
    cart_bound_m: float = 1.8
    alive: float = 10.0
    start_position: tuple[float, float] = (1.7, 1.5)
    start_velocity: tuple[float, float] = (2.0, 1.0)

    def initial(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        unit = torch.rand(2, count, 2, generator=generator) * 2.0 - 1.0
        return unit[0] * torch.tensor(self.start_position), unit[1] * torch.tensor(self.start_velocity)

    def reward(self, position: Tensor, velocity: Tensor, terminated: Tensor) -> Tensor:
        """Term by term as Isaac Lab adds them, so that the sum is the same to the last bit."""
        ended = terminated.float()
        angle = torch.remainder(position[:, 1] + math.pi, 2.0 * math.pi) - math.pi
        terms = (
            ((~terminated).float(), self.alive),
            (ended, -2.0),
            (angle.square(), -1.0),
            (velocity[:, 0].abs(), -0.01),
            (velocity[:, 1].abs(), -0.005),
        )
        total = torch.zeros_like(ended)
        for value, weight in terms:
            total += value * weight * self.step_dt
        return total


TASK = ShortTask()

OVERRIDES = (
    f"episode_length_s={TASK.episode_steps * TASK.step_dt}",
    f"actions.joint_effort.scale={TASK.force_n}",
    f"rewards.alive.weight={TASK.alive}",
    f"terminations.cart_out_of_bounds.params.bounds=[-{TASK.cart_bound_m}, {TASK.cart_bound_m}]",
    *(
        f"events.reset_{joint}_position.params.{kind}_range=[-{bound}, {bound}]"
        for kind, bounds in (("position", TASK.start_position), ("velocity", TASK.start_velocity))
        for joint, bound in zip(("cart", "pole"), bounds, strict=True)
    ),
)
"""`sim.overrides` that make this MDP of Isaac Lab's cart-pole."""


class CartPolePool:
    """EnvPool's protocol: a step after an end ignores its action, repeats the last reward and returns the next start.

    `keeps_reset_step`: resets of single environments wait for that step, so that it enters the data.
    """

    def __init__(
        self,
        num_envs: int,
        seed: int,
        task: ShortTask = TASK,
        *,
        starts: Starts | None = None,
        keeps_reset_step: bool = False,
    ) -> None:
        self._task, self._starts = task, starts or self._drawn
        self._keeps_reset_step = keeps_reset_step
        self._generator = torch.Generator().manual_seed(seed)
        self.observation_space = Spaces({"position": Box(-np.inf, np.inf, (2,)), "velocity": Box(-np.inf, np.inf, (2,))})
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.spec = SimpleNamespace(config=SimpleNamespace(ctrl_dt=task.step_dt, max_episode_steps=task.episode_steps))
        self._state = torch.zeros(num_envs, 4)
        self._steps = torch.zeros(num_envs, dtype=torch.long)
        self._reward = torch.zeros(num_envs)
        self._ended = torch.ones(num_envs, dtype=torch.bool)

    def reset(self, env_id: NDArray[Any] | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        index = torch.arange(len(self._state)) if env_id is None else torch.from_numpy(env_id).long()
        if self._keeps_reset_step and env_id is not None:
            self._ended[index] = True
        else:
            self._start(index)
        return self._observe(index), {}

    def step(self, action: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], NDArray[Any], NDArray[Any], NDArray[Any], Any]:
        task, resets = self._task, self._ended.clone()
        raw = (torch.from_numpy(action) + 1.0) - 1.0  # rounded as the other side rounds from [-1, 1] to raw actions
        position, velocity = task.step(self._state[:, :2], self._state[:, 2:], raw)
        terminated = task.terminated(position) & ~resets
        truncated = (self._steps + 1 >= task.episode_steps) & ~terminated & ~resets
        self._reward = torch.where(resets, self._reward, task.reward(position, velocity, terminated))
        self._state = torch.where(resets[:, None], self._state, task.observe(position, velocity))
        self._steps += 1
        if bool(resets.any()):
            self._start(resets.nonzero().squeeze(-1))
        self._ended = terminated | truncated
        return self._observe(slice(None)), self._reward.numpy(), terminated.numpy(), truncated.numpy(), {}

    def close(self) -> None:
        """Nothing."""

    def _start(self, index: Tensor) -> None:
        self._state[index] = self._starts(index)
        self._steps[index] = 0
        self._ended[index] = False

    def _drawn(self, index: Tensor) -> Tensor:
        return torch.cat(self._task.initial(len(index), self._generator), dim=-1)

    def _observe(self, rows: Tensor | slice) -> dict[str, NDArray[Any]]:
        state = self._state[rows].double().numpy()  # float64, as EnvPool's
        return {"position": state[:, :2], "velocity": state[:, 2:]}


class FirstAsTerminal:
    """An environment whose terminal observations are the first ones of the next episodes."""

    def __init__(self, env: VectorEnv) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, action: Tensor) -> StepResult:
        result = self._env.step(action)
        return replace(result, terminal=result.observation[result.ended.nonzero().squeeze(-1)])


@contextmanager
def known_to_envpool(
    task: ShortTask = TASK, *, starts: Starts | None = None, keeps_reset_step: bool = False
) -> Generator[None]:
    """`envpool:ClosedFormCartpole-v1` is a task, and nothing else is."""

    def make_pool(name: str, num_envs: int, seed: int, num_threads: int = 0, **options: Any) -> CartPolePool:
        assert name == NAME and not options
        return CartPolePool(num_envs, seed, task, starts=starts, keeps_reset_step=keeps_reset_step)

    with mock.patch.object(envpool, "make_pool", make_pool):
        yield


@contextmanager
def without_final_observations() -> Generator[None]:
    """Isaac Lab's adapter as where a simulator cannot say what was seen before a reset."""
    isaaclab = import_module("trudi.train.envs.isaaclab")

    def make(*args: Any, **options: Any) -> ManagerBasedEnv:
        return ManagerBasedEnv(*args, **{**options, "final_observation": lambda extras: None})

    with mock.patch.object(isaaclab, "ManagerBasedEnv", make):
        yield
