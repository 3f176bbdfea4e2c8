"""Policies as chains of Gaussian steps, and the denoising one: a fixed-step chain from Gaussian noise to an action.

Time inside one action (not simulation time): step k = 0 .. N-1 turns x_k into x_{k+1}.

    x_0 ~ Normal(0, sigma0^2)      x_{k+1} = x_k + eta_k (-x_k / sigma0^2 + u(x_k, s, k)) + sqrt(2 eta_k) eps_k
    a = tanh(x_N)

Sources: TruDi (arXiv 2606.15260) for the chain and its trajectory KL, DIME (arXiv 2502.02316) for the log-density bound.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trudi.train.errors import TrainError

COSINE_OFFSET = 0.008
COSINE_FLOOR = 0.001
FREQUENCY_RANGE = (0.1, 100.0)
OUTPUT_WEIGHT_SCALE = 1e-8

Spacing = Literal["schedule", "uniform"]


@dataclass(frozen=True)
class PolicyCfg:
    """Shape and starting point of the denoising policy."""

    steps: int = 8
    """Denoising steps N. The paper's ablation: 1 fails, 4 is worse, 8 saturates."""
    init_std: float = 2.5
    """Standard deviation sigma0 of the prior over latent actions."""
    width: int = 128
    """Units of each hidden layer of the score network (the authors' GPU runs: 512)."""
    layers: int = 3
    """Linear layers of the score network, the output layer included."""
    frequencies: int = 32
    """Fourier frequencies of the step embedding; it has twice as many features."""
    time_width: int = 32
    """Hidden units of the step embedding."""
    time_embedding: int = 16
    """Size of the step embedding e_k."""
    friction: float = 1.0
    """Friction at the start; the step size is dt / friction, one friction per action dimension."""
    learn_friction: bool = True
    """Whether friction is learned."""
    friction_min: float = 0.0
    """Floor under the learned friction; 0 leaves it free."""
    learn_dt: Literal["no", "shared", "per-step"] = "no"
    """Whether the time increment dt is learned, as one number or one per step (the authors' DMC runs)."""
    min_std: float = 0.1
    """`--algo reppo` alone, which of these takes width and layers: floor under the standard deviation before tanh."""

    def __post_init__(self) -> None:
        for name in ("steps", "width", "frequencies", "time_width", "time_embedding"):
            if getattr(self, name) < 1:
                raise TrainError(f"policy.{name} is {getattr(self, name)}; it must be at least 1")
        if self.layers < 2:
            raise TrainError(f"policy.layers is {self.layers}; a score network has at least 2 (input and output)")
        if self.min_std < 0.0:
            raise TrainError(f"policy.min_std is {self.min_std}; it may not be negative")
        if not self.init_std > 0.0 or not self.friction > self.friction_min >= 0.0:
            raise TrainError("policy.init_std and policy.friction must be positive, and friction_min below friction")


@dataclass(frozen=True)
class Noise:
    """The random numbers of one chain."""

    latent: Tensor
    """x_0, already scaled by sigma0 (batch, actions)."""
    steps: Tensor
    """eps_k, unit variance (N, batch, actions)."""

    def __getitem__(self, rows: Tensor | slice) -> Noise:
        return Noise(self.latent[rows], self.steps[:, rows])


@dataclass(frozen=True)
class Chain:
    """One sampled denoising trajectory per state."""

    states: Tensor
    """x_0 .. x_N (N + 1, batch, actions)."""
    means: Tensor
    """mu_k(x_k, s), the mean of the step that left x_k (N, batch, actions)."""
    stds: Tensor
    """Standard deviation of that step (N, batch, actions)."""
    action: Tensor
    """tanh(x_N), in (-1, 1) (batch, actions)."""
    run_cost: Tensor
    """log_prob without the prior's term (batch,)."""
    terminal: Tensor
    """log Normal(x_0; 0, sigma0^2 I) (batch,)."""

    @property
    def log_prob(self) -> Tensor:
        """An upper bound, in expectation, of log pi(a | s) (batch,)."""
        return self.run_cost + self.terminal


