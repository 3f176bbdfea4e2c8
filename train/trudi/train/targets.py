"""Soft lambda-returns: the critic's regression targets (algorithm: REPPO, arXiv 2507.11019)."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_lambda_returns(
    reward: Tensor,
    next_value: Tensor,
    next_log_prob: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    known: Tensor | None = None,
    *,
    alpha: Tensor | float,
    gamma: float,
    lam: float,
) -> Tensor:
    """G_t of a rollout; every tensor is (time, envs).

        r~_t = r_t - (1 - terminated_t) gamma alpha log_prob(a'_t)
        G_t  = r~_t + gamma (1 - terminated_t) * ( V'_t                              at a truncation and at the last step
                                                   lam G_{t+1} + (1 - lam) V'_t      otherwise )

    `next_value` V' and `next_log_prob` belong to (s', a') with s' the TRUE next observation: the terminal one where an
    episode ended. Entropy counts once, at weight 1, and never after a true terminal.

    Where s' is not `known` (all are by default), V' is another state's. After a terminal it does not count; the G_t of a
    truncation is then wrong and for nobody's use, and the step before it ends with its own V', as at the rollout's end.
    """
    alive = (~terminated).to(reward.dtype)
    soft_reward = reward - alive * gamma * alpha * next_log_prob
    bootstrap = gamma * alive * next_value
    # Where an episode goes on, a share lam of the bootstrap is replaced by the next return.
    carry = torch.where(terminated | truncated, torch.zeros_like(reward), torch.full_like(reward, lam))
    carry[-1] = 0.0
    if known is not None:
        carry[:-1].masked_fill_((truncated & ~terminated & ~known)[1:], 0.0)
    returns = torch.empty_like(reward)
    following = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        following = soft_reward[t] + (1.0 - carry[t]) * bootstrap[t] + carry[t] * gamma * following
        returns[t] = following
    return returns
