"""mjlab's pole on a cart under plain MuJoCo: against mjlab itself, and flown with a policy that mjlab trained."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flights import PATIENCE, fly, unsafe
from lockstep import Lockstep

from trudi.runtime.bundle import Bundle
from trudi.runtime.flight.recording import read_recording
from trudi.runtime.golden import GOLDEN
from trudi.runtime.reading import parse_contract
from trudi.runtime.recorder import STATES, TICKS
from trudi.runtime.robots.base import JointCommand, RobotError, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.mjlab import SAFE_DAMPING
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulation import MJLAB_CARTPOLE_TASKS, make_simulation
from trudi.runtime.session import check_stands, choose
from trudi.runtime.writing import write_bundle

pytest.importorskip("mujoco")
pytest.importorskip("mjlab")

BUNDLE = Path(__file__).parents[2] / "data" / "mjlab_cartpole_balance"
"""A balance policy of 8 steps, 3 x 128; tests/data/README.md says how it was made."""
BALANCE, SWINGUP = MJLAB_CARTPOLE_TASKS
ENVS = 8


@pytest.fixture(scope="module")
def contract():
    with Bundle.open(BUNDLE) as bundle:
        return bundle.contract


@pytest.fixture(scope="module", params=MJLAB_CARTPOLE_TASKS)
def theirs(request):
    """mjlab's own environments of a task, just reset."""
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.registry import load_env_cfg
    from simulated_robots import quietly

    cfg = load_env_cfg(request.param)
    cfg.scene.num_envs, cfg.seed = ENVS, 3
    env = quietly(ManagerBasedRlEnv, cfg, device="cpu")
    env.task = request.param
    yield env
    env.close()


def states(env):
    """Positions and velocities (envs, 2) of cart and pole."""
    data = env.scene["cartpole"].data
    return data.joint_pos.numpy().astype(float), data.joint_vel.numpy().astype(float)


def started_like(env, contract, index):
    """A flight from the state of one of mjlab's environments."""
    simulation = make_simulation(f"mjlab:{env.task}")
    positions, velocities = states(env)
    simulation.set_state(positions[index], velocities[index])
    return Lockstep(simulation, contract)


def test_its_physics_are_mjlabs(theirs):
    """Numbers of the compiled models; integrator, step, solver and what is switched off."""
    ours, model = make_simulation(theirs.task).model, theirs.sim.mj_model
    options = ("timestep", "integrator", "disableflags", "enableflags", "cone", "solver", "iterations", "tolerance")
    for name in (*options, "ls_iterations", "ls_tolerance", "impratio", "density", "viscosity"):
        assert getattr(ours.opt, name) == getattr(model.opt, name), name
    np.testing.assert_array_equal(ours.opt.gravity, model.opt.gravity)
    joints = ("dof_damping", "dof_armature", "dof_frictionloss", "jnt_range", "jnt_limited", "jnt_solref", "jnt_solimp")
    for name in (*joints, "jnt_stiffness", "actuator_gear", "actuator_ctrlrange", "actuator_gainprm", "actuator_biasprm"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(model, name), name)
    for body in ("cart", "pole_1"):
        own, other = ours.body(body), model.body(f"cartpole/{body}")
        for name in ("mass", "inertia", "ipos", "pos"):
            np.testing.assert_array_equal(getattr(own, name), getattr(other, name), name)
    assert theirs.cfg.decimation == make_simulation(theirs.task).control_substeps
    assert theirs.max_episode_length == make_simulation(theirs.task).episode_steps


def test_observations_and_rewards_are_mjlabs(theirs, contract):
    """100 control steps of random actions, double against single precision, through the runtime's own terms and targets.

    Followers are put back to mjlab's state after every step. Lone flights go on for 50 steps (2.5 s) by themselves: a pole
    that falls from upright multiplies an error by e every quarter of a second. Largest differences seen, of a reward
    that is at most 0.05:

    |                                   | from upright | hanging | reward, from upright | hanging |
    |-----------------------------------|--------------|---------|----------------------|---------|
    | one step                          | 4e-6         | 1e-6    | 4e-8                 | 4e-8    |
    | one step, perhaps at a rail's end | 6e-5         | 1e-4    |                      |         |
    | 50 steps                          | 2e-4         | 7e-6    | 6e-7                 | 3e-8    |
    """
    import torch

    observed, _ = theirs.reset()
    flights, followers = ([started_like(theirs, contract, index) for index in range(ENVS)] for _ in range(2))
    rng = np.random.default_rng(0)
    worst = dict.fromkeys(("free", "end", "long", "free_reward", "long_reward"), 0.0)

    def note(what, ours, other):
        worst[what] = max(worst[what], float(np.abs(np.subtract(ours, other)).max()))

    for step in range(100):
        seen, (positions, velocities) = observed["actor"].numpy(), states(theirs)
        for index, follower in enumerate(followers):
            # Less than 0.2 m away from an end, it may have been there.
            note("end" if abs(seen[index, 0]) > 1.6 else "free", follower.observe(), seen[index])
            follower.simulation.set_state(positions[index], velocities[index])
        action = rng.uniform(-1.0, 1.0, (ENVS, 1)).astype(np.float32)
        mine = [follower.act(one) for follower, one in zip(followers, action, strict=True)]
        if step < 50:
            note("long", [flight.observe() for flight in flights], seen)
            lone = [flight.act(one) for flight, one in zip(flights, action, strict=True)]
        observed, rewards, *_ = theirs.step(torch.from_numpy(action))
        note("free_reward", mine, rewards.numpy())
        if step < 50:
            note("long_reward", lone, rewards.numpy())
    assert worst["free"] <= 5e-5 and worst["end"] <= 1e-3 and worst["free_reward"] <= 1e-6
    assert worst["long"] <= 1e-3 and worst["long_reward"] <= 1e-5