@dataclass(frozen=True)
class StepSizes:
    """The chain's coefficients, one row a step."""

    eta: Tensor
    """dt_k / friction (N, actions)."""
    decay: Tensor
    """1 - eta / sigma0^2, the prior's pull towards 0 (N, actions)."""
    std: Tensor
    """sqrt(2 eta), the standard deviation of a step (N, actions)."""


def inverse_softplus(value: float) -> float:
    """The x with softplus(x) = value, for value > 0."""
    return value + math.log(-math.expm1(-value))


def cosine_schedule(steps: int) -> Tensor:
    """c(k) for k = 0 .. steps-1: late steps are small, so noise shrinks as the action forms (steps,)."""
    t = (steps - torch.arange(steps, dtype=torch.float64)) / steps
    cosine = torch.cos(0.5 * math.pi * (1.0 + COSINE_OFFSET - t) / (1.0 + COSINE_OFFSET))
    return (1.0 - COSINE_FLOOR) * cosine.square() + COSINE_FLOOR


def tanh_log_det(x: Tensor) -> Tensor:
    """sum_i log(1 - tanh(x_i)^2) over the last axis, in the softplus form that stays finite for large |x|."""
    return (2.0 * (math.log(2.0) - x - functional.softplus(-2.0 * x))).sum(-1)


class StepEmbedding(nn.Module):
    """e_k: Fourier features of the step index k through a small network (N, time_embedding)."""

    frequency: Tensor

    def __init__(self, cfg: PolicyCfg) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.linspace(*FREQUENCY_RANGE, cfg.frequencies))
        self.phase = nn.Parameter(torch.zeros(cfg.frequencies))
        self.hidden = nn.Linear(2 * cfg.frequencies, cfg.time_width)
        self.out = nn.Linear(cfg.time_width, cfg.time_embedding)

    def forward(self, steps: int) -> Tensor:
        k = torch.arange(steps, dtype=self.phase.dtype, device=self.phase.device)
        angle = k[:, None] * self.frequency + self.phase
        features = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
        return self.out(functional.gelu(self.hidden(features)))


