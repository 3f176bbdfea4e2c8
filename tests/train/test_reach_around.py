"""The task's symmetry and arithmetic, and the protocol of envs/base.py on MuJoCo's batched stepping."""

import json
import math

import numpy as np
import pytest
import torch

from trudi import cli
from trudi.train.config import preset_for
from trudi.train.envs import reach_around, registry
from trudi.train.envs.mujoco import MujocoEnv, describe_task
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError

TASK = "mujoco:ReachAround-v1"


def make(num_envs=4, seed=7, **options):
    return MujocoEnv("ReachAround-v1", num_envs, seed, **{"num_threads": 1, "stagger": False} | options)


@pytest.fixture
def env():
    env = make()
    yield env
    env.close()


def play(env, actions):
    """Observations (ticks + 1, envs, 6) and rewards (ticks, envs) of a whole episode under `actions` (ticks, envs, 2)."""
    seen, rewards = [env.reset().actor], []
    for action in actions:
        step = env.step(action)
        seen.append(step.observation.actor if step.terminal is None else step.terminal.actor)
        rewards.append(step.reward)
    env.close()
    return torch.stack(seen).double(), torch.stack(rewards).double()


def turned(vectors, angle):
    """Vectors (..., 2) turned by an angle."""
    c, s = math.cos(angle), math.sin(angle)
    return vectors @ torch.tensor([[c, s], [-s, c]], dtype=vectors.dtype)


def wandering(ticks=20, envs=64, seed=0):
    """Actions that change slowly and lead towards +x, into the obstacle or past it; not longer than 1."""
    noise = torch.randn(ticks + 1, envs, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise[0, :, 1] *= 5.0
    action = 0.2 * noise.cumsum(0)[1:] + torch.tensor([0.5, 0.0], dtype=torch.float64)
    return action / action.norm(dim=-1, keepdim=True).clamp_min(1.0)


def going_round(env, side, first=None, ticks_first=0):
    """Return and last position of a detour along a circle of 0.125 m; `side` +1 is left; `first` acts before it."""
    seen, total = env.reset().actor, torch.zeros(env.num_envs)
    for tick in range(20):
        position, target = seen[:, :2].double(), seen[:, 4:].double()
        if tick < ticks_first:
            action = first * target / 0.135
        else:
            straight = target - position
            ahead = straight / straight.norm(dim=1, keepdim=True).clamp_min(1e-9)
            reach = (-(position * ahead).sum(1)).clamp_min(0.0).minimum(straight.norm(dim=1))
            is_free = (position + ahead * reach[:, None]).norm(dim=1) > 0.125 - 1e-6
            lean = torch.asin((0.125 / position.norm(dim=1)).clamp_max(1.0)) * side
            inward = -position / position.norm(dim=1, keepdim=True)
            along = torch.stack([inward[:, 1] * -lean.sin(), inward[:, 0] * lean.sin()], 1) + inward * lean.cos()[:, None]
            action = torch.where(is_free[:, None], straight / 0.07, along)
        step = env.step(action)
        total += step.reward
        seen = step.observation.actor if step.terminal is None else step.terminal.actor
    return total, seen.double().numpy()


def test_mirrored_actions_give_mirrored_paths_bit_for_bit():
    """In the scene that is not turned, where the mirror is a change of signs. 64 episodes, some of them touch."""
    scenes, actions, mirror = np.zeros(64), wandering(), torch.tensor([1.0, -1.0], dtype=torch.float64)
    seen, rewards = play(make(64, scenes=scenes), actions)
    mirrored, mirrored_rewards = play(make(64, scenes=scenes), actions * mirror)
    assert torch.equal(seen[..., :4], mirrored[..., :4] * mirror.repeat(2))
    assert torch.equal(rewards, mirrored_rewards)
    touched = (seen[1:, :, :2].norm(dim=-1) < 0.12).any(0)
    assert 5 < int(touched.sum()) < 60


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5, 4.0])
def test_turning_the_scene_changes_nothing(angle):
    actions = wandering()
    seen, rewards = play(make(64, scenes=np.zeros(64)), actions)
    other, other_rewards = play(make(64, scenes=np.full(64, angle)), turned(actions, angle))
    torch.testing.assert_close(turned(seen.unflatten(-1, (3, 2)), angle).flatten(-2), other, rtol=0, atol=1e-5)
    torch.testing.assert_close(rewards, other_rewards, rtol=0, atol=1e-5)


