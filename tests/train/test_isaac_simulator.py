"""The simulator in `tests/isaac_signatures`: its dynamics and its order of events, by hand-computed values."""

import argparse
import math
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from isaac_signatures.process import ROOT, isaaclab_importable

CARTPOLE, DIRECT, TESTBOT = "Isaac-Cartpole-v0", "Isaac-Cartpole-Direct-v0", "Isaac-Velocity-Flat-TestBot"
STEP_S = 1 / 60


@pytest.fixture(scope="module")
def launched():
    """The one app of this module's tests, and what starting it left behind."""
    with isaaclab_importable():
        from isaaclab.app import AppLauncher

        parser = argparse.ArgumentParser()
        sys.argv = ["train.py"]
        AppLauncher.add_app_launcher_args(parser)
        args = parser.parse_args(["--headless", "--device", "cpu", "--kit_args=--/log/level=error"])
        launcher = AppLauncher(args)
        yield SimpleNamespace(args=args, launcher=launcher, argv=sys.argv, has_own_stdout=sys.stdout is not sys.__stdout__)


@pytest.fixture(scope="module")
def app(launched):
    return launched.launcher.app


@pytest.fixture
def make(app):
    """Makes one environment; `change` edits its configuration first."""
    import gymnasium as gym
    import isaaclab_tasks  # noqa: F401 - registers
    from isaaclab_tasks.utils import parse_env_cfg

    made = []

    def make(task, num_envs=3, change=None, **kwargs):
        cfg = parse_env_cfg(task, device="cpu", num_envs=num_envs)
        cfg.seed = 0
        if change is not None:
            change(cfg)
        made.append(gym.make(task, cfg=cfg, **kwargs))
        made[-1].reset()
        return made[-1].unwrapped

    yield make
    for env in made:
        env.close()


def put(env, position, velocity):
    robot = env.scene["robot" if "robot" in env.scene.keys() else "cartpole"]  # noqa: SIM118 - the scene is no mapping
    robot.write_joint_state_to_sim(torch.tensor(position), torch.tensor(velocity))


def test_one_euler_step_of_the_cartpole(app):
    from cartpole_dynamics import CartPole, euler_step

    # M = 1, m = 0.5, l = 0.5, at rest and upright under 10 N. I + m l^2 = 4/3 m l^2 = 1/6; m l = 1/4
    # determinant = 1.5 / 6 - 1 / 16 = 0.1875;  x'' = 10/6 / 0.1875 = 80/9;  q'' = -10/4 / 0.1875 = -40/3
    # v = a / 120;  x = v / 120
    zero = torch.zeros(1, 2)
    position, velocity = euler_step(CartPole().acceleration, zero, zero, torch.tensor([[10.0, 0.0]]), 1 / 120)
    assert velocity.tolist() == [pytest.approx([80 / 9 / 120, -40 / 3 / 120])]
    assert position.tolist() == [pytest.approx([80 / 9 / 120**2, -40 / 3 / 120**2], rel=1e-5)]


