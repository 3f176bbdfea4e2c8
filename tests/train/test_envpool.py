import subprocess
import sys

import numpy as np
import pytest
import torch

from trudi.train.envs.base import SimCfg
from trudi.train.envs.envpool import EnvPoolEnv, describe_task, make_pool, task_names
from trudi.train.envs.registry import make_env, split_task
from trudi.train.errors import TrainError


def rollout(env, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    env.reset()
    return [env.step(2 * torch.rand(env.num_envs, env.action_size, generator=generator) - 1) for _ in range(steps)]


@pytest.fixture
def cartpole():
    env = EnvPoolEnv("CartpoleSwingup-v1", 4, 7, num_threads=1, stagger=False)
    yield env
    env.close()


def test_sizes_agree_with_playground():
    for name, actor, action in [
        ("CartpoleSwingup-v1", 5, 1),
        ("CheetahRun-v1", 17, 6),
        ("HumanoidRun-v1", 67, 21),
        ("FingerSpin-v1", 9, 2),
        ("WalkerWalk-v1", 24, 6),
    ]:
        info = describe_task(name)
        assert (sum(info.actor.values()), info.action_size) == (actor, action), name
        assert info.critic == info.actor


def test_asymmetric_observations():
    env = EnvPoolEnv("MuJoCoPlayground/Go1JoystickFlatTerrain-v1", 2, 0, num_threads=1)
    try:
        observation = env.reset()
        assert observation.actor.shape == (2, 48)
        assert observation.critic.shape == (2, 123)
        assert env.control_period_s == 0.02
    finally:
        env.close()


def test_observations_are_the_simulators_in_the_documented_order(cartpole):
    """Against the raw pool with the same seed: position then velocity, action for action."""
    raw = make_pool("CartpoleSwingup-v1", 4, 7, 1)
    expected, _ = raw.reset()
    ours = cartpole.reset()
    for t in range(50):
        flat = np.concatenate([expected["position"], expected["velocity"]], axis=1).astype(np.float32)
        np.testing.assert_array_equal(ours.actor.numpy(), flat)
        action = np.sin(np.arange(4) + t)[:, None]
        expected, reward, *_ = raw.step(action)
        step = cartpole.step(torch.from_numpy(action))
        np.testing.assert_array_equal(step.reward.numpy(), reward)
        ours = step.observation
    raw.close()


def test_actions_are_clipped():
    """Go1 does not clip by itself; here 5 acts as 1."""
    results = []
    for size in (1.0, 5.0):
        env = EnvPoolEnv("MuJoCoPlayground/Go1JoystickFlatTerrain-v1", 2, 3, num_threads=1, stagger=False)
        env.reset()
        results.append([env.step(torch.full((2, 12), size)).observation.actor for _ in range(5)])
        env.close()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_seeds_reproduce_whatever_the_threads():
    runs = []
    for seed, threads in ((1, 1), (1, 2), (2, 1)):
        env = EnvPoolEnv("CheetahRun-v1", 4, seed, num_threads=threads)
        runs.append(torch.stack([step.observation.actor for step in rollout(env, 60)]))
        env.close()
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_by_default_it_has_a_thread_for_each_core_it_may_use():
    code = """
import os
from pathlib import Path
from trudi.train.envs.envpool import make_pool

def threads(num_threads):
    before = len(list(Path("/proc/self/task").iterdir()))
    pool = make_pool("CartpoleSwingup-v1", 64, 0, num_threads=num_threads)
    started = len(list(Path("/proc/self/task").iterdir())) - before
    pool.close()
    return started

usable = sorted(os.sched_getaffinity(0))
print(threads(len(usable)), threads(0))
os.sched_setaffinity(0, usable[:1])
print(threads(1), threads(0), threads(3) - threads(1))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    one_each, default, one, pinned, two_more = map(int, said.split())
    assert default == one_each
    assert (pinned, two_more) == (one, 2)


def test_time_limit_is_a_truncation_with_the_true_last_observation(cartpole):
    """1000 steps; the terminal observation continues the episode, the returned one starts the next."""
    steps = rollout(cartpole, 1001)
    assert not any(bool(step.ended.any()) for step in steps[:999])
    last = steps[999]
    assert last.truncated.all() and not last.terminated.any()
    # One control step (0.01 s) moves the cart by at most a little; a reset moves it by much more in some environment.
    before = steps[998].observation.actor
    assert float((last.terminal.actor - before).abs().max()) < 0.6
    assert float((last.observation.actor - before).abs().max()) > 0.6
    assert not torch.equal(steps[1000].observation.actor, last.observation.actor)
    assert last.episodes.lengths.tolist() == [1000.0] * 4
    expected = torch.stack([step.reward for step in steps[:1000]]).sum(0)
    torch.testing.assert_close(last.episodes.returns, expected)


def test_the_reset_step_is_kept_out(cartpole):
    """Every step is a real one: after an end the next observation follows from the first one and the action."""
    steps = rollout(cartpole, 1000)
    first = steps[-1].observation.actor
    following = cartpole.step(torch.zeros(4, 1)).observation.actor
    assert not torch.equal(first, following)
    assert float((following - first).abs().max()) < 0.6


def test_staggered_starts():
    env = EnvPoolEnv("CartpoleSwingup-v1", 32, 0, num_threads=1)
    steps = rollout(env, 1300)
    env.close()
    ends = torch.stack([step.ended for step in steps])
    assert int(ends.sum(1).max()) < 8  # not all together
    assert bool(ends[:1000].any(0).all())  # every first episode was cut
    for step in steps[:500]:  # and cut episodes are no statistics
        assert len(step.episodes.returns) == 0
    whole = torch.cat([step.episodes.lengths for step in steps])
    assert len(whole) > 0 and set(whole.tolist()) == {1000.0}


def test_returned_tensors_are_not_written_to_later(cartpole):
    first = cartpole.reset()
    kept = first.actor.clone()
    step = cartpole.step(torch.ones(4, 1))
    kept_step = step.observation.actor.clone()
    rollout_after = [cartpole.step(torch.ones(4, 1)) for _ in range(5)]
    assert torch.equal(first.actor, kept)
    assert torch.equal(step.observation.actor, kept_step)
    assert rollout_after


def test_closing_twice_and_stepping_after():
    env = EnvPoolEnv("CartpoleSwingup-v1", 1, 0, num_threads=1)
    env.close()
    env.close()
    with pytest.raises(TrainError, match="was closed"):
        env.reset()


def test_unknown_names_say_what_is_near():
    with pytest.raises(TrainError, match="did you mean CheetahRun-v1"):
        make_pool("CheetaRun-v1", 1, 0)
    with pytest.raises(TrainError, match=r"unknown backend 'envpol'.*did you mean envpool"):
        split_task("envpol:CheetahRun-v1")
    with pytest.raises(TrainError, match="has no backend; write backend:name"):
        make_env("CheetahRun-v1", 1, 0, device=torch.device("cpu"))


def test_control_periods_agree_with_the_assets():
    """Physics step of each domain's MJCF times EnvPool's frame_skip is the period in our table."""
    from pathlib import Path
    from xml.etree import ElementTree

    checked = 0
    for name in task_names():
        if name.startswith("MuJoCoPlayground/"):
            continue
        pool = make_pool(name, 1, 0, 1)
        config = pool.spec.config
        pool.close()
        lowered = name.lower()
        stems = [path for path in Path(config.base_path).rglob("*.xml") if "playground" not in str(path)]
        match = next((p for p in stems if p.stem.replace("_", "") and lowered.startswith(p.stem.replace("_", ""))), None)
        option = ElementTree.parse(match).getroot().find("option") if match is not None else None
        if option is None or "timestep" not in option.attrib:
            continue
        checked += 1
        period = float(option.attrib["timestep"]) * config.frame_skip
        assert describe_task(name).control_period_s == pytest.approx(period), name
    assert checked >= 15


GO1 = "envpool:MuJoCoPlayground/Go1JoystickFlatTerrain-v1"


def go1_rewards(*overrides):
    env = make_env(GO1, 3, 5, device=torch.device("cpu"), stagger=False, sim=SimCfg(overrides=overrides))
    rewards = torch.stack([step.reward for step in rollout(env, 12)])
    env.close()
    return rewards


def test_without_the_clip_a_reward_is_the_sum_that_the_task_clips():
    clipped, whole = go1_rewards(), go1_rewards("clip_reward=false")
    assert (whole < 0).any()
    torch.testing.assert_close(whole.clamp(min=0.0), clipped, atol=1e-7, rtol=0)


def test_a_term_of_the_reward_is_weighed_as_told():
    """Only the term's weight changes; its part of the whole is linear in it."""
    whole, doubled, without = (
        go1_rewards("clip_reward=false", f"orientation_scale={weight}") for weight in (-5.0, -10.0, 0.0)
    )
    assert not torch.equal(whole, without)
    torch.testing.assert_close(doubled - whole, whole - without, atol=1e-6, rtol=0)


def test_late_actions_are_the_same_ones_a_step_later():
    """Half of six environments are late: they do what an env on time does with actions a step older, 0 after a reset."""
    late = make_env(GO1, 6, 5, device=torch.device("cpu"), stagger=False, sim=SimCfg(overrides=("late_actions=0.5",)))
    plain = make_env(GO1, 6, 5, device=torch.device("cpu"), stagger=False)
    generator = torch.Generator().manual_seed(0)
    given, ends = torch.zeros(6, 12), 0
    late.reset(), plain.reset()
    for _ in range(150):
        before, given = given, torch.rand(6, 12, generator=generator) * 2.0 - 1.0  # throws the robot over now and then
        there, here = late.step(given), plain.step(torch.cat([before[:3], given[3:]]))
        assert torch.equal(there.reward, here.reward) and torch.equal(there.terminated, here.terminated)
        for seen, expected in (
            (there.observation.actor, here.observation.actor),
            (there.observation.critic, here.observation.critic),
        ):
            others = [column for column in range(seen.shape[1]) if not 33 <= column < 45]
            assert torch.equal(seen[:, others], expected[:, others]) and torch.equal(seen[3:], expected[3:])
        going = ~here.ended[:3]
        assert torch.equal(there.observation.actor[:3, 33:45][going], before[:3][going])
        given[here.ended] = 0.0
        ends += int(here.ended[:3].sum())
    assert ends >= 3
    late.close(), plain.close()


@pytest.mark.parametrize("task", [GO1, GO1.replace("Flat", "Rough")])
def test_quiet_sensors_say_what_is(task):
    """Every second of six environments observes what the task without noise does, at the start of an episode, too."""
    quiet, noisy, silent = (
        make_env(task, 6, 5, device=torch.device("cpu"), stagger=False, sim=SimCfg(overrides=overrides))
        for overrides in (("quiet_sensors=0.5",), (), ("noise_level=0",))
    )
    generator, ends = torch.Generator().manual_seed(0), 0
    seen, loud, still = (env.reset() for env in (quiet, noisy, silent))
    for _ in range(150):
        for part, with_noise, without in zip(*((one.actor, one.critic) for one in (seen, loud, still)), strict=True):
            assert torch.equal(part[0::2], with_noise[0::2]) and torch.equal(part[1::2], without[1::2])
            assert (with_noise[:, :33] != without[:, :33]).all(1).any() and torch.equal(with_noise[:, 48:], without[:, 48:])
        action = torch.rand(6, 12, generator=generator) * 2.0 - 1.0  # throws the robot over now and then
        steps = [env.step(action) for env in (quiet, noisy, silent)]
        seen, loud, still = (step.observation for step in steps)
        assert torch.equal(steps[0].reward, steps[2].reward)
        if (ended := steps[0].ended)[1::2].any():
            rows = torch.arange(6)[ended] % 2 == 1
            assert torch.equal(steps[0].terminal.actor[rows], steps[2].terminal.actor[rows])
        ends += int(ended[1::2].sum())
    assert ends >= 3
    for env in (quiet, noisy, silent):
        env.close()


@pytest.mark.parametrize(
    ("task", "override", "said"),
    [
        (GO1, "orientation_scal=1", "did you mean orientation_scale"),
        (GO1, "kp=20", "kp is in the robot's file"),
        (GO1, "num_envs=3", "no 'num_envs' in the task's configuration"),
        (GO1, "orientation_scale=much", "orientation_scale is -5.0; 'much' is of another kind"),
        (GO1, "late_actions=2", "late_actions is 2.0; it is a share of the environments, 0 to 1"),
        (GO1, "quiet_sensors=-0.1", "quiet_sensors is -0.1; it is a share of the environments, 0 to 1"),
        ("envpool:CheetahRun-v1", "quiet_sensors=0.5", "no 'quiet_sensors'"),
        ("envpool:CheetahRun-v1", "late_actions=0.5", "no 'late_actions'"),
        ("envpool:CheetahRun-v1", "clip_reward=false", "no 'clip_reward'"),
    ],
)
def test_options_that_a_task_does_not_take(task, override, said):
    with pytest.raises(TrainError, match=said):
        make_env(task, 2, 0, device=torch.device("cpu"), sim=SimCfg(overrides=(override,)))
