"""The Isaac Lab adapter, on the simulator in `tests/isaac_signatures`: Isaac Lab's signatures and order of events."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
import yaml
from isaac_signatures.process import ROOT, isaaclab_importable

from trudi.train import checkpoint
from trudi.train.__main__ import with_task_first
from trudi.train.config import TrainCfg
from trudi.train.envs import registry
from trudi.train.envs.base import SimCfg
from trudi.train.envs.conformance import check
from trudi.train.envs.filming import Camera
from trudi.train.errors import TrainError
from trudi.train.evaluation import borrowed
from trudi.train.loop import Learner

CPU = torch.device("cpu")
TESTBOT = "isaaclab:Isaac-Velocity-Flat-TestBot"
# Every way in which observations are made: managers and direct, two groups, histories, separate terms, terms and noise with
# a memory, Isaac Lab 3.0's own final observations.
TASKS = [
    "isaaclab:Isaac-Cartpole-v0",
    "isaaclab:Isaac-Cartpole-Noisy-Direct-v0",
    "isaaclab:Isaac-Cartpole-FinalObs",
    f"{TESTBOT}-v0",
    f"{TESTBOT}-Dict-v0",
    f"{TESTBOT}-Stateful-v0",
    f"{TESTBOT}-FinalObs",
]
TINY = ["--num_envs", "8", "--rollout-steps", "8", "--policy.width", "16", "--critic.width", "16"]
TINY += ["--update.minibatch-size", "32", "--update.epochs", "1", "--sim.overrides", "episode_length_s=0.5"]


@contextmanager
def forgotten():
    """The adapter's one application a process, forgotten afterwards."""
    sys.modules.pop("trudi.train.envs.isaaclab", None)
    try:
        yield
    finally:
        sys.modules.pop("trudi.train.envs.isaaclab", None)


@pytest.fixture(scope="module")
def isaac():
    with isaaclab_importable(), forgotten():
        rest = registry.prepare("isaaclab:Any", ["--seed", "1", "--headless", "--video", "--device", "cpu"])
        assert rest == ["--seed", "1", "--video", "--device", "cpu"], "the launcher's own flags are taken out"
        yield


@pytest.fixture
def make(isaac):
    made = []

    def make(task, num_envs=6, seed=0, stagger=False, **sim):
        made.append(registry.make_env(task, num_envs, seed, device=CPU, stagger=stagger, sim=SimCfg(**sim)))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.mark.parametrize("task", TASKS)
def test_every_promise_is_kept(isaac, task):
    report = check(
        lambda num_envs, seed, stagger: registry.make_env(task, num_envs, seed, device=CPU, stagger=stagger), num_envs=4
    )
    assert report.passed, str(report)
    excepted = {finding.check for finding in report.findings if finding.verdict == "excepted"}
    assert excepted == ({"next-first"} if "Noisy-Direct" in task else set())


def test_a_simulator_that_says_nothing_of_the_end_is_masked(make):
    """Isaac Lab without the hook: the step's own observation is the next episode's, and must not pass for the last one."""
    from trudi.train.envs.manager_based import ManagerBasedEnv
    from trudi.train.envs.randomness import Randomness

    first = make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_length_s=0.1",))
    blind = ManagerBasedEnv(
        first.unwrapped,
        first.task,
        randomness=Randomness(CPU, 0),
        seed=0,
        stagger=False,
        sim=SimCfg(),
        final_observation=lambda extras: None,
    )
    blind.reset()
    steps = [blind.step(torch.zeros(6, 1)) for _ in range(6)]
    assert steps[-1].truncated.all() and steps[-1].terminal is None


def test_the_last_observation_is_the_one_before_the_reset(make):
    """A cart that is pushed is fast in its last observation, and slow in the next episode's first."""
    env = make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_length_s=0.1",))
    env.reset()
    steps = [env.step(torch.ones(6, 1)) for _ in range(6)]
    assert steps[-1].truncated.all()
    speeds = torch.stack([step.observation.actor[:, 2] for step in steps[:-1]] + [steps[-1].terminal.actor[:, 2]])
    assert (speeds.diff(dim=0) > 0.1).all(), "100 N on a cart and pole of some kilograms: faster every step, the last too"
    assert (steps[-1].observation.actor[:, 2].abs() <= 0.5).all(), "starts have at most 0.5 m/s"


def test_looking_before_a_reset_leaves_no_frame_in_the_others_histories(make):
    """joint_pos shows three frames of five joints, oldest first: what was newer a step ago is older now."""
    env = make(f"{TESTBOT}-v0", overrides=("episode_length_s=0.3",), stagger=True)
    names = list(env.info.actor)
    start = sum(env.info.actor[name] for name in names[: names.index("joint_pos")])
    before, checked = env.reset().actor[:, start : start + 15], 0
    for _ in range(40):
        step = env.step(torch.rand(6, 5) * 2 - 1)
        now = step.observation.actor[:, start : start + 15]
        assert torch.equal(now[~step.ended, :10], before[~step.ended, 5:])
        checked += int(step.ended.any() and not step.ended.all())
        before = now
    assert checked > 3


