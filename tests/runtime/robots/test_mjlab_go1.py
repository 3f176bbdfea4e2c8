"""mjlab's Go1 under plain MuJoCo: against mjlab itself, its motors, and a policy of mjlab's that walks on it."""

import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
from lockstep import Lockstep

from trudi.runtime.bundle import Bundle
from trudi.runtime.robots.base import JointCommand, RobotError, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.lockstep import LockStep
from trudi.runtime.robots.mjlab_go1 import MAX_DAMPING, SAFE_DAMPING
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulation import MAX_STIFFNESS, MJLAB_GO1_TASK, find_asset, make_simulation
from trudi.runtime.session import choose
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event

pytest.importorskip("mjlab")

BUNDLE = Path(__file__).parents[3] / "zoo" / "go1_mjlab_flat"
ENVS, STEPS = 3, 40
FORWARD = (0.5, 0.0, 0.0)
ACTION_BOUND = 2.0
"""mjlab's actions are the policy's times this: `sim.action_bound` of the run."""
HIP, CALF = 0, 2
"""Drives; their limits are 23.7 N m and 35.55 N m."""


@pytest.fixture(scope="module")
def policy():
    """(contract, engine) of the bundle that mjlab trained."""
    with Bundle.open(BUNDLE) as bundle:
        engine = choose(bundle, ("onnx",)).engine
        yield bundle.contract, engine
        engine.close()


@pytest.fixture
def go1():
    return make_simulation(f"mjlab:{MJLAB_GO1_TASK}")


# --- Against mjlab ---


@pytest.fixture(scope="module")
def theirs():
    """mjlab's environments: nothing random but where they start, one command, no noise, no pushes."""
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.registry import load_env_cfg
    from simulated_robots import quietly

    cfg = load_env_cfg(MJLAB_GO1_TASK)
    cfg.scene.num_envs, cfg.seed = ENVS, 3
    cfg.observations["actor"].enable_corruption = False
    cfg.events = {name: event for name, event in cfg.events.items() if event.mode == "reset"}
    cfg.curriculum = {}
    command = cfg.commands["twist"]
    command.resampling_time_range, command.heading_command, command.ranges.heading = (1e6, 1e6), False, None
    command.rel_standing_envs = command.rel_heading_envs = command.rel_forward_envs = 0.0
    command.ranges.lin_vel_x, command.ranges.lin_vel_y, command.ranges.ang_vel_z = ((end, end) for end in FORWARD)
    env = quietly(ManagerBasedRlEnv, cfg, device="cpu")
    yield env
    env.close()


COUNTS = {"body": "nbody", "joint": "njnt", "geom": "ngeom", "actuator": "nu", "site": "nsite"}


def numbers_of(view):
    """What a named part of a model consists of; without places in arrays, looks, and a range that nobody clips to."""
    names = [name for name in dir(view) if not name.startswith("_") and not name.endswith(("id", "adr", "num"))]
    values = {name: getattr(view, name) for name in names if name not in ("name", "rgba", "group", "ctrlrange")}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def test_the_models_numbers_are_mjlabs(go1, theirs):
    """By name, wherever the model has it. Names of mjlab's robot begin with `robot/`."""
    ours, model = go1.model, theirs.sim.mj_model
    options = [name for name in dir(ours.opt) if not name.startswith("_")]
    for name in options:
        np.testing.assert_array_equal(getattr(ours.opt, name), getattr(model.opt, name), name)
    assert len(options) > 25 and ours.stat.meaninertia == model.stat.meaninertia  # of the solver's tolerance
    compared = 0
    for kind, count in COUNTS.items():
        mine, other = getattr(ours, kind), getattr(model, kind)
        named = {other(index).name.removeprefix("robot/"): index for index in range(getattr(model, count))}
        named.pop("", None)  # what only a camera sees
        own = [mine(index).name for index in range(getattr(ours, count))]
        assert sorted(own) == sorted(named), kind
        for name in own:
            numbers, others = numbers_of(mine(name)), numbers_of(other(named[name]))
            for field, value in numbers.items():
                np.testing.assert_array_equal(value, others[field], f"{kind} {name} {field}")
                compared += 1
    assert compared > 1000 and ours.ngeom == 31 and ours.nmesh == 0
    for drive in go1.joints:
        moved = int(model.actuator(f"robot/{drive}").trnid[0])
        assert model.joint(moved).name == f"robot/{drive}" and not ours.actuator(drive).ctrllimited[0]
    assert theirs.cfg.decimation == go1.control_substeps


