"""How messages become states: whole ones, as old as their oldest part, one for each period."""

import math
from array import array

import numpy as np
import pytest
from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import Imu, JointState

from trudi.runtime.robots.base import CustomSensor, RobotDescription, RobotJoint, StateRejected
from trudi_runtime import topics
from trudi_runtime.stamps import set_stamp
from trudi_runtime.topics import IMU, JOINTS, ODOMETRY, SENSORS, RosRobot, TopicsCfg

MS = 1_000_000
T0 = 10**15
OFFSET = 7 * 10**17
"""ROS time minus CLOCK_MONOTONIC in these tests."""


class Clock:
    def to_monotonic_ns(self, ros_ns):
        return ros_ns - OFFSET

    def to_ros_ns(self, monotonic_ns):
        return monotonic_ns + OFFSET


class Form:
    publishers = ()


class Side:
    """A robot of two joints and its messages; `now` is CLOCK_MONOTONIC."""

    def __init__(self, monkeypatch, stamps="shared", **robot):
        self.now_ns = T0
        monkeypatch.setattr(topics, "monotonic_ns", lambda: self.now_ns)
        self.node = Node("topics_test")
        joints = tuple(RobotJoint(name=name) for name in "ab")
        fields = {"state_period_s": 0.004, "command_timeout_s": 0.1, "shared_clock": stamps == "shared"} | robot
        description = RobotDescription(name="arm", joints=joints, drives=("a", "b"), **fields)
        cfg = TopicsCfg({name: name for name in (JOINTS, IMU, ODOMETRY, SENSORS)}, stamps)
        self.robot = RosRobot(self.node, description, cfg, Clock(), Form())

    def joints(self, at_ms, positions=(0.0, 0.0), names=("a", "b"), effort=(), ros_ns=None):
        self.now_ns = T0 + round(at_ms * MS) + MS  # a millisecond on its way
        message = JointState(name=list(names))
        message.position, message.velocity = array("d", positions), array("d", [0.0] * len(names))
        message.effort = array("d", effort)
        set_stamp(message.header.stamp, T0 + round(at_ms * MS) + OFFSET if ros_ns is None else ros_ns)
        self.robot._on_joints(message)

    def imu(self, at_ms, roll=0.0, ros_ns=None):
        self.now_ns = T0 + round(at_ms * MS) + MS
        message = Imu()
        message.orientation.x, message.orientation.w = math.sin(roll / 2), math.cos(roll / 2)
        set_stamp(message.header.stamp, T0 + round(at_ms * MS) + OFFSET if ros_ns is None else ros_ns)
        self.robot._on_imu(message)

    def odometry(self, at_ms):
        self.now_ns = T0 + round(at_ms * MS) + MS
        message = Odometry()
        message.twist.twist.linear.x = 0.5
        set_stamp(message.header.stamp, T0 + round(at_ms * MS) + OFFSET)
        self.robot._on_odometry(message)

    def states(self):
        """Stamps of all that can be read, in ms from T0."""
        found = []
        while (state := self.robot.read()) is not None:
            found.append(round((state.stamp_ns - T0) / MS, 3))
        return found


@pytest.fixture
def made(monkeypatch):
    sides = []

    def make(*args, **options):
        sides.append(Side(monkeypatch, *args, **options))
        return sides[-1]

    yield make
    for side in sides:
        side.robot.close()
        side.node.destroy_node()


def test_a_state_has_every_part_and_the_oldest_stamp(made):
    side = made()
    side.joints(0.0, (1.0, 2.0))
    assert side.states() == []
    side.imu(0.5, roll=0.2)
    state = side.robot.read()
    assert state.joint_position.tolist() == [1.0, 2.0]
    assert state.quaternion_xyzw[0] == math.sin(0.1)
    assert (state.stamp_ns, state.received_ns) == (T0, T0 + 1_500_000)
    assert side.robot.arrived_ns == T0 + 1_500_000


@pytest.mark.parametrize("lag_ms", [0.0, 0.3, 1.0, 2.0, 3.5])
def test_one_state_a_period_whatever_lies_between_the_two_topics(made, lag_ms):
    side = made()
    for number in range(50):
        side.joints(4.0 * number)
        side.imu(4.0 * number + lag_ms)
        assert len(side.states()) <= 1 + (number == 0)
    assert side.robot._sequence in (50, 51)


def test_a_message_that_is_lost_leaves_no_lasting_delay(made):
    side = made()
    for number in range(4):
        side.joints(4.0 * number)
        side.imu(4.0 * number)
    side.states()
    side.imu(16.0)  # its joints were lost
    side.joints(20.0)
    side.imu(20.0)
    side.joints(24.0)
    side.imu(24.0)
    assert side.states()[-1] == 24.0


@pytest.mark.parametrize("stamps", ["shared", "own"])
def test_a_topic_that_stops_stops_the_states(made, stamps):
    side = made(stamps)
    for number in range(3):
        side.joints(4.0 * number)
        side.imu(4.0 * number)
    assert len(side.states()) == 3
    for number in range(3, 30):
        side.joints(4.0 * number)
    assert len(side.states()) <= 1
    side.imu(8.0, ros_ns=T0 + 8 * MS + OFFSET)  # goes on, with the same stamp
    assert side.states() == []


