"""A random stream of a simulator's own, for simulators that draw from the process's."""

from __future__ import annotations

import random
from types import TracebackType
from typing import Any

import numpy as np
import torch


class Randomness:
    """A `with` block in which torch (CPU and `device`), NumPy and `random` go on from where the last such block ended.

    Outside, their streams are as if the block had not been. Two simulators in one process then draw independently: one
    that is made for an evaluation, with the same seed every time, would otherwise start training's stream over.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device = device
        self._seed: int | None = seed
        self._own: tuple[Any, ...] | None = None
        self._outside: list[tuple[Any, ...]] = []

    def __enter__(self) -> None:
        self._outside.append(self._states())
        if self._own is not None:
            self._set(self._own)
        elif self._seed is not None:
            torch.manual_seed(self._seed)
            np.random.seed(self._seed % 2**32)
            random.seed(self._seed)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._own = self._states()
        self._set(self._outside.pop())

    def _states(self) -> tuple[Any, ...]:
        gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), gpu, np.random.get_state(), random.getstate()

    def _set(self, states: tuple[Any, ...]) -> None:
        cpu, gpu, numpy_state, python_state = states
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, self._device)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
