"""The modifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .modifier_base import ModifierBase


class Integrator(ModifierBase):
    """y(t) = y(t - 1) + dt (x(t) + x(t - 1)) / 2. Returns its own buffer, which a clip or a scale then changes in place."""

    def __init__(self, cfg: Any, data_dim: tuple[int, ...], device: str) -> None:
        super().__init__(cfg, data_dim, device)
        self.integral = torch.zeros(data_dim, device=device)
        self.y_prev = torch.zeros(data_dim, device=device)

    def reset(self, env_ids: Sequence[int] | Tensor | None = None) -> None:
        rows = slice(None) if env_ids is None else env_ids
        self.integral[rows] = 0.0
        self.y_prev[rows] = 0.0

    def __call__(self, data: Tensor) -> Tensor:
        self.integral += (data + self.y_prev) / 2.0 * self._cfg.dt
        self.y_prev[:] = data
        return self.integral
