"""The latent x_0 that a chain starts from, control step by control step, as the bundle's contract says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.contract import Sampler
from trudi.runtime.errors import TrudiRuntimeError


def fixed_latent(sampler: Sampler, size: int) -> NDArray[np.float64]:
    """The constant latent (size,) of `zero` and `fixed` noise."""
    if sampler.noise == "zero":
        return np.zeros(size)
    return sampler.latent_std * _generator(sampler).standard_normal(size)


class LatentSource:
    """Draws the latents of `seeded` and `warm` noise; a fresh source with the same contract gives the same sequence."""

    def __init__(self, sampler: Sampler, size: int) -> None:
        if sampler.noise == "input":
            raise TrudiRuntimeError("sampler.noise is input: the latent is the caller's to give, with every observation")
        self._std, self._noise, self._size = sampler.latent_std, sampler.noise, size
        self._generator = _generator(sampler)
        self._last: NDArray[np.float32] | None = None

    def next(self, batch: int = 1) -> NDArray[np.float32] | None:
        """The next control step's latents (batch, size), or None where the graph holds them as constants."""
        if self._noise in ("zero", "fixed"):
            return None
        if self._last is None or self._noise == "seeded":
            self._last = (self._std * self._generator.standard_normal((batch, self._size))).astype(np.float32)
        return self._last


def _generator(sampler: Sampler) -> np.random.Generator:
    """Philox: the same numbers on every machine and with every numpy since 1.17."""
    return np.random.Generator(np.random.Philox(sampler.seed or 0))
