"""Measuring a policy: whole episodes under one of its samplers, each with its own seed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from scipy import stats
from torch import Tensor

from trudi.train.agent import Agent
from trudi.train.envs.base import Observation, Restartable, VectorEnv
from trudi.train.errors import TrainError

Sampler = Literal["ode", "sde", "best", "zero"]
Act = Callable[[Observation], Tensor]


class Acting(Protocol):
    """What can be measured without being an `Agent`: the networks of an algorithm that is not this package's own."""

    def make_act(self, sampler: Sampler, generator: torch.Generator) -> Act:
        """`make_act` for it; TrainError where it has no such sampler."""
        ...


ACTION_JUMP = 1.0
"""Change of an action's element from one tick to the next, in [-1, 1], that counts as a jump: half of the range."""


@dataclass(frozen=True)
class EvalCfg:
    """How a run is measured while it trains."""

    every: int = 25
    """Iterations between evaluations; 0 evaluates only at the end."""
    episodes: int = 10
    """Episodes per evaluation, all in parallel, with the same seeds every time."""
    sampler: Sampler = "ode"
    """`ode` from seeded random latents, `zero` from the zero latent, `sde`, or the `best` of several by the critic."""
    best_of: int = 8
    """Candidates of the `best` sampler."""
    seed: int = 1_000_000
    """Seed of the first evaluation episode, away from the training seeds."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.episodes < 1 or self.best_of < 1:
            raise TrainError("evaluation.every may not be negative; evaluation.episodes and best_of must be at least 1")


@dataclass(frozen=True)
class EvalResult:
    """Undiscounted returns and lengths of the episodes, in seed order."""

    returns: Tensor
    lengths: Tensor
    variation_per_s: Tensor | None = None
    """Total variation of the action in each episode: |a_{t+1} - a_t|, averaged over elements, per simulated second (1/s)."""
    jumps_per_s: Tensor | None = None
    """Ticks per simulated second at which an element of the action changed by more than `ACTION_JUMP` (1/s)."""

    @classmethod
    def joined(cls, parts: Sequence[EvalResult]) -> EvalResult:
        """Several of them as one, in order; steadiness where all have it."""

        def cat(tensors: list[Tensor | None]) -> Tensor | None:
            present = [one for one in tensors if one is not None]
            return torch.cat(present) if len(present) == len(parts) else None

        return cls(
            torch.cat([one.returns for one in parts]),
            torch.cat([one.lengths for one in parts]),
            cat([one.variation_per_s for one in parts]),
            cat([one.jumps_per_s for one in parts]),
        )

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Sample standard deviation of the return (0 for one episode)."""
        return float(self.returns.std()) if len(self.returns) > 1 else 0.0

    def metrics(self) -> dict[str, float]:
        """What a run's log says of it."""
        metrics = {"eval/return_mean": self.mean, "eval/return_std": self.std}
        if self.variation_per_s is not None:
            variation, jumps = self.steadiness()
            metrics |= {"eval/action_variation_per_s": variation, "eval/action_jumps_per_s": jumps}
        return metrics

    def steadiness(self) -> tuple[float, float]:
        """Mean over episodes of the action's variation and jumps per second (NaN where they were not measured)."""
        measured = (self.variation_per_s, self.jumps_per_s)
        variation, jumps = (float("nan") if one is None else float(one.mean()) for one in measured)
        return variation, jumps

    def confidence_interval(self, seed: int = 0) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean return (percentile method, 10,000 resamples)."""
        if len(self.returns) < 2 or self.std == 0.0:
            return self.mean, self.mean
        result = stats.bootstrap(
            (self.returns.double().cpu().numpy(),),
            lambda sample, axis: sample.mean(axis=axis),
            n_resamples=10_000,
            method="percentile",
            rng=seed,
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)


def make_act(agent: Agent | Acting, sampler: Sampler, best_of: int, generator: torch.Generator) -> Act:
    """How the sampler turns observations into actions in [-1, 1]."""
    if not isinstance(agent, Agent):
        return agent.make_act(sampler, generator)
    policy = agent.policy

    def ode(observation: Observation, latent: Tensor) -> Tensor:
        return policy.sample_ode(agent.actor_norm(observation.actor), latent)[0]

    def act(observation: Observation) -> Tensor:
        batch = len(observation.actor)
        if sampler == "zero":
            return ode(observation, observation.actor.new_zeros(batch, policy.action_size))
        if sampler == "ode":
            return ode(observation, policy.draw_latent(batch, generator))
        seen = agent.normalize(observation)
        candidates = best_of if sampler == "best" else 1
        chain = policy.sample(seen.actor.repeat(candidates, 1), policy.draw_noise(candidates * batch, generator))
        if candidates == 1:
            return chain.action
        value = agent.critic(seen.critic.repeat(candidates, 1), chain.action).view(candidates, batch)
        action = chain.action.view(candidates, batch, -1)
        return action[value.argmax(0), torch.arange(batch, device=action.device)]

    return act


@torch.no_grad()
def run_episodes(env: VectorEnv, act: Act, on_step: Callable[[Observation, Tensor], None] | None = None) -> EvalResult:
    """One episode in each environment of `env`, which is closed afterwards.

    `on_step` sees each observation with the actions (envs, actions) taken there.
    """
    try:
        observation = env.reset()
        returns = torch.zeros(env.num_envs, device=env.device)
        lengths = torch.zeros(env.num_envs, device=env.device)
        running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        variation, jumps = torch.zeros_like(returns), torch.zeros_like(returns)
        before: Tensor | None = None
        while bool(running.any()):
            action = act(observation)
            if on_step is not None:
                on_step(observation, action)
            step = env.step(action)
            if before is not None:
                change = (action - before).abs()
                variation += change.mean(-1) * running
                jumps += (change.amax(-1) > ACTION_JUMP) & running
            before = action
            returns += step.reward * running
            lengths += running
            running &= ~step.ended
            observation = step.observation
    finally:
        env.close()
    seconds = lengths * env.control_period_s
    return EvalResult(returns.cpu(), lengths.cpu(), (variation / seconds).cpu(), (jumps / seconds).cpu())


class _Lent:
    """An environment whose `close` leaves it open."""

    def __init__(self, env: VectorEnv) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def close(self) -> None:
        """Nothing."""


@contextmanager
def borrowed(env: VectorEnv, seed: int) -> Generator[VectorEnv]:
    """Training's simulator, started over for an evaluation; it must be started over again afterwards.

    Its curriculum stands where it stood when the block ends. TrainError where it cannot be started over.
    """
    if not isinstance(env, Restartable):
        raise TrainError(f"{env.task} cannot be started over, so training's simulator cannot serve for evaluations")
    before = env.state()
    env.restart(seed, stagger=False)
    try:
        yield cast("VectorEnv", _Lent(env))
    finally:
        env.restore(before)


def evaluate(agent: Agent | Acting, env: VectorEnv, cfg: EvalCfg) -> EvalResult:
    """Measures `agent` on a fresh, unstaggered `env` of `cfg.episodes` environments; draws from its own generator."""
    generator = torch.Generator(device=env.device).manual_seed(cfg.seed)
    return run_episodes(env, make_act(agent, cfg.sampler, cfg.best_of, generator))
