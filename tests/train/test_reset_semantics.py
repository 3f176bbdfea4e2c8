"""One MDP behind EnvPool's protocol and Isaac Lab's signatures, row by row; benchmarks/reset_semantics.py trains on it."""

import sys
from collections import deque
from dataclasses import fields, replace

import pytest
import torch
from cartpole_pool import NAME, OVERRIDES, TASK, FirstAsTerminal, known_to_envpool, without_final_observations
from isaac_signatures.process import isaaclab_importable

from trudi.train.agent import Agent, DualsCfg
from trudi.train.critic import CriticCfg
from trudi.train.envs.base import Observation, SimCfg
from trudi.train.envs.registry import make_env
from trudi.train.policy import PolicyCfg
from trudi.train.rollout import Collector, Rollout

ENVS, STEPS, GAMMA, LAM = 8, 64, 0.99, 0.95
HOOK, FINAL_OBS = "isaaclab:Isaac-Cartpole-v0", "isaaclab:Isaac-Cartpole-FinalObs"
POOL = f"envpool:{NAME}"


class Recorded:
    """An environment, and the starts of its episodes."""

    def __init__(self, env):
        self._env = env
        self.starts = [[] for _ in range(env.num_envs)]

    def __getattr__(self, name):
        return getattr(self._env, name)

    def reset(self):
        observation = self._env.reset()
        self._note(observation, range(self.num_envs))
        return observation

    def step(self, action):
        result = self._env.step(action)
        self._note(result.observation, result.ended.nonzero().squeeze(-1).tolist())
        return result

    def _note(self, observation, index):
        for env in index:
            self.starts[env].append(observation.actor[env].clone())


def replayed(starts):
    """The recorded starts again, each environment's in their order."""
    queues = [deque(each) for each in starts]
    return lambda index: torch.stack([queues[env].popleft() for env in index.tolist()])


def simulator(task, overrides=()):
    sim = SimCfg(overrides=overrides)
    return make_env(task, ENVS, 3, device=torch.device("cpu"), num_threads=1, stagger=False, sim=sim)


def a_policy():
    """With a critic whose values differ from state to state, and noise that is the same in every step."""
    torch.manual_seed(0)
    critic = CriticCfg(width=16, v_min=-5.0, v_max=25.0, bins=61)
    agent = Agent(PolicyCfg(width=16, steps=4), critic, DualsCfg(), actor_size=4, critic_size=4, action_size=1)
    agent.critic.prior.data.zero_()
    draw = agent.policy.draw_noise
    agent.policy.draw_noise = lambda batch, _: draw(batch, torch.Generator().manual_seed(5))
    return agent


@pytest.fixture(scope="module")
def agent():
    return a_policy()


@pytest.fixture(scope="module")
def isaac():
    with isaaclab_importable():
        sys.modules.pop("trudi.train.envs.isaaclab", None)  # a process has one application: forget an earlier module's
        yield
        sys.modules.pop("trudi.train.envs.isaaclab", None)


@pytest.fixture(scope="module")
def rollouts(isaac, agent):
    """The same policy for 64 steps of the same episodes, as each simulator tells of them."""
    found = {}

    def collect(name, env):
        found[name] = Collector(env, agent, torch.Generator()).collect(STEPS)
        env.close()
        return env

    starts = collect("hook", Recorded(simulator(HOOK, OVERRIDES))).starts
    collect("final-obs", simulator(FINAL_OBS, OVERRIDES))
    with without_final_observations():
        collect("masked", simulator(HOOK, OVERRIDES))
    with known_to_envpool(starts=replayed(starts)):
        collect("next-step", simulator(POOL))
    with known_to_envpool(starts=replayed(starts)):
        collect("trap", FirstAsTerminal(simulator(POOL)))
    with known_to_envpool(starts=replayed(starts), keeps_reset_step=True):
        collect("reset-step", simulator(POOL))
    return found


def columns(value, prefix=""):
    """All tensors of a dataclass, by name."""
    for field in fields(value):
        each = getattr(value, field.name)
        if isinstance(each, torch.Tensor):
            yield prefix + field.name, each
        elif each is not None:
            yield from columns(each, f"{prefix}{field.name}.")


def ended(rollout: Rollout):
    return rollout.terminated | rollout.truncated


def follows(rollout, agent):
    """Whether s' is what the dynamics make of s and a (T, M)."""
    state, action = rollout.raw.critic.flatten(0, 1), rollout.action.flatten(0, 1)
    position, velocity = TASK.step(state[:, :2], state[:, 2:], (action + 1.0) - 1.0)
    following = agent.critic_norm(TASK.observe(position, velocity))
    return (following == rollout.next_critic.flatten(0, 1)).all(-1).view_as(rollout.reward)