def test_an_imu_that_dies_is_found_though_its_clock_is_another_one(made):
    """Joints stamped by uptime, imu by a wall clock far ahead: each is new by its own clock alone."""
    side = made("own")
    for number in range(3):
        side.joints(4.0 * number, ros_ns=(number + 1) * 4 * MS)
        side.imu(4.0 * number)
    assert side.states() == [1.0, 5.0, 9.0]  # when the oldest part arrived
    for number in range(3, 30):
        side.joints(4.0 * number, ros_ns=(number + 1) * 4 * MS)
    assert side.states() == []


def test_stamps_that_go_back_or_lie_ahead_are_handed_on_for_the_watches(made):
    side = made()
    side.joints(4.0)
    side.imu(4.0)
    side.imu(8.0, ros_ns=T0 + 1 * MS + OFFSET)
    assert side.states() == [4.0, 1.0]
    side.joints(12.0, ros_ns=T0 + 100 * MS + OFFSET)
    assert side.states() == [100.0]


def test_a_message_without_a_stamp_and_one_by_arrival(made):
    side = made()
    side.joints(0.0, ros_ns=0)
    with pytest.raises(StateRejected, match="carries no stamp"):
        side.robot.read()
    side = made("arrival")
    side.joints(0.0, ros_ns=0)
    side.imu(0.0, ros_ns=0)
    assert side.states() == [1.0]


def test_states_at_ten_times_the_rate_take_each_others_place(made):
    """The loop that reads every 5 ms finds one or two states of 4 ms, the newest last, as the history has room for."""
    side = made()
    for number in range(250):
        at_ms = 0.4 * number
        side.joints(at_ms, (at_ms, 0.0))
        side.imu(at_ms)
        if number % 12 == 11:
            states = side.states()
            assert 1 <= len(states) <= 2
            assert states[-1] == round(at_ms, 3)


def test_odometry_may_lag_and_not_stop(made):
    side = made(has_linear_velocity=True, has_height=True)
    side.joints(0.0)
    side.imu(0.0)
    assert side.states() == []
    side.odometry(0.0)
    assert side.states() == [0.0]
    stamps = []
    for at_ms in range(4, 400, 4):
        side.joints(at_ms)
        side.imu(at_ms)
        stamps += side.states()
    # For 0.1 s states are as old as their joints; from then on they stand still, and are lost in the end.
    assert stamps[:25] == [4.0 * number for number in range(1, 26)]
    assert set(stamps[25:]) == {100.0}


def test_custom_sensors_are_parts_too(made):
    side = made(has_imu=False, custom=(CustomSensor(name="foot", size=2),))
    side.joints(0.0)
    assert side.states() == []
    message = JointState(name=["foot[1]", "foot[0]", "other"])
    message.position = array("d", [2.0, 1.0, 3.0])
    set_stamp(message.header.stamp, T0 + OFFSET)
    side.robot._on_sensors(message)
    assert side.robot.read().custom.tolist() == [1.0, 2.0]


def test_efforts_that_are_not_measured(made):
    side = made()
    side.joints(0.0, effort=(math.nan, 3.0))
    side.imu(0.0)
    assert side.robot.read().joint_effort.tolist() == [0.0, 3.0]
    side.joints(4.0, effort=(math.inf, 3.0))
    side.imu(4.0)
    assert side.robot.read().joint_effort.tolist() == [math.inf, 3.0]


def test_names(made):
    side = made()
    side.joints(0.0, (1.0, 2.0, 3.0), names=("c", "b", "a"))
    side.imu(0.0)
    assert side.robot.read().joint_position.tolist() == [3.0, 2.0]
    side.joints(4.0, (1.0, 2.0), names=("a", "a"))
    with pytest.raises(StateRejected, match="names a joint twice"):
        side.robot.read()
    side.joints(8.0, (1.0,), names=("b",))
    with pytest.raises(StateRejected, match="joint_states lacks a; it has b"):
        side.robot.read()
    side.joints(12.0, (1.0,), names=("gripper",))
    assert side.robot.read() is None
    assert side.robot.ignored == 1
    side.joints(16.0, (1.0, 2.0, 3.0))
    with pytest.raises(StateRejected, match="2 names, 3 positions"):
        side.robot.read()
    assert side.robot.facts[JOINTS].rejected == 3
    assert np.isfinite(side.robot._heard.values).all()


def test_waiting_ends_with_an_arrival_or_in_time(made, monkeypatch):
    side = made()
    monkeypatch.undo()
    now_ns = topics.monotonic_ns()
    side.robot.wait(now_ns, now_ns + 20 * MS)
    assert topics.monotonic_ns() >= now_ns + 20 * MS
    side.robot._arrived_ns = now_ns + 1
    side.robot.wait(now_ns, now_ns + 10**12)  # at once