def test_meshes_weigh_nothing(go1):
    whole = make_simulation(MJLAB_GO1_TASK, visual=True).model
    assert whole.nmesh > 0
    for name in ("body_mass", "body_inertia", "body_ipos", "dof_invweight0", "dof_armature"):
        np.testing.assert_array_equal(getattr(go1.model, name), getattr(whole, name))


def full_state(env):
    """MuJoCo's positions and velocities of every environment."""
    return (getattr(env.sim.data, name).numpy().astype(float) for name in ("qpos", "qvel"))


def started_like(env, contract, index):
    """A flight from the state of one of mjlab's environments."""
    simulation = make_simulation(MJLAB_GO1_TASK)
    positions, velocities = full_state(env)
    simulation.set_state(positions[index], velocities[index])
    return Lockstep(simulation, contract, velocity=FORWARD)


@pytest.mark.parametrize("walking", [True, False])
def test_observations_are_mjlabs(theirs, policy, walking):
    """40 control steps, double against single precision, through the runtime's own terms and targets: no term is delayed.

    Followers are put back to mjlab's state after every step; lone flights go on by themselves. Actions are the policy's, or
    random in half of their range: feet scrape and stumble, and now and then touch the floor in one of the two only.
    Largest differences seen of 60 steps, mostly of a joint's speed in rad/s:

    |                | one step   | 99 of 100 numbers | 10 steps by itself | 40 steps |
    |----------------|------------|-------------------|--------------------|----------|
    | the policy's   | 7e-5       | 3e-5              | 6e-5               | 6e-4     |
    | random         | 1.2e-2     | 1e-4              | 6e-5               | 2e-3     |
    """
    import torch

    contract, engine = policy
    observed, _ = theirs.reset()
    lone, followers = ([started_like(theirs, contract, index) for index in range(ENVS)] for _ in range(2))
    rng, one_step, by_itself = np.random.default_rng(0), [], []
    for _ in range(STEPS):
        seen, (positions, velocities) = observed["actor"].numpy(), full_state(theirs)
        one_step.append(np.abs([follower.observe() for follower in followers] - seen))
        by_itself.append(np.abs([flight.observe() for flight in lone] - seen).max())
        if walking:
            action = np.concatenate([engine.infer(row[None]) for row in seen])
        else:
            action = rng.uniform(-0.5, 0.5, (ENVS, 12)).astype(np.float32)
        for index, follower in enumerate(followers):
            follower.simulation.set_state(positions[index], velocities[index])
            follower.act(action[index])
            lone[index].act(action[index])
        observed, *_ = theirs.step(torch.from_numpy(ACTION_BOUND * action))
    assert np.abs(seen).max() > 1.0 and np.abs(action).max() > 0.4, "it moves"
    assert np.max(one_step) <= (1e-3 if walking else 0.1) and np.quantile(one_step, 0.99) <= 5e-4
    assert max(by_itself[:10]) <= 1e-3 and max(by_itself) <= (1e-2 if walking else 0.1)


# --- Its motors ---


def commanded(**rows):
    """A command with the same number for all drives in each row that is given."""
    command = JointCommand.zeros(12)
    for name, value in rows.items():
        getattr(command, name)[:] = value
    return command


@pytest.mark.parametrize(
    "drive,position,velocity,effort,stiffness,damping,expected",
    [
        (HIP, 0.4, 0.0, 0.0, 20.0, 1.0, 20.0 * 0.3 - 1.0 * 2.0),  # q = 0.1, dq = 2.0
        (HIP, 0.4, 3.0, 0.5, 20.0, 1.0, 20.0 * 0.3 + 1.0 * (3.0 - 2.0) + 0.5),
        (HIP, 0.0, 0.0, 3.0, 0.0, 0.5, 3.0 - 0.5 * 2.0),
        # Damping counts within the range: 25 - 2 is 23, and 30 - 2 is over it.
        (HIP, 0.35, 0.0, 0.0, 100.0, 1.0, 25.0 - 2.0),
        (HIP, 0.4, 0.0, 0.0, 100.0, 1.0, 23.7),
        (HIP, -0.4, 0.0, 0.0, 100.0, 1.0, -23.7),
        (CALF, -1.4, 0.0, 0.0, 100.0, 1.0, 35.55),  # q = -1.8
        (CALF, -2.7, 0.0, 0.0, 10.0, 1.0, -9.0 - 2.0),
        (HIP, 5.0, 0.0, 0.0, 1.0, 0.0, 4.9),  # a target beyond the joint's limit counts, as in training
    ],
)
def test_a_motor_gives_what_a_command_says(go1, drive, position, velocity, effort, stiffness, damping, expected):
    qvel = np.zeros(18)
    qvel[6:] = 2.0
    go1.set_state(go1.data.qpos.copy(), qvel)
    go1.step(None)  # what was commanded before leaves nothing
    go1.set_state(go1.model.key_qpos[0], qvel)
    go1.apply(
        commanded(position=position, velocity=velocity, effort=effort, stiffness=stiffness, damping=damping),
    )
    mujoco.mj_fwdActuation(go1.model, go1.data)
    dof = go1.model.joint(go1.joints[drive]).dofadr[0]
    given = go1.data.qfrc_actuator[dof] + go1.data.qfrc_applied[dof] + go1.data.qfrc_passive[dof]
    assert given == pytest.approx(expected, abs=1e-9)


