"""States that the student gets into, each with what the teacher does there (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from trudi.train.agent import Agent
from trudi.train.distill.settings import Latent
from trudi.train.envs.base import EpisodeStats, Observation, VectorEnv
from trudi.train.policy import DenoisingPolicy

KEYS = ("actor", "critic", "latent", "label")


@dataclass(frozen=True)
class Labelled:
    """Samples of one or more iterations, all (samples, ...)."""

    observation: Observation
    """Normalised by the teacher's statistics, which stay as they are."""
    latent: Tensor
    """x_0 of teacher and student (samples, actions)."""
    label: Tensor
    """The teacher's x_N, before tanh, by its ODE in all of its steps (samples, actions)."""

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Tensor | slice) -> Labelled:
        return Labelled(self.observation[index], self.latent[index], self.label[index])

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds them."""
        values = (self.observation.actor, self.observation.critic, self.latent, self.label)
        return dict(zip(KEYS, values, strict=True))

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Labelled:
        """From a checkpoint; observations that were one tensor are one again."""
        actor, critic, latent, label = (tensors[key] for key in KEYS)
        same = critic.shape == actor.shape and torch.equal(critic, actor)
        return cls(Observation(actor, actor if same else critic), latent, label)


class Memory:
    """The samples of the last iterations."""

    def __init__(self, iterations: int) -> None:
        self._parts: deque[Labelled] = deque(maxlen=iterations)

    def add(self, part: Labelled) -> Labelled:
        """Adds an iteration's samples, at the cost of the oldest; returns all that are kept."""
        self._parts.append(part)
        return _joined(list(self._parts))

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds them: iterations side by side on the first axis."""
        if not self._parts:
            return {}
        parts = [part.tensors() for part in self._parts]
        return {f"memory.{key}": torch.stack([part[key] for part in parts]) for key in KEYS}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts `tensors` back."""
        self._parts.clear()
        if f"memory.{KEYS[0]}" in tensors:
            for rows in zip(*(tensors[f"memory.{key}"] for key in KEYS), strict=True):
                self._parts.append(Labelled.of(dict(zip(KEYS, rows, strict=True))))


def _joined(parts: list[Labelled]) -> Labelled:
    actor = torch.cat([part.observation.actor for part in parts])
    same = all(part.observation.critic is part.observation.actor for part in parts)
    critic = actor if same else torch.cat([part.observation.critic for part in parts])
    latent, label = (torch.cat([getattr(part, name) for part in parts]) for name in ("latent", "label"))
    return Labelled(Observation(actor, critic), latent, label)


@dataclass(frozen=True)
class Visit:
    """T steps of M environments."""

    samples: Labelled
    """Time after time, environments side by side (T x M, ...)."""
    raw: Observation
    """The observations before normalisation (T, M, ...)."""
    reward: Tensor
    """(T, M)."""
    gap: Tensor
    """Student's action less the teacher's in the environments that the student drove (visited, actions)."""
    episodes: EpisodeStats


class Labeller:
    """Steps a simulator, the first environments driven by the teacher and the others by the student; `action_noise` is the
    standard deviation of what is added to the last one's actions (DistillCfg)."""

    def __init__(
        self,
        env: VectorEnv,
        agent: Agent,
        teacher: DenoisingPolicy,
        latent: Latent,
        generator: torch.Generator,
        action_noise: float = 0.0,
    ) -> None:
        self._env, self._agent, self._teacher = env, agent, teacher
        self._latent, self._generator = latent, generator
        self._raw = env.reset()
        self._noise = torch.linspace(0.0, action_noise, env.num_envs, device=self._raw.actor.device)[:, None]

    @torch.no_grad()
    def visit(self, steps: int, teacher_share: float) -> Visit:
        """`steps` transitions of every environment; the teacher drives the given share of them."""
        agent, env = self._agent, self._env
        driven = round(teacher_share * env.num_envs)
        samples: list[Labelled] = []
        raw: list[Observation] = []
        gaps: list[Tensor] = []
        rewards: list[Tensor] = []
        episodes: list[EpisodeStats] = []
        for _ in range(steps):
            seen = agent.normalize(self._raw)
            latent = self._draw(seen.actor)
            wanted, states = self._teacher.sample_ode(seen.actor, latent)
            own, _ = agent.policy.sample_ode(seen.actor, latent)
            step = env.step(self._stirred(torch.cat([wanted[:driven], own[driven:]])))
            samples.append(Labelled(seen, latent, states[-1]))
            raw.append(self._raw)
            gaps.append((own - wanted)[driven:])
            rewards.append(step.reward)
            episodes.append(step.episodes)
            self._raw = step.observation
        return Visit(
            samples=_joined(samples),
            raw=Observation(torch.stack([one.actor for one in raw]), torch.stack([one.critic for one in raw])),
            reward=torch.stack(rewards),
            gap=torch.cat(gaps),
            episodes=EpisodeStats(
                torch.cat([one.returns for one in episodes]), torch.cat([one.lengths for one in episodes])
            ),
        )

    def _stirred(self, action: Tensor) -> Tensor:
        if not self._noise.any():
            return action
        noise = torch.randn(action.shape, generator=self._generator, device=action.device)
        return (action + self._noise * noise).clamp(-1.0, 1.0)

    def _draw(self, observation: Tensor) -> Tensor:
        policy = self._teacher
        if self._latent == "zero":
            return observation.new_zeros(len(observation), policy.action_size)
        return policy.draw_latent(len(observation), self._generator)
