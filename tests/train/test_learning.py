"""Whether the whole algorithm finds an optimum that is known in closed form."""

import pytest
import torch
from chase import Chase

from trudi.train.agent import Agent, DualsCfg, OptimCfg, Optimizers
from trudi.train.critic import CriticCfg
from trudi.train.policy import PolicyCfg
from trudi.train.rollout import Collector
from trudi.train.trust_region import TrustRegionCfg
from trudi.train.update import UpdateCfg, update


def learn(region, blind=False, iterations=40, seed=0):
    torch.manual_seed(seed)
    duals = DualsCfg(alpha=0.003, lam=1.0, entropy_per_action=-3.0)
    critic = CriticCfg(width=32, v_min=-30.0, v_max=10.0, bins=81)
    agent = Agent(PolicyCfg(width=32, steps=4), critic, duals, actor_size=1, critic_size=1, action_size=1)
    optimizers = Optimizers(agent, OptimCfg(learning_rate=1e-2, schedule="linear", final_fraction=0.02))
    generator = torch.Generator().manual_seed(seed)
    collector = Collector(Chase(blind=blind), agent, generator)
    kls = []
    for iteration in range(iterations):
        optimizers.set_progress(iteration / iterations)
        rollout = collector.collect(16)
        batch = rollout.to_batch(agent, 0.9, 0.95)
        metrics = update(agent, optimizers, batch, UpdateCfg(epochs=2, minibatch_size=128), region, -3.0, generator)
        agent.update_normalizers(rollout.raw)
        agent.sync_old_policy()
        kls.append(float(metrics["actor/kl"]))
    return agent, rollout, kls


@torch.no_grad()
def worst_action_error(agent):
    """Largest distance of the deterministic policy from the best action, where that is well inside (-1, 1)."""
    x = torch.linspace(-0.1, 0.4, 26)[:, None]
    action, _ = agent.policy.sample_ode(agent.actor_norm(x), torch.zeros(26, 1))
    return float((action - (0.4 - 2 * x)).abs().max())


@pytest.mark.parametrize(
    "region",
    [
        TrustRegionCfg(bound=0.2),
        TrustRegionCfg(bound=0.2, chains="fresh", chains_per_state=2),
        TrustRegionCfg(bound=0.2, direction="reverse"),
    ],
    ids=["collected", "fresh", "reverse"],
)
def test_the_best_action_is_found_within_the_trust_region(region):
    agent, rollout, kls = learn(region)
    assert worst_action_error(agent) < 0.2
    assert float(rollout.reward.mean()) > -0.25
    assert max(kls) < 3 * region.bound


def test_it_also_learns_where_terminal_observations_are_unknown():
    agent, rollout, _ = learn(TrustRegionCfg(bound=0.2), blind=True)
    assert not bool(rollout.known.all())
    assert worst_action_error(agent) < 0.2


def test_collected_transitions_are_the_simulators():
    """Row by row: s' belongs to s and a, the terminal one where an episode ended, and a' was sampled at s'."""
    torch.manual_seed(0)
    agent = Agent(PolicyCfg(width=8), CriticCfg(width=8), DualsCfg(), actor_size=1, critic_size=1, action_size=1)
    collector = Collector(Chase(num_envs=8), agent, torch.Generator().manual_seed(0))
    first, second = collector.collect(20), collector.collect(20)
    for rollout in (first, second):
        x, action = rollout.raw.actor, rollout.action
        following = agent.critic_norm(x + action / 2 - 0.2)
        torch.testing.assert_close(rollout.next_critic, following)  # true next observation, also at the ends
        assert bool(rollout.truncated.any())
        ended = rollout.truncated | rollout.terminated
        goes_on = ~ended[:-1]
        # the action that bootstraps one step acts in the next
        assert torch.equal(rollout.next_action[:-1][goes_on], rollout.action[1:][goes_on])
        assert not torch.equal(rollout.next_action[:-1][~goes_on], rollout.action[1:][~goes_on])
        assert bool(rollout.known.all())
    torch.testing.assert_close(first.next_critic[-1][~ended[-1]].shape[1:], second.observation.critic[0].shape[1:])


def test_the_stored_chain_is_the_one_that_acted():
    agent, rollout, _ = learn(TrustRegionCfg(), iterations=1)
    batch = rollout.to_batch(agent, 0.9, 0.95)
    assert batch.states.shape == batch.means.shape == (1024, 4, 1)
    with torch.no_grad():  # nothing but the last step's noise lies between its mean and the action
        last = torch.atanh(batch.action.clamp(-0.999999, 0.999999)) - batch.means[:, -1]
    expected = float(agent.old_policy.step_sizes().std[-1, 0].detach())
    inside = batch.action.squeeze(-1).abs() < 0.9
    assert float(last[inside].std()) == pytest.approx(expected, rel=0.3)
