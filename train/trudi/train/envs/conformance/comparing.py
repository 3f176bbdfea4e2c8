"""What makes two runs different, and what happens by chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor

from trudi.train.envs.conformance.takes import Take

BY_CHANCE = 1e-3
"""Probability below which something did not happen by chance."""


@dataclass(frozen=True)
class Difference:
    """Where two runs first differ."""

    step: int
    """Steps taken until then; 0 is the first observation."""
    text: str

    def __str__(self) -> str:
        return f"after {self.step} steps, {self.text}"


def difference(one: Take, other: Take, tolerance: float) -> Difference | None:
    """Where two runs of equally many steps first differ by more than `tolerance`, relative to 1 + size."""
    if other.error or other.broken:
        return Difference(len(other), other.error or "what it returned could no longer be compared")
    pairs = {
        "observations": (one.seen, other.seen),
        "rewards": (one.reward[..., None], other.reward[..., None]),
        "ends": (torch.stack([one.terminated, one.truncated], -1), torch.stack([other.terminated, other.truncated], -1)),
    }
    found: list[Difference] = []
    for name, (mine, others) in pairs.items():
        places = unlike(mine, others, tolerance).nonzero()
        if len(places):
            t, env, element = places[0].tolist()
            numbers = f"{float(mine[t, env, element]):g} and {float(others[t, env, element]):g}"
            text = f"{name} of environment {env} are {numbers} (element {element})"
            found.append(Difference(t if name == "observations" else t + 1, text))
    for (t, env), row in one.terminal.items():
        if (t, env) in other.terminal and bool(unlike(row, other.terminal[t, env], tolerance).any()):
            found.append(Difference(t + 1, f"terminal observations of environment {env} differ"))
    return min(found, key=lambda one: one.step, default=None)


def unlike(one: Tensor, other: Tensor, tolerance: float) -> Tensor:
    """Where two tensors differ, element by element; NaN is NaN."""
    one, other = one.float(), other.float()
    near = (one - other).abs() <= tolerance * (1.0 + one.abs())
    return ~(near | (one == other) | (one.isnan() & other.isnan()))


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def is_unlikely(count: int, total: int, share: float, among: int = 1) -> bool:
    """Whether `count` or more of `total` are too many, where each is one with the probability `share`.

    `among` is from how many such counts the largest was taken.
    """
    return count > 0 and among * float(binom.sf(count - 1, total, share)) < BY_CHANCE
