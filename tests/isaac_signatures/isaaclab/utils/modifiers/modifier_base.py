"""Modifiers with a memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class ModifierBase(ABC):
    """Every call counts as one step, whoever calls."""

    def __init__(self, cfg: Any, data_dim: tuple[int, ...], device: str) -> None:
        self._cfg = cfg
        self._data_dim = data_dim
        self._device = device

    @abstractmethod
    def reset(self, env_ids: Sequence[int] | Tensor | None = None) -> None: ...

    @abstractmethod
    def __call__(self, data: Tensor) -> Tensor: ...
