import math

import pytest
import torch
from support import along, golden, golden_policy
from torch import Tensor

from trudi.train.errors import TrainError
from trudi.train.policy import DenoisingPolicy, Noise, PolicyCfg, cosine_schedule, inverse_softplus, tanh_log_det
from trudi.train.trust_region import forward_kl

FILES = ["chain_a", "chain_b"]


def agrees(ours: Tensor, theirs: Tensor) -> None:
    """1e-10 in float64; in float32, 1e-4 of the quantity's size."""
    assert ours.shape == theirs.shape
    limit = 1e-10 if theirs.dtype == torch.float64 else 1e-4 * float(theirs.abs().max())
    assert float((ours.detach() - theirs).abs().max()) <= limit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FILES)
def test_sde_chain_and_its_density_reproduce_the_golden_vectors(name, dtype):
    data = golden(name, dtype)
    chain = golden_policy(data, "new").sample(data["obs"], Noise(data["x0"], data["eps"]))
    agrees(chain.states, data["sde_x"])
    agrees(chain.action, data["sde_action"])
    agrees(chain.run_cost, data["sde_run_cost"])
    agrees(chain.terminal, data["sde_terminal"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FILES)
def test_ode_chain_reproduces_the_golden_vectors(name, dtype):
    data = golden(name, dtype)
    action, states = golden_policy(data, "new").sample_ode(data["obs"], data["x0"])
    agrees(states, data["ode_x"])
    agrees(action, data["ode_action"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", ["full", "simplified"])
@pytest.mark.parametrize("name", FILES)
def test_trajectory_kl_reproduces_the_golden_vectors(name, form, dtype):
    data = golden(name, dtype)
    old, new = golden_policy(data, "old"), golden_policy(data, "new")
    chain = old.sample(data["obs"], Noise(data["x0_kl"], data["eps_kl"]))
    kl = forward_kl(new, data["obs"], *along(chain), form)
    agrees(kl, data[f"kl_{form}"])


def test_density_of_one_step_agrees_with_torch_distributions():
    """log_w = log b(x_0 | x_1) - log p(x_1 | x_0), written out with torch's own Normal."""
    torch.manual_seed(0)
    policy = DenoisingPolicy(PolicyCfg(steps=1, width=8), 3, 2).double()
    observation, noise = torch.randn(5, 3).double(), Noise(2.5 * torch.randn(5, 2).double(), torch.randn(1, 5, 2).double())
    chain = policy.sample(observation, noise)
    eta = policy.step_sizes().eta[0]
    x0, x1 = chain.states
    reverse = torch.distributions.Normal(x1 - eta * x1 / 2.5**2, torch.sqrt(2 * eta).expand_as(x1))
    forward = torch.distributions.Normal(chain.means[0], torch.sqrt(2 * eta).expand_as(x1))
    log_w = (reverse.log_prob(x0) - forward.log_prob(x1)).sum(-1)
    jacobian = torch.log1p(-torch.tanh(x1).square()).sum(-1)
    prior = torch.distributions.Normal(0.0 * x0, 2.5 + 0.0 * x0).log_prob(x0).sum(-1)
    torch.testing.assert_close(chain.run_cost, -(log_w + jacobian), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(chain.log_prob, prior - log_w - jacobian, rtol=1e-9, atol=1e-9)


def test_schedule_by_hand():
    # c(k), N = 2: t = 1 and 1/2; cos(pi/2 * 0.008 / 1.008)^2 = 0.99984459, cos(pi/2 * 0.508 / 1.008)^2 = 0.49376694
    expected = [0.999 * 0.99984459 + 0.001, 0.999 * 0.49376694 + 0.001]
    assert cosine_schedule(2).tolist() == pytest.approx(expected, abs=1e-7)
    # eta = softplus(dt) c(k) / friction with dt = 1/2 and friction = 1
    sizes = DenoisingPolicy(PolicyCfg(steps=2, width=4), 1, 3).step_sizes()
    assert sizes.eta[:, 0].tolist() == pytest.approx([0.5 * value for value in expected], abs=1e-6)
    assert sizes.std[:, 2].tolist() == pytest.approx([math.sqrt(value) for value in expected], abs=1e-6)


def test_late_steps_are_the_small_ones():
    steps = cosine_schedule(8)
    assert bool((steps.diff() < 0).all())
    assert float(steps[0]) == pytest.approx(1.0, abs=1e-3)


def test_first_policy_is_the_prior():
    """u is 0 up to 1e-8, so the mean step is the prior's own pull."""
    policy = DenoisingPolicy(PolicyCfg(width=16), 5, 3)
    generator = torch.Generator().manual_seed(0)
    chain = policy.sample(torch.randn(32, 5), policy.draw_noise(32, generator))
    torch.testing.assert_close(chain.means, policy.step_sizes().decay[:, None] * chain.states[:-1], rtol=1e-5, atol=1e-6)


def test_log_det_is_finite_far_out_and_exact_near_zero():
    far = tanh_log_det(torch.tensor([[40.0, -40.0]]))
    assert float(far) == pytest.approx(2 * (2 * math.log(2) - 80.0), rel=1e-6)  # log(1 - tanh^2) -> 2 (log 2 - |x|)
    near = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    assert float(tanh_log_det(near)) == pytest.approx(float(torch.log(1 - near.tanh() ** 2).sum()), abs=1e-12)


def test_latents_far_out_stay_finite_in_float32():
    policy = DenoisingPolicy(PolicyCfg(width=16), 2, 1)
    chain = policy.sample(torch.zeros(2, 2), Noise(torch.tensor([[60.0], [-60.0]]), torch.zeros(8, 2, 1)))
    assert bool(torch.isfinite(chain.log_prob).all())


def test_a_chain_is_decided_by_its_noise():
    policy = DenoisingPolicy(PolicyCfg(width=16), 2, 1)
    draws = [policy.draw_noise(4, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    observation = torch.randn(4, 2)
    first, same, other = (policy.sample(observation, noise).action for noise in draws)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_prior_has_the_asked_standard_deviation():
    policy = DenoisingPolicy(PolicyCfg(init_std=2.5, width=4), 1, 1)
    latent = policy.draw_noise(200_000, torch.Generator().manual_seed(0)).latent
    assert float(latent.std()) == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize("learn_dt,count", [("no", 0), ("shared", 1), ("per-step", 8)])
def test_learned_step_sizes(learn_dt, count):
    policy = DenoisingPolicy(PolicyCfg(width=8, learn_dt=learn_dt), 2, 3)
    assert sum(p.numel() for name, p in policy.named_parameters() if name == "raw_dt" and p.requires_grad) == count
    # Whatever is learned, all three start at dt = 1/N.
    assert float(policy.step_sizes().eta[0, 0].detach()) == pytest.approx(float(cosine_schedule(8)[0]) / 8, rel=1e-5)


def test_friction_floor():
    policy = DenoisingPolicy(PolicyCfg(width=8, friction_min=0.4), 2, 1)
    assert float(policy.friction.detach()) == pytest.approx(1.0, abs=1e-6)
    with torch.no_grad():
        policy.raw_friction.fill_(-100.0)
    assert float(policy.friction.detach()) == pytest.approx(0.4)


def test_inverse_softplus():
    assert math.log1p(math.exp(inverse_softplus(0.125))) == pytest.approx(0.125, abs=1e-12)


@pytest.mark.parametrize("change", [{"steps": 0}, {"layers": 1}, {"init_std": 0.0}, {"friction": 0.1, "friction_min": 0.2}])
def test_impossible_shapes_are_refused(change):
    with pytest.raises(TrainError):
        PolicyCfg(**change)
