"""Collecting one iteration's data: T steps of M environments under the policy's SDE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trudi.train.agent import Agent
from trudi.train.envs.base import EpisodeStats, Observation, VectorEnv
from trudi.train.policy import Chain
from trudi.train.targets import soft_lambda_returns


@dataclass(frozen=True)
class Batch:
    """Samples for the update, all (samples, ...). Observations are normalised as they were when collected."""

    observation: Observation
    action: Tensor
    """(samples, actions)."""
    states: Tensor
    """x_0 .. x_{N-1} of the chain that acted (samples, N, actions)."""
    means: Tensor
    """The acting policy's mu_k at those states (samples, N, actions)."""
    stds: Tensor
    """Standard deviations of its steps there (samples, N, actions)."""
    target: Tensor
    """Soft lambda-return (samples,)."""
    next_features: Tensor
    """The critic encoder's features of (s', a') (samples, critic width)."""
    weight: Tensor
    """1 for samples the critic learns from, 0 where the true next observation is unknown (samples,)."""

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        return Batch(
            self.observation[index],
            self.action[index],
            self.states[index],
            self.means[index],
            self.stds[index],
            self.target[index],
            self.next_features[index],
            self.weight[index],
        )


@dataclass(frozen=True)
class Rollout:
    """T steps of M environments; leading axes (T, M). Row t holds s_t, the chain that acted, and what came of it."""

    observation: Observation
    raw: Observation
    """The same observations before normalisation, for the running statistics."""
    action: Tensor
    states: Tensor
    """(T, M, N, actions)."""
    means: Tensor
    """(T, M, N, actions)."""
    stds: Tensor
    """(T, M, N, actions)."""
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    next_critic: Tensor
    """The critic's view of the true next observation s' (T, M, critic observations)."""
    next_action: Tensor
    """a' ~ pi(. | s') (T, M, actions)."""
    next_log_prob: Tensor
    known: Tensor
    """False where s' is unknown: an episode ended in a simulator without terminal observations (T, M)."""
    episodes: EpisodeStats

    @torch.no_grad()
    def to_batch(self, agent: Agent, gamma: float, lam: float) -> Batch:
        """Computes the targets and flattens (T, M) to samples."""
        value, features = agent.critic.evaluate(self.next_critic.flatten(0, 1), self.next_action.flatten(0, 1))
        target = soft_lambda_returns(
            self.reward,
            value.view_as(self.reward),
            self.next_log_prob,
            self.terminated,
            self.truncated,
            self.known,
            alpha=agent.duals.alpha,
            gamma=gamma,
            lam=lam,
        )
        observation = Observation(self.observation.actor.flatten(0, 1), self.observation.critic.flatten(0, 1))
        return Batch(
            observation,
            self.action.flatten(0, 1),
            self.states.flatten(0, 1),
            self.means.flatten(0, 1),
            self.stds.flatten(0, 1),
            target.flatten(),
            features,
            self.known.flatten().to(target.dtype),
        )


class Collector:
    """Steps a simulator with the policy; holds what one rollout hands to the next: the present observation."""

    def __init__(self, env: VectorEnv, agent: Agent, generator: torch.Generator) -> None:
        self._env, self._agent, self._generator = env, agent, generator
        self._raw = env.reset()

    @torch.no_grad()
    def collect(self, steps: int) -> Rollout:
        """T = `steps` transitions of every environment.

        The action sampled at the next observation serves as a' for this step's target and acts in the next step: one
        chain a step. Only ended episodes need another one, at their terminal observation.
        """
        agent = self._agent
        rows: list[dict[str, Tensor]] = []
        returns: list[Tensor] = []
        lengths: list[Tensor] = []
        seen = agent.normalize(self._raw)
        chain = self._sample(seen.actor)
        for _ in range(steps):
            step = self._env.step(chain.action)
            next_seen = agent.normalize(step.observation)
            next_chain = self._sample(next_seen.actor)
            row = {
                "raw_actor": self._raw.actor,
                "raw_critic": self._raw.critic,
                "actor": seen.actor,
                "critic": seen.critic,
                "action": chain.action,
                "states": chain.states[:-1].transpose(0, 1),
                "means": chain.means.transpose(0, 1),
                "stds": chain.stds.transpose(0, 1),
                "reward": step.reward,
                "terminated": step.terminated,
                "truncated": step.truncated,
                "next_critic": next_seen.critic,
                "next_action": next_chain.action,
                "next_log_prob": next_chain.log_prob,
                "known": torch.ones_like(step.terminated),
            }
            if len(step.episodes.returns) or bool(step.ended.any()):
                self._bootstrap_ends(row, step.ended, step.terminal)
            rows.append(row)
            returns.append(step.episodes.returns)
            lengths.append(step.episodes.lengths)
            self._raw, seen, chain = step.observation, next_seen, next_chain
        data = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        return Rollout(
            observation=Observation(data.pop("actor"), data.pop("critic")),
            raw=Observation(data.pop("raw_actor"), data.pop("raw_critic")),
            episodes=EpisodeStats(torch.cat(returns), torch.cat(lengths)),
            **data,
        )

    def _sample(self, observation: Tensor) -> Chain:
        policy = self._agent.policy
        return policy.sample(observation, policy.draw_noise(len(observation), self._generator))

    def _bootstrap_ends(self, row: dict[str, Tensor], ended: Tensor, terminal: Observation | None) -> None:
        """Puts the true last observation and an action sampled there where the next episode's first ones stand."""
        index = ended.nonzero().squeeze(-1)
        if terminal is None:
            row["known"] = row["known"].index_fill(0, index, False)
            return
        seen = self._agent.normalize(terminal)
        chain = self._sample(seen.actor)
        row["next_critic"] = row["next_critic"].index_copy(0, index, seen.critic)
        row["next_action"] = row["next_action"].index_copy(0, index, chain.action)
        row["next_log_prob"] = row["next_log_prob"].index_copy(0, index, chain.log_prob)
