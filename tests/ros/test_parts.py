"""The node's parts, each by itself: the gate of velocity commands, forms of commands, stamps, rows of ticks."""

import math
import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from test_names import JOINTS

from trudi.runtime.controller import Outcome
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotError, RobotJoint
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import Event, FaultCode
from trudi_runtime.commands import JointStateForm, Ros2ControlForm, TrajectoryForm
from trudi_runtime.gate import Joystick, VelocityGate
from trudi_runtime.parameters import PARAMETERS, Settings, describe_robot, inside
from trudi_runtime.stamps import SystemClock, set_stamp, to_ns
from trudi_runtime.ticks import TakenState, TickRow

S = 10**9
NEUTRAL = (0.0, 0.0, 0.0)


# The gate.


def passed(gate, values, at_s, held=None, also_s=0.0):
    return gate.passes(values, round(at_s * S), held=held, neutral=NEUTRAL, also_changed_ns=round(also_s * S))


def test_a_command_that_never_changes_is_believed_for_a_while():
    gate = VelocityGate(2.0)
    assert passed(gate, (0.3, 0.0, 0.0), 10.0)
    assert passed(gate, (0.3, 0.0, 0.0), 12.0)
    assert not passed(gate, (0.3, 0.0, 0.0), 12.01)
    assert "has not changed by a bit for 2.0 s" in gate.reason
    assert passed(gate, (0.3 + 1e-16, 0.0, 1e-9), 12.1)  # any bit is enough
    assert gate.reason == ""
    assert not passed(gate, (0.3 + 1e-16, 0.0, 1e-9), 14.2)


def test_what_may_stay_the_same():
    assert all(passed(VelocityGate(0.0), (1.0, 0.0, 0.0), at) for at in (0.0, 1e6))
    neutral, held = VelocityGate(1.0), VelocityGate(1.0)
    assert all(passed(neutral, NEUTRAL, at) for at in (1.0, 100.0))
    assert passed(held, (1.0, 0.0, 0.0), 1.0, held=True)
    assert not passed(held, (1.0, 0.0, 0.0), 3.0, held=True)  # a gamepad out of reach repeats its button
    assert passed(held, (1.0, 0.0, 0.0), 100.0, held=True, also_s=99.5)  # the joystick moved
    assert not passed(held, (1.0, 0.0, 0.0), 100.0, held=False, also_s=99.5)
    assert held.reason == "the dead-man button is not held"