class ScoreNetwork(nn.Module):
    """u(x, s, k): Linear, GELU, then (Linear, LayerNorm, GELU) for each middle layer, then Linear.

    The first layer is linear in [x, s, e_k], so its observation part is the same for all N steps and its step part is a
    constant table: `condition` computes both once a chain.
    """

    def __init__(self, cfg: PolicyCfg, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.steps = cfg.steps
        self.sizes = [action_size, observation_size, cfg.time_embedding]
        self.embedding = StepEmbedding(cfg)
        self.input = nn.Linear(sum(self.sizes), cfg.width)
        self.middle = nn.ModuleList(nn.Linear(cfg.width, cfg.width) for _ in range(cfg.layers - 2))
        self.norms = nn.ModuleList(nn.LayerNorm(cfg.width) for _ in range(cfg.layers - 2))
        self.out = nn.Linear(cfg.width, action_size)
        with torch.no_grad():  # The first policy is the prior, and its first trajectory KL is exactly 0.
            self.out.weight.mul_(OUTPUT_WEIGHT_SCALE)
            self.out.bias.zero_()

    def condition(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What all steps share: (x weights (width, actions), observation part (batch, width), step table (N, width))."""
        weight_x, weight_s, weight_e = self.input.weight.split(self.sizes, dim=1)
        shared = functional.linear(observation, weight_s, self.input.bias)
        return weight_x, shared, self.embedding(self.steps) @ weight_e.T

    def forward(self, x: Tensor, weight_x: Tensor, rest: Tensor) -> Tensor:
        """u for latents x (batch, actions), given the first layer's x weights and the rest of its sum (batch, width)."""
        h = functional.gelu(torch.addmm(rest, x, weight_x.T))
        for layer, norm in zip(self.middle, self.norms, strict=True):
            h = functional.gelu(norm(layer(h)))
        return self.out(h)


class Policy(nn.Module, ABC):
    """A policy pi(a | s) as a chain of N Gaussian steps, a = tanh(x_N). Observations are normalised ones.

    What training needs to know of a policy; its trust region and its loss ask for nothing else.
    """

    def __init__(self, cfg: PolicyCfg, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.observation_size = observation_size
        self.action_size = action_size

    @abstractmethod
    def draw_latent(self, batch: int, generator: torch.Generator) -> Tensor:
        """Prior samples x_0 (batch, actions), on the generator's device."""

    @abstractmethod
    def draw_noise(self, batch: int, generator: torch.Generator) -> Noise:
        """Fresh noise for `batch` chains, on the generator's device."""

    @abstractmethod
    def sample(self, observation: Tensor, noise: Noise) -> Chain:
        """The chain for each observation (batch, observations); gradients flow through all of it (pathwise)."""

    @abstractmethod
    def sample_ode(
        self, observation: Tensor, latent: Tensor, steps: int | None = None, spacing: Spacing = "schedule"
    ) -> tuple[Tensor, Tensor]:
        """The deterministic policy from x_0 = latent: the action (batch, actions) and the states x_0 .. x_N."""

    @abstractmethod
    def kernels(self, observation: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The steps that leave given states x_0 .. x_{N-1} (N, batch, actions).

        Their means (N, batch, actions), and standard deviations that broadcast with them.
        """


class DenoisingPolicy(Policy):
    """A diffusion policy pi(a | s) as a chain of N Gaussian steps."""

    schedule: Tensor

    def __init__(self, cfg: PolicyCfg, observation_size: int, action_size: int) -> None:
        super().__init__(cfg, observation_size, action_size)
        self.score = ScoreNetwork(cfg, observation_size, action_size)
        start = torch.full((action_size,), inverse_softplus(cfg.friction - cfg.friction_min))
        self.raw_friction = nn.Parameter(start, requires_grad=cfg.learn_friction)
        dt_count = cfg.steps if cfg.learn_dt == "per-step" else 1
        raw_dt = torch.full((dt_count,), inverse_softplus(1.0 / cfg.steps))
        self.raw_dt = nn.Parameter(raw_dt, requires_grad=cfg.learn_dt != "no")
        self.register_buffer("schedule", cosine_schedule(cfg.steps).to(torch.get_default_dtype()))

    @property
    def friction(self) -> Tensor:
        """Friction of each action dimension (actions,)."""
        return self.cfg.friction_min + functional.softplus(self.raw_friction)

    def step_sizes(self) -> StepSizes:
        """eta_k = softplus(dt) c(k) / friction, and what follows from it."""
        dt = functional.softplus(self.raw_dt) * self.schedule
        eta = dt[:, None] / self.friction
        return StepSizes(eta=eta, decay=1.0 - eta / self.cfg.init_std**2, std=torch.sqrt(2.0 * eta))

    def draw_latent(self, batch: int, generator: torch.Generator) -> Tensor:
        """Prior samples x_0 (batch, actions), on the generator's device."""
        like = self.raw_friction
        unit = torch.randn((batch, self.action_size), generator=generator, device=like.device, dtype=like.dtype)
        return self.cfg.init_std * unit

    def draw_noise(self, batch: int, generator: torch.Generator) -> Noise:
        """Fresh noise for `batch` chains, on the generator's device."""
        like = self.raw_friction
        shape = (self.cfg.steps + 1, batch, self.action_size)
        unit = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        return Noise(latent=self.cfg.init_std * unit[0], steps=unit[1:])

    def sample(self, observation: Tensor, noise: Noise) -> Chain:
        """The SDE chain for each observation (batch, observations); gradients flow through all of it (pathwise)."""
        sizes = self.step_sizes()
        weight_x, shared, table = self.score.condition(observation)
        shocks = sizes.std[:, None] * noise.steps  # (N, batch, actions)
        states, means = [noise.latent], []
        for k in range(self.cfg.steps):
            u = self.score(states[k], weight_x, shared + table[k])
            means.append(sizes.decay[k] * states[k] + sizes.eta[k] * u)
            states.append(means[k] + shocks[k])
        return self._finish(torch.stack(states), torch.stack(means), sizes, noise)

    def _finish(self, states: Tensor, means: Tensor, sizes: StepSizes, noise: Noise) -> Chain:
        """The log-density of a finished chain.

        log_w = sum_k [ log b_k(x_k | x_{k+1}) - log Normal(x_{k+1}; mu_k, 2 eta_k) ] with the prior's reverse kernel b_k.
        Both Gaussians have variance 2 eta_k, so their constants cancel and the second exponent is -eps_k^2 / 2.
        """
        back = (states[:-1] - sizes.decay[:, None] * states[1:]) / sizes.std[:, None]
        log_w = 0.5 * (noise.steps.square() - back.square()).sum((0, -1))
        latent = noise.latent / self.cfg.init_std
        log_norm = math.log(self.cfg.init_std) + 0.5 * math.log(2.0 * math.pi)
        return Chain(
            states=states,
            means=means,
            stds=sizes.std[:, None].expand_as(means),
            action=torch.tanh(states[-1]),
            run_cost=-(log_w + tanh_log_det(states[-1])),
            terminal=-0.5 * latent.square().sum(-1) - self.action_size * log_norm,
        )

    def sample_ode(
        self, observation: Tensor, latent: Tensor, steps: int | None = None, spacing: Spacing = "schedule"
    ) -> tuple[Tensor, Tensor]:
        """The probability-flow ODE from x_0 = latent in `steps` steps: deterministic, for evaluation and deployment.

        Returns the action (batch, actions) and the states x_0 .. x_N (N + 1, batch, actions).
        """
        first, eta = self.ode_grid(steps, spacing)
        decay = 1.0 - eta / self.cfg.init_std**2
        weight_x, shared, table = self.score.condition(observation)
        states = [latent]
        for index, k in enumerate(first):
            u = self.score(states[index], weight_x, shared + table[k])
            states.append(decay[index] * states[index] + eta[index] * u)
        return torch.tanh(states[-1]), torch.stack(states)

    def ode_grid(self, steps: int | None = None, spacing: Spacing = "schedule") -> tuple[list[int], Tensor]:
        """The network's step index and the step size eta (steps, actions) of an ODE in `steps` steps (its own by default).

        `schedule`, the trained one: fewer steps join neighbours, with one evaluation of the network, at the first of them,
        and the sum of their step sizes; more steps split each into equal parts. TrainError where neither number divides
        the other. `uniform`: equal steps, as many as asked, each with the index of the trained step in which it begins.
        """
        trained = self.cfg.steps
        steps = trained if steps is None else steps
        eta = self.step_sizes().eta
        if spacing == "uniform" and steps >= 1:
            reached = eta[:, 0].double().cumsum(0)  # each dimension's share of its sum is the same
            starts = torch.arange(steps, dtype=torch.float64, device=eta.device) / steps * reached[-1]
            first = torch.searchsorted(reached, starts, right=True).clamp_max(trained - 1)
            return first.tolist(), eta.sum(0).expand(steps, -1) / steps
        if steps < 1 or (trained % steps and steps % trained):
            raise TrainError(f"{steps} steps do not fit a policy of {trained}: take a divisor or a multiple of {trained}")
        if steps <= trained:
            joined = trained // steps
            return list(range(0, trained, joined)), eta.view(steps, joined, -1).sum(1)
        split = steps // trained
        return [k for k in range(trained) for _ in range(split)], eta.repeat_interleave(split, dim=0) / split

    def kernels(self, observation: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.step_means(observation, states), self.step_sizes().std[:, None]

    def step_means(self, observation: Tensor, states: Tensor) -> Tensor:
        """mu_k at given states x_0 .. x_{N-1} (N, batch, actions), all steps in one pass of the network."""
        sizes = self.step_sizes()
        weight_x, shared, table = self.score.condition(observation)
        rest = (shared + table[:, None]).flatten(0, 1)
        u = self.score(states.flatten(0, 1), weight_x, rest).view_as(states)
        return sizes.decay[:, None] * states + sizes.eta[:, None] * u
