"""Running normalisation of observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trudi.train.distributed import ALONE, Ranks


class RunningNorm(nn.Module):
    """(x - mean) / std with statistics of everything seen so far, clipped.

    Statistics change only in `update`, between iterations: the data of an iteration, its old policy and its new policy all
    see the same inputs.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, clip: float = 10.0, epsilon: float = 1e-4) -> None:
        super().__init__()
        self.clip, self.epsilon = clip, epsilon
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (..., size)."""
        scale = torch.rsqrt(self.variance + self.epsilon)
        shift = -self.mean * scale
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype)).clamp_(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, x: Tensor, ranks: Ranks = ALONE) -> None:
        """Merges a batch (batch, size) of each of `ranks`, all of one length, into the statistics."""
        batch = x.to(torch.float64)
        for mean, variance in ranks.gather(torch.stack([batch.mean(0), batch.var(0, unbiased=False)])):
            self._merge(float(len(batch)), mean, variance)

    def _merge(self, added: float, mean: Tensor, variance: Tensor) -> None:
        """Merges `added` samples of a mean and a population variance (size,) (Chan et al. 1979)."""
        total = self.count + added
        delta = mean - self.mean
        spread = self.variance * self.count + variance * added + delta.square() * self.count * added / total
        self.mean += delta * added / total
        self.variance.copy_(spread / total)
        self.count.copy_(total)