def test_the_joystick():
    stick = Joystick(deadman_button=1, estop_button=2, timeout_s=0.5)
    assert stick.held(0) is False
    assert "is silent" in stick.alarm(0) and not stick.heard
    stick.take([0, 1, 0], [0.0], 10 * S)
    assert stick.held(10 * S + S // 2) is True
    assert stick.alarm(10 * S + S // 2) == ""
    assert stick.held(10 * S + S // 2 + 1) is False  # its messages have stopped
    assert "is silent" in stick.alarm(10 * S + S // 2 + 1)
    stick.take([0, 1, 0], [0.0], 11 * S)
    assert stick.changed_ns == 10 * S
    stick.take([0, 1, 0], [0.1], 12 * S)
    assert stick.changed_ns == 12 * S
    stick.take([0, 0, 0], [0.1], 13 * S)
    assert stick.held(13 * S) is False
    stick.take([0, 1, 1], [0.1], 14 * S)
    assert stick.alarm(14 * S) == "the emergency stop button is pressed"
    stick.take([0, 1], [0.1], 15 * S)
    assert stick.alarm(15 * S) == "the joystick has 2 buttons, and joy.estop_button is 2"
    assert Joystick(-1, -1, 0.5).held(5) is None
    assert Joystick(-1, -1, 0.5).alarm(5) == ""


# Forms of commands.


class Publisher:
    """Keeps what is published; `order` is shared, so that the order across topics is seen."""

    def __init__(self, kind, topic, qos, order):
        self.kind, self.topic, self.qos, self.order = kind, topic, qos, order

    def publish(self, message):
        copy = type(message)()
        for field in message.get_fields_and_field_types():
            value = getattr(message, field)
            setattr(copy, field, value[:] if hasattr(value, "typecode") else value)
        header = getattr(message, "header", None)  # is filled again for the next message
        self.order.append((self.topic, copy, header and header.frame_id, header and to_ns(header.stamp)))


@pytest.fixture
def sent():
    return []


def maker(sent):
    return lambda kind, topic, qos: Publisher(kind, topic, qos, sent)


def arm(pd=True):
    joints = tuple(RobotJoint(name=name) for name in ("a", "b"))
    return RobotDescription(name="arm", joints=joints, drives=("b", "a"), pd=pd, state_period_s=0.01, command_timeout_s=0.1)


def command(stiffness, state=State.ACTIVE):
    made = JointCommand.zeros(2)
    made.position[:], made.stiffness[:], made.damping[:] = [0.5, -0.25], stiffness, 1.5
    made.state, made.stamp_ns = state, time.monotonic_ns()
    return made


def test_joint_states_say_whether_the_robot_is_driven(sent):
    form = JointStateForm(maker(sent), ("commands", "gains"), arm(), "auto")
    stamp_ns = 1_234_567_890_123_456_789
    form.publish(command(0.0, State.STANDBY), 1)
    form.publish(command(20.0), stamp_ns)
    form.publish(command(20.0), 3)
    form.publish(command(0.0, State.FAULT), 4)
    assert [topic for topic, *_ in sent] == ["gains", "commands", "gains", "commands", "commands", "gains", "commands"]
    rest, driven, fault = (sent[index][1] for index in (1, 3, 6))
    stamps = [stamp for topic, _, _, stamp in sent if topic == "commands"]
    assert (rest.name, list(rest.position), list(rest.velocity), list(rest.effort)) == (["b", "a"], [], [0.0, 0.0], [])
    assert (list(driven.position), list(driven.velocity), list(driven.effort)) == ([0.5, -0.25], [0.0, 0.0], [0.0, 0.0])
    assert list(fault.position) == []
    assert [frame for topic, _, frame, _ in sent if topic == "commands"] == ["STANDBY", "ACTIVE", "ACTIVE", "FAULT"]
    assert list(sent[2][1].data) == [20.0, 20.0, 1.5, 1.5]
    assert stamps[1] == stamp_ns


def test_actuators_take_efforts(sent):
    form = JointStateForm(maker(sent), ("commands", "gains"), arm(pd=False), "auto")
    made = JointCommand.zeros(2)
    made.effort[:] = [0.75, -1.0]
    form.publish(made, 1)
    assert [topic for topic, *_ in sent] == ["commands"]
    assert (list(sent[0][1].effort), list(sent[0][1].position)) == ([0.75, -1.0], [])


def test_forward_controllers_are_never_sent_a_position_before_its_stiffness_is_gone(sent):
    names = {name: f"{name}/commands" for name in ("position", "velocity", "effort", "kp", "kd")}
    form = Ros2ControlForm(maker(sent), names, arm(), "joint_position", "auto")
    form.publish(command(20.0), 1)
    driven = [topic.split("/")[0] for topic, *_ in sent]
    assert driven == ["position", "effort", "velocity", "kd", "kp"]  # stiff only once it is where it belongs
    sent.clear()
    form.publish(command(0.0), 2)
    assert [topic.split("/")[0] for topic, *_ in sent] == ["kp", "kd", "velocity", "effort"]
    assert list(sent[0][1].data) == [0.0, 0.0]
    assert form.damps


def test_positions_alone_hold_when_the_robot_is_to_rest(sent):
    form = Ros2ControlForm(maker(sent), {"position": "p/commands"}, arm(), "joint_position", "auto")
    assert not form.damps
    form.publish(command(20.0), 1)
    form.publish(command(0.0), 2)
    assert len(sent) == 1


@pytest.mark.parametrize(
    "names, pd, action, sentence",
    [
        ("", True, "joint_position", "no controller is named"),
        ("position kp", True, "joint_position", "belong together"),
        ("position", False, "actuator", "give ros2_control.effort alone"),
        ("kp kd", True, "joint_position", "ros2_control.position is not named"),
        ("effort", True, "joint_effort", "ros2_control.position is not named"),
        # Without kp the hardware would hold a target of 0 against every effort.
        ("position effort", True, "joint_effort", "ros2_control.kp is not named"),
        ("position kp kd", True, "joint_effort", "ros2_control.effort is not named"),
        ("position kp kd effort", True, "joint_velocity", "ros2_control.velocity is not named"),
    ],
)
def test_controllers_that_cannot_drive_are_refused(sent, names, pd, action, sentence):
    with pytest.raises(RobotError, match=sentence):
        Ros2ControlForm(maker(sent), {name: name for name in names.split()}, arm(pd), action, "auto")


def test_a_trajectory_has_one_point_ahead(sent):
    form = TrajectoryForm(maker(sent), "t", arm(), "joint_position", 0.02, "auto")
    form.publish(command(0.0), 1)
    form.publish(command(20.0), 2)
    message = sent[0][1]
    assert len(sent) == 1
    assert message.joint_names == ["b", "a"]
    assert list(message.points[0].positions) == [0.5, -0.25]
    assert (message.points[0].time_from_start.sec, message.points[0].time_from_start.nanosec) == (0, 20_000_000)


# Stamps and ticks.


def test_stamps_come_back():
    clock, stamp = SystemClock(), Time()
    now_ns = time.time_ns()
    set_stamp(stamp, now_ns)
    assert to_ns(stamp) == now_ns
    assert clock.to_ros_ns(clock.to_monotonic_ns(now_ns)) == now_ns
    assert abs(clock.to_monotonic_ns(time.time_ns()) - time.monotonic_ns()) < S // 100


@pytest.mark.parametrize("step_s", [-7200, -1, 1, 7200])
def test_a_clock_that_is_set_moves_no_age(monkeypatch, step_s):
    """A stamp that is made after it is as fresh as one that was made before it, and so is one that was on its way."""
    clock, wall = SystemClock(), time.time_ns
    before = clock.to_monotonic_ns(wall())
    on_its_way_ns = wall()
    monkeypatch.setattr(time, "time_ns", lambda: wall() + step_s * S)
    after = clock.to_monotonic_ns(time.time_ns())
    assert 0 <= after - before < S // 10
    assert 0 <= clock.to_monotonic_ns(on_its_way_ns) - before < S // 10


whole = st.integers(-(2**62), 2**62)
number = st.floats(allow_nan=False)
states = st.builds(
    TakenState, st.sampled_from(("state", "malformed", "layout")), whole, whole, st.tuples(whole, whole, whole, whole)
)
commands = st.tuples(st.none() | st.integers(0, 2**62), st.lists(number, max_size=4).map(tuple))
rows = st.builds(
    TickRow,
    whole,
    whole,
    whole,
    st.none() | st.sampled_from(Event),
    st.none() | st.sampled_from(FaultCode),
    st.booleans(),
    st.sampled_from(Outcome),
    number,
    whole,
    st.lists(states, max_size=3).map(tuple),
    st.lists(commands, max_size=3).map(tuple),
)


@given(rows)
def test_a_row_comes_back(row):
    data = list(row.encode())
    assert TickRow.decode(data) == row
    with pytest.raises(ValueError, match="cut off"):
        TickRow.decode(data[:-1])


def test_a_row_keeps_what_is_no_number():
    row = TickRow(1, 2, 0, None, None, False, Outcome.NONE, math.nan, 0, (), ((None, (math.inf, math.nan)),))
    back = TickRow.decode(row.encode())
    assert math.isnan(back.spread)
    assert back.commands[0][0] is None
    assert back.commands[0][1][0] == math.inf and math.isnan(back.commands[0][1][1])


# Parameters.


def test_a_robot_is_described_by_its_parameters():
    robot = describe_robot(
        Settings(
            {
                "robot.name": "arm",
                "robot.joints": ["a", "b"],
                "robot.drives": ["b"],
                "robot.position_lower": [-1.0, -math.inf],
                "robot.position_upper": [1.0, math.inf],
                "robot.effort_limit": [5.0, 6.0],
                "robot.custom": ["foot:4"],
                "robot.state_rate_hz": 250.0,
                "stamps": "own",
            }
        )
    )
    assert robot.joints[0].position_limit == (-1.0, 1.0)
    assert robot.joints[1].position_limit is None
    assert [joint.effort_limit for joint in robot.joints] == [5.0, 6.0]
    assert robot.drives == ("b",)
    assert (robot.state_period_s, robot.shared_clock, robot.damping) == (0.004, False, ())
    assert (robot.custom[0].name, robot.custom[0].size) == ("foot", 4)


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"robot.position_lower": [-1.0, -math.inf], "robot.position_upper": [1.0, 1.0]}, "joint b has one position limit"),
        ({"robot.damping": [1.0, math.nan]}, "holds .nan"),
        ({"robot.drives": ["c"]}, "drives names c"),
        ({"robot.joints": []}, "robot.joints is empty"),
    ],
)
def test_half_a_description_is_none(values, sentence):
    with pytest.raises(RobotError, match=sentence):
        describe_robot(Settings({"robot.joints": ["a", "b"]} | values))


def test_every_default_is_allowed():
    assert Settings({}).complaint() == ""
    for name, declared in PARAMETERS.items():
        assert declared.text[0].isupper(), name


def test_paths_stay_inside_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    assert inside(root, "deep", "bundle") == root / "deep"
    assert inside(root, str(root / "deep"), "bundle") == root / "deep"
    for path in ("..", "../outside", str(tmp_path / "outside"), "link", "/etc/passwd", str(root) + "er"):
        with pytest.raises(TrudiRuntimeError, match="lies outside bundle_root"):
            inside(root, path, "bundle")
    with pytest.raises(TrudiRuntimeError, match="did you mean deep"):
        inside(root, "deap", "bundle")


def test_the_joints_of_these_tests_are_go1s():
    from harness import robot_parameters

    assert sorted(robot_parameters("unitree_go1")["robot.joints"]) == sorted(JOINTS)
    assert np.isfinite(robot_parameters("unitree_go1")["robot.position_lower"]).all()
