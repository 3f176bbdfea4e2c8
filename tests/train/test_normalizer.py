import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trudi.train.normalizer import RunningNorm


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6), st.floats(-1e3, 1e3, allow_subnormal=False), st.floats(0.1, 100.0)
)
def test_batches_merge_to_the_statistics_of_everything(sizes, shift, scale):
    generator = torch.Generator().manual_seed(sum(sizes))
    batches = [shift + scale * torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes]
    norm = RunningNorm(3)
    for batch in batches:
        norm.update(batch)
    everything = torch.cat(batches)
    assert float(norm.count) == len(everything)
    torch.testing.assert_close(norm.mean, everything.mean(0))
    torch.testing.assert_close(norm.variance, everything.var(0, unbiased=False), rtol=1e-6, atol=1e-6)


def test_normalising_by_hand():
    norm = RunningNorm(1, epsilon=0.0)
    norm.update(torch.tensor([[1.0], [3.0]]))  # mean 2, variance 1
    assert norm(torch.tensor([[2.0], [3.5]])).flatten().tolist() == pytest.approx([0.0, 1.5])


def test_it_starts_as_the_identity_and_clips():
    norm = RunningNorm(2, clip=10.0)
    torch.testing.assert_close(norm(torch.tensor([[0.5, -2.0]])), torch.tensor([[0.5, -2.0]]), rtol=1e-4, atol=1e-4)
    assert norm(torch.tensor([[1e6, -1e6]])).tolist() == [[10.0, -10.0]]


def test_constant_observations_stay_finite():
    norm = RunningNorm(1)
    norm.update(torch.full((50, 1), 3.0))
    assert bool(torch.isfinite(norm(torch.tensor([[3.0], [3.1]]))).all())


def test_using_it_does_not_change_it():
    norm = RunningNorm(1)
    norm.update(torch.randn(10, 1))
    before = norm.mean.clone()
    norm(torch.randn(10, 1))
    assert torch.equal(norm.mean, before)
