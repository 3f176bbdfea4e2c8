"""ManiSkill on PhysX's CPU simulation, and a made-up batch of environments for what only a GPU has: several of them.

The environment of these tests is `.sim/maniskill` (`make test-simulators`).
"""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("mani_skill", reason="ManiSkill is not installed: `make test-simulators` has it")

from trudi.train.config import parse_config
from trudi.train.envs import maniskill
from trudi.train.envs.base import SimCfg
from trudi.train.envs.conformance import check
from trudi.train.envs.maniskill import ManiSkillEnv, describe_task, recommended_gamma, task_names
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError
from trudi.train.loop import Learner

pytestmark = pytest.mark.filterwarnings("ignore")  # ManiSkill's own, thousands of them
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: conformance of many environments at once, on PhysX's CUDA, was not run"
)


@pytest.fixture
def made():
    """Makes simulators that are closed afterwards."""
    envs = []

    def make(name="PushCube-v1", seed=0, **options):
        envs.append(ManiSkillEnv(name, 1, seed, **options))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def zeros(env):
    return torch.zeros(env.num_envs, env.action_size)


def starts(env, episodes):
    """First observations of the first episodes, all cut after a step."""
    seen = [env.reset().actor]
    for _ in range(episodes - 1):
        env._length[:] = 1
        seen.append(env.step(zeros(env)).observation.actor)
    return torch.stack(seen)


@pytest.mark.parametrize("name", ["PushCube-v1", "PegInsertionSide-v1", "MS-CartpoleBalance-v1"])
def test_conformance(name):
    report = check(lambda envs, seed, stagger: ManiSkillEnv(name, envs, seed, stagger=stagger), num_envs=1, steps=400)
    assert report.passed, str(report)


def test_sizes_of_tasks():
    """PushT paints a table; TwoRobotPickCube has an action space for each robot."""
    for name, seen, actions, steps in [
        ("PickCube-v1", 42, 8, 50),
        ("PushT-v1", 31, 7, 100),
        ("TwoRobotPickCube-v1", 66, 16, 100),
    ]:
        info = describe_task(name)
        assert (info.actor["state"], info.action_size, info.max_episode_steps) == (seen, actions, steps), name
        assert info.control_period_s == 0.05
        assert name in task_names()


def test_no_episode_starts_as_the_one_before(made):
    """Seeded alike, the first two would: ManiSkill seeds torch by the seed of the first reset."""
    seen = starts(made(seed=3), 6)
    assert len(seen.unique(dim=0)) == 6
    assert torch.equal(seen, starts(made(seed=3), 6))
    assert not (seen == starts(made(seed=4), 6)).all(-1).any()


def test_two_simulators_draw_independently(made):
    """One that is made for an evaluation does not start training's random numbers over."""
    expected = starts(made(seed=3), 4)
    training = made(seed=3)
    seen = [training.reset().actor]
    for _ in range(3):
        made(seed=3, stagger=False).reset()
        training._length[:] = 1
        seen.append(training.step(zeros(training)).observation.actor)
    assert torch.equal(torch.stack(seen), expected)


def test_starting_over_is_a_new_simulator(made):
    env = made(seed=1)
    starts(env, 3)
    env.restart(3)
    assert torch.equal(starts(env, 4), starts(made(seed=3), 4))


def succeed_at(env, step):
    """Success in the steps from `step` on."""
    inner = env._env
    evaluate = inner.evaluate
    inner.evaluate = lambda: evaluate() | {"success": inner.elapsed_steps >= step}


def test_success_ends_an_episode_and_its_value_goes_on(made):
    env = made()
    env.reset()
    env._length[:] = env.max_episode_steps
    succeed_at(env, 4)
    steps = [env.step(zeros(env)) for _ in range(8)]
    assert [bool(step.truncated) for step in steps] == [False] * 3 + [True] + [False] * 3 + [True]
    assert not any(bool(step.terminated) for step in steps)
    assert [step.episodes.lengths.tolist() for step in steps if step.ended] == [[4.0]] * 2
    # The true last observation is a step from the one before; the returned one is another start.
    last, first = steps[3].terminal.actor[0], steps[3].observation.actor[0]
    assert float((last - steps[2].observation.actor[0]).abs().max()) < 0.05 < float((first - last).abs().max())
    assert env.log() == {"success_once": 1.0} and env.log() == {}


