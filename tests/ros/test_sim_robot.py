"""The simulated robot as a node, between two processes over DDS: what it says, what it obeys, every fault, how it ends."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from harness import LATCHED, PACKAGE, REPOSITORY, mapped, remove_unused
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameterTypes, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from std_srvs.srv import Trigger

from trudi.runtime.robots.injection import ROBOT_KINDS
from trudi.runtime.robots.simulation import GO1_TASK, make_simulation
from trudi_runtime.spinning import make_executor
from trudi_runtime.stamps import to_ns

HOME = [0.1, 0.9, -1.8, -0.1, 0.9, -1.8] * 2
DEEP = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
START_S, ANSWER_S = 30.0, 10.0
STRINGS = Parameter.Type.STRING_ARRAY


def sim_command(namespace="/", **parameters):
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return [sys.executable, "-m", "trudi_runtime.sim_robot", "--ros-args", "-r", f"__ns:={namespace}", *given]


def environment():
    paths = [str(PACKAGE), str(REPOSITORY / "runtime"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


class Sim:
    """The node's process."""

    def __init__(self, namespace="/", **parameters):
        command = sim_command(namespace, **parameters)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())

    def end(self, number=signal.SIGTERM):
        """Ends it: exit code, and the report it prints."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=10)
        lines = self.process.stdout.read().splitlines()
        self.process.stdout.close()
        return code, json.loads(lines[-1])["report"] if lines else None

    def kill(self):
        """Kills it if it still runs, and removes the segments of shared memory that it leaves."""
        if self.process.poll() is not None:
            return
        segments = mapped(self.process.pid)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        remove_unused(segments)


class Side:
    """The other side of the topics: a runtime in short, which keeps all that it hears."""

    def __init__(self, task, namespace="/"):
        self.robot = make_simulation(task).describe()
        self.node = rclpy.create_node("other_side", namespace=namespace)
        self.executor = make_executor(self.node.context)
        self.executor.add_node(self.node)
        self.clear()
        listen = self.node.create_subscription
        listen(JointState, "joint_states", self._keep("joints"), DEEP)
        listen(Imu, "imu", self._keep("imus"), DEEP)
        listen(Odometry, "odom", self._keep("odometry"), DEEP)
        listen(JointState, "sensors", self._keep("sensors"), DEEP)
        self.commands = self.node.create_publisher(JointState, "joint_commands", DEEP)
        self.gains = self.node.create_publisher(Float64MultiArray, "joint_gains", LATCHED)
        self.setter = self.node.create_client(SetParameters, "sim_robot/set_parameters")
        self.triggers = {name: self.node.create_client(Trigger, f"sim_robot/{name}") for name in ("report", "reset_pose")}
        self.last = self.node.create_client(GetParameterTypes, "sim_robot/get_parameter_types")

    def clear(self):
        self.joints, self.imus, self.odometry, self.sensors = [], [], [], []

    def _keep(self, name):
        return lambda message: getattr(self, name).append(message)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()

    def wait(self, reached, seconds=ANSWER_S):
        end = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < end, "nothing came in time"
            self.executor.spin_once(timeout_sec=0.02)

    def meet(self):
        """Waits until everything is connected."""
        clients = [self.setter, *self.triggers.values(), self.last]
        self.wait(lambda: all(client.service_is_ready() for client in clients), START_S)
        self.wait(lambda: self.joints and self.commands.get_subscription_count() and self.gains.get_subscription_count())
        self.wait(self._is_known, START_S)
        return self.run(0.3)  # the robot's own side of the match

    def _is_known(self):
        """Whether the robot has heard of the clients, of which it hears in order; what it answers before is lost."""
        future = self.last.call_async(GetParameterTypes.Request())
        end = time.monotonic() + 1.0
        while not future.done() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return future.done()

    def ask(self, client, request):
        future = client.call_async(request)
        self.wait(future.done)
        return future.result()

    def report(self):
        return json.loads(self.ask(self.triggers["report"], Trigger.Request()).message)

    def reset_pose(self):
        assert self.ask(self.triggers["reset_pose"], Trigger.Request()).success

    def set(self, name, value, kind=None):
        """Sets a parameter; the reason where it is refused."""
        parameter = Parameter(name, kind, value) if kind else Parameter(name, value=value)
        request = SetParameters.Request(parameters=[parameter.to_parameter_msg()])
        (result,) = self.ask(self.setter, request).results
        return "" if result.successful else result.reason

    def inject(self, **fault):
        assert self.set("inject", json.dumps([{"at_s": 0.0, **fault}])) == ""

    def send_gains(self, stiffness=35.0, damping=1.0, drives=None, numbers=None):
        drives = list(drives or self.robot.drives)
        message = Float64MultiArray(data=numbers or [stiffness] * len(drives) + [damping] * len(drives))
        message.layout.dim = [
            MultiArrayDimension(label="stiffness,damping", size=2),
            MultiArrayDimension(label=",".join(drives), size=len(drives)),
        ]
        self.gains.publish(message)

    def send(self, state, position=None, effort=None, age_s=0.0, names=None):
        """A command: driving where there is a `position`, or else damping; an actuator's is `effort`."""
        count = len(self.robot.drives)
        message = JointState(name=list(names or self.robot.drives))
        sec, nanosec = divmod(time.time_ns() - round(age_s * 1e9), 10**9)
        message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = sec, nanosec, state
        if not self.robot.pd:
            message.effort = [effort or 0.0] * count
        else:
            message.velocity = [0.0] * count
            if position is not None:
                message.position, message.effort = list(position), [0.0] * count
        self.commands.publish(message)

    def run(self, seconds, state=None, period_s=0.004, **fields):
        """Listens, and commands where a state is given."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            if state is not None and now >= due:
                self.send(state, **fields)
                due = now + period_s
            self.executor.spin_once(timeout_sec=0.002)
        return self

    def stand_up(self):
        """To ACTIVE."""
        self.send_gains()
        self.run(0.05, "STANDBY")
        limits = np.array([joint.position_limit for joint in self.robot.joints]).T
        self.run(0.05, "STAND", position=np.clip(self.joints[-1].position, *limits))
        return self

    @property
    def stamps(self):
        return np.array([to_ns(message.header.stamp) for message in self.joints])

    @property
    def position(self):
        return np.array([message.position for message in self.joints])

    @property
    def heights(self):
        return np.array([message.pose.pose.position.z for message in self.odometry])

    @property
    def effort(self):
        """Largest at the last state; N m."""
        return np.abs(self.joints[-1].effort).max()


@pytest.fixture(scope="module")
def shared():
    sim, side = Sim(task=GO1_TASK), Side(GO1_TASK)
    try:
        yield side.meet()
        assert sim.end()[0] == 0
    finally:
        side.close()
        sim.kill()


@pytest.fixture
def side(shared):
    """One Go1 for many tests: at its initial pose, and as it is without parameters."""
    side = shared
    side.run(0.15)  # what was commanded before is stale
    for name, value in (("joint_order", "list"), ("imu_frame", "imu"), ("stamp_offset_s", 0.0)):
        assert side.set(name, value) == ""
    for name in ("extra_joints", "missing_joints"):
        assert side.set(name, [], STRINGS) == ""
    side.reset_pose()
    side.run(0.05)
    side.clear()
    return side


def test_states_arrive_at_the_rate_with_rising_stamps(side):
    side.run(1.0)
    gaps_ms = np.diff(side.stamps) / 1e6
    assert (gaps_ms > 0).all() and 3.5 < np.median(gaps_ms) < 4.5 and len(gaps_ms) > 150
    assert abs(time.time_ns() - side.stamps[-1]) < 0.5e9
    joints = side.joints[-1]
    assert joints.name == list(side.robot.joint_names)
    assert len(joints.position) == len(joints.velocity) == len(joints.effort) == 12
    for others in (side.imus, side.odometry):  # every part of a state has its stamp
        assert len(set(side.stamps) & {to_ns(message.header.stamp) for message in others}) > 0.9 * len(side.stamps)
    imu, odometry = side.imus[-1], side.odometry[-1]
    assert imu.header.frame_id == odometry.child_frame_id == "imu" and imu.linear_acceleration_covariance[0] == -1.0
    turn = imu.orientation
    assert math.hypot(turn.x, turn.y, turn.z, turn.w) == pytest.approx(1.0) and turn.w > 0.7
    assert 0.05 < odometry.pose.pose.position.z < 0.4 and not side.sensors


def test_it_obeys_and_damps_when_commands_stop(side):
    before = side.report()
    side.stand_up().run(0.8, "ACTIVE", position=HOME)
    assert side.effort > 1.0 and np.abs(side.position[-1] - HOME).max() < 0.3 and side.heights[-1] > 0.23
    assert side.report()["stiffness"] == 35.0
    side.run(0.8)
    assert side.effort == 0.0 and side.heights[-1] < 0.2  # it sinks
    report = side.report()
    assert report["violation_count"] == before["violation_count"], report["violations"]
    assert report["commands"] > before["commands"] + 100 and report["stiffness"] == 0.0


def test_a_command_may_damp_whatever_the_gains_say(side):
    side.stand_up().run(0.3, "ACTIVE", position=HOME)
    assert side.effort > 1.0
    side.run(0.1, "FAULT")
    assert side.effort == 0.0 and side.report()["stiffness"] == 0.0


def test_an_old_command_is_not_obeyed(side):
    side.stand_up()
    side.run(0.2, "STAND", 0.05, position=side.position[-1], age_s=0.3)
    assert side.effort == 0.0
    assert "expired" in " | ".join(side.report()["violations"])


def said_after(side, work):
    """What the checker said of what `work` did; it keeps a hundred sentences of one robot."""
    count = len(side.report()["violations"])
    work()
    side.run(0.1)
    return " | ".join(side.report()["violations"][count:])


def test_a_command_in_the_wrong_state_is_a_violation(side):
    side.send_gains()
    side.run(0.05, "STANDBY")
    assert "STANDBY -> ACTIVE is not allowed" in said_after(side, lambda: side.send("ACTIVE", HOME))
    side.run(0.05, "STANDBY")
    assert "stiffness, effort or speed in STANDBY" in said_after(side, lambda: side.send("STANDBY", HOME))


def test_a_stamp_that_does_not_rise_is_a_violation(side):
    def repeat():
        side.send("STANDBY")
        side.run(0.02)
        side.send("STANDBY", age_s=0.05)

    side.send_gains()
    assert "it must rise" in said_after(side, repeat)


@pytest.mark.parametrize(
    "fields,says",
    [
        ({"state": "DANCE"}, "frame_id is 'DANCE': must be the supervisor's state (UNCONFIGURED, INACTIVE"),
        ({"names": ["a", "b"]}, "a command for 'a,b'; this robot's drives"),
        ({"position": [0.0]}, "a command of (1, 12, 12) positions, velocities and efforts; this robot takes 12 each"),
    ],
)
def test_a_message_that_is_no_command_is_a_violation_and_not_obeyed(side, fields, says):
    side.stand_up()
    fields = {"state": "STAND", "position": side.position[-1]} | fields
    assert says in said_after(side, lambda: side.run(0.2, **fields, period_s=0.05))
    assert side.effort == 0.0


def test_gains_of_other_drives_are_a_violation_and_stop_it(side):
    side.stand_up()
    assert side.report()["stiffness"] == 35.0
    said = said_after(side, lambda: side.send_gains(drives=["a", "b"]))
    assert "joint_gains of the dimensions" in said
    side.run(0.15)
    assert "a command without gains" in said_after(side, lambda: side.run(0.7, "STANDBY", 0.05))
    side.send_gains()
    assert said_after(side, lambda: side.run(0.1, "STANDBY")) == ""


def test_joints_in_another_order_missing_and_extra(side):
    own = list(side.robot.joint_names)
    side.run(1.2)  # it lies
    rest = dict(zip(own, side.joints[-1].position, strict=True))
    assert side.set("joint_order", "shuffled") == ""
    assert side.set("extra_joints", ["gripper", "antenna"]) == ""
    assert side.set("missing_joints", [own[3]]) == ""
    side.clear()
    side.run(0.2)
    names = list(side.joints[-1].name)
    assert sorted(names) == sorted([*own[:3], *own[4:], "gripper", "antenna"]) and names[:3] != own[:3]
    for name, position in zip(names, side.joints[-1].position, strict=True):
        assert position == pytest.approx(rest.get(name, 0.0), abs=0.3)
    gripper = names.index("gripper")
    assert side.joints[-1].position[gripper] == side.joints[-1].velocity[gripper] == side.joints[-1].effort[gripper] == 0.0


def test_a_wrong_frame_and_a_clock_that_differs(side):
    assert side.set("imu_frame", "lidar") == side.set("stamp_offset_s", -3.0) == ""
    side.clear()
    side.run(0.1)
    assert side.imus[-1].header.frame_id == side.odometry[-1].child_frame_id == "lidar"
    assert -3.5e9 < side.stamps[-1] - time.time_ns() < -2.9e9


@pytest.mark.parametrize(
    "name,value,kind,says",
    [
        ("joint_order", "sorted", None, "joint_order is 'sorted'; available: list, shuffled"),
        ("missing_joints", ["FR_hip"], None, "unitree_go1 has no joint 'FR_hip'; did you mean FR_hip_joint"),
        ("extra_joints", ["a", "a"], None, "extra_joints: 'a' is empty, stands twice, or is a joint of unitree_go1"),
        ("stamp_offset_s", 1e7, None, "1000000"),
        ("noise", 1.0, None, "read-only"),
        ("inject", "[{kind: pull, at_s: 0}]", None, "inject: fault 1: unknown kind 'pull'; did you mean push"),
        ("inject", "[{kind: push", None, "inject is not valid YAML"),
        ("inject", "[{kind: tip_over, at_s: 0}]", None, "value of tip_over is None: must be a number"),
        ("imu_frame", 3, None, "type"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_with_its_reason(side, name, value, kind, says):
    assert says.lower() in side.set(name, value, kind).lower()
    side.run(0.05)
    assert side.joints


def number(side, field="position"):
    return np.array([getattr(message, field)[0] for message in side.joints])


def tilt(side):
    turns = np.array([(message.orientation.x, message.orientation.y) for message in side.imus])
    return np.arccos(1 - 2 * (turns**2).sum(1))


def gap_s(side):
    return np.diff(side.stamps).max() / 1e9


FOR_S = 0.15
TESTED = {"robot_kill", "command_latency"}


def seen(kind):
    TESTED.add(kind)
    return kind


@pytest.mark.parametrize(
    "fault,visible",
    [
        ({"kind": seen("state_stop"), "duration_s": FOR_S}, lambda d: 0.14 < gap_s(d) < 2.0),
        ({"kind": seen("state_freeze"), "duration_s": FOR_S}, lambda d: (np.diff(d.stamps) == 0).sum() > 10),
        ({"kind": seen("state_back"), "duration_s": FOR_S, "value": 1.0}, lambda d: np.diff(d.stamps).min() < -0.9e9),
        ({"kind": seen("clock_step"), "value": 2.0}, lambda d: 1.9e9 < np.diff(d.stamps).max() < 2.5e9),
        ({"kind": "clock_step", "value": -2.0}, lambda d: -2.1e9 < np.diff(d.stamps).min() < -1.5e9),
        ({"kind": seen("state_nan"), "duration_s": FOR_S}, lambda d: np.isnan(number(d)).any()),
        (
            {"kind": "state_nan", "duration_s": FOR_S, "value": "quaternion_xyzw"},
            lambda d: any(math.isnan(message.orientation.x) for message in d.imus),
        ),
        (
            {"kind": seen("state_inf"), "duration_s": FOR_S, "value": "height"},
            lambda d: np.isinf(d.heights).any(),
        ),
        (
            {"kind": seen("state_size"), "duration_s": FOR_S},
            lambda d: {len(m.name) for m in d.joints} == {len(m.position) for m in d.joints} == {11, 12},
        ),
        (
            {"kind": seen("state_layout"), "duration_s": FOR_S},
            lambda d: {m.name[0] for m in d.joints} == {d.robot.joint_names[0], "unknown_joint"},
        ),
        (
            {"kind": seen("state_dropout"), "duration_s": FOR_S, "value": 0.5},
            lambda d: (np.diff(d.stamps) > 7e6).sum() > 5,
        ),
        ({"kind": seen("state_noise"), "duration_s": FOR_S, "value": 1.0}, lambda d: np.diff(number(d)[:30]).std() > 0.01),
        (
            {"kind": seen("quantise"), "duration_s": FOR_S, "value": 0.125},
            lambda d: (d.position % 0.125 == 0).all(1).sum() > 20,
        ),
        (
            {"kind": seen("push"), "value": 2.0},
            lambda d: max(abs(message.twist.twist.linear.y) for message in d.odometry) > 1.0,
        ),
        ({"kind": seen("tip_over"), "value": 1.6}, lambda d: tilt(d).max() > 1.3),
        ({"kind": seen("joint_position"), "value": 0.2}, lambda d: (np.abs(number(d) - 1.063) < 1e-9).sum() > 10),
        ({"kind": seen("joint_velocity"), "value": 40.0}, lambda d: (number(d, "velocity") == 40.0).sum() > 10),
        ({"kind": seen("robot_stall"), "value": 0.3}, lambda d: 0.29 < gap_s(d) < 2.0),
    ],
    ids=lambda item: f"{item['kind']} {item.get('value', '')}" if isinstance(item, dict) else "",
)
def test_an_injected_fault_shows(side, fault, visible):
    count = len(side.report()["injected"])
    side.clear()
    side.run(0.02)
    side.inject(**fault)
    side.run(0.4)
    assert visible(side)
    injected = side.report()["injected"][count:]
    assert [one["kind"] for one in injected] == [fault["kind"]] and 0.0 <= injected[0]["at_s"] < 0.5


def test_command_latency(side):
    side.stand_up().run(0.2, "ACTIVE", position=HOME)
    side.inject(kind="command_latency", duration_s=2.5, value=0.08)
    side.run(0.8, "ACTIVE", position=HOME)
    side.clear()
    changed_ns = time.time_ns()
    side.run(0.5, "ACTIVE", position=[-0.3, *HOME[1:]])
    moved_ns = side.stamps[number(side) < HOME[0] - 0.15][0]
    assert 0.08e9 < moved_ns - changed_ns < 0.4e9


def test_every_kind_is_tested():
    assert set(ROBOT_KINDS) == TESTED


def test_reset_puts_it_back(side):
    side.run(0.6)
    assert side.heights[-1] < 0.2
    side.reset_pose()
    side.clear()
    side.run(0.1)
    assert side.heights[0] > 0.25


# Robots of their own.
NUMBERS = itertools.count()


@pytest.fixture
def start():
    """Starts robots; ends what a test left."""
    started = []

    def make(task, **parameters):
        namespace = f"/own_{next(NUMBERS)}"  # beside the one robot of many tests
        sim, side = Sim(namespace, task=task, **parameters), Side(task, namespace)
        started.append((sim, side))
        side.meet()
        return sim, side

    yield make
    for sim, side in started:
        side.close()
        sim.kill()


def test_a_task_with_a_reward_waits_for_the_policy(start):
    """Cartpole: a custom sensor, no imu, one actuator; it holds its initial state until ACTIVE, and again after a reset."""
    sim, side = start("CartpoleBalance-v1", seed=3)
    side.clear()
    side.run(0.3, "STANDBY")
    assert (side.position == side.position[0]).all() and (np.diff(side.stamps) > 0).all()
    assert side.sensors[-1].name == ["position[0]", "position[1]", "position[2]"] and not side.imus and not side.odometry
    assert side.sensors[-1].position[0] == side.joints[-1].position[0]
    initial = side.position[0].copy()
    side.run(0.1, "STAND").run(0.3, "ACTIVE", effort=1.0)
    assert side.position[-1][0] > 0.05
    side.run(0.2)
    side.reset_pose()
    side.clear()
    side.run(0.1)
    np.testing.assert_array_equal(side.position[-1], initial)
    code, report = sim.end()
    assert code == 0 and report["violation_count"] == 0, report["violations"]


def test_a_schedule_from_a_file_begins_with_the_flight(start, tmp_path):
    (tmp_path / "faults.yaml").write_text("- {kind: state_nan, at_s: 0.1, duration_s: 0.1}\n")
    _, side = start("CartpoleBalance-v1", faults=tmp_path / "faults.yaml", state_rate_hz="50.0")
    side.run(0.3, "STANDBY")
    assert 15e6 < np.median(np.diff(side.stamps)) < 25e6
    assert np.isfinite(side.position).all()
    side.run(0.05, "STAND").run(0.4, "ACTIVE")
    assert np.isnan(side.position).any() and np.isfinite(side.position[-1]).all()
    (injected,) = side.report()["injected"]
    assert injected["kind"] == "state_nan" and 0.1 <= injected["at_s"] < 0.3


def test_no_command_is_obeyed_before_the_gains_come(start):
    _, side = start(GO1_TASK)
    side.run(0.2, "STANDBY")
    assert side.report()["commands"] == 0  # they may overtake the gains
    side.run(2.0, "STANDBY", 0.02)
    report = side.report()
    assert report["violation_count"] == report["commands"] > 0
    assert "a command without gains: no good message came on joint_gains" in report["violations"][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(start, number):
    sim, side = start("CartpoleBalance-v1")
    while side.report()["commands"] < 6:
        side.run(0.1, "STANDBY")
    code, report = sim.end(number)
    assert code == 0 and report["commands"] > 5 and report["violation_count"] == 0
    assert not Path(f"/proc/{sim.process.pid}").exists()


def test_a_signal_while_it_starts_ends_it():
    sim = Sim(task="CartpoleBalance-v1")
    time.sleep(0.8)
    code, _ = sim.end()
    assert code in (0, -signal.SIGTERM)  # the latter before it could take note


def test_a_killed_robot_is_silent(start):
    sim, side = start("CartpoleBalance-v1")
    segments = mapped(sim.process.pid)
    side.inject(kind="robot_kill")
    assert sim.process.wait(timeout=5) == -signal.SIGKILL
    side.run(0.1)
    side.clear()
    side.run(0.2)
    assert not side.joints
    remove_unused(segments)


@pytest.mark.parametrize(
    "parameters,says",
    [
        ({"task": "Go2"}, "no simulated robot for the task 'Go2'"),
        ({"noise": -1.0}, "noise"),
        ({"noise": "much"}, "noise"),
        ({"dropout": 1.5}, "dropout"),
        ({"state_rate_hz": 300.0}, "1 / state_rate_hz is 0.00333333: must be a multiple of the physics step of 0.004 s"),
        ({"cpu": 4000}, "cpu 4000 may not be used by this process"),
        ({"joint_order": "sorted"}, "joint_order is 'sorted'; available: list, shuffled"),
        ({"missing_joints": "[nose]"}, "has no joint 'nose'"),
        ({"faults": "none.yaml"}, "none.yaml cannot be read"),
        ({"faults": "'[{kind: pull, at_s: 1}]'"}, "faults: fault 1: unknown kind 'pull'"),
        ({"variation": "'{fricton: 1}'"}, "variation has no field 'fricton'; did you mean friction"),
        ({"task": "CartpoleBalance-v1", "variation": "'{friction: 0.5}'"}, "only robots that have one are varied"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(parameters, says):
    command = sim_command(**parameters)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment())
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