@pytest.mark.parametrize("kind", ["v0", "Stateful-v0"])
def test_looking_before_a_reset_changes_nothing(make, kind):
    env = make(f"{TESTBOT}-{kind}")
    env.reset()
    for _ in range(5):
        env.step(torch.ones(6, 5))
    manager = env.unwrapped.observation_manager
    parts = [*manager._group_obs_class_instances]
    parts += [buffer for table in manager._group_obs_term_history_buffer.values() for buffer in table.values()]
    parts += [term.func for terms in manager._group_obs_class_term_cfgs.values() for term in terms]

    def remembered():
        return [value.clone() for part in parts for value in vars(part).values() if isinstance(value, torch.Tensor)]

    first = remembered()
    env._hook._observe(env._group_names())
    assert first and all(torch.equal(one, other) for one, other in zip(first, remembered(), strict=True))


def test_both_flags_at_once_are_a_termination(make):
    env = make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_length_s=2.0",))
    env.reset()
    seen = [env.step(torch.ones(6, 1)) for _ in range(150)]
    assert not any((step.terminated & step.truncated).any() for step in seen)
    assert any(step.terminated.any() for step in seen), "the cart leaves its track"


def test_a_finite_horizon_ends_and_does_not_truncate(make):
    env = make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_length_s=0.1", "is_finite_horizon=true"))
    env.reset()
    steps = [env.step(torch.zeros(6, 1)) for _ in range(6)]
    assert steps[-1].terminated.all() and not steps[-1].truncated.any()


def test_bounds_of_actions(make):
    env = make("isaaclab:Isaac-Cartpole-v0")
    assert env.action_high.tolist() == [1.0] and "one unit" in env.notes[0]
    env.close()
    env = make("isaaclab:Isaac-Cartpole-v0", action_bound=2.5)
    env.reset()
    env.step(torch.tensor([[0.5]] * 6))
    assert env.notes == ("raw actions from -2.5 to 2.5: sim.action_bound 2.5",)
    assert env.unwrapped.action_manager.action.unique().tolist() == [1.25]
    env.close()
    env = make(f"{TESTBOT}-v0")  # its legs' targets are clipped, its wheels' are not
    assert "one unit" in env.notes[0]


def test_bounds_from_clips():
    """Targets clipped to [-0.5, 1.0] and [0, 3], with scale 0.5 and -1 and offset 0.1 and 1."""
    from types import SimpleNamespace

    from trudi.train.envs.manager_based import action_bounds

    term = SimpleNamespace(
        cfg=SimpleNamespace(clip={"a": (-0.5, 1.0), "b": (0.0, 3.0)}),
        _clip=torch.tensor([[[-0.5, 1.0], [0.0, 3.0]]]),
        _scale=torch.tensor([[0.5, -1.0]]),
        _offset=torch.tensor([[0.1, 1.0]]),
    )
    manager = SimpleNamespace(active_terms=["joints"], get_term=lambda name: term)
    space = SimpleNamespace(low=-float("inf"), high=float("inf"))
    env = SimpleNamespace(device="cpu", single_action_space=space, action_manager=manager)
    low, high, source = action_bounds(env, 2, SimCfg())
    assert torch.allclose(low, torch.tensor([-1.2, -2.0])) and torch.allclose(high, torch.tensor([1.8, 1.0]))
    assert source == "the action terms' clips"
    term._clip[0, 0] = 0.1
    with pytest.raises(TrainError, match="leave no room"):
        action_bounds(env, 2, SimCfg())
    space.low, space.high = [-2.0, -3.0], [2.0, 1.0]
    assert action_bounds(env, 2, SimCfg())[1].tolist() == [2.0, 1.0]


def frames_in(path):
    import imageio_ffmpeg

    return imageio_ffmpeg.count_frames_and_secs(str(path))


def test_films_of_a_training(make, tmp_path):
    """Three steps of every eight; nothing of an evaluation that borrows the simulator; an open film is ended by closing."""
    env = make("isaaclab:Isaac-Cartpole-v0", stagger=True, render=True)
    env.reset()
    env.camera = Camera(tmp_path, length=3, interval=8, step_s=0.1)
    for _ in range(9):
        env.step(torch.zeros(6, 1))
    with borrowed(env, 1) as lent:
        lent.reset()
        for _ in range(20):
            lent.step(torch.zeros(6, 1))
    env.restart(2)
    env.reset()
    env.step(torch.zeros(6, 1))
    env.close()
    assert {path.name: frames_in(path) for path in tmp_path.iterdir()} == {
        "step_00000000.mp4": (3, pytest.approx(0.3)),
        "step_00000008.mp4": (2, pytest.approx(0.2)),
    }
    with pytest.raises(TrainError, match="it must be 1 to the interval"):
        Camera(tmp_path, length=9, interval=8, step_s=0.1)


