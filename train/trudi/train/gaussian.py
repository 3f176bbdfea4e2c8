"""The tanh-Gaussian policy of REPPO (arXiv 2507.11019), as the baseline that differs from TruDi in the policy alone.

    a = tanh(x_1)      x_1 = mu(s) + sigma(s) eps      sigma(s) = sigma_min + exp(l(s))

It is a chain of one Gaussian step that does not depend on where it starts, so the trajectory KL is the closed-form KL of the
two Gaussians (tanh does not change it) and the log-density is exact. The network is built as the score network is, with the
observation as its only input and two numbers for each action.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from trudi.train.errors import TrainError
from trudi.train.policy import OUTPUT_WEIGHT_SCALE, Chain, Noise, Policy, PolicyCfg, Spacing, tanh_log_det


class GaussianNetwork(nn.Module):
    """mu(s) and l(s): Linear, GELU, then (Linear, LayerNorm, GELU) for each middle layer, then Linear."""

    def __init__(self, cfg: PolicyCfg, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(observation_size, cfg.width)
        self.middle = nn.ModuleList(nn.Linear(cfg.width, cfg.width) for _ in range(cfg.layers - 2))
        self.norms = nn.ModuleList(nn.LayerNorm(cfg.width) for _ in range(cfg.layers - 2))
        self.out = nn.Linear(cfg.width, 2 * action_size)
        with torch.no_grad():  # Starts as the same Gaussian everywhere: mean 0, standard deviation 1 + min_std.
            self.out.weight.mul_(OUTPUT_WEIGHT_SCALE)
            self.out.bias.zero_()

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.gelu(self.input(observation))
        for layer, norm in zip(self.middle, self.norms, strict=True):
            h = functional.gelu(norm(layer(h)))
        mean, log_std = self.out(h).chunk(2, dim=-1)
        return mean, log_std


class GaussianPolicy(Policy):
    """pi(a | s) = tanh of a Gaussian whose mean and standard deviation the network gives. Its latent is always 0."""

    def __init__(self, cfg: PolicyCfg, observation_size: int, action_size: int) -> None:
        super().__init__(dataclasses.replace(cfg, steps=1), observation_size, action_size)
        self.network = GaussianNetwork(cfg, observation_size, action_size)

    def draw_latent(self, batch: int, generator: torch.Generator) -> Tensor:
        """Zeros (batch, actions): there is no prior to draw from."""
        return self.network.out.bias.new_zeros(batch, self.action_size)

    def draw_noise(self, batch: int, generator: torch.Generator) -> Noise:
        like = self.network.out.bias
        shape = (1, batch, self.action_size)
        unit = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        return Noise(latent=self.draw_latent(batch, generator), steps=unit)

    def gaussian(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before tanh, each (batch, actions)."""
        mean, log_std = self.network(observation)
        return mean, self.cfg.min_std + torch.exp(log_std)

    def sample(self, observation: Tensor, noise: Noise) -> Chain:
        """One action for each observation; `run_cost` is log pi(a | s) itself, and `terminal` 0."""
        mean, std = self.gaussian(observation)
        last = mean + std * noise.steps[0]
        log_normal = -0.5 * noise.steps[0].square() - torch.log(std) - 0.5 * math.log(2.0 * math.pi)
        return Chain(
            states=torch.stack([noise.latent, last]),
            means=mean[None],
            stds=std[None],
            action=torch.tanh(last),
            run_cost=log_normal.sum(-1) - tanh_log_det(last),
            terminal=torch.zeros_like(last[:, 0]),
        )

    def sample_ode(
        self, observation: Tensor, latent: Tensor, steps: int | None = None, spacing: Spacing = "schedule"
    ) -> tuple[Tensor, Tensor]:
        """tanh of the mean, whatever the latent."""
        if steps not in (None, 1):
            raise TrainError(f"a Gaussian policy has one step, not {steps}")
        mean, _ = self.gaussian(observation)
        return torch.tanh(mean), torch.stack([latent, mean])

    def kernels(self, observation: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.gaussian(observation)
        return mean[None], std[None]
