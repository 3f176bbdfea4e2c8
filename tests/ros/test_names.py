"""Joints by name: in any order, among others, and never without one that the policy needs."""

import numpy as np
import pytest
from harness import LATCHED, until
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

JOINTS = [f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")]
HOME = [0.1, 0.9, -1.8, -0.1, 0.9, -1.8, 0.1, 0.9, -1.8, -0.1, 0.9, -1.8]
AWAY = [position + 0.01 * (index + 1) for index, position in enumerate(HOME)]
"""Each joint a little elsewhere, by an amount of its own."""


def stand_from(bench, names, positions):
    """Stands a robot that never moves; by name the first targets, which begin where the joints are, and the last."""
    commands = bench.listen(JointState, "joint_commands")
    bench.driver(names=names, positions=positions)
    assert bench.transition("configure"), bench.said()
    assert bench.transition("activate"), bench.said()
    bench.await_state("STANDBY")
    bench.granted("stand")
    driven = lambda: [message for _, message in commands if len(message.position)]  # noqa: E731
    pose = dict(zip(JOINTS, HOME, strict=True))
    reached = lambda: np.allclose(by_name(driven()[-1]), list(pose.values()), rtol=0, atol=1e-9)  # noqa: E731
    until(lambda: driven() and reached(), "the pose is reached")
    return by_name(driven()[0]), by_name(driven()[-1])


def by_name(message):
    found = dict(zip(message.name, message.position, strict=True))
    assert set(found) == set(JOINTS)
    return [found[name] for name in JOINTS]


ORDERS = {
    "shuffled": [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 4, 6],
    "reversed": list(range(12))[::-1],
    "as_is": list(range(12)),
}


@pytest.mark.parametrize("order", list(ORDERS))
def test_any_order_means_the_same(bench, standing, imu_robot, order):
    bench.runtime(standing, imu_robot)
    places = ORDERS[order]
    first, last = stand_from(bench, [JOINTS[place] for place in places], [AWAY[place] for place in places])
    # In the first 5 to 10 ms of two seconds a cosine is at rest.
    np.testing.assert_allclose(first, AWAY, atol=1e-4)
    np.testing.assert_allclose(last, HOME, atol=1e-9)


def test_other_joints_are_ignored(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    names = ["gripper", *JOINTS[:5], "wheel_left", *JOINTS[5:], "wheel_right"]
    positions = [9.0, *AWAY[:5], -8.0, *AWAY[5:], 7.0]
    first, _ = stand_from(bench, names, positions)
    np.testing.assert_allclose(first, AWAY, atol=1e-4)


def test_messages_of_other_joints_altogether_are_ignored(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, one_publisher=False)
    bench.driver(names=["gripper"], positions=[0.02], imu=False)
    first, _ = stand_from(bench, JOINTS, AWAY)
    np.testing.assert_allclose(first, AWAY, atol=1e-4)
    assert int(bench.diagnostic("inputs")[1]["joint_states_ignored"]) > 0


def test_a_missing_joint_is_refused_by_name(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    bench.driver(names=JOINTS[:5] + JOINTS[6:], positions=AWAY[:5] + AWAY[6:])
    assert bench.transition("configure"), bench.said()
    assert not bench.transition("activate")
    until(lambda: "joint_states lacks FL_calf_joint" in bench.said(), bench.said)


def test_a_joint_that_goes_missing_damps(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    driver = bench.driver(names=JOINTS, positions=HOME)
    bench.ready()
    bench.granted("stand")
    driver.names, driver.positions, driver.velocities = JOINTS[:-1], HOME[:-1], [0.0] * 11
    bench.await_state("FAULT")
    assert bench.fault == ("STATE_LAYOUT", f"joint_states lacks RL_calf_joint; it has {', '.join(JOINTS[:-1])}")


def test_a_policy_for_joints_that_the_robot_lacks_is_refused(bench, standing, imu_robot):
    imu_robot["robot.joints"] = [name.replace("RL_calf", "RL_shank") for name in JOINTS]
    bench.runtime(standing, imu_robot)
    assert not bench.transition("configure")
    until(lambda: "RL_calf_joint" in bench.said() and "lacks" in bench.said(), bench.said)
    assert bench.lifecycle() == "unconfigured"


def test_gains_come_with_their_joints(bench, standing, imu_robot):
    gains = bench.listen(Float64MultiArray, "joint_gains", LATCHED)
    bench.runtime(standing, imu_robot)
    stand_from(bench, JOINTS, HOME)
    message = gains[-1][1]
    assert message.layout.dim[0].label == "stiffness,damping"
    assert message.layout.dim[1].label == ",".join(JOINTS)
    np.testing.assert_allclose(np.array(message.data).reshape(2, 12), [[35.0] * 12, [0.5] * 12])
