"""Recording golden cases: what the policy does in its own evaluation, and at the edges."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trudi.runtime.contract import Sampler
from trudi.runtime.golden import GoldenCases
from trudi.runtime.latents import LatentSource, fixed_latent
from trudi.train.envs.base import Observation
from trudi.train.evaluation import EvalResult, run_episodes
from trudi.train.export_view import ExportView
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy
from trudi.train.trained import TrainedRun

EVALUATION_CASES = 1024
RANDOM_EDGE_CASES = 64
EDGE_SIGMAS = 5.0


@dataclass(frozen=True)
class Reference:
    """The policy in PyTorch, in the number of steps that is exported."""

    policy: DenoisingPolicy
    norm: RunningNorm
    steps: int | None

    def act(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Actions (batch, m) for raw observations (batch, n) and latents (batch, m), in their precision."""
        policy = self.policy
        if observation.dtype != policy.raw_friction.dtype:
            policy = copy.deepcopy(policy).to(observation.dtype)
        with torch.no_grad():
            return policy.sample_ode(self.norm(observation), latent, self.steps)[0]


@dataclass(frozen=True)
class Recording:
    """Evaluation episodes under the sampler that is exported."""

    result: EvalResult
    observations: NDArray[np.float32]
    """Every observation of every episode (samples, n)."""


def latent_rows(sampler: Sampler, source: LatentSource | None, batch: int, size: int) -> NDArray[np.float64]:
    """Latents (batch, size) of the next control step: `input` noise is recorded as seeded noise would be."""
    if source is None:
        return np.broadcast_to(fixed_latent(sampler, size), (batch, size)).copy()
    rows = source.next(batch)
    assert rows is not None
    return rows.astype(np.float64)


def latent_source(sampler: Sampler, size: int) -> LatentSource | None:
    """A source of varying latents; None where they are constants of the graph."""
    if not sampler.needs_latent:
        return None
    if sampler.noise == "input":
        sampler = sampler.model_copy(update={"noise": "seeded", "seed": 0})
    return LatentSource(sampler, size)


def record_episodes(run: TrainedRun, reference: Reference, sampler: Sampler, episodes: int, seed: int) -> Recording:
    """Runs `episodes` whole episodes with PyTorch, in float32, and keeps what the policy saw."""
    size = reference.policy.action_size
    source = latent_source(sampler, size)
    seen: list[Tensor] = []

    def act(observation: Observation) -> Tensor:
        seen.append(observation.actor.clone())
        latents = latent_rows(sampler, source, len(observation.actor), size)
        return reference.act(observation.actor, torch.from_numpy(latents).to(observation.actor.dtype))

    result = run_episodes(run.episodes(episodes, seed), act)
    return Recording(result, torch.cat(seen).numpy())


def golden_cases(reference: Reference, view: ExportView, recording: Recording, sampler: Sampler) -> GoldenCases:
    """Cases spread over the recording, and edge cases, with the reference's actions in both precisions."""
    picked = np.linspace(0, len(recording.observations) - 1, EVALUATION_CASES).round().astype(int)
    observation = np.concatenate([recording.observations[np.unique(picked)], edge_cases(view)])
    source = latent_source(sampler, view.action_size)
    latent = latent_rows(sampler, source, len(observation), view.action_size)
    double = reference.act(torch.from_numpy(observation).double(), torch.from_numpy(latent)).numpy()
    single = reference.act(torch.from_numpy(observation), torch.from_numpy(latent.astype(np.float32))).numpy()
    return GoldenCases(observation, latent.astype(np.float32) if source else None, double, single)


def edge_cases(view: ExportView, seed: int = 0) -> NDArray[np.float32]:
    """Zeros, the mean, the normaliser's limits and beyond, 5 sigma on every side, and random ones at 5 sigma (cases, n)."""
    n, sigma = view.observation_size, view.observation_bound / view.clip
    offsets = [np.zeros(n), view.observation_bound, -view.observation_bound, 100.0 * view.observation_bound]
    offsets += [sign * EDGE_SIGMAS * sigma for sign in (-1.0, 1.0)]
    offsets += [sign * EDGE_SIGMAS * sigma * one for sign in (-1.0, 1.0) for one in np.eye(n)]
    random = EDGE_SIGMAS * sigma * np.random.Generator(np.random.Philox(seed)).standard_normal((RANDOM_EDGE_CASES, n))
    return np.vstack([np.zeros((1, n)), view.observation_mean + np.vstack([*offsets, random])]).astype(np.float32)
