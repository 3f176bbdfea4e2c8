"""Entropies by hand, and paths from a simulator of numbers."""

import math

import numpy as np
import pytest
import torch

from trudi.train.behaviour import behaviour, context_entropies, follow
from trudi.train.envs.base import EpisodeStats, Observation, StepResult
from trudi.train.errors import TrainError

ALL = np.ones((1, 4), dtype=bool)


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ([0, 0, 0, 0], 0.0),
        ([1, 1, 1, 1], 0.0),
        ([0, 1, 0, 1], 1.0),
        ([0, 0, 1, 0], 0.811278),  # -(3/4 log2 3/4 + 1/4 log2 1/4) = 0.75 x 0.415037 + 0.25 x 2
    ],
)
def test_two_ways_by_hand(ways, expected):
    (entropy,) = context_entropies(np.array([ways]), ALL, 2)
    assert entropy == pytest.approx(expected, abs=1e-6)
    assert math.copysign(1.0, entropy) == 1.0  # 0, not -0


def test_four_ways_are_measured_in_base_four():
    """Two of four ways, equally often: log_4 2 = 0.5."""
    assert context_entropies(np.array([[0, 3, 0, 3]]), ALL, 4)[0] == pytest.approx(0.5)
    assert context_entropies(np.array([[0, 1, 2, 3]]), ALL, 4)[0] == pytest.approx(1.0)


def test_only_successes_count():
    """Of five rollouts three succeed, two of them one way: 2/3 log2 3/2 + 1/3 log2 3 = 0.918296. Failures' ways are ignored,
    also where they are no ways."""
    way = np.array([[0, 0, 1, 1, -9]])
    success = np.array([[True, True, True, False, False]])
    assert context_entropies(way, success, 2)[0] == pytest.approx(0.918296, abs=1e-6)


def test_contexts_without_success_are_left_out():
    way = np.array([[0, 1], [0, 0], [1, 1]])
    success = np.array([[True, True], [True, True], [False, False]])
    np.testing.assert_equal(context_entropies(way, success, 2), [1.0, 0.0, np.nan])
    found = behaviour(way, success, 2)
    assert (found.entropy, found.contexts) == (0.5, 2)
    assert found.success_rate == pytest.approx(4 / 6)
    assert found.shares == (0.75, 0.25)
    assert found.pooled == pytest.approx(0.811278, abs=1e-6)


def test_no_success_at_all():
    found = behaviour(np.zeros((3, 2), dtype=int), np.zeros((3, 2), dtype=bool), 2)
    assert math.isnan(found.entropy) and math.isnan(found.pooled) and all(math.isnan(end) for end in found.interval)
    assert all(math.isnan(share) for share in found.shares)
    assert (found.success_rate, found.contexts) == (0.0, 0)


def test_one_way_a_context_is_no_entropy_though_both_ways_are_taken():
    """The mean over contexts is 0; of all together 1: the way depends on the context."""
    way = np.repeat([[0], [1]], 8, axis=1).reshape(2, 8)
    found = behaviour(way, np.ones((2, 8), dtype=bool), 2)
    assert (found.entropy, found.interval, found.pooled) == (0.0, (0.0, 0.0), 1.0)


def test_the_interval_is_over_contexts():
    """Contexts of entropy 0 and 1, 50 each: the mean of 100 draws is 0.5 +- 1.96 x 0.05, 0.402 to 0.598. It does not become
    narrower with more rollouts, and the same seed gives the same interval."""
    way = np.zeros((100, 4), dtype=int)
    way[:50, :2] = 1
    found = behaviour(way, np.ones_like(way, dtype=bool), 2)
    assert found.entropy == 0.5
    assert found.interval == pytest.approx((0.402, 0.598), abs=0.011)
    more = np.tile(way, (1, 10))
    assert behaviour(more, np.ones_like(more, dtype=bool), 2) == found


def test_the_bias_that_the_docs_name():
    """Fair coins, 64 a context: 1 - 1 / (2 x 64 ln 2) = 0.9887."""
    way = np.random.default_rng(0).integers(2, size=(20_000, 64))
    assert context_entropies(way, np.ones_like(way, dtype=bool), 2).mean() == pytest.approx(0.9887, abs=5e-4)


def test_what_cannot_be_measured():
    with pytest.raises(TrainError, match="ways from 0 to 2; they count from 0 to 1"):
        context_entropies(np.array([[0, 2]]), np.ones((1, 2), dtype=bool), 2)
    with pytest.raises(TrainError, match="1 ways"):
        context_entropies(np.array([[0]]), np.ones((1, 1), dtype=bool), 1)
    with pytest.raises(TrainError, match="equal shapes"):
        context_entropies(np.array([[0]]), np.ones((1, 2), dtype=bool), 2)


class Counting:
    """Environment i counts to i + 2 and starts again at 100; the reward is the action."""

    task, num_envs, device = "test:Counting", 3, torch.device("cpu")
    actor_size = critic_size = action_size = 1
    control_period_s, max_episode_steps = 0.1, 4

    def __init__(self, gives_terminal=True):
        self.gives_terminal, self.closed = gives_terminal, False

    def reset(self):
        self.count = torch.zeros(3)
        return self.seen(self.count)

    def seen(self, count):
        value = count.clone()[:, None]
        return Observation(value, value)

    def step(self, action):
        self.count += 1
        ended = self.count == torch.arange(2.0, 5.0)
        terminal = self.seen(self.count)[ended] if self.gives_terminal and ended.any() else None
        self.count[ended] = 100.0
        none = EpisodeStats(torch.empty(0), torch.empty(0))
        return StepResult(self.seen(self.count), action[:, 0], torch.zeros_like(ended), ended, terminal, none)

    def close(self):
        self.closed = True


def test_a_path_ends_with_the_true_last_observation_and_stays_there():
    env = Counting()
    paths = follow(env, lambda observation: observation.actor + 1)
    expected = [[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 3, 3], [2, 3, 4]]
    assert paths.observations[..., 0].tolist() == expected
    assert paths.actions[..., 0].tolist() == [[1, 1, 1], [2, 2, 2], [0, 3, 3], [0, 0, 4]]
    assert paths.returns.tolist() == [1 + 2, 1 + 2 + 3, 1 + 2 + 3 + 4]
    assert env.closed


def test_a_simulator_without_terminal_observations_is_refused():
    env = Counting(gives_terminal=False)
    with pytest.raises(TrainError, match="test:Counting does not give terminal observations"):
        follow(env, lambda observation: observation.actor)
    assert env.closed