def test_success_in_a_short_first_episode_is_no_statistic(made):
    env = made(seed=0)
    env.reset()
    env._length[:] = 10
    succeed_at(env, 4)
    step = [env.step(zeros(env)) for _ in range(4)][-1]
    assert step.truncated and len(step.episodes.lengths) == 0
    assert env.log() == {}


def test_an_evaluation_counts_success_and_goes_on(made):
    """The fifth step alone succeeds; the episode has its 50 steps, and the next one's scene is built anew."""
    env = made(stagger=False)
    env.reset()
    inner, built = env._env, []
    evaluate, reconfigure = inner.evaluate, inner._reconfigure
    inner.evaluate = lambda: evaluate() | {"success": inner.elapsed_steps == 5}
    inner._reconfigure = lambda options: (built.append(1), reconfigure(options))
    steps = [env.step(zeros(env)) for _ in range(51)]
    assert [t for t, step in enumerate(steps) if step.ended] == [49]
    assert len(built) == 1
    assert env.log() == {"success_once": 1.0}


def test_objects_differ_between_an_evaluations_episodes(made):
    """The peg's sizes are a part of what is seen, and drawn when the scene is built."""
    env = made("PegInsertionSide-v1", stagger=False)
    seen = starts(env, 4)
    assert len(seen[:, 0].unique(dim=0)) == 4
    sizes = [part for part in seen[:, 0].T if len(part.unique()) == 4]
    assert len(sizes) > 3


@pytest.mark.parametrize("stagger", [True, False])
def test_a_failure_is_a_termination(made, stagger):
    """The pole falls under full force."""
    env = made("MS-CartpoleBalance-v1", stagger=stagger)
    env.reset()
    env._length[:] = env.max_episode_steps
    for _ in range(200):
        step = env.step(torch.ones(1, 1))
        if step.ended:
            break
    assert step.terminated and not step.truncated
    assert float((step.terminal.actor - step.observation.actor).abs().max()) > 0.1
    assert "early-truncation" not in env.exceptions


def test_actions_go_from_the_lowest_to_the_highest_command(made):
    env = made(overrides=("control_mode=pd_joint_pos",))
    space = env._env.single_action_space
    assert space.high.max() > 2.0  # rad
    for value, command in ((-1.0, space.low), (0.0, (space.low + space.high) / 2), (1.0, space.high)):
        np.testing.assert_allclose(env._command(torch.full((1, 8), value)).numpy()[0], command, rtol=1e-6, atol=1e-6)


def test_each_robot_gets_its_part(made):
    env = made("TwoRobotPickCube-v1")
    command = env._command(torch.linspace(-1.0, 1.0, 16)[None])
    assert [tuple(part.shape) for part in command.values()] == [(1, 8)] * 2
    torch.testing.assert_close(torch.cat([*command.values()], -1)[0], torch.linspace(-1.0, 1.0, 16))
    env.reset()
    assert env.step(zeros(env)).reward.isfinite().all()


def test_an_action_that_is_no_number_is_told_and_not_taken(made):
    env = made()
    env.reset()
    action = zeros(env)
    action[0, 3] = float("nan")
    step = env.step(action)
    assert step.reward.isnan().all() and step.observation.actor.isfinite().all()


def test_the_discount_of_the_published_settings(made):
    """1 - 10/50 and 1 - 10/80; a run says it."""
    assert recommended_gamma(50) == pytest.approx(0.8) and recommended_gamma(80) == pytest.approx(0.875)
    assert made("RollBall-v1").notes == ("ManiSkill's settings have gamma 0.875 for this task",)
    with pytest.raises(TrainError, match="no discount for episodes of 10 steps"):
        recommended_gamma(10)