def test_without_a_command_the_robot_sinks_softly_and_rests(go1):
    state = RobotState.zeros(go1.describe())
    go1.step(commanded(position=1.0, stiffness=50.0, velocity=1.0, effort=1.0, damping=1.0))
    go1.reset(0)
    heights = []
    for _ in range(400):
        go1.step(None)
        go1.measure(state)
        heights.append(state.height[0])
    fallen = np.argmax(np.array(heights) < 0.12) * go1.physics_step_s
    assert 0.4 < fallen < 1.2, "neither dropped nor held"
    # It lies on its hips, capsules of 5 cm, with the trunk's box of 10 cm between them.
    assert min(heights) > 0.10 and np.abs(state.joint_velocity).max() < 0.2
    assert state.quaternion_xyzw[3] > 0.99 and np.abs(state.joint_effort).max() < 0.2


def test_nothing_sinks_through_the_floor(go1):
    """On its back, on its side, dropped on its nose: whatever touches the floor is carried by it."""
    for quaternion in ([0, 1, 0, 0], [0.7071, 0.7071, 0, 0], [0.7071, 0, 0.7071, 0]):
        qpos = go1.model.key_qpos[0].copy()
        qpos[2], qpos[3:7] = 0.5, quaternion
        go1.set_state(qpos, np.zeros(18))
        for _ in range(400):
            go1.step(None)
        lowest = min(contact.dist for contact in go1.data.contact)
        assert go1.data.qpos[2] > 0.04 and lowest > -0.01


@pytest.mark.parametrize("damping", [SAFE_DAMPING, MAX_DAMPING])
def test_damping_that_is_accepted_stops_the_fastest_joints(go1, damping):
    """In the air, without weight, where nothing but the motors takes energy: also where their force range ends."""
    go1.model.opt.gravity[:] = 0.0
    rng, command = np.random.default_rng(0), commanded(damping=damping)
    for _ in range(10):
        qpos, qvel = go1.model.key_qpos[0].copy(), np.zeros(18)
        low, high = go1.model.jnt_range[1:].T
        qpos[2], qpos[7:], qvel[6:] = 2.0, rng.uniform(low, high), rng.uniform(-40.0, 40.0, 12)
        go1.set_state(qpos, qvel)
        for _ in range(200):
            go1.step(command)
        assert np.abs(go1.data.qvel[6:]).max() < 2.0


def test_the_most_damping_is_below_what_a_joint_bears_where_the_force_range_ends(go1):
    """There a motor gives its limit for a whole step: v - limit dt / I, which stays above limit / d where d > 2 I / dt."""
    rng, (low, high) = np.random.default_rng(0), go1.model.jnt_range[1:].T
    mass, lightest = np.zeros((18, 18)), np.inf
    for _ in range(300):
        qpos = go1.model.key_qpos[0].copy()
        qpos[7:] = rng.uniform(low, high)
        go1.set_state(qpos, np.zeros(18))
        mujoco.mj_fullM(go1.model, go1.data, mass)
        lightest = min(lightest, 1.0 / np.diag(np.linalg.inv(mass))[6:].max())
    assert SAFE_DAMPING < MAX_DAMPING < 2.0 * lightest / go1.physics_step_s < 3.5


def test_the_stiffest_that_is_accepted_is_stable(go1):
    """Around the initial pose in the air, with as little damping as half of training's."""
    go1.model.opt.gravity[:] = 0.0
    qpos, qvel = go1.model.key_qpos[0].copy(), np.zeros(18)
    qpos[2], qvel[6:] = 2.0, np.random.default_rng(0).uniform(-10.0, 10.0, 12)
    go1.set_state(qpos, qvel)
    command = commanded(stiffness=MAX_STIFFNESS, damping=0.5)
    command.position[:] = qpos[7:]
    for _ in range(400):
        go1.step(command)
    assert np.abs(go1.data.qvel[6:]).max() < 0.05


