"""Behaviour entropy: of how many ways that succeed a policy uses how evenly, as D3IL (arXiv 2402.14606) measures it.

For each context c (a start, the same for many rollouts) and ways b = 1 .. B, from the successful rollouts alone:

    H(c) = -sum_b p(b | c) log_B p(b | c)      p(b | c) the share of way b among them      H = mean_c H(c)

0: one way in every context, whichever. 1: all ways equally often in every context. A context without a success says nothing
about ways: its entropy is NaN, and it is left out of the mean. Frequencies of n rollouts are uneven by chance, so H comes
out low, by about (B - 1) / (2 n ln B) where the true entropy is near 1: 0.011 for two ways and 64 rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trudi.train.envs.base import VectorEnv
from trudi.train.errors import TrainError
from trudi.train.evaluation import Act

RESAMPLES = 10_000

Floats = NDArray[np.float64]


def context_entropies(way: NDArray[np.int64], success: NDArray[np.bool_], ways: int) -> Floats:
    """H(c) of every context (contexts,), in [0, 1], NaN without a success.

    `way` (contexts, rollouts) counts from 0 to `ways` - 1 where `success` (the same shape) holds; elsewhere it is ignored.
    TrainError for fewer than two ways, other shapes and other numbers.
    """
    if ways < 2 or way.ndim != 2 or way.shape != success.shape:
        raise TrainError(f"{ways} ways of {way.shape} rollouts with {success.shape} successes; at least 2, and equal shapes")
    counted = way[success]
    if ((counted < 0) | (counted >= ways)).any():
        raise TrainError(f"ways from {counted.min()} to {counted.max()}; they count from 0 to {ways - 1}")
    taken = (way[..., None] == np.arange(ways)) & success[..., None]  # (contexts, rollouts, ways)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = taken.sum(1) / success.sum(1)[:, None]
        terms = np.where(share == 0.0, 0.0, share * np.log(share))  # 0 log 0 = 0
    return -terms.sum(1) / np.log(ways) + 0.0  # not -0.0


@dataclass(frozen=True)
class Behaviour:
    """How often a policy succeeds, and in which ways."""

    entropy: float
    """Mean over contexts; NaN where none has a success."""
    interval: tuple[float, float]
    """95 % bootstrap interval of it over contexts (percentile method)."""
    pooled: float
    """The entropy of all contexts' rollouts together: above `entropy` where the way depends on the context."""
    shares: tuple[float, ...]
    """Of each way, among all successes; NaN without one."""
    success_rate: float
    contexts: int
    """That had a success, and count."""


def behaviour(way: NDArray[np.int64], success: NDArray[np.bool_], ways: int, seed: int = 0) -> Behaviour:
    """Measures rollouts (contexts, rollouts), as `context_entropies` takes them; `seed` is the bootstrap's."""
    every = context_entropies(way, success, ways)
    known = every[~np.isnan(every)]
    low = high = entropy = float("nan")
    if len(known):
        drawn = np.random.default_rng(seed).integers(len(known), size=(RESAMPLES, len(known)))
        low, high = (float(end) for end in np.percentile(known[drawn].mean(1), (2.5, 97.5)))
        entropy = float(known.mean())
    (pooled,) = context_entropies(way.reshape(1, -1), success.reshape(1, -1), ways)
    counts = [int(((way == one) & success).sum()) for one in range(ways)]
    shares = tuple(count / sum(counts) if len(known) else float("nan") for count in counts)
    return Behaviour(entropy, (low, high), float(pooled), shares, float(success.mean()), len(known))


@dataclass(frozen=True)
class Paths:
    """Whole episodes, one of each environment."""

    observations: Floats
    """What the actor saw, from the first observation to the terminal one, which stays (steps + 1, envs, size)."""
    actions: Floats
    """What it did there; nothing (0) after its end (steps, envs, actions)."""
    returns: Floats
    """Undiscounted (envs,)."""


@torch.no_grad()
def follow(env: VectorEnv, act: Act) -> Paths:
    """The first episode of every environment of an unstaggered `env`, which is closed afterwards.

    TrainError where the simulator does not give terminal observations: only its end shows whether a path succeeded.
    """
    try:
        observation = env.reset()
        running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        returns = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
        seen: list[Tensor] = [observation.actor]
        actions: list[Tensor] = []
        while bool(running.any()):
            actions.append(act(observation))
            step = env.step(actions[-1])
            actions[-1] = actions[-1] * running[:, None]
            returns += step.reward * running
            reached = step.observation.actor
            if bool(step.ended.any()):
                if step.terminal is None:
                    raise TrainError(f"{env.task} does not give terminal observations, which a path ends with")
                reached = reached.index_copy(0, step.ended.nonzero().squeeze(-1), step.terminal.actor)
            seen.append(torch.where(running[:, None], reached, seen[-1]))
            running &= ~step.ended
            observation = step.observation
    finally:
        env.close()
    observed, done = (torch.stack(each).double().cpu().numpy() for each in (seen, actions))
    return Paths(observed, done, returns.cpu().numpy())
