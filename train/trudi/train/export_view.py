"""The policy as plain numbers, for building its graph in another framework.

The first layer is linear in [x, s, e_k] and the chain is linear between two evaluations of the network, so much of it can be
computed once, in float64: the normaliser's scale goes into the observation weights, the step embeddings become a table, and
the latent is carried as z_k, the part of x_k that depends on the observation or on the first latent.

    d   = clip(s - observation_mean, -observation_bound, observation_bound)
    x_k = pull_k * (z_k + drift_k)          pull_k = product of the decays before k; drift_k a constant
    p_k = d observation_weight + rest_k + z_k latent_weight_k       the first layer's sum
    z_{k+1} = z_k + trunk(p_k) output_weight_k                      action = tanh(x_N)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trudi.train.errors import TrainError
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HiddenLayer:
    """Linear, LayerNorm, GELU."""

    weight: Array
    """(width in, width out)."""
    bias: Array
    """(width,)."""
    gain: Array
    """LayerNorm's factor (width,)."""
    shift: Array
    """LayerNorm's summand (width,)."""
    epsilon: float
    """Added to LayerNorm's variance."""


@dataclass(frozen=True)
class ExportView:
    """The probability-flow ODE's N steps on raw observations, all float64; n observations, m actions, W units."""

    observation_mean: Array
    """The normaliser's mean (n,). It is subtracted before the weights: inside them it would cost digits in float32."""
    observation_bound: Array
    """The normaliser's clip, as a distance from the mean in raw units (n,)."""
    clip: float
    """The same in standard deviations."""
    observation_weight: Array
    """First layer's weights on d, the normaliser's scale in them (n, W)."""
    rest: Array
    """What else goes into the first layer at each step: bias, step embedding, drift (N, W)."""
    latent_weight: Array
    """First layer's weights on z_k (N, m, W)."""
    hidden: tuple[HiddenLayer, ...]
    """The middle layers, the same at every step."""
    output_weight: Array
    """Output layer, step size and decay in it (N, W, m)."""
    final_factor: Array
    """tanh's argument is final_factor * z_N + final_shift (m,)."""
    final_shift: Array
    """(m,)."""
    init_std: float
    """Standard deviation of the prior over latents: z_0 is a latent of this scale, or 0."""

    @property
    def steps(self) -> int:
        """Denoising steps N."""
        return len(self.rest)

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return len(self.observation_mean)

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        return len(self.final_factor)


def export_view(policy: DenoisingPolicy, norm: RunningNorm, steps: int | None = None) -> ExportView:
    """`policy` behind `norm`, its ODE in `steps` steps (see `DenoisingPolicy.ode_grid`)."""
    policy = copy.deepcopy(policy).double()
    first, eta = policy.ode_grid(steps)
    size = _array(eta)
    score = policy.score
    embedding = _array(score.embedding(score.steps))[first]
    weight_x, weight_s, weight_e = (_array(part).T for part in score.input.weight.split(score.sizes, dim=1))
    bias_out, weight_out = _array(score.out.bias), _array(score.out.weight).T
    decay = 1.0 - size / policy.cfg.init_std**2
    if (np.abs(decay) < 1e-6).any():
        raise TrainError("a denoising step's decay is 0, so the chain forgets its latent; export it with another --steps")
    pull = np.cumprod(np.vstack([np.ones(len(bias_out)), decay]), axis=0)  # (N + 1, m)
    gain = size / pull[1:]
    drift = np.vstack([np.zeros(len(bias_out)), np.cumsum(gain * bias_out, axis=0)])

    scale = 1.0 / np.sqrt(_array(norm.variance) + norm.epsilon)
    rest = _array(score.input.bias) + embedding @ weight_e + (pull * drift)[:-1] @ weight_x
    return ExportView(
        observation_mean=_array(norm.mean),
        observation_bound=norm.clip / scale,
        clip=norm.clip,
        observation_weight=scale[:, None] * weight_s,
        rest=rest,
        latent_weight=pull[:-1, :, None] * weight_x,
        hidden=tuple(_hidden(layer, norm_) for layer, norm_ in zip(score.middle, score.norms, strict=True)),
        output_weight=weight_out * gain[:, None],
        final_factor=pull[-1],
        final_shift=pull[-1] * drift[-1],
        init_std=policy.cfg.init_std,
    )


def _hidden(layer: nn.Module, norm: nn.Module) -> HiddenLayer:
    assert isinstance(layer, nn.Linear) and isinstance(norm, nn.LayerNorm)
    return HiddenLayer(_array(layer.weight).T, _array(layer.bias), _array(norm.weight), _array(norm.bias), norm.eps)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.float64)