def test_a_leaning_pole_falls_and_no_force_keeps_energy(app):
    from cartpole_dynamics import CartPole, euler_step

    body = CartPole()

    def energy(position, velocity):
        # (M + m) v^2 / 2 + m l cos(q) v w + (I + m l^2) w^2 / 2 + m g l cos(q)
        (v, w), q = velocity[0], position[0, 1]
        kinetic = 0.75 * v**2 + 0.25 * torch.cos(q) * v * w + w**2 / 12
        return float(kinetic + 0.5 * 9.81 * 0.5 * torch.cos(q))

    position, velocity = torch.tensor([[0.0, 0.5]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    before = energy(position, velocity)
    for _ in range(2000):
        position, velocity = euler_step(body.acceleration, position, velocity, torch.zeros(1, 2).double(), 1e-4)
    assert position[0, 1] > 0.55
    assert energy(position, velocity) == pytest.approx(before, rel=1e-3)


def test_the_manager_based_cartpole_is_the_pure_task(make):
    from cartpole_dynamics import CartPoleTask

    env, task = make(CARTPOLE, num_envs=4), CartPoleTask()
    position, velocity = task.initial(4, torch.Generator().manual_seed(1))
    put(env, position.tolist(), velocity.tolist())
    for step in range(20):
        action = torch.full((4, 1), 0.2 * (-1) ** step)
        observation, reward, terminated, timed_out, _ = env.step(action)
        position, velocity = task.step(position, velocity, action)
        assert torch.allclose(observation["policy"], task.observe(position, velocity), atol=1e-6)
        assert torch.allclose(reward, task.reward(position, velocity, task.terminated(position)), atol=1e-6)
        assert not (terminated | timed_out).any()


def test_a_reset_within_the_step_returns_the_next_episodes_start(make):
    env = make(CARTPOLE)
    env.step(torch.zeros(3, 1))
    put(env, [[0.0, 0.0], [2.999, 0.0], [0.0, 0.0]], [[0.0, 0.0], [9.0, 0.0], [0.0, 0.0]])
    observation, reward, terminated, timed_out, extras = env.step(torch.zeros(3, 1))
    assert terminated.tolist() == [False, True, False]
    assert not timed_out.any()
    assert abs(observation["policy"][1, 0]) <= 1.0  # a start, not the 3.1 m where it ended
    assert env.episode_length_buf.tolist() == [2, 0, 2]
    # dt (alive 0 - terminated 2 - angle^2 - 0.01 |v| - 0.005 |w|): the cart went on at about 9 m/s
    assert float(reward[1]) == pytest.approx(STEP_S * (-2.0 - 0.09), abs=0.01)
    assert float(reward[0]) == pytest.approx(STEP_S)
    assert extras["log"]["Episode_Termination/cart_out_of_bounds"] == pytest.approx(1 / 3)


def test_what_a_step_returns_is_overwritten_by_the_next(make):
    env = make(CARTPOLE)
    _, reward, terminated, timed_out, extras = env.step(torch.zeros(3, 1))
    _, again, terminated_again, timed_out_again, extras_again = env.step(torch.zeros(3, 1))
    assert again is reward
    assert terminated_again is terminated
    assert timed_out_again is timed_out
    assert extras_again is extras


@pytest.mark.parametrize(("task", "steps"), [(CARTPOLE, 3), (DIRECT, 2)])
def test_time_out(make, task, steps):
    """Three steps of time: the direct cart-pole ends one step before `max_episode_length`, as the real one does."""
    env = make(task, change=lambda cfg: setattr(cfg, "episode_length_s", 3 * STEP_S))
    assert env.max_episode_length == 3
    ended = [env.step(torch.zeros(3, 1))[3].all().item() for _ in range(steps)]
    assert ended == [False] * (steps - 1) + [True]


def test_the_hook_sees_the_terminal_state_before_it_is_gone(make):
    env = make(CARTPOLE)
    seen, reset = [], env._reset_idx

    def hook(env_ids):
        seen.append(env.observation_manager.compute_group("policy")[env_ids])
        reset(env_ids)

    env._reset_idx = hook
    put(env, [[0.0, 0.0], [2.999, 0.1], [0.0, 0.0]], [[0.0, 0.0], [9.0, 0.0], [0.0, 0.0]])
    env.step(torch.zeros(3, 1))
    assert len(seen) == 1
    assert float(seen[0][0, 0]) > 3.0


def test_history(make):
    env = make(f"{TESTBOT}-Play-v0")  # no noise
    joints = slice(3 + 3 + 3, 3 + 3 + 3 + 15)  # after angular velocity, gravity and command: 3 steps of 5 joints

    def read(observation):
        return observation["policy"][:, joints].reshape(-1, 3, 5).clone()

    start = read(env.reset()[0])
    assert torch.equal(start[:, 0], start[:, 2])  # the first entry fills the history
    first = read(env.step(torch.full((3, 5), 0.3))[0])
    assert torch.equal(first[:, :2], start[:, 1:])
    robot = env.scene["robot"].data
    assert torch.equal(first[:, 2], robot.joint_pos - robot.default_joint_pos)
    put(env, [[0.2, 0.2, 0.0, -0.4, -0.4]] * 3, [[0.0] * 5] * 3)
    stale = env.observation_manager.compute_group("policy")
    assert torch.equal(read({"policy": stale}), first)  # without update_history the newest state is missing
    pushed = env.observation_manager.compute_group("policy", update_history=True)
    assert torch.equal(read({"policy": pushed})[:, :2], first[:, 1:])


def test_clip_comes_before_scale_and_noise_before_both(make):
    env = make(f"{TESTBOT}-v0")
    robot = env.scene["robot"].data
    put(env, robot.joint_pos.tolist(), [[100.0] * 5] * 3)
    newest = env.observation_manager.compute_group("policy", update_history=True)[:, 9 + 15 : 9 + 30][:, -5:]
    assert newest.tolist() == [[1.0] * 5] * 3  # (100 +- 1.5) cut to 20, times 0.05


def test_every_computation_is_a_step_to_what_remembers(make):
    env = make(f"{TESTBOT}-Stateful-v0")
    manager = env.observation_manager
    (integrator, noise) = manager._group_obs_class_instances  # one list for all groups
    env.scene["robot"].write_root_velocity_to_sim(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]] * 3))
    integrator.reset()
    bias = noise._bias.clone()
    # 0.02 s of 1 rad/s: the first call averages it with the zero before, (0 + 1) / 2 * 0.02; the second adds 0.02
    seen = [float(manager.compute_group("policy")[0, 2]) for _ in range(2)]
    assert seen == pytest.approx([0.01, 0.03])
    assert torch.equal(noise._bias, bias)
    assert bias.shape == (3, 5)