def test_it_says_what_it_is(go1):
    description = go1.describe()
    hip, thigh, calf = description.joints[:3]
    assert (hip.name, hip.position_limit, hip.effort_limit) == ("FR_hip_joint", (-0.863, 0.863), 23.7)
    assert (thigh.position_limit, calf.position_limit, calf.effort_limit) == ((-0.686, 4.501), (-2.818, -0.888), 35.55)
    assert description.drives == description.joint_names and description.damping == (SAFE_DAMPING,) * 12
    assert description.sensor_frame == "imu" and description.state_period_s == 0.005 and go1.max_damping == MAX_DAMPING
    assert description.has_height and description.has_linear_velocity and description.name == "mjlab_go1"


def test_what_it_cannot_do_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RobotError, match="base_contact is false: in Mjlab-Velocity-Flat-Unitree-Go1 the whole robot"):
        make_simulation(MJLAB_GO1_TASK, base_contact=False)
    with pytest.raises(RobotError, match="only MuJoCoPlayground/Go1"):
        make_simulation(MJLAB_GO1_TASK, "scene.xml")
    with pytest.raises(RobotError, match="did you mean Mjlab-Velocity-Flat-Unitree-Go1"):
        make_simulation("mjlab:Mjlab-Velocity-Flat-Unitree-Go2")
    other = tmp_path / "go1.xml"
    other.write_text("<mujoco><worldbody><body><joint name='knee'/><geom size='1'/></body></worldbody></mujoco>")
    monkeypatch.setattr("trudi.runtime.robots.mjlab_go1.find_asset", lambda *_, **__: other)
    with pytest.raises(RobotError, match=r"go1.xml is not the Go1 of mjlab 1.6: no motor is known for the joint knee"):
        make_simulation(MJLAB_GO1_TASK)


def test_neither_mjlab_nor_torch_is_imported():
    code = f"import sys; from trudi.runtime.robots.simulation import make_simulation as make; make({MJLAB_GO1_TASK!r})"
    code += "; print([name for name in ('mjlab', 'torch', 'warp') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert find_asset("mjlab", "asset_zoo/robots/unitree_go1/xmls/go1.xml", extra="mjlab").is_file()


# --- The policy that mjlab trained ---


@pytest.mark.parametrize("command", [FORWARD, (-0.5, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.5), (0.0, 0.0, 0.0)])
def test_it_walks_as_it_is_told(policy, command):
    """The whole runtime and robot from the stand-up on, 6 s of simulated time under the policy; the last 3 s count."""
    contract, engine = policy
    flight = LockStep(contract, engine, MujocoCfg(task=f"mjlab:{MJLAB_GO1_TASK}"))
    state = RobotState.zeros(flight.robot.description)
    flight.start([command])
    measured = []
    for step in range(300):
        assert flight.step([command]), flight.controller.supervisor.fault
        flight.robot.simulation.measure(state)
        if step >= 150:
            measured.append((*state.linear_velocity[:2], state.angular_velocity[2], state.height[0]))
    *velocity, height = np.mean(measured, axis=0)
    np.testing.assert_allclose(velocity, command, atol=0.15)
    assert height > 0.22 and not flight.robot.report().violations


@pytest.mark.parametrize("steps", [200, 205, 210, 215])
def test_stopped_in_mid_stride_it_halts_and_stands(policy, steps):
    """From four moments of a stride, with somebody who goes on driving."""
    contract, engine = policy
    flight = LockStep(contract, engine, MujocoCfg(task=f"mjlab:{MJLAB_GO1_TASK}"))
    flight.start([FORWARD])
    assert all(flight.step([FORWARD]) for _ in range(steps))
    assert flight.controller.request(Event.STOP, flight.now_ns) is None
    for _ in range(300):
        flight.step([FORWARD])
    assert flight.controller.supervisor.state is State.STAND and flight.controller.ramp_left_s(flight.now_ns) == 0.0
    assert flight.robot.simulation.data.qpos[2] > 0.22 and not flight.robot.report().violations


def test_stopped_in_mid_stride_without_a_halt_it_falls(policy):
    """What the halt is for: from most of the same moments the way to the default pose ends in TILT."""
    contract, engine = policy
    faults = []
    for steps in (200, 205, 210, 215):
        flight = LockStep(
            contract, engine, MujocoCfg(task=f"mjlab:{MJLAB_GO1_TASK}"), SiteFile(joints={}, halt_s=0.0, fade_out_s=0.0)
        )
        flight.start([FORWARD])
        assert all(flight.step([FORWARD]) for _ in range(steps))
        assert flight.controller.request(Event.STOP, flight.now_ns) is None
        assert flight.controller.supervisor.state is State.STAND, "at once"
        for _ in range(200):
            flight.step([FORWARD])
        fault = flight.controller.supervisor.fault
        faults.append(None if fault is None else fault.violation.code.name)
    assert faults.count("TILT") >= 2 and set(faults) <= {"TILT", None}, faults
