"""Cloning: states as the clone meets them (DAgger, Ross et al. 2011), and the fit of its whole denoising chain.

The fit minimises what TruDi's actor minimises, with the given policy's log-density in the place of Q, both before tanh:

    E[ alpha log_prob(chain) + |x_N - m(s)|^2 / (2 sigma(s)^2) ]      chain ~ the clone's SDE at s

At alpha = 1 this is a bound of KL(clone || Normal(m, sigma^2)). The bound is loose, so its minimum is
wider than sigma, and the ODE ends away from m. So alpha is a multiplier, as in
training: it falls until E|x_N - m|^2 / sigma^2 is 1 an action, and is never above 1. The SDE is then as noisy as asked, for
exploration, and the ODE, the same drift without noise, ends near m, for deployment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trudi.train.agent import Agent
from trudi.train.envs.base import Observation, VectorEnv
from trudi.train.init.given import Given
from trudi.train.policy import Noise, Policy, tanh_log_det

FIRST_ALPHA, LEAST_ALPHA = 0.5, 0.02
ALPHA_RATE = 0.05
"""Change of log alpha in a step, for a distance that is twice what it should be."""
MOST_EXCESS = 0.5
"""What counts of a distance beyond that: at first it is a hundredfold."""


@dataclass(frozen=True)
class Visit:
    """T steps of M environments and what the given policy would do there, all (T x M, ...)."""

    raw: Observation
    """Before normalisation."""
    action: Tensor
    """The given policy's, without noise, in [-1, 1]."""
    mean: Tensor
    """Before tanh."""
    std: Tensor
    """Before tanh."""
    clipped: Tensor
    """Whether the action reaches the bounds."""


class Visitor:
    """Steps a simulator, the first environments driven by the given policy with its noise, the others by the clone's SDE."""

    def __init__(self, env: VectorEnv, agent: Agent, given: Given, generator: torch.Generator) -> None:
        self._env, self._agent, self._given, self._generator = env, agent, given, generator
        self._raw = env.reset()

    @torch.no_grad()
    def visit(self, steps: int, given_share: float) -> Visit:
        """`steps` transitions of every environment; the given policy drives the given share of them."""
        driven = round(given_share * self._env.num_envs)
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(steps):
            raw = self._raw
            action, mean, std = self._given.gaussian(raw.actor)
            unit = torch.randn(mean.shape, generator=self._generator, device=mean.device, dtype=mean.dtype)
            noisy = torch.tanh(mean + std * unit)
            rows.append((raw.actor, raw.critic, action, mean, std, action.abs() >= 1.0))
            self._raw = self._env.step(torch.cat([noisy[:driven], self._own(raw.actor[driven:])])).observation
        actor, critic, *others = (torch.cat(column) for column in zip(*rows, strict=True))
        return Visit(Observation(actor, critic), *others)

    def _own(self, raw: Tensor) -> Tensor:
        policy = self._agent.policy
        if len(raw) == 0:
            return raw.new_zeros(0, policy.action_size)
        return policy.sample(self._agent.actor_norm(raw), policy.draw_noise(len(raw), self._generator)).action


@dataclass(frozen=True)
class Fitted:
    """One chain a state, held against the given policy, before tanh."""

    log_prob: Tensor
    """Of x_N (batch,); as `Chain.log_prob`, a bound."""
    distance: Tensor
    """((x_N - m) / sigma)^2 (batch, actions)."""

    @classmethod
    def sample(cls, policy: Policy, observation: Tensor, mean: Tensor, std: Tensor, noise: Noise) -> Fitted:
        """At normalised observations (batch, observations); `mean` and `std` are the given policy's (batch, actions)."""
        chain = policy.sample(observation, noise)
        last = chain.states[-1]
        return cls(chain.log_prob + tanh_log_det(last), ((last - mean) / std).square())


class Fit:
    """Gradient steps that make a policy the clone of Gaussians."""

    def __init__(self, policy: Policy, max_grad_norm: float) -> None:
        self._policy, self._max_grad_norm = policy, max_grad_norm
        self._parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, fused=True)
        self._log_alpha: Tensor = self._parameters[0].new_tensor(math.log(FIRST_ALPHA))

    def step(self, observation: Tensor, mean: Tensor, std: Tensor, noise: Noise, learning_rate: float) -> Tensor:
        """One of them, on samples as `Fitted.sample` takes them; returns the loss before it ()."""
        fitted = Fitted.sample(self._policy, observation, mean, std, noise)
        loss = (self._log_alpha.exp() * fitted.log_prob + 0.5 * fitted.distance.sum(-1)).mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        excess = (fitted.distance.detach().mean() - 1.0).clamp_max(MOST_EXCESS)
        self._log_alpha = (self._log_alpha - ALPHA_RATE * excess).clamp(math.log(LEAST_ALPHA), 0.0)
        return loss.detach()