def test_actions_to_targets(make):
    env = make(f"{TESTBOT}-v0", num_envs=1)
    env.action_manager.process_action(torch.tensor([[1.0, -1.0, 1.0, -1.0, 0.5]]))
    env.action_manager.apply_action()
    # hips 0.1 +- 0.5; waist 0.3 * 0.5; knees -0.4 +- 0.25, cut to [-0.6, -0.2]: legs first, though the waist is third
    assert env.scene["robot"].data.joint_pos_target.tolist() == [pytest.approx([0.6, -0.4, 0.15, -0.2, -0.6])]
    assert env.action_manager.get_term("legs")._joint_ids == [0, 1, 3, 4]


def test_commands_and_curriculum_go_on(make):
    env = make(f"{TESTBOT}-v0", num_envs=8)
    term = env.command_manager.get_term("base_velocity")
    assert term.cfg.ranges.lin_vel_x == (-0.25, 0.25)
    before = term.command.clone()
    for _ in range(98):  # 2 s at 50 Hz
        env.step(torch.zeros(8, 5))
    assert torch.equal(term.command, torch.where(term.is_standing_env[:, None], 0.0, before))
    env.step(torch.zeros(8, 5))
    env.step(torch.zeros(8, 5))
    assert not torch.equal(term.command, before)
    env.common_step_counter = 2000
    env.reset()
    assert term.cfg.ranges.lin_vel_x == (-1.0, 1.0)
    assert env.reward_manager.get_term_cfg("joint_vel_l1").weight == -0.001


def test_noise_of_a_direct_task_is_the_steps_alone(make):
    env = make("Isaac-Cartpole-Noisy-Direct-v0")
    first, _ = env.reset()
    assert torch.equal(first["policy"], first["critic"])
    observation, *_ = env.step(torch.zeros(3, 1))
    assert not torch.equal(observation["policy"], observation["critic"])
    assert env.single_observation_space["critic"].shape == (4,)


