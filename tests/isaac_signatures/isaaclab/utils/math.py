"""The little mathematics that the tasks here need."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wrap_to_pi(angles: Tensor) -> Tensor:
    """The same angle in [-pi, pi]."""
    return torch.remainder(angles + math.pi, 2.0 * math.pi) - math.pi


def sample_uniform(
    lower: Tensor | float, upper: Tensor | float, size: int | tuple[int, ...], device: str | torch.device
) -> Tensor:
    """U(lower, upper)."""
    size = (size,) if isinstance(size, int) else size
    return torch.rand(*size, device=device) * (upper - lower) + lower