def test_one_tick_by_hand():
    """Half the speed straight ahead. The servo: v' = v + 0.01 (20 / 1) (0.25 - v'), implicit, so v' = (v + 0.05) / 1.2, and
    after n steps v = 0.25 (1 - 1.2^-n). n = 10: 0.25 (1 - 0.161506) = 0.209624 m/s. The way: 0.01 x the sum of the ten
    velocities = 0.0025 (10 - (1 - 1.2^-10) / 0.2) = 0.014519 m. Reward: 1 - (0.135 + 0.120481) / 0.27 = 0.053774.
    """
    seen, rewards = play(make(1, scenes=np.zeros(1)), torch.tensor([[[0.5, 0.0]]]))
    torch.testing.assert_close(seen[0, 0], torch.tensor([-0.135, 0.0, 0.0, 0.0, 0.135, 0.0]).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(seen[1, 0, :4], torch.tensor([-0.120481, 0.0, 0.209624, 0.0]).double(), atol=1e-6, rtol=0)
    assert float(rewards) == pytest.approx(0.053774, abs=1e-5)


def test_rewards_by_hand():
    """A touch counts in whichever of a tick's steps it is, and once."""
    task, scene = reach_around.ReachAround(), np.zeros(4)
    far = [0.0, 0.13]
    positions = np.array(
        [
            [far, far, [0.135, 0.0]],  # at the target: 1
            [far, far, [0.0, 0.135]],  # |(0.135, -0.135)| = 0.190919: 1 - 0.190919 / 0.27 = 0.292893
            [far, [0.0, 0.119], [0.0, 0.135]],  # the same, and a touch on the way: -0.707107
            [[0.0, 0.119], [0.0, 0.119], [-0.108, 0.0]],  # 1 - 0.243 / 0.27 - 1 = -0.9
        ]
    )
    np.testing.assert_allclose(task.reward(positions, scene), [1.0, 0.292893, -0.707107, -0.9], atol=1e-6)


def test_the_obstacle_is_solid_and_costs():
    seen, rewards = play(make(1, scenes=np.zeros(1)), torch.tensor([1.0, 0.0]).expand(6, 1, 2))
    assert -0.12 < float(seen[-1, 0, 0]) < -0.115
    assert bool((seen[1:, 0, 0] > -0.12).all())  # from the first tick of going straight ahead
    torch.testing.assert_close(rewards[:, 0], -(0.135 - seen[1:, 0, 0]) / 0.27, atol=1e-6, rtol=0)
    seen, rewards = play(make(1, scenes=np.zeros(1)), torch.tensor([[[0.458, 0.0]], [[0.0, 1.0]]]))
    closeness = 1 - (seen[1:, 0, :2] - torch.tensor([0.135, 0.0])).norm(dim=-1) / 0.27
    touched = torch.tensor([0.0, 1.0])  # the mean of two good first actions is paid for, whatever follows
    torch.testing.assert_close(rewards[:, 0], closeness - touched, atol=1e-6, rtol=0)


def test_commands_are_limited_in_length_and_not_by_axis():
    control = reach_around.ReachAround().control(np.array([[1.0, 1.0], [0.6, 0.0], [0.0, -1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(control, [[0.353553, 0.353553], [0.3, 0.0], [0.0, -0.5], [0.0, 0.0]], atol=1e-6)
    paths = [play(make(1, scenes=np.zeros(1)), torch.tensor([x, 1.0]).expand(5, 1, 2))[0] for x in (1.0, 5.0)]
    assert torch.equal(*paths)  # first of all they are clipped to [-1, 1]: (5, 1) goes where (1, 1) does


def test_both_ways_are_as_good_and_no_choice_is_bad():
    """A detour by hand, in 16 contexts. A tick of the mean of both ways' actions loses more than one of waiting; one of full
    speed straight ahead loses more still, and two more than one."""
    scenes = np.arange(16) * 2 * np.pi / 16
    (left, end_left), (right, end_right) = (going_round(make(16, scenes=scenes), side) for side in (1, -1))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
    torch.testing.assert_close(left, left[:1].expand(16), atol=1e-5, rtol=0)
    assert reach_around.reached(end_left).all() and reach_around.reached(end_right).all()
    assert 14.0 < float(left[0]) < 15.0
    mean = math.sqrt(1 - (0.12 / 0.135) ** 2)  # cos 63 degrees = 0.458
    for first, ticks, low, high in ((0.0, 1, 0.99, 1.01), (mean, 1, 1.9, 2.2), (1.0, 1, 2.9, 3.2), (mean, 2, 3.8, 4.2)):
        late, _ = going_round(make(16, scenes=scenes), 1, first, ticks)
        assert low < float((left - late).min()) <= float((left - late).max()) < high


def test_the_way_is_told_from_the_path_alone():
    angles = np.linspace(np.pi, 0.0, 30)
    left = 0.13 * np.stack([np.cos(angles), np.sin(angles)], -1)  # from -x over +y to +x: the origin is on the right hand
    right = left * [1.0, -1.0]
    c, s = np.cos(2.0), np.sin(2.0)
    elsewhere = left @ np.array([[c, s], [-s, c]])
    paths = np.stack([left, right, elsewhere], axis=1)
    assert reach_around.way(paths).tolist() == [0, 1, 0]
    wavering = np.concatenate([right[:5], right[4::-1], left])  # begins on the right, comes back, and goes left
    assert reach_around.way(wavering[:, None]).tolist() == [0]


def test_reached_is_covering_the_target():
    seen = np.array([[0.0, 0.135, 0, 0, 0.0, 0.135], [0.0, 0.106, 0, 0, 0.0, 0.135], [0.0, 0.104, 0, 0, 0.0, 0.135]])
    assert reach_around.reached(seen).tolist() == [True, True, False]


def test_seeds_reproduce_whatever_the_threads():
    def run(seed, threads):
        env = make(16, seed, num_threads=threads, stagger=True)
        generator = torch.Generator().manual_seed(0)
        first = [env.reset().actor]
        steps = [env.step(2 * torch.rand(16, 2, generator=generator) - 1) for _ in range(50)]
        env.close()
        return torch.stack(first + [step.observation.actor for step in steps]), torch.stack([step.reward for step in steps])

    (seen, rewards), *others = run(1, 1), run(1, 2), run(1, 5)
    for other_seen, other_rewards in others:
        assert torch.equal(seen, other_seen) and torch.equal(rewards, other_rewards)
    assert not torch.equal(seen, run(2, 1)[0])


def test_an_episode_is_decided_by_its_own_seed():
    """Environment i with seed s is environment 0 with seed s + i: what is measured does not depend on how many run."""
    many, one = make(4, 10), make(1, 13)
    first, alone = many.reset().actor, one.reset().actor
    assert torch.equal(first[3:], alone)
    for _ in range(21):
        step, own = many.step(torch.zeros(4, 2)), one.step(torch.zeros(1, 2))
    assert torch.equal(step.observation.actor[3:], own.observation.actor)
    assert not torch.equal(alone, own.observation.actor)  # the second episode is another one
    assert torch.equal(many.reset().actor, first)  # and a reset starts from the first again
    assert len(set(first[:, 4].tolist())) == 4
    for env in (many, one):
        env.close()


def test_scenes_that_are_given_stay():
    env = make(2, scenes=np.array([0.0, np.pi / 2]))
    env.reset()
    for _ in range(21):
        step = env.step(torch.zeros(2, 2))
    expected = torch.tensor([[0.135, 0.0], [0.0, 0.135]])
    torch.testing.assert_close(step.observation.actor[:, 4:], expected, atol=1e-7, rtol=0)
    env.close()


def test_time_limit_is_a_truncation_with_the_true_last_observation(env):
    actions = wandering(20, 4)
    env.reset()
    steps = [env.step(action) for action in actions]
    assert not any(bool(step.ended.any()) for step in steps[:19]) and all(step.terminal is None for step in steps[:19])
    before, last = steps[18].observation.actor, steps[19]
    assert last.truncated.all() and not last.terminated.any()
    assert torch.equal(last.terminal.actor[:, 4:], before[:, 4:])  # of the same scene
    step_length = (last.terminal.actor[:, :2] - before[:, :2]).norm(dim=1)
    assert float(step_length.min()) > 1e-4 and float(step_length.max()) < 0.051
    first = last.observation.actor  # of the next episode, which starts at rest, opposite to another target
    assert torch.equal(first[:, :2], -first[:, 4:]) and not first[:, 2:4].any()
    assert not torch.equal(first[:, 4:], before[:, 4:])
    assert last.episodes.lengths.tolist() == [20.0] * 4
    torch.testing.assert_close(last.episodes.returns, torch.stack([step.reward for step in steps]).sum(0))
    following = env.step(torch.zeros(4, 2))
    assert torch.equal(following.observation.actor, first)  # no reset step: standing still is where it started
    assert float(following.reward.abs().max()) < 1e-6 and not following.ended.any()


def test_staggered_starts():
    env = make(64, 0, stagger=True)
    env.reset()
    steps = [env.step(torch.zeros(64, 2)) for _ in range(60)]
    env.close()
    ends = torch.stack([step.ended for step in steps])
    assert int(ends.sum(1).max()) < 13  # not all together
    assert bool(ends[:20].any(0).all())  # every first episode was cut
    whole = torch.cat([step.episodes.lengths for step in steps])
    assert len(whole) > 0 and set(whole.tolist()) == {20.0}  # and cut episodes are no statistics
    for step in steps:
        assert (step.terminal is None) == (not step.ended.any())
        assert step.terminal is None or len(step.terminal.actor) == int(step.ended.sum())


def test_returned_tensors_are_not_written_to_later(env):
    first = env.reset().actor
    kept = first.clone()
    step = env.step(torch.ones(4, 2))
    kept_step, kept_reward = step.observation.actor.clone(), step.reward.clone()
    for _ in range(25):
        env.step(-torch.ones(4, 2))
    assert torch.equal(first, kept)
    assert torch.equal(step.observation.actor, kept_step) and torch.equal(step.reward, kept_reward)
    assert not step.ended.any()


def test_an_action_that_is_no_number_is_said_by_the_reward_alone(env, tmp_path, monkeypatch):
    """MuJoCo would go on without the command, and write a file into the working directory."""
    monkeypatch.chdir(tmp_path)
    env.reset()
    step = env.step(torch.tensor([[math.nan, 0.0], [0.0, 0.0], [0.0, math.nan], [1.0, 0.0]]))
    assert step.reward.isnan().tolist() == [True, False, True, False]
    assert bool(step.observation.actor.isfinite().all())
    assert not list(tmp_path.iterdir())


def test_closing_twice_and_stepping_after():
    env = make(1)
    env.close()
    env.close()
    with pytest.raises(TrainError, match=r"mujoco:ReachAround-v1 was closed"):
        env.reset()
    with pytest.raises(TrainError, match="was closed"):
        env.step(torch.zeros(1, 2))


def test_wrong_names_and_scenes():
    with pytest.raises(TrainError, match="unknown MuJoCo task 'ReachAround'; did you mean ReachAround-v1"):
        make_env("mujoco:ReachAround", 1, 0, device=torch.device("cpu"))
    with pytest.raises(TrainError, match=r"4 environments and scenes of shape \(3,\)"):
        make(4, scenes=np.zeros(3))
    with pytest.raises(TrainError, match="0 environments; it takes at least 1"):
        make(0)


def test_the_registry_knows_it(tmp_path, capsys):
    env = make_env(TASK, 3, 0, device=torch.device("cpu"))
    assert (env.task, env.actor_size, env.critic_size, env.action_size) == (TASK, 6, 6, 2)
    assert (env.control_period_s, env.max_episode_steps) == (0.1, 20)
    observation = env.reset()
    assert observation.critic is observation.actor and observation.actor.dtype == torch.float32
    env.close()
    assert preset_for(TASK).name == "reach_around.yaml"
    assert cli.main(["tasks", "reacharound", "--json", str(tmp_path / "tasks.json")]) == 0
    assert TASK in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "tasks.json").read_text())
    assert row["actor"] == {"position": 2, "velocity": 2, "target": 2} and row["max_episode_steps"] == 20
    assert describe_task("ReachAround-v1").task == TASK


def test_tasks_of_what_is_installed(monkeypatch):
    nobody_has = registry.Backend("a_package_nobody_has", "pip install 'trudi[mujoco]'")
    monkeypatch.setattr(registry, "BACKENDS", {"envpool": registry.BACKENDS["envpool"], "mujoco": nobody_has})
    assert TASK not in registry.task_names() and "envpool:CheetahRun-v1" in registry.task_names()
    with pytest.raises(TrainError, match=r"the backend 'mujoco' is not installed: pip install 'trudi\[mujoco\]'"):
        make_env(TASK, 1, 0, device=torch.device("cpu"))
    monkeypatch.setitem(registry.BACKENDS, "envpool", nobody_has)
    with pytest.raises(TrainError, match=r"no simulator is installed: pip install 'trudi\[mujoco\]' or pip install .*"):
        registry.task_names()