@pytest.mark.parametrize("task", ["Isaac-Cartpole-FinalObs", "Isaac-Cartpole-FinalObs-Direct"])
def test_final_observation_of_the_next_release(make, task):
    env = make(task, change=lambda cfg: setattr(cfg, "compute_final_obs", True))
    put(env, [[0.0, 0.1], [2.999, 0.1], [0.0, 0.1]], [[0.0, 0.0], [9.0, 0.0], [0.0, 0.0]])
    observation, _, terminated, _, extras = env.step(torch.zeros(3, 1))
    cart = 0 if "Direct" not in task else 2
    final = extras["final_obs"]["policy"]
    assert terminated.tolist() == [False, True, False]
    assert float(final[1, cart]) > 3.0 > abs(float(observation["policy"][1, cart]))
    assert torch.equal(final[~terminated], observation["policy"][~terminated])  # all rows, not the ended ones alone


def test_io_descriptors(make):
    described = make(CARTPOLE).get_IO_descriptors
    assert list(described) == ["observations", "actions", "articulations", "scene"]
    assert [term["name"] for term in described["observations"]["policy"]] == ["joint_pos_rel", "joint_vel_rel"]
    assert described["actions"][0]["scale"] == 100.0
    assert described["scene"] == {"physics_dt": 1 / 120, "dt": 1 / 60, "decimation": 2}
    yaml.safe_dump(described)


def test_io_descriptors_with_scales_by_joint_cannot_be_written(make, tmp_path):
    env = make(f"{TESTBOT}-v0")
    assert list(env.get_IO_descriptors["observations"]) == ["policy"]  # never the critic
    with pytest.raises(yaml.representer.RepresenterError):
        env.export_IO_descriptors(str(tmp_path))


def test_spaces(make):
    env = make(f"{TESTBOT}-Dict-v0")
    assert list(env.single_observation_space) == ["policy", "critic"]
    terms = env.observation_manager.active_terms["policy"]
    assert list(env.single_observation_space["policy"]) == sorted(terms) != terms
    assert env.single_action_space.high.tolist() == [math.inf] * 5
    assert env.single_observation_space["policy"]["joint_vel"].high[0] == 20.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its `__del__` closes what never was
def test_one_simulation_at_a_time(make):
    make(CARTPOLE)
    with pytest.raises(RuntimeError, match="Simulation context already exists"):
        make(DIRECT)


def test_a_picture_needs_cameras(make):
    env = make(CARTPOLE, render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="enable the cameras"):
        env.render()
    env.sim.render_mode = env.sim.RenderMode.PARTIAL_RENDERING
    assert env.render().shape == (720, 1280, 3)


def test_nothing_is_importable_before_the_app():
    for module in ("isaaclab.envs", "isaaclab.managers", "isaaclab_tasks"):
        done = subprocess.run(
            [sys.executable, "-c", f"import isaaclab.app; import {module}"],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "ModuleNotFoundError: No module named 'omni'" in done.stderr, module


def test_the_launcher_changes_its_input_and_the_process(launched):
    from isaaclab.app import AppLauncher

    assert not hasattr(launched.args, "livestream")  # taken out of the namespace itself
    assert launched.args.active_gpu == 0  # put into it
    assert launched.launcher.app.argv == ["train.py", "--/log/level=error"]
    assert launched.argv == ["train.py"]
    assert not launched.has_own_stdout
    assert signal.getsignal(signal.SIGTERM) == launched.launcher._abort_signal_handle_callback
    with pytest.raises(RuntimeError, match="running in this process already"):
        AppLauncher(headless=True)


def test_closing_the_app_ends_the_process():
    code = "from isaaclab.app import AppLauncher; AppLauncher(headless=True).app.close(); print('still here', flush=True)"
    for exits, printed in (("1", False), ("0", True)):
        environment = {"PYTHONPATH": str(ROOT), "ISAAC_SIGNATURES_EXIT_ON_CLOSE": exits}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert ("still here" in done.stdout) == printed