def test_it_starts_like_mjlab(theirs):
    """Uniform in the same ranges: none of 64 starts beyond, extremes as far out, and in the middle on average."""
    simulation = make_simulation(theirs.task)
    ours, others = [], []
    for seed in range(64):
        simulation.reset(seed)
        ours.append(np.concatenate([simulation.data.qpos, simulation.data.qvel]))
    for _ in range(64 // ENVS):
        theirs.reset()
        others.append(np.concatenate(states(theirs), axis=1))
    half = np.array([0.1 if theirs.task == BALANCE else 0.0, 0.034, 0.01, 0.01])
    middle = np.array([0.0, 0.0 if theirs.task == BALANCE else np.pi, 0.0, 0.0])
    for starts in (np.array(ours) - middle, np.concatenate(others) - middle):
        assert (np.abs(starts) <= half + 1e-6).all()
        # The chance that none of 64 uniform numbers lies in the outer fifth is 0.8^64 = 6e-7.
        assert (np.abs(starts).max(axis=0) >= 0.8 * half - 1e-6).all()
        # The mean of 64 has a standard deviation of half / sqrt(3 * 64) = 0.072 half.
        assert (np.abs(starts.mean(axis=0)) <= 4 * 0.072 * half + 1e-6).all()


@pytest.mark.parametrize(
    "position,velocity,effort,stiffness,damping,expected",
    [
        (0.0, 0.0, 4.0, 0.0, 5e-4, 4.0 - 5e-4 * 0.5),  # q = 0.1, dq = 0.5: a policy's force, and the rail's friction
        (0.3, 0.0, 1.0, 20.0, 2.0, 20.0 * 0.2 + 1.0 - 2.0 * 0.5),
        (0.0, 1.0, 0.0, 0.0, 2.0, 2.0 * (1.0 - 0.5)),
        (0.0, 0.0, 14.0, 0.0, 5e-4, 10.0 - 5e-4 * 0.5),  # the MJCF's range ends at 10 N
        (-1.0, 0.0, 0.0, 100.0, 0.0, -10.0),
    ],
)
def test_the_motor_gives_what_a_command_says(position, velocity, effort, stiffness, damping, expected):
    simulation = make_simulation(BALANCE)
    simulation.set_state([0.1, 0.0], [0.5, 0.0])
    command = JointCommand.zeros(1)
    command.values[:, 0] = position, velocity, effort, stiffness, damping
    simulation.apply(command)
    simulation._mj.mj_fwdActuation(simulation.model, simulation.data)
    force = simulation.data.qfrc_actuator[0] + simulation.data.qfrc_passive[0]
    assert force == pytest.approx(expected, abs=1e-9)


def test_without_a_command_the_cart_stops():
    """m dv/dt = -5 N s/m v with m = 1.1 kg: a factor of e^-4.5 a second."""
    simulation, state = make_simulation(SWINGUP), RobotState.zeros(make_simulation(SWINGUP).describe())
    simulation.set_state([0.0, np.pi], [2.0, 0.0])
    for _ in range(300):
        simulation.step(None)
    simulation.measure(state)
    assert simulation.describe().damping == (SAFE_DAMPING,) and not state.joint_effort.any()
    assert abs(state.joint_velocity[0]) < 0.05 and 0.2 < state.joint_position[0] < 0.6  # m v / d = 0.44 m


def test_a_perfect_step_earns_its_time_and_others_what_dm_control_gives():
    simulation = make_simulation(BALANCE)
    simulation.set_state([0.0, 0.0], [0.0, 0.0])
    assert simulation.reward() == pytest.approx(0.05)
    simulation.data.ctrl[0] = 1.0  # small_control: (4 + 1 - 0.9) / 5
    assert simulation.reward() == pytest.approx(0.05 * 4.1 / 5)
    simulation.set_state([2.0, 0.0], [0.0, 5.0])  # 0.1 each at the margins of 2 m and 5 rad/s
    assert simulation.reward() == pytest.approx(0.05 * 0.55 * 0.55)
    simulation.set_state([0.0, np.pi], [0.0, 0.0])
    assert simulation.reward() == pytest.approx(0.0)


def test_tasks_are_named_with_or_without_their_backend(monkeypatch):
    assert MujocoCfg(task=BALANCE).task == BALANCE and MujocoCfg(task=f"mjlab:{SWINGUP}").task == f"mjlab:{SWINGUP}"
    with pytest.raises(RobotError, match=r"no simulated robot for the task 'mjlab:Mjlab-Cartpole-Balanc'; did you mean"):
        MujocoCfg(task="mjlab:Mjlab-Cartpole-Balanc")
    with pytest.raises(RobotError, match="no simulated robot for the task 'mjlab:CheetahRun-v1'"):
        make_simulation("mjlab:CheetahRun-v1")
    with pytest.raises(RobotError, match="only MuJoCoPlayground/Go1"):
        make_simulation(BALANCE, "scene.xml")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mjlab" else found(name))
    with pytest.raises(RobotError, match=r"the package mjlab is not installed: .* pip install 'trudi\[mjlab\]'"):
        make_simulation(BALANCE)


def test_neither_mjlab_nor_torch_is_imported():
    code = f"import sys; from trudi.runtime.robots.simulation import make_simulation as make; make({BALANCE!r})"
    code += "; print([name for name in ('mjlab', 'torch', 'warp') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- The policy that mjlab trained ---


def test_a_whole_episode_is_worth_what_it_was_in_training(contract):
    """Five episodes, step by step: export evaluated this policy with mjlab and PyTorch."""
    simulation = make_simulation(BALANCE)
    with Bundle.open(BUNDLE) as bundle:
        engine = choose(bundle, ("onnx",)).engine
        returns = []
        for seed in range(5):
            simulation.reset(seed)
            flight = Lockstep(simulation, contract)
            rewards = [flight.act(engine.infer(flight.observe()[None])[0]) for _ in range(simulation.episode_steps)]
            returns.append(sum(rewards))
        engine.close()
    trained = contract.provenance.evaluations[0]
    assert trained.return_mean == pytest.approx(49.7079, abs=1e-4)
    # Standard deviations of an episode's return are 0.008 there; means of 10 and of 5 differ by 4 of theirs at most.
    assert np.mean(returns) == pytest.approx(trained.return_mean, abs=4 * 0.008 * np.sqrt(1 / 10 + 1 / 5))


def test_it_is_flown_in_real_time(contract, tmp_path):
    """`trudi run`, robot and runtime in processes of their own: the pole stays up, and no command is unsafe."""
    bundle, report, said, flight = flown(contract, tmp_path)
    assert report["state"] == "STAND" and not report["faults"] and report["control_steps"] >= 25, said
    assert not unsafe(report["robot"])
    ticks, measured = flight.channels[TICKS], flight.channels[STATES]
    during = np.isin(measured["tick"], ticks["tick"][ticks["supervisor"] == State.ACTIVE])
    position, cosine = measured["values"][during][:, 0], measured["values"][during][:, -2]
    assert cosine.min() > 0.98 and np.abs(position).max() < 0.5
    assert (tmp_path / "flight.mcap").is_file() and bundle.is_dir()


def flown(contract, folder):
    """2 s under the policy. A shared machine may take its cores away for a while: that alone is no fault here."""
    values = json.loads(contract.model_dump_json())
    values["safety"]["max_overruns_in_row"] = PATIENCE
    with Bundle.open(BUNDLE) as bundle:
        files = {name: bundle.read(name) for name in ("policy.onnx", GOLDEN)}
    bundle = write_bundle(folder / "bundle", parse_contract(values)[0], files)
    code, report, said = fly(bundle, folder, "--seconds", "2", site_file={"stand_s": 0.3, "fade_in_s": 0.3})
    assert code == 0, said
    return bundle, report, said, read_recording(folder / "flight.mcap")


def test_only_machines_that_cannot_fall_may_have_no_stiffness(contract):
    check_stands(contract)
    values = json.loads(contract.model_dump_json())
    values["safety"]["max_tilt_rad"] = 1.0
    with pytest.raises(RobotError, match="every joint's stiffness is 0, so the robot cannot stand"):
        check_stands(parse_contract(values)[0])
    values["robot"]["joints"][0]["stiffness"] = 20.0
    check_stands(parse_contract(values)[0])
    values["safety"]["max_tilt_rad"], values["robot"]["joints"][0]["stiffness"] = None, 0.0
    values["action"] |= {"kind": "joint_position", "units": ["m"], "clip": None}
    with pytest.raises(RobotError, match=r"where joints take efforts and the machine cannot fall"):
        check_stands(parse_contract(values)[0])
