import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from support import small_agent, small_batch

from trudi.train.agent import DualsCfg, OptimCfg, Optimizers
from trudi.train.trust_region import TrustRegionCfg
from trudi.train.update import (
    NonFiniteError,
    UpdateCfg,
    actor_terms,
    draw,
    minibatches,
    require_finite,
    update,
    update_actor,
    update_critic,
)

FORMS = [
    TrustRegionCfg(bound=0.2),
    TrustRegionCfg(bound=0.2, kl="simplified"),
    TrustRegionCfg(bound=0.2, chains="fresh", chains_per_state=2),
    TrustRegionCfg(bound=0.2, direction="reverse"),
]
FREE = TrustRegionCfg(bound=0.006, direction="none")


def moved(agent, amount=0.25):
    """The agent with a policy away from its old one, so that some states are inside the bound and some outside."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(amount * torch.randn_like(parameter) * parameter.abs().mean())
    return agent


def terms_of(agent, batch, region):
    """The actor's terms for the same random numbers every time."""
    return actor_terms(agent, agent.critic, batch, draw(agent, len(batch), region, torch.Generator().manual_seed(5)), region)


def with_median_bound(agent, batch, region):
    """The trust region whose bound half of the states exceed."""
    ordered = terms_of(agent, batch, region).kl.sort().values
    half = len(ordered) // 2
    return replace(region, bound=float(ordered[half - 1 : half + 1].mean()))  # well between two states' KLs


@pytest.mark.parametrize("region", FORMS, ids=["full", "simplified", "fresh", "reverse"])
def test_actor_gradient_agrees_with_finite_differences(region):
    """Central differences of the whole loss along random directions in parameter space, in float64."""
    agent = moved(small_agent().double())
    batch = small_batch(agent, 24)
    region = with_median_bound(agent, batch, region)
    terms = terms_of(agent, batch, region)
    outside = (terms.kl >= region.bound).sum()
    assert 8 <= int(outside) <= 16  # both branches of the switch are at work
    parameters = [parameter for parameter in agent.policy.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(terms.loss, parameters, materialize_grads=True)
    generator = torch.Generator().manual_seed(3)
    step = 1e-6

    def shifted(direction, amount):
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.add_(amount * part)
        loss = float(terms_of(agent, batch, region).loss.detach())
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.sub_(amount * part)
        return loss

    for _ in range(3):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        numeric = (shifted(direction, step) - shifted(direction, -step)) / (2 * step)
        analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-5)


def step_actor(agent, batch, region, threads=1, entropy_target=-2.0):
    """One real actor step; returns its metrics."""
    optimizers = Optimizers(agent, OptimCfg())
    frozen = copy.deepcopy(agent.critic).requires_grad_(False)
    draws = draw(agent, len(batch), region, torch.Generator().manual_seed(5))
    with ThreadPoolExecutor(threads) as workers:
        return update_actor(agent, optimizers, frozen, batch, draws, region, entropy_target, workers, threads)


def test_dual_gradients_by_hand():
    """dL/dlog alpha = alpha (H - H_target), dL/dlog lambda = -lambda (mean KL - eps), before the common clip."""
    agent = moved(small_agent().double())
    batch = small_batch(agent, 24)
    metrics = step_actor(agent, batch, replace(FORMS[0], bound=0.5))
    alpha_part = 0.01 * (float(metrics["actor/entropy"]) + 2.0)
    lambda_part = -0.01 * (float(metrics["actor/kl"]) - 0.5)
    scale = min(1.0, 0.5 / float(metrics["actor/grad_norm"]))
    assert float(agent.duals.log_alpha.grad) == pytest.approx(alpha_part * scale, rel=1e-4)
    assert float(agent.duals.log_lambda.grad) == pytest.approx(lambda_part * scale, rel=1e-4)


def test_duals_move_towards_their_targets():
    """Entropy above its target lowers alpha; a KL below the bound lowers lambda."""
    agent = small_agent()
    metrics = step_actor(agent, small_batch(agent, 32), TrustRegionCfg(), entropy_target=-100.0)
    assert float(metrics["actor/entropy"]) > -100.0 and float(metrics["actor/kl"]) < 0.1
    assert float(agent.duals.alpha.detach()) < 0.01
    assert float(agent.duals.lam.detach()) < 0.01


def test_the_switch_is_per_state_and_not_a_sum():
    """The loss is the sum of each state's own branch, computed here state by state."""
    agent = moved(small_agent().double())
    batch = small_batch(agent, 24)
    region = with_median_bound(agent, batch, FORMS[0])
    draws = draw(agent, 24, region, torch.Generator().manual_seed(5))
    whole = actor_terms(agent, agent.critic, batch, draws, region)
    expected = 0.0
    for i in range(24):
        row = slice(i, i + 1)
        chain = agent.policy.sample(batch.observation.actor[row], draws.own[row])
        value = agent.critic(batch.observation.critic[row], chain.action)
        kl = float(whole.kl[i])
        expected += 0.01 * kl if kl >= region.bound else float((0.01 * chain.log_prob - value).detach())
        assert float(whole.run_cost[i]) == pytest.approx(float(chain.run_cost.detach()))
    assert float(whole.loss.detach()) == pytest.approx(expected)


