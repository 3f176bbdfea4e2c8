import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import golden

from trudi.train.targets import soft_lambda_returns


@pytest.mark.parametrize("dtype,limit", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_returns_reproduce_the_golden_vectors(dtype, limit):
    data = golden("targets", dtype)
    ours = soft_lambda_returns(
        data["reward"],
        data["next_value"],
        data["next_log_prob"],
        data["terminated"],
        data["truncated"],
        alpha=float(data["alpha"]),
        gamma=float(data["gamma"]),
        lam=float(data["lam"]),
    )
    assert float((ours - data["soft_return"]).abs().max()) <= limit * float(data["soft_return"].abs().max())


def returns(reward, value, log_prob, terminated=(), truncated=(), unknown=(), **weights):
    """One environment's returns; `terminated`, `truncated` and `unknown` (s') list the steps where they hold."""
    steps = range(len(reward))

    def flags(where):
        return torch.tensor([t in where for t in steps])[:, None]

    columns = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (reward, value, log_prob))
    settings_ = {"alpha": 0.5, "gamma": 0.9, "lam": 0.5} | weights
    return (
        soft_lambda_returns(*columns, flags(terminated), flags(truncated), ~flags(unknown), **settings_).squeeze(1).tolist()
    )


def test_two_steps_by_hand():
    # r~ = r - 0.9 * 0.5 * log_prob: 1 - 0.45 * 2 = 0.1 and 3 - 0.45 * (-4) = 4.8
    # G_1 = 4.8 + 0.9 * 20 = 22.8;   G_0 = 0.1 + 0.9 * (0.5 * 22.8 + 0.5 * 10) = 14.86
    assert returns([1.0, 3.0], [10.0, 20.0], [2.0, -4.0]) == pytest.approx([14.86, 22.8])


def test_nothing_follows_a_terminal_not_even_entropy():
    assert returns([1.0, 3.0], [10.0, 20.0], [2.0, -4.0], terminated=[0]) == pytest.approx([1.0, 22.8])


def test_a_truncation_bootstraps_from_its_own_terminal_observation_alone():
    # G_0 = 0.1 + 0.9 * 10 = 9.1, whatever the next episode brings
    assert returns([1.0, 3.0], [10.0, 20.0], [2.0, -4.0], truncated=[0])[0] == pytest.approx(9.1)
    assert returns([1.0, 300.0], [10.0, -20.0], [2.0, 4.0], truncated=[0])[0] == pytest.approx(9.1)


def test_what_followed_an_unknown_end_reaches_nobody():
    # V'_1 is the next episode's: G_0 = 0.1 + 0.9 * 10 = 9.1 with its own V' alone; G_2 is as it would be without an end.
    for wrong in (20.0, -500.0):
        found = returns([1.0, 3.0, 2.0], [10.0, wrong, 4.0], [2.0, wrong, 0.0], truncated=[1], unknown=[1])
        assert [found[0], found[2]] == pytest.approx([9.1, 2.0 + 3.6])
    # After a terminal nothing follows, known or not: G_1 = 3, G_0 = 0.1 + 0.9 * (0.5 * 3 + 0.5 * 10).
    assert returns([1.0, 3.0], [10.0, 99.0], [2.0, 99.0], terminated=[1], unknown=[1]) == pytest.approx([5.95, 3.0])


def test_lambda_one_is_the_discounted_sum_and_lambda_zero_one_step():
    rewards, values, zeros = [1.0, 2.0, 3.0], [5.0, 6.0, 7.0], [0.0, 0.0, 0.0]
    # 1 + 0.9 * 2 + 0.81 * 3 + 0.729 * 7 = 10.333
    assert returns(rewards, values, zeros, lam=1.0)[0] == pytest.approx(10.333)
    assert returns(rewards, values, zeros, lam=0.0) == pytest.approx([1 + 4.5, 2 + 5.4, 3 + 6.3])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0, allow_subnormal=False), st.floats(0.1, 0.99))
def test_the_true_value_is_a_fixed_point(seed, lam, gamma):
    """Where V' is the exact soft value of a constant-reward chain, every lambda gives it back."""
    generator = torch.Generator().manual_seed(seed)
    reward, log_prob = torch.randn(2, generator=generator, dtype=torch.float64)
    value = (reward - gamma * 0.3 * log_prob) / (1 - gamma)
    full = torch.ones(6, 2, dtype=torch.float64)
    never = torch.zeros(6, 2, dtype=torch.bool)
    result = soft_lambda_returns(reward * full, value * full, log_prob * full, never, never, alpha=0.3, gamma=gamma, lam=lam)
    torch.testing.assert_close(result, value * full)
