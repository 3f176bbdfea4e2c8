import pytest
import torch

from trudi.train.agent import Agent, DualsCfg
from trudi.train.critic import CriticCfg
from trudi.train.envs.base import EpisodeStats, Observation, StepResult
from trudi.train.envs.registry import make_env
from trudi.train.evaluation import EvalCfg, EvalResult, evaluate, make_act, run_episodes
from trudi.train.policy import PolicyCfg

pytestmark = pytest.mark.usefixtures("short_episodes")

TASK = "envpool:CartpoleBalance-v1"


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    sizes = {"actor_size": 5, "critic_size": 5, "action_size": 1}
    agent = Agent(PolicyCfg(width=16, steps=3), CriticCfg(width=16), DualsCfg(), **sizes)
    with torch.no_grad():
        agent.policy.score.out.weight.normal_(0.0, 0.3)
        for parameter in agent.critic.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return agent


def environment(count, seed=3):
    return make_env(TASK, count, seed, device=torch.device("cpu"), num_threads=1, stagger=False)


@pytest.mark.parametrize("sampler", ["ode", "sde", "zero", "best"])
def test_every_sampler_repeats_itself(agent, sampler):
    cfg = EvalCfg(episodes=2, sampler=sampler, best_of=3, seed=3)
    first, second = (evaluate(agent, environment(2), cfg) for _ in range(2))
    assert torch.equal(first.returns, second.returns)
    assert first.lengths.tolist() == [100.0, 100.0]


def test_best_of_k_takes_the_action_the_critic_prefers(agent):
    observation = environment(4).reset()
    act = make_act(agent, "best", 6, torch.Generator().manual_seed(1))
    with torch.no_grad():
        chosen = act(observation)
        seen = agent.normalize(observation)
        noise = agent.policy.draw_noise(24, torch.Generator().manual_seed(1))
        candidates = agent.policy.sample(seen.actor.repeat(6, 1), noise).action.view(6, 4, 1)
        values = torch.stack([agent.critic(seen.critic, candidate) for candidate in candidates])
    for i in range(4):
        assert torch.equal(chosen[i], candidates[int(values[:, i].argmax()), i])


def test_zero_latent_depends_on_the_observation_alone(agent):
    observation = environment(4).reset()
    with torch.no_grad():
        first, second = (make_act(agent, "zero", 1, torch.Generator().manual_seed(s))(observation) for s in (1, 2))
    assert torch.equal(first, second)


def test_one_episode_per_environment_is_counted():
    """A zero action in a raw loop gives the same returns."""

    def idle(observation):
        return torch.zeros(len(observation.actor), 1)

    result = run_episodes(environment(3), idle)
    env = environment(3)
    env.reset()
    expected = sum(env.step(torch.zeros(3, 1)).reward for _ in range(100))
    env.close()
    torch.testing.assert_close(result.returns, expected)


def test_statistics_by_hand():
    result = EvalResult(torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.ones(4))
    assert result.mean == 3.0
    assert result.std == pytest.approx(2.1602469)  # sqrt((4 + 1 + 0 + 9) / 3)
    low, high = result.confidence_interval()
    assert 1.0 < low < 3.0 < high < 6.0
    assert EvalResult(torch.tensor([5.0]), torch.ones(1)).confidence_interval() == (5.0, 5.0)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(60):
        low, high = EvalResult(torch.randn(40, generator=generator), torch.ones(40)).confidence_interval()
        hits += low <= 0.0 <= high
    assert hits >= 50  # 57 expected of 60 at 95 %


class Counting:
    """Two environments whose episodes last 3 and 2 steps of 0.5 s, with no physics at all."""

    task, num_envs, device, control_period_s = "none", 2, torch.device("cpu"), 0.5
    actor_size = critic_size = 1
    action_size, max_episode_steps = 2, 3

    def __init__(self):
        self.taken = 0

    def reset(self):
        return Observation(torch.zeros(2, 1), torch.zeros(2, 1))

    def step(self, action):
        self.taken += 1
        ended = torch.tensor([self.taken == 3, self.taken == 2])
        nothing = EpisodeStats(torch.empty(0), torch.empty(0))
        return StepResult(self.reset(), torch.ones(2), ended, ended & False, None, nothing)

    def close(self):
        pass


def test_steadiness_by_hand():
    """Changes count within an episode alone: the second one's last action is its second."""
    actions = iter([[[0.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [1.5, -0.5]], [[-1.0, 0.0], [-1.0, 0.0]]])
    result = run_episodes(Counting(), lambda observation: torch.tensor(next(actions)))
    assert result.lengths.tolist() == result.returns.tolist() == [3.0, 2.0]
    # (0.5 + 0) / 2 and (1.5 + 0) / 2 in 1.5 s; (1.5 + 0.5) / 2 in 1 s. Changes by more than 1: the second, the first.
    assert result.variation_per_s.tolist() == pytest.approx([1.0 / 1.5, 1.0])
    assert result.jumps_per_s.tolist() == pytest.approx([1.0 / 1.5, 1.0])
    assert result.steadiness() == pytest.approx(((1.0 / 1.5 + 1.0) / 2, (1.0 / 1.5 + 1.0) / 2))
