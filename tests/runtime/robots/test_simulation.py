"""The physics against EnvPool's: the observations and rewards of training, from the same states and actions."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from trudi.runtime.robots.base import JointCommand, RobotError, RobotState, SupervisorState
from trudi.runtime.robots.simulation import GO1_TASK, SAFE_DAMPING, find_asset, make_simulation
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


def go1_difference(folder, amplitude, seed, steps=STEPS):
    """The largest difference to EnvPool's noise-free observation over `steps` control steps of random actions."""
    base = mesh_free_assets(GO1_TASK, folder)
    simulation = make_simulation(GO1_TASK)
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


@pytest.mark.parametrize("amplitude,seed", [(0.3, 3), (1.0, 4)])
def test_go1_gives_the_observations_of_training(tmp_path, amplitude, seed):
    worst, _, _ = go1_difference(tmp_path, amplitude, seed)
    assert worst <= 1e-6


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
        worst_reward = max(worst_reward, abs(simulation.reward() - reward[0]))
    pool.close()
    return worst, worst_reward