def test_errors_say_what_to_do(made, monkeypatch):
    with pytest.raises(TrainError, match=r"one environment on a CPU, not 2: .*--num-envs 1 and --evaluation.episodes 1"):
        ManiSkillEnv("PushCube-v1", 2, 0)
    with pytest.raises(TrainError, match="0 environments; it takes at least 1"):
        ManiSkillEnv("PushCube-v1", 0, 0)
    with pytest.raises(TrainError, match="did you mean PushCube-v1"):
        describe_task("PushCub-v1")
    with pytest.raises(TrainError, match="'Endless-v1' has no time limit"):
        monkeypatch.setitem(maniskill.registration.REGISTERED_ENVS, "Endless-v1", SimpleNamespace(max_episode_steps=None))
        describe_task("Endless-v1")
    with pytest.raises(TrainError, match=r"PlugCharger-v1' has no reward 'normalized_dense'; .*takes: none, sparse"):
        describe_task("PlugCharger-v1")
    with pytest.raises(TrainError, match=r"no 'num_envs' in the task's configuration; available: control_mode"):
        made(overrides=("num_envs=3",))
    with pytest.raises(TrainError, match=r"no 'control_frequency' in sim_config; did you mean control_freq"):
        made(overrides=("sim_config.control_frequency=3",))
    with pytest.raises(TrainError, match=r"sim\.imports: my_tasks cannot be imported"):
        make_env("maniskill:PushCube-v1", 1, 0, device=CPU, sim=SimCfg(imports=("my_tasks",)))
    with pytest.raises(TrainError, match=r"cannot make 'PushCube-v1' \(AssertionError: wheels not in supported modes:"):
        made(overrides=("control_mode=wheels",))
    with pytest.raises(TrainError, match="ManiSkill's tasks have their own"):
        make_env("maniskill:PushCube-v1", 1, 0, device=CPU, sim=SimCfg(action_bound=2.0))
    env = made()
    with pytest.raises(TrainError, match="stepped before its first reset"):
        env.step(zeros(env))
    env.close()
    env.close()
    with pytest.raises(TrainError, match="was closed"):
        env.reset()


def test_files_that_are_not_here(monkeypatch):
    """ManiSkill would ask whether to download them: the task's own, and its robot's."""
    assets = maniskill.import_module("mani_skill.utils.assets")
    monkeypatch.setattr(assets, "is_data_source_downloaded", lambda source: False)
    with pytest.raises(TrainError, match=r"PickSingleYCB-v1' needs files.*download_asset PickSingleYCB-v1"):
        describe_task("PickSingleYCB-v1")
    agents = maniskill.import_module("mani_skill.agents.registration").REGISTERED_AGENTS
    monkeypatch.setattr(agents["anymal_c"].agent_cls, "urdf_path", "nowhere.urdf")
    with pytest.raises(
        TrainError, match=r"AnymalC-Reach-v1' needs files.*anymal_c definition file not found at nowhere.urdf"
    ):
        describe_task("AnymalC-Reach-v1")


def test_settings_of_the_task_reach_it(made):
    env = made(overrides=("sim_config.control_freq=50", "sim_config.scene_config.solver_position_iterations=20"))
    assert env.control_period_s == 0.02
    assert env._env.sim_config.scene_config.solver_position_iterations == 20
    assert env._env.sim_config.gpu_memory_config.max_rigid_patch_count == 2**18  # the task's own


def test_training_with_one_environment():
    """Iterations, an evaluation and a restart; the log has the success."""
    values = {
        "task": "maniskill:PushCube-v1",
        "num_envs": 1,
        "rollout_steps": 120,
        "policy": {"width": 8, "layers": 3, "steps": 2},
        "critic": {"width": 8, "bins": 11},
        "update": {"minibatch_size": 40, "epochs": 1},
        "evaluation": {"episodes": 1},
    }
    learner = Learner(parse_config(values, "test"))
    try:
        metrics = learner.iterate()
        assert metrics["simulator/success_once"] in (0.0, 0.5, 1.0)
        assert learner.evaluate().lengths.tolist() == [50.0]
        learner.restart_simulator()
        assert np.isfinite([*learner.iterate().values()]).all()
    finally:
        learner.close()


class Batch:
    """Three environments as ManiSkill's are on a GPU: a counter each, `fails` and `succeeds` at steps of their own.

    An observation is (environment, number of the episode, steps in it).
    """

    num_envs, control_timestep = 3, 0.05
    single_observation_space = SimpleNamespace(shape=(3,))
    single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, fails=(99, 99, 99), succeeds=(99, 99, 99)):
        self.fails, self.succeeds = torch.tensor(fails), torch.tensor(succeeds)
        self.rows = torch.stack([torch.arange(3), torch.zeros(3), torch.zeros(3)], -1).float()
        self.resets = []

    def get_info(self):
        steps = self.rows[:, 2]
        return {"success": steps == self.succeeds, "fail": steps == self.fails}

    def reset(self, seed=None, options=None):
        self.resets.append({key: torch.as_tensor(value).tolist() for key, value in options.items()})
        index = options.get("env_idx", torch.arange(3))
        self.rows[index, 1] += 1
        self.rows[index, 2] = 0
        return self.rows, {}

    def step(self, command):
        self.rows[:, 2] += 1
        nothing = torch.zeros(3, dtype=torch.bool)
        return self.rows, self.rows[:, 0] + 1.0, nothing, nothing, self.get_info()

    def close(self):
        pass