def test_a_policy_that_has_not_moved_is_inside_everywhere():
    agent = small_agent()
    terms = terms_of(agent, small_batch(agent, 32), TrustRegionCfg())
    assert float(terms.kl.abs().max()) < 1e-6


@pytest.mark.parametrize("region", FORMS, ids=["full", "simplified", "fresh", "reverse"])
def test_more_threads_give_the_same_step(region):
    """In float64 the gradients of one, two and three shards agree to rounding."""
    gradients = []
    for threads in (1, 2, 3):
        agent = moved(small_agent().double())
        step_actor(agent, small_batch(agent, 25), region, threads)
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-9, atol=1e-12)


def run_update(agent, batch, seed=0):
    optimizers = Optimizers(agent, OptimCfg(learning_rate=1e-2))
    generator = torch.Generator().manual_seed(seed)
    return update(agent, optimizers, batch, UpdateCfg(epochs=3, minibatch_size=16), TrustRegionCfg(), -8.0, generator)


def test_the_critic_running_ahead_changes_nothing():
    """Against the plain sequential loop, critic then actor on each minibatch: equal to the last bit."""
    torch.set_num_threads(1)
    threaded, plain = small_agent(), small_agent()
    batch = small_batch(threaded, 70)
    run_update(threaded, batch)
    optimizers, generator = Optimizers(plain, OptimCfg(learning_rate=1e-2)), torch.Generator().manual_seed(0)
    for index in list(minibatches(70, UpdateCfg(epochs=3, minibatch_size=16), generator)):
        part = batch[index]
        update_critic(plain.critic, optimizers, part)
        frozen = copy.deepcopy(plain.critic).requires_grad_(False)
        draws = draw(plain, len(part), TrustRegionCfg(), generator)
        with ThreadPoolExecutor(1) as workers:
            update_actor(plain, optimizers, frozen, part, draws, TrustRegionCfg(), -8.0, workers, 1)
    for (name, ours), theirs in zip(threaded.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_actors_step_leaves_the_critic_and_the_old_policy_alone():
    agent = small_agent()
    step_actor(agent, small_batch(agent, 16), TrustRegionCfg())
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    assert all(parameter.grad is None for parameter in agent.old_policy.parameters())


def test_every_epoch_has_its_own_order_and_sees_each_sample_once():
    parts = list(minibatches(10, UpdateCfg(epochs=3, minibatch_size=5), torch.Generator().manual_seed(0)))
    epochs = [torch.cat(parts[2 * i : 2 * i + 2]) for i in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_a_batch_smaller_than_a_minibatch_is_one_minibatch():
    parts = list(minibatches(7, UpdateCfg(epochs=1, minibatch_size=512), torch.Generator()))
    assert [len(part) for part in parts] == [7]


def test_a_nan_is_named():
    agent = small_agent()
    batch = small_batch(agent, 32)
    batch.target[3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"critic/loss is not finite in minibatch \d of 6"):
        run_update(agent, batch)
    with pytest.raises(NonFiniteError, match="reward is not finite"):
        require_finite({"observation": torch.zeros(2), "reward": torch.tensor([0.0, float("inf")])})


def test_learning_rate_schedules():
    cfg = OptimCfg(schedule="linear", final_fraction=0.1)
    assert [cfg.scale(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1])
    cosine = OptimCfg(schedule="cosine")
    assert [cosine.scale(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert OptimCfg().scale(0.7) == 1.0


def test_without_a_trust_region_the_objective_alone_moves_the_policy():
    """Every state's loss is what it would be inside a bound that nothing exceeds; lambda stays; the KL is still measured."""
    agent = moved(small_agent().double())
    batch = small_batch(agent, 24)
    wide = terms_of(agent, batch, replace(FREE, direction="forward", bound=1e9))
    free = terms_of(agent, batch, FREE)
    assert bool((wide.kl >= FREE.bound).any())  # a bound would hold some of them back
    torch.testing.assert_close(free.loss, wide.loss)
    torch.testing.assert_close(free.kl, wide.kl)
    agent = moved(small_agent())
    before = agent.duals.log_lambda.detach().clone()
    optimizers = Optimizers(agent, OptimCfg())
    update(agent, optimizers, small_batch(agent, 24), UpdateCfg(1, 24), FREE, -1.0, torch.Generator().manual_seed(0))
    assert torch.equal(agent.duals.log_lambda, before)
    assert not torch.equal(agent.duals.log_alpha.detach(), torch.tensor(DualsCfg().alpha).log())
