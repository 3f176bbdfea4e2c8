import math

import pytest
import torch
from support import golden

from trudi.train.critic import Critic, CriticCfg, HLGauss
from trudi.train.errors import TrainError


@pytest.mark.parametrize("dtype,limit", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_histograms_reproduce_the_golden_vectors(dtype, limit):
    data = golden("targets", dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        histogram = HLGauss(float(data["hl_vmin"]), float(data["hl_vmax"]), int(data["hl_bins"]))
    finally:
        torch.set_default_dtype(before)
    assert float((histogram.encode(data["hl_values"]) - data["hl_probs"]).abs().max()) <= limit


def test_one_histogram_by_hand():
    # atoms -1, 0, 1; bin width 1, sigma 0.75; value 0: bins [-0.5, 0.5] and [0.5, 1.5] of a Gaussian cut at +-1.5
    def inside(z):
        return math.erf(z / 0.75 / math.sqrt(2))

    middle = inside(0.5) / inside(1.5)
    expected = [(1 - middle) / 2, middle, (1 - middle) / 2]
    assert HLGauss(-1.0, 1.0, 3).encode(torch.zeros(())).tolist() == pytest.approx(expected, abs=1e-6)


def test_encoding_then_decoding_gives_the_value_back():
    histogram = HLGauss(-10.0, 10.0, 81)
    values = torch.linspace(-8.0, 8.0, 33)
    decoded = histogram.decode(torch.log(histogram.encode(values).clamp_min(1e-30)))
    torch.testing.assert_close(decoded, values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("unit", [0.1, 1.0, 30.0])
def test_with_a_unit_too_whatever_the_size(unit):
    """A Gaussian in asinh(v / unit) has a mean beyond v; decoding takes that back: nothing grows by bootstrapping."""
    histogram = HLGauss(-50.0, 150.0, 201, unit)
    values = torch.tensor([-30.0, -1.0, -0.01, 0.0, 0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
    decoded = histogram.to(torch.float64).decode(torch.log(histogram.encode(values).clamp_min(1e-300)))
    torch.testing.assert_close(decoded, values, rtol=1e-5, atol=1e-5)


def test_atoms_of_a_unit_by_hand():
    """Atoms at asinh(v): -2, 0, 2 for a range of +- sinh(2) = 3.6269; w = 2, sigma = 1.5."""
    histogram = HLGauss(-math.sinh(2.0), math.sinh(2.0), 3, unit=1.0)
    assert histogram.atoms.tolist() == pytest.approx([-2.0, 0.0, 2.0], abs=1e-6)
    assert histogram.edges.tolist() == pytest.approx([-3.0, -1.0, 1.0, 3.0], abs=1e-6)
    shrunk = math.sinh(2.0) * math.exp(-(1.5**2) / 2) / math.sinh(1.0)
    assert histogram.values.tolist() == pytest.approx([-shrunk, 0.0, shrunk], abs=1e-6)


def test_a_unit_tells_small_values_apart():
    """A tenth of an even bin: nearly the same histogram there, several bins away with a unit."""
    even, scaled = HLGauss(-50.0, 150.0, 201), HLGauss(-50.0, 150.0, 201, unit=0.1)
    apart = [(h.encode(torch.tensor(0.1)) - h.encode(torch.tensor(0.0))).abs().sum().item() / 2 for h in (even, scaled)]
    assert apart[0] < 0.06
    assert apart[1] > 0.99


def test_values_beyond_the_range_are_clipped_to_it():
    histogram = HLGauss(-1.0, 1.0, 21)
    assert torch.equal(histogram.encode(torch.tensor(1e9)), histogram.encode(torch.tensor(1.0)))


@pytest.mark.parametrize("v_min,v_max", [(-100.0, 200.0), (-15.0, 15.0), (-50.0, 150.0)])
def test_the_untrained_critic_says_zero(v_min, v_max):
    torch.manual_seed(0)
    critic = Critic(CriticCfg(width=64, v_min=v_min, v_max=v_max, bins=151), 5, 2)
    value = critic(torch.randn(256, 5), torch.rand(256, 2))
    assert float(value.detach().abs().max()) < 0.02 * (v_max - v_min)


def test_regression_finds_the_targets():
    """Real gradient steps: the critic learns q = 3 a on fixed samples."""
    torch.manual_seed(0)
    critic = Critic(CriticCfg(width=32, v_min=-5.0, v_max=5.0, bins=41), 2, 1)
    observation, action = torch.randn(256, 2), 2 * torch.rand(256, 1) - 1
    target = 3.0 * action.squeeze(-1)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(300):
        loss, _, _ = critic.loss(observation, action, target, torch.zeros(256, 32), torch.ones(256))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((critic(observation, action) - target).detach().abs().mean()) < 0.15


def test_samples_of_weight_zero_do_not_count():
    torch.manual_seed(0)
    critic = Critic(CriticCfg(width=16, bins=31), 3, 1)
    observation, action, target, features = torch.randn(8, 3), torch.randn(8, 1), torch.randn(8), torch.randn(8, 16)
    weight = torch.tensor([1.0] * 5 + [0.0] * 3)
    part = critic.loss(observation[:5], action[:5], target[:5], features[:5], torch.ones(5))
    target[5:], features[5:] = 1e6, 1e6
    whole = critic.loss(observation, action, target, features, weight)
    torch.testing.assert_close(whole, part)


def test_the_auxiliary_loss_is_the_mean_squared_error_of_predicted_features():
    torch.manual_seed(0)
    critic = Critic(CriticCfg(width=16, bins=31, aux_weight=2.0), 3, 1)
    observation, action = torch.randn(4, 3), torch.randn(4, 1)
    wanted = critic.predictor(critic.features(observation, action)).detach() + 0.5
    total, cross_entropy, auxiliary = critic.loss(observation, action, torch.zeros(4), wanted, torch.ones(4))
    assert float(auxiliary.detach()) == pytest.approx(0.25, rel=1e-5)
    assert float((total - cross_entropy).detach()) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("change", [{"bins": 2}, {"v_min": 1.0}, {"v_max": -1.0}, {"width": 0}, {"unit": 0.0}])
def test_impossible_critics_are_refused(change):
    with pytest.raises(TrainError):
        CriticCfg(**change)
