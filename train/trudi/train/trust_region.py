"""The trust region: the KL divergence between two policies' whole denoising trajectories.

Rolling a chain under p and accumulating, at its states, the KL between p's and q's Gaussian steps gives KL(p || q) of the
trajectories in expectation. By the data-processing inequality it bounds the KL of the action distributions
(TruDi, arXiv 2606.15260).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trudi.train.errors import TrainError
from trudi.train.policy import Chain, Noise, Policy

KlForm = Literal["full", "simplified"]


@dataclass(frozen=True)
class TrustRegionCfg:
    """How far one iteration may move the policy."""

    bound: float = 0.1
    """eps: largest trajectory KL per state, in nats (good from 0.1 to 0.4; 0.01 too tight, 50 too loose)."""
    kl: KlForm = "full"
    """`full` Gaussian KL, or the authors' `simplified` squared distance of means, which ignores the change of scale."""
    direction: Literal["forward", "reverse", "none"] = "forward"
    """`forward` KL(old || new) on chains of the old policy; `reverse` KL(new || old) on the actor's own chain; `none`: there
    is no trust region, as an ablation (the KL is measured all the same). `--trust-region none` for short."""
    chains: Literal["collected", "fresh"] = "collected"
    """`collected`: the chain that acted in the simulator, itself a sample of the old policy. `fresh`: new ones."""
    chains_per_state: int = 1
    """K chains per state, averaged. More than one needs `chains: fresh`."""

    def __post_init__(self) -> None:
        if not self.bound > 0.0:
            raise TrainError(f"trust_region.bound is {self.bound}; it must be positive")
        if self.chains_per_state < 1:
            raise TrainError(f"trust_region.chains_per_state is {self.chains_per_state}; it must be at least 1")
        if self.chains_per_state > 1 and (self.chains == "collected" or self.direction != "forward"):
            raise TrainError("trust_region.chains_per_state > 1 needs trust_region.chains=fresh and direction=forward")


def gaussian_kl(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
    """KL( Normal(mean_p, std_p^2) || Normal(mean_q, std_q^2) ), elementwise."""
    return torch.log(std_q / std_p) + (std_p.square() + (mean_p - mean_q).square()) / (2.0 * std_q.square()) - 0.5


def trajectory_kl(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor, form: KlForm = "full") -> Tensor:
    """sum_k sum_i of the step KLs along chains of p (batch,).

    Means are (N, batch, actions), and standard deviations broadcast with them. The simplified form is
    sum (mean_p - mean_q)^2 / (2 std_p^2).
    """
    if form == "simplified":
        return ((mean_p - mean_q).square() / (2.0 * std_p.square())).sum((0, -1))
    return gaussian_kl(mean_p, std_p, mean_q, std_q).sum((0, -1))


def forward_kl(
    new: Policy, observation: Tensor, states: Tensor, old_means: Tensor, old_stds: Tensor, form: KlForm
) -> Tensor:
    """KL(old || new) along K chains per state rolled under the old policy, averaged (batch,); differentiable in `new`.

    `observation` is (batch, observations), `states` x_0 .. x_{N-1} and `old_means` are (batch, K, N, actions); `old_stds`
    broadcasts with them.
    """
    batch, chains = states.shape[:2]
    along = (states, old_means, old_stds.expand_as(old_means))
    flat_states, flat_means, flat_stds = (tensor.flatten(0, 1).transpose(0, 1) for tensor in along)
    repeated = observation if chains == 1 else observation.repeat_interleave(chains, dim=0)
    kl = trajectory_kl(flat_means, flat_stds, *new.kernels(repeated, flat_states), form)
    return kl.view(batch, chains).mean(1)


@torch.no_grad()
def fresh_chains(old: Policy, observation: Tensor, noise: Noise, chains_per_state: int) -> tuple[Tensor, Tensor, Tensor]:
    """K new chains of the old policy for every state: x_0 .. x_{N-1}, means and deviations, each (batch, K, N, actions).

    `noise` is for batch * K chains, the K of one state side by side.
    """
    chain = old.sample(observation.repeat_interleave(chains_per_state, dim=0), noise)
    shape = (len(observation), chains_per_state, *chain.means.transpose(0, 1).shape[1:])
    states, means, stds = (tensor.transpose(0, 1).reshape(shape) for tensor in (chain.states[:-1], chain.means, chain.stds))
    return states, means, stds


def reverse_kl(old: Policy, observation: Tensor, chain: Chain, form: KlForm) -> Tensor:
    """KL(new || old) along a chain of the new policy (batch,), pathwise: the states carry gradients too."""
    return trajectory_kl(chain.means, chain.stds, *old.kernels(observation, chain.states[:-1]), form)