def test_what_a_user_can_get_wrong(make):
    with pytest.raises(
        TrainError, match=r"unknown Isaac Lab task 'Isaac-Cartpole'; did you mean Isaac-Cartpole-v0.*sim.imports"
    ):
        make("isaaclab:Isaac-Cartpole")
    with pytest.raises(TrainError, match=r"sim\.imports: no_such_lab cannot be imported"):
        make("isaaclab:Isaac-Cartpole-v0", imports=("no_such_lab",))
    with pytest.raises(TrainError, match="no 'episode_lengths' in the task's configuration; did you mean episode_length_s"):
        make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_lengths=3",))
    with pytest.raises(TrainError, match="is of another kind"):
        make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_length_s=long",))
    with pytest.raises(TrainError, match="KEY=VALUE"):
        make("isaaclab:Isaac-Cartpole-v0", overrides=("episode_length_s",))
    make("isaaclab:Isaac-Cartpole-v0")
    with pytest.raises(TrainError, match="one environment a process"):
        make("isaaclab:Isaac-Cartpole-v0")


def test_the_task_as_isaac_labs_users_write_it():
    assert with_task_first(["--task", "Isaac-A-v0", "--headless"]) == ["isaaclab:Isaac-A-v0", "--headless"]
    assert with_task_first(["--seed", "1", "--task=mjlab:B"]) == ["mjlab:B", "--seed", "1"]
    assert with_task_first(["envpool:C", "--seed", "1"]) == ["envpool:C", "--seed", "1"]
    assert with_task_first(["--task"]) == ["--task"]


def start(*args, **options):
    """`python -m trudi.train` as `./isaaclab.sh -p -m trudi.train` starts it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "ISAAC_SIGNATURES_EXIT_ON_CLOSE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )


def finished(process):
    out = process.communicate(timeout=120)[0].decode()
    return process.returncode, out


def test_a_training_evaluates_resumes_and_leaves_the_robot(tmp_path):
    """Evaluations borrow the simulator; a resumed run is the uninterrupted one; the application's end comes last."""
    common = ["trudi.train", "--task", "Isaac-Velocity-Flat-TestBot-v0", "--headless", "--device", "cpu", *TINY]
    common += ["--evaluation.every", "2", "--save-every", "2"]
    whole = [*common, "--max_iterations", "4", "--out", str(tmp_path / "whole"), "--json", str(tmp_path / "whole.json")]
    half = [*common, "--max_iterations", "2", "--out", str(tmp_path / "half")]
    runs = [finished(process) for process in (start(*whole), start(*half))]
    assert [code for code, _ in runs] == [0, 0], runs
    assert "raw actions from -1 to 1" in runs[0][1]
    assert json.loads((tmp_path / "whole.json").read_text())["iteration"] == 4
    rest = start("trudi.train", "--resume", str(tmp_path / "half"), "--max-iterations", "4", "--headless", "--device", "cpu")
    code, out = finished(rest)
    assert code == 0, out

    one, other = (checkpoint.load(tmp_path / name / "checkpoints" / "last").tensors for name in ("whole", "half"))
    assert one.keys() == other.keys() and "simulator.common_step_counter" in one
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert one["simulator.common_step_counter"] == 4 * 8, "evaluations do not count for the curriculum"
    robot = yaml.safe_load((tmp_path / "whole" / "robot.yaml").read_text())
    assert robot["tasks"] == ["isaaclab:Isaac-Velocity-Flat-TestBot-v0"] and robot["control_period_s"] == 0.02


def test_what_holds_in_training_alone_needs_a_simulator_for_evaluations(isaac):
    """Here they borrow training's environments, and would be of the changed task."""
    sim = SimCfg(training_overrides=("episode_length_s=0.5",))
    with pytest.raises(TrainError, match=r"no --sim\.training-overrides; use --sim\.overrides"):
        Learner(TrainCfg(task=TASKS[0], num_envs=2, sim=sim))


def test_the_launchers_flags_reach_it_and_errors_keep_their_exit_code(tmp_path):
    unknown = ["trudi.train", "--task", "Isaac-Nothing-v0", "--headless", "--device=cpu", "--out", str(tmp_path / "x")]
    code, out = finished(start(*unknown))
    assert code == 2 and "unknown Isaac Lab task 'Isaac-Nothing-v0'" in out and not (tmp_path / "x").exists()
    code, out = finished(start("trudi.train", "--task", "Isaac-Cartpole-v0", "--headlss"))
    assert code == 2 and "--headlss" in out


def test_a_signal_leaves_a_checkpoint(tmp_path):
    """AppLauncher puts its own handler on SIGTERM; training's comes after it."""
    run = [
        "trudi.train",
        "--task",
        "Isaac-Cartpole-v0",
        "--headless",
        "--device",
        "cpu",
        *TINY,
        "--out",
        str(tmp_path / "r"),
    ]
    process = start(*run, "--max_iterations", "100000", "--evaluation.every", "0")
    metrics = tmp_path / "r" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):  # training has begun
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, out = finished(process)
    assert code == 0 and "go on with: trudi train --resume" in out, out
    assert (tmp_path / "r" / "checkpoints" / "last" / "state.json").is_file()
