"""Configuration of the noise models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, Literal

from torch import Tensor

from isaaclab.utils import configclass

from . import noise_model


@configclass
class NoiseCfg:
    """What is done to the data by a sample."""

    func: Callable[..., Tensor] = MISSING  # type: ignore[assignment]
    operation: Literal["add", "scale", "abs"] = "add"


@configclass
class ConstantNoiseCfg(NoiseCfg):
    """Always the same."""

    func: Callable[..., Tensor] = noise_model.constant_noise
    bias: Tensor | float = 0.0


@configclass
class UniformNoiseCfg(NoiseCfg):
    """U(n_min, n_max)."""

    func: Callable[..., Tensor] = noise_model.uniform_noise
    n_min: Tensor | float = -1.0
    n_max: Tensor | float = 1.0


@configclass
class GaussianNoiseCfg(NoiseCfg):
    """N(mean, std^2)."""

    func: Callable[..., Tensor] = noise_model.gaussian_noise
    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0


@configclass
class NoiseModelCfg:
    """Noise with a memory: an object that is reset with its environments."""

    class_type: type = noise_model.NoiseModel
    noise_cfg: NoiseCfg = MISSING  # type: ignore[assignment]
    func: Callable[..., Any] | None = None


@configclass
class NoiseModelWithAdditiveBiasCfg(NoiseModelCfg):
    """Noise, and a bias that is drawn once an episode."""

    class_type: type = noise_model.NoiseModelWithAdditiveBias
    bias_noise_cfg: NoiseCfg = MISSING  # type: ignore[assignment]
    sample_bias_per_component: bool = True