def test_the_same_actions_give_the_same_steps(isaac):
    """Next observation, reward, both kinds of ends, last observation and statistics, to the last bit."""
    generator = torch.Generator().manual_seed(0)
    actions = 2.0 * torch.rand(200, ENVS, 1, generator=generator) - 1.0
    actions[:, ::2] = actions[:, ::2].sign()  # some drive off the track
    actions[:, ::4] = 1.0
    env = Recorded(simulator(HOOK, OVERRIDES))
    first, steps = env.reset(), [env.step(action) for action in actions]
    env.close()
    assert {bool(step.terminated.any()) for step in steps} == {bool(step.truncated.any()) for step in steps} == {False, True}
    with known_to_envpool(starts=replayed(env.starts)):
        pool = simulator(POOL)
    assert torch.equal(pool.reset().actor, first.actor)
    for action, expected in zip(actions, steps, strict=True):
        found, wanted = dict(columns(pool.step(action))), dict(columns(expected))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert torch.equal(found[name], value), name
    assert (pool.control_period_s, pool.max_episode_steps) == (env.control_period_s, env.max_episode_steps)


def test_three_ways_to_reset_give_one_rollout(rollouts):
    hook = dict(columns(rollouts["hook"]))
    assert bool(hook["terminated"].any()) and bool(hook["truncated"].any()) and bool(hook["known"].all())
    for name in ("next-step", "final-obs"):
        for column, value in columns(rollouts[name]):
            assert torch.equal(value, hook[column]), f"{name}: {column}"


def test_without_terminal_observations_the_ends_alone_differ(rollouts, agent):
    masked, hook = dict(columns(rollouts["masked"])), dict(columns(rollouts["hook"]))
    ends = ended(rollouts["hook"])
    assert torch.equal(masked["known"], ~ends)
    assert torch.equal(rollouts["masked"].to_batch(agent, GAMMA, LAM).weight, (~ends).float().flatten())
    for column, value in hook.items():
        if column.startswith("next_"):
            assert torch.equal(masked[column][~ends], value[~ends]), column
        elif column != "known":
            assert torch.equal(masked[column], value), column


def test_each_next_observation_follows_and_the_controls_are_caught(rollouts, agent):
    for name in ("hook", "next-step", "final-obs"):
        assert bool(follows(rollouts[name], agent).all()), name
    assert torch.equal(follows(rollouts["masked"], agent), rollouts["masked"].known)
    trap = rollouts["trap"]
    assert torch.equal(follows(trap, agent), ~ended(trap))
    assert bool(trap.known.all())  # nothing but the dynamics tells
    late = rollouts["reset-step"]
    assert torch.equal(follows(late, agent)[1:], ~ended(late)[:-1])
    assert torch.equal(late.reward[1:][ended(late)[:-1]], late.reward[:-1][ended(late)[:-1]])  # the last one again


@torch.no_grad()
def test_targets_at_the_ends(rollouts, agent):
    """Fatal: G = r. Out of time: G = r - gamma alpha log_prob(a') + gamma Q(s', a'), with s' from the dynamics."""
    for name in ("hook", "next-step", "final-obs", "trap"):
        rollout = rollouts[name]
        target = rollout.to_batch(agent, GAMMA, LAM).target.view_as(rollout.reward)
        fatal, cut = rollout.terminated, rollout.truncated
        assert torch.equal(target[fatal], rollout.reward[fatal])
        state, action = rollout.raw.critic[cut], rollout.action[cut]
        last = agent.critic_norm(torch.cat(TASK.step(state[:, :2], state[:, 2:], (action + 1.0) - 1.0), dim=-1))
        value = agent.critic(last, rollout.next_action[cut])
        soft = rollout.reward[cut] - GAMMA * agent.duals.alpha * rollout.next_log_prob[cut]
        is_right = torch.isclose(target[cut], soft + GAMMA * value, atol=1e-4)
        assert bool(is_right.all()) == (name != "trap"), name
        assert name != "trap" or not bool(is_right.any())


def test_what_is_unknown_reaches_no_target_that_the_critic_learns_from(rollouts, agent):
    masked = rollouts["masked"]
    assert bool((masked.truncated & ~masked.known).any())
    other = {
        name: torch.where(masked.known.view(STEPS, ENVS, *[1] * (value.dim() - 2)), value, -value)
        for name, value in columns(masked)
        if name.startswith("next_")
    }
    batches = [each.to_batch(agent, GAMMA, LAM) for each in (masked, replace(masked, **other))]
    learned = batches[0].weight > 0
    torch.testing.assert_close(batches[1].target[learned], batches[0].target[learned])


def test_the_starts_are_the_same_distribution(isaac):
    """Uniform in the same box: bounds, means and variances of 4096 starts of either."""
    half = torch.tensor([*TASK.start_position, *TASK.start_velocity])
    with known_to_envpool():
        for task, overrides in ((HOOK, OVERRIDES), (POOL, ())):
            sim = SimCfg(overrides=overrides)
            env = make_env(task, 4096, 0, device=torch.device("cpu"), num_threads=1, stagger=False, sim=sim)
            first: Observation = env.reset()
            env.close()
            unit = first.actor / half
            assert float(unit.abs().max()) <= 1.0 + 1e-6
            assert float(unit.mean(0).abs().max()) < 5 * (1 / 3 / 4096) ** 0.5
            torch.testing.assert_close(unit.var(0), torch.full((4,), 1 / 3), atol=0.03, rtol=0.0)