@pytest.fixture
def batch(monkeypatch):
    """An adapter of `Batch` under a task's name; its episodes have 50 steps."""
    monkeypatch.setattr(maniskill, "_require_parallel", lambda num_envs, device: None)

    def make(stagger=True, lengths=(50, 50, 50), **options):
        monkeypatch.setattr(maniskill, "_build", lambda *args: Batch(**options))
        env = ManiSkillEnv("PushCube-v1", 3, 0, stagger=stagger)
        env.reset()
        env._length = torch.tensor(lengths)
        return env

    return make


def test_some_end_and_others_go_on(batch):
    """Environment 1 fails in its second step, 2 succeeds in its third, 0 is cut after its fourth."""
    env = batch(lengths=(4, 50, 50), fails=(99, 2, 99), succeeds=(99, 99, 3))
    steps = [env.step(torch.zeros(3, 2)) for _ in range(4)]
    assert [step.terminated.tolist() for step in steps] == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert [step.truncated.tolist() for step in steps] == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert steps[1].terminal.actor.tolist() == [[1.0, 1.0, 2.0]]
    assert steps[1].observation.actor.tolist() == [[0.0, 1.0, 2.0], [1.0, 2.0, 0.0], [2.0, 1.0, 2.0]]
    assert steps[3].terminal.actor.tolist() == [[0.0, 1.0, 4.0], [1.0, 2.0, 2.0]]
    assert steps[3].observation.actor.tolist() == [[0.0, 2.0, 0.0], [1.0, 3.0, 0.0], [2.0, 2.0, 1.0]]
    assert [step.episodes.lengths.tolist() for step in steps] == [[], [2.0], [3.0], [2.0]]  # the cut one is left out
    assert [step.episodes.returns.tolist() for step in steps] == [[], [4.0], [9.0], [4.0]]
    assert env.log() == {"success_once": pytest.approx(1 / 3)}
    assert env._env.resets == [{"reconfigure": True}, {"env_idx": [1]}, {"env_idx": [2]}, {"env_idx": [0, 1]}]


def test_an_evaluation_builds_the_scene_anew_once_all_have_ended(batch):
    env = batch(stagger=False, fails=(99, 2, 99), succeeds=(3, 99, 3))
    for _ in range(50):
        step = env.step(torch.zeros(3, 2))
    assert step.truncated.tolist() == [True, False, True] and step.terminated.tolist() == [False, True, False]
    assert env._env.resets[-1] == {"reconfigure": True}
    assert {tuple(one.get("env_idx", ())) for one in env._env.resets[1:-1]} == {(1,)}


def test_a_success_is_its_own_episodes(batch):
    """All succeed in their third step; of the episodes that follow, none does in its 50."""
    env = batch(succeeds=(3, 3, 3))
    for _ in range(3):
        env.step(torch.zeros(3, 2))
    assert env.log() == {"success_once": 1.0}
    env._env.succeeds[:] = 99
    for _ in range(50):
        env.step(torch.zeros(3, 2))
    assert env.log() == {"success_once": 0.0}


def test_failure_counts_more_than_success(batch):
    env = batch(fails=(2, 99, 99), succeeds=(2, 99, 99))
    env.step(torch.zeros(3, 2))
    step = env.step(torch.zeros(3, 2))
    assert step.terminated.tolist() == [True, False, False] and not step.truncated.any()


def test_what_was_returned_is_not_the_simulators_memory(batch):
    """`Batch` writes every observation into the same rows, as PhysX's buffers are."""
    env = batch()
    kept = env.step(torch.zeros(3, 2)).observation.actor
    before = kept.clone()
    env.step(torch.zeros(3, 2))
    assert torch.equal(kept, before)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["PushCube-v1", "PickCube-v1", "PushT-v1"])
def test_conformance_on_a_gpu(name):
    device = torch.device("cuda")
    report = check(lambda envs, seed, stagger: ManiSkillEnv(name, envs, seed, device=device, stagger=stagger), num_envs=32)
    assert report.passed, str(report)
