"""How far observations move in a step: tells a true terminal observation from another episode's, without a second run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from trudi.train.envs.conformance.takes import End, Take

CAP = 10.0
"""Mean changes that one element counts for at most, so that one that hardly ever changes does not decide alone."""


@dataclass(frozen=True)
class Jumps:
    """Sizes of steps of one run, as multiples of the mean step: |o' - o| / scale, averaged over elements.

    `scale` is the mean |o' - o| of an element over ordinary steps, which neither end an episode nor follow an end.
    """

    ordinary: Tensor
    """Of ordinary steps (count,)."""
    terminal: dict[End, float]
    """To the terminal observation, of whichever row fits best among those of the same step."""
    reset: dict[End, float]
    """To the observation that was returned, the next episode's first."""
    following: dict[End, float]
    """From there to the next one."""
    in_order: float
    """Sum over steps in which several episodes ended, of the jumps to the rows as they were given."""
    best_order: float
    """The same, of the rows in the order that fits best."""

    @property
    def has_order(self) -> bool:
        """Whether a step showed in which order rows come."""
        return self.in_order > 0.0

    @property
    def usual(self) -> float:
        """What hardly any ordinary step exceeds: the 99 % quantile."""
        return float(self.ordinary.quantile(0.99))


def jumps(take: Take) -> Jumps:
    """Measures a run."""
    seen = take.seen.nan_to_num()
    change = seen[1:] - seen[:-1]  # (T, N, D)
    is_ordinary = ~take.ended
    is_ordinary[1:] &= ~take.ended[:-1]
    # In double precision: the mean of many small changes.
    scale = change[is_ordinary].double().abs().mean(0).float() + 1e-6 * (1.0 + seen.abs().amax((0, 1)))

    def size(moved: Tensor) -> Tensor:
        return (moved.abs() / scale).clamp_max(CAP).mean(-1)

    terminal: dict[End, float] = {}
    in_order = best_order = 0.0
    for t in sorted({step for step, _ in take.terminal}):
        ends = take.ends_at(t)
        envs = [end.env for end in ends]
        given = torch.stack([take.terminal[t, env] for env in envs]).nan_to_num()
        cost = size(given[None] - seen[t, envs][:, None])  # (ended envs, rows)
        fit = linear_sum_assignment(cost.numpy())[1]
        best = cost[torch.arange(len(envs)), torch.from_numpy(np.asarray(fit))]
        terminal |= dict(zip(ends, best.tolist(), strict=True))
        if len(envs) > 1:
            in_order += float(cost.diagonal().sum())
            best_order += float(best.sum())
    reset = {end: float(size(change[end.step, end.env])) for end in take.ends}
    going_on = [end for end in take.ends if end.step + 1 < len(take) and not bool(take.ended[end.step + 1, end.env])]
    following = {end: float(size(change[end.step + 1, end.env])) for end in going_on}
    return Jumps(size(change[is_ordinary]), terminal, reset, following, in_order, best_order)
