"""The distributional critic: Q(s, a) as a histogram, trained by cross-entropy.

Sources: HL-Gauss (arXiv 2403.03950) for the loss, REPPO (arXiv 2507.11019) for the network and the auxiliary loss;
that values of all sizes want a scale like a logarithm's, DreamerV3 (arXiv 2301.04104).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trudi.train.errors import TrainError

PRIOR_STRENGTH = 40.0
SIGMA_IN_BINS = 0.75


@dataclass(frozen=True)
class CriticCfg:
    """Size and value range of the critic."""

    width: int = 256
    """Units of each hidden layer (the authors' GPU runs: 512)."""
    v_min: float = -100.0
    """Smallest value the histogram can hold. The range must leave room for the entropy bonus."""
    v_max: float = 200.0
    """Largest value the histogram can hold."""
    bins: int = 301
    """Atoms of the histogram."""
    unit: float | None = None
    """Values are told apart evenly up to about this one, and beyond it in proportion to their size: atoms are evenly spaced
    in asinh(value / unit). None spaces them evenly all over the range, so that values far below a bin are hardly told
    apart: a task whose rewards are rare at first is learned late or never."""
    aux_weight: float = 1.0
    """Weight of the auxiliary loss that predicts the next encoder features."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.bins < 3:
            raise TrainError(f"critic.width is {self.width} and critic.bins {self.bins}; at least 1 and 3 are needed")
        if not self.v_min < 0.0 < self.v_max:
            raise TrainError(f"critic range [{self.v_min}, {self.v_max}] must hold 0, where values start")
        if self.unit is not None and not 0.0 < self.unit < math.inf:
            raise TrainError(f"critic.unit is {self.unit}; it must be positive and finite, or null for even spacing")


class HLGauss(nn.Module):
    """Between scalars and histograms: the target is a Gaussian around the value, integrated over each bin.

    With a `unit` all of that happens to z = asinh(value / unit). A Gaussian of standard deviation sigma around z, gathered
    into bins of width w (which is as if noise uniform in [-w/2, w/2] were added), has

        E[sinh] = sinh(z) exp(sigma^2 / 2) sinh(w / 2) / (w / 2)

    `values` undoes both factors, so that `decode` gives back what `encode` was given, and no bootstrapped target grows by
    itself.
    """

    atoms: Tensor
    """(bins,), evenly spaced in what the Gaussian is in."""
    edges: Tensor
    """(bins + 1,)."""
    values: Tensor
    """What the atoms stand for (bins,)."""

    def __init__(self, v_min: float, v_max: float, bins: int, unit: float | None = None) -> None:
        super().__init__()
        self.unit = unit
        low, high = (v_min, v_max) if unit is None else (math.asinh(v_min / unit), math.asinh(v_max / unit))
        width = (high - low) / (bins - 1)
        self.sigma = SIGMA_IN_BINS * width
        kind = torch.get_default_dtype()
        atoms = torch.linspace(low, high, bins, dtype=torch.float64)
        edges = torch.linspace(low - width / 2, high + width / 2, bins + 1, dtype=torch.float64)
        values = atoms
        if unit is not None:
            half = width / 2
            values = unit * torch.sinh(atoms) * (math.exp(-(self.sigma**2) / 2) * half / math.sinh(half))
        self.register_buffer("atoms", atoms.to(kind), persistent=False)
        self.register_buffer("edges", edges.to(kind), persistent=False)
        self.register_buffer("values", values.to(kind), persistent=False)

    def encode(self, value: Tensor) -> Tensor:
        """The histogram of each value (...,) -> (..., bins); values beyond the range are clipped to it."""
        place = value if self.unit is None else torch.asinh(value / self.unit)
        place = place.clamp(self.atoms[0], self.atoms[-1])
        cdf = torch.erf((self.edges - place[..., None]) / (math.sqrt(2.0) * self.sigma))
        mass = cdf.diff(dim=-1)
        return mass / (cdf[..., -1:] - cdf[..., :1])

    def decode(self, logits: Tensor) -> Tensor:
        """The expected value of histograms given as logits (..., bins) -> (...,)."""
        return torch.softmax(logits, dim=-1) @ self.values


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.RMSNorm(outputs), nn.SiLU())


class Critic(nn.Module):
    """Q(s, a) from the critic's (normalised) observation; no target network, no twin."""

    def __init__(self, cfg: CriticCfg, observation_size: int, action_size: int) -> None:
        super().__init__()
        width = cfg.width
        self.cfg = cfg
        self.histogram = HLGauss(cfg.v_min, cfg.v_max, cfg.bins, cfg.unit)
        self.encoder = nn.Sequential(_block(observation_size + action_size, width), _block(width, width))
        self.head = nn.Sequential(_block(width, width), nn.Linear(width, cfg.bins))
        self.predictor = nn.Sequential(_block(width, width), nn.Linear(width, width))
        self.prior = nn.Parameter(PRIOR_STRENGTH * self.histogram.encode(torch.zeros(())))

    def features(self, observation: Tensor, action: Tensor) -> Tensor:
        """Encoder features of (s, a) (batch, width)."""
        return self.encoder(torch.cat([observation, action], dim=-1))

    def logits(self, features: Tensor) -> Tensor:
        """The histogram's logits (batch, bins)."""
        return self.head(features) + self.prior

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """q(s, a), the mean of the histogram (batch,)."""
        return self.histogram.decode(self.logits(self.features(observation, action)))

    def evaluate(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """q(s, a) (batch,) and the features it was computed from (batch, width)."""
        features = self.features(observation, action)
        return self.histogram.decode(self.logits(features)), features

    def loss(
        self, observation: Tensor, action: Tensor, target: Tensor, next_features: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy to the targets' histograms plus the auxiliary regression, each averaged with `weight` (batch,).

        `next_features` (batch, width) are the encoder's for (s', a') when the targets were computed.
        Returns (total, cross-entropy, auxiliary).
        """
        features = self.features(observation, action)
        log_probs = functional.log_softmax(self.logits(features), dim=-1)
        count = weight.sum().clamp_min(1.0)
        cross_entropy = (-(self.histogram.encode(target) * log_probs).sum(-1) * weight).sum() / count
        error = (self.predictor(features) - next_features).square().mean(-1)
        auxiliary = (error * weight).sum() / count
        return cross_entropy + self.cfg.aux_weight * auxiliary, cross_entropy, auxiliary
