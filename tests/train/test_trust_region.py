import pytest
import torch
from support import along, small_agent

from trudi.train.errors import TrainError
from trudi.train.policy import DenoisingPolicy, PolicyCfg
from trudi.train.trust_region import TrustRegionCfg, forward_kl, fresh_chains, gaussian_kl, reverse_kl, trajectory_kl


def noise_for(agent, count):
    return agent.policy.draw_noise(count, torch.Generator().manual_seed(0))


def test_gaussian_kl_by_hand():
    # KL(N(0, 1) || N(1, 2^2)) = log 2 + (1 + 1) / 8 - 1/2 = 0.44314718
    values = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0, 1.0, 2.0))
    assert float(gaussian_kl(*values)) == pytest.approx(0.4431471806, abs=1e-9)


def test_kl_sums_over_steps_and_actions():
    mean_p, mean_q = torch.zeros(3, 5, 2), torch.ones(3, 5, 2)
    std = torch.full((3, 1, 2), 2.0)
    # (0 - 1)^2 / (2 * 4) = 1/8 in each of 3 x 2 places; with equal scales both forms agree
    for form in ("full", "simplified"):
        assert trajectory_kl(mean_p, std, mean_q, std, form).tolist() == pytest.approx([0.75] * 5)


@pytest.mark.parametrize("form", ["full", "simplified"])
def test_first_kl_is_exactly_zero(form):
    """Between a policy and its frozen copy, on collected chains: not small, zero."""
    policy = DenoisingPolicy(PolicyCfg(width=16), 5, 3)
    observation = torch.randn(64, 5)
    with torch.no_grad():
        chain = policy.sample(observation, policy.draw_noise(64, torch.Generator().manual_seed(0)))
        kl = forward_kl(policy, observation, *along(chain), form)
    assert float(kl.abs().max()) == 0.0


def test_kl_is_positive_and_the_simplified_form_ignores_a_change_of_scale():
    agent = small_agent()
    new = agent.policy
    with torch.no_grad():
        new.raw_friction.add_(0.3)
    observation = torch.randn(16, 4)
    states, means, stds = fresh_chains(agent.old_policy, observation, noise_for(agent, 2 * len(observation)), 2)
    old_std = agent.old_policy.step_sizes().std
    full = forward_kl(new, observation, states, means, stds, "full")
    assert bool((full > 0).all())
    std_ratio = (new.step_sizes().std / old_std).detach()
    scale_part = (torch.log(std_ratio) + 0.5 / std_ratio.square() - 0.5).sum()
    assert float(scale_part) > 0.01
    assert bool((full.detach() > scale_part).all())


def test_k_chains_are_averaged_per_state():
    agent = small_agent()
    with torch.no_grad():
        agent.policy.score.out.bias.add_(0.5)
    observation = torch.randn(3, 4)
    states, means, stds = fresh_chains(agent.old_policy, observation, noise_for(agent, 4 * len(observation)), 4)
    assert states.shape == means.shape == (3, 4, 4, 2)
    together = forward_kl(agent.policy, observation, states, means, stds, "full")
    one_by_one = [
        forward_kl(agent.policy, observation, states[:, k, None], means[:, k, None], stds[:, k, None], "full")
        for k in range(4)
    ]
    torch.testing.assert_close(together, torch.stack(one_by_one).mean(0))


def test_fresh_chains_are_the_old_policys():
    """mu_k at the returned states is the old policy's, for each state its own."""
    agent = small_agent()
    observation = torch.randn(3, 4)
    states, means, stds = fresh_chains(agent.old_policy, observation, noise_for(agent, 2 * len(observation)), 2)
    for k in range(2):
        expected = agent.old_policy.step_means(observation, states[:, k].transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(means[:, k], expected)
    torch.testing.assert_close(stds, agent.old_policy.step_sizes().std.expand_as(stds))


def test_trajectory_kl_bounds_the_kl_of_actions():
    """Data processing: for a one-dimensional linear chain both sides are known in closed form."""
    agent = small_agent(action_size=1)
    old, new = agent.old_policy, agent.policy
    with torch.no_grad():  # u = bias: every step is linear in x, so x_N is Gaussian
        for policy in (old, new):
            policy.score.out.weight.zero_()
            policy.score.out.bias.zero_()
        new.score.out.bias.fill_(0.7)
    observation = torch.randn(1, 4)
    states, means, stds = fresh_chains(old, observation, noise_for(agent, 1), 1)
    bound = forward_kl(new, observation, states, means, stds, "full")
    sizes = old.step_sizes()
    mean, variance = 0.0, old.cfg.init_std**2
    for k in range(old.cfg.steps):
        mean = float(sizes.decay[k]) * mean + 0.7 * float(sizes.eta[k])
        variance = float(sizes.decay[k]) ** 2 * variance + 2 * float(sizes.eta[k])
    assert 0.0 < mean**2 / (2 * variance) < float(bound.detach())


def test_reverse_kl_vanishes_for_equal_policies_and_carries_state_gradients():
    agent = small_agent()
    observation = torch.randn(8, 4)
    chain = agent.policy.sample(observation, agent.policy.draw_noise(8, torch.Generator().manual_seed(0)))
    assert float(reverse_kl(agent.old_policy, observation, chain, "full").abs().max()) == 0.0
    with torch.no_grad():
        agent.policy.score.out.bias.add_(0.5)
    chain = agent.policy.sample(observation, agent.policy.draw_noise(8, torch.Generator().manual_seed(0)))
    kl = reverse_kl(agent.old_policy, observation, chain, "full")
    assert bool((kl > 0).all())
    kl.sum().backward()
    assert float(agent.policy.score.input.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in agent.old_policy.parameters())


@pytest.mark.parametrize("change", [{"bound": 0.0}, {"chains_per_state": 0}, {"chains_per_state": 4}])
def test_impossible_trust_regions_are_refused(change):
    with pytest.raises(TrainError):
        TrustRegionCfg(**change)
