"""The latents of each noise mode."""

import numpy as np
import pytest

from trudi.runtime.contract import Sampler
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.latents import LatentSource, fixed_latent


def sampler(noise, seed=None):
    return Sampler(network="teacher", steps=8, ode=True, noise=noise, seed=seed, latent_std=2.5)


def test_zero_and_fixed_latents_are_constants_of_the_graph():
    assert LatentSource(sampler("zero"), 3).next() is None
    assert np.array_equal(fixed_latent(sampler("zero"), 3), np.zeros(3))
    one, again, other = (fixed_latent(sampler("fixed", seed), 3) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_seeded_latents_repeat_from_the_start_and_have_the_priors_scale():
    source, again = LatentSource(sampler("seeded", 7), 4), LatentSource(sampler("seeded", 7), 4)
    drawn = np.concatenate([source.next() for _ in range(5000)])
    assert drawn.dtype == np.float32 and drawn.shape == (5000, 4)
    assert np.array_equal(drawn[:3], np.concatenate([again.next() for _ in range(3)]))
    assert not np.array_equal(drawn[0], drawn[1])
    assert drawn.std() == pytest.approx(2.5, rel=0.02)  # 20,000 numbers: one standard error is 0.5 %
    assert abs(drawn.mean()) < 0.06


def test_warm_noise_keeps_the_first_latent():
    source = LatentSource(sampler("warm"), 2)
    first = source.next()
    assert np.array_equal(first, source.next()) and first.any()


def test_input_noise_is_the_callers():
    with pytest.raises(TrudiRuntimeError, match="the caller's to give"):
        LatentSource(sampler("input"), 2)
