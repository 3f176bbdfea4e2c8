"""Spaces by short names."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor


def spec_to_gym_space(spec: Any) -> gym.Space[Any]:
    """A number or a list of numbers is an unbounded box of that shape."""
    if isinstance(spec, gym.Space):
        return spec
    if isinstance(spec, int):
        return gym.spaces.Box(-np.inf, np.inf, shape=(spec,))
    if isinstance(spec, list) and all(isinstance(size, int) for size in spec):
        return gym.spaces.Box(-np.inf, np.inf, shape=spec)
    if isinstance(spec, set) and len(spec) == 1:
        return gym.spaces.Discrete(next(iter(spec)))
    if isinstance(spec, dict):
        return gym.spaces.Dict({name: spec_to_gym_space(part) for name, part in spec.items()})
    raise ValueError(f"unsupported space: {spec}")


def sample_space(space: gym.Space[Any], device: str, batch_size: int = -1, fill_value: float | None = None) -> Tensor:
    """A filled or random batch of a box."""
    batched = gym.vector.utils.batch_space(space, batch_size) if batch_size > 0 else space
    sample = torch.tensor(batched.sample(), device=device, dtype=torch.float32)
    return sample if fill_value is None else sample.fill_(fill_value)
