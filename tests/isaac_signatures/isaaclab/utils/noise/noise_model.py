"""Noise functions and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _apply(data: Tensor, sample: Tensor, operation: str) -> Tensor:
    if operation == "add":
        return data + sample
    if operation == "scale":
        return data * sample
    if operation == "abs":
        return sample
    raise ValueError(f"operation is {operation!r}; expected add, scale or abs")


def constant_noise(data: Tensor, cfg: Any) -> Tensor:
    return _apply(data, torch.zeros_like(data) + cfg.bias, cfg.operation)


def uniform_noise(data: Tensor, cfg: Any) -> Tensor:
    return _apply(data, torch.rand_like(data) * (cfg.n_max - cfg.n_min) + cfg.n_min, cfg.operation)


def gaussian_noise(data: Tensor, cfg: Any) -> Tensor:
    return _apply(data, torch.randn_like(data) * cfg.std + cfg.mean, cfg.operation)


class NoiseModel:
    """Noise that may remember something between calls."""

    def __init__(self, noise_model_cfg: Any, num_envs: int, device: str) -> None:
        self._noise_model_cfg = noise_model_cfg
        self._num_envs = num_envs
        self._device = device

    def reset(self, env_ids: Sequence[int] | Tensor | None = None) -> None:
        """Nothing to forget."""

    def __call__(self, data: Tensor) -> Tensor:
        return self._noise_model_cfg.noise_cfg.func(data, self._noise_model_cfg.noise_cfg)


class NoiseModelWithAdditiveBias(NoiseModel):
    """A bias on top, drawn at every reset from where the last one was."""

    def __init__(self, noise_model_cfg: Any, num_envs: int, device: str) -> None:
        super().__init__(noise_model_cfg, num_envs, device)
        self._bias_noise_cfg = noise_model_cfg.bias_noise_cfg
        self._bias = torch.zeros(num_envs, 1, device=device)
        self._per_component_pending: bool = noise_model_cfg.sample_bias_per_component

    def reset(self, env_ids: Sequence[int] | Tensor | None = None) -> None:
        rows = slice(None) if env_ids is None else env_ids
        self._bias[rows] = self._bias_noise_cfg.func(self._bias[rows], self._bias_noise_cfg)

    def __call__(self, data: Tensor) -> Tensor:
        if self._per_component_pending:  # the width is known only at the first call
            self._per_component_pending = False
            self._bias = self._bias.repeat(1, data.shape[-1])
            self.reset()
        return super().__call__(data) + self._bias
