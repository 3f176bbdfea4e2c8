"""One seed for all random number generators."""

from __future__ import annotations

import random

import numpy as np
import torch


def configure_seed(seed: int | None, torch_deterministic: bool = False) -> int:
    """Seeds Python, numpy and torch, the process's global ones; a seed of None or -1 is drawn."""
    if seed is None or seed == -1:
        seed = 42 if torch_deterministic else random.randint(0, 10_000)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
