"""The robot's own checker: a right course of commands passes, and each thing that is wrong is named with its value."""

import math
import re

import numpy as np
import pytest

from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotJoint, SupervisorState
from trudi.runtime.robots.checker import MAX_SENTENCES, Checker, CheckerCfg, is_safe

State = SupervisorState
ARM = RobotDescription(
    name="arm",
    joints=(
        RobotJoint(name="free"),
        RobotJoint(name="hip", position_limit=(-1.0, 1.0), effort_limit=20.0),
        RobotJoint(name="knee", position_limit=(-2.0, 0.0), effort_limit=30.0),
    ),
    drives=("hip", "knee"),
    max_stiffness=50.0,
    state_period_s=0.01,
    command_timeout_s=0.1,
    shared_clock=True,
)
CART = RobotDescription(
    name="cart", joints=(RobotJoint(name="x"),), drives=("push",), pd=False, state_period_s=0.01, command_timeout_s=0.1
)
MS = 1_000_000
MEASURED = np.array([0.2, -1.0])


class Bench:
    """Sends one command after the other, 10 ms apart, and keeps what the checker said of the last."""

    def __init__(self, description=ARM, control_range=None):
        self.checker = Checker(description, CheckerCfg(max_damping=4.0), control_range)
        self.count, self.now_ns = len(description.drives), 10**12
        self.sequence = 0

    def send(self, state, position=(0.2, -1.0), stiffness=0.0, age_ms=1.0, step=1, **fields):
        self.sequence += step
        self.now_ns += 10 * MS
        command = JointCommand.zeros(self.count)
        command.position[:] = position[: self.count]
        command.stiffness[:], command.damping[:] = stiffness, 1.0 if self.count > 1 else 0.0
        command.state, command.sequence = state, self.sequence
        command.stamp_ns, command.valid_ns = self.now_ns - round(age_ms * MS), 50 * MS
        for name, value in fields.items():
            if isinstance(value, int):
                setattr(command, name, value)
            else:
                getattr(command, name)[:] = value
        before = len(self.checker.violations)
        good = self.checker.check(command, MEASURED, self.now_ns)
        said = self.checker.violations[before:]
        assert good == (not said)
        return " | ".join(said)

    def course(self, *states):
        return [self.send(state, stiffness=30.0 * (state in (State.STAND, State.ACTIVE))) for state in states]


@pytest.fixture
def bench():
    return Bench()


def test_a_right_course_passes(bench):
    course = bench.course(State.INACTIVE, State.STANDBY, State.STAND, State.STAND, State.ACTIVE, State.ACTIVE, State.STAND)
    assert not any(course)
    assert not any(bench.course(State.ACTIVE, State.FAULT, State.FAULT, State.STANDBY, State.STAND, State.STANDBY))
    assert bench.checker.violation_count == 0 and bench.checker.commands == 13


@pytest.mark.parametrize("state", [State.UNCONFIGURED, State.INACTIVE, State.STANDBY, State.FAULT])
def test_active_comes_only_from_stand(bench, state):
    if state == State.FAULT:
        bench.course(State.STANDBY, State.STAND, State.FAULT)
    else:
        bench.course(state)
    assert f"{state.name} -> ACTIVE is not allowed" in bench.send(State.ACTIVE)


@pytest.mark.parametrize("state", [State.UNCONFIGURED, State.INACTIVE, State.FAULT])
def test_stand_comes_only_from_standby_or_active(bench, state):
    bench.course(State.FAULT if state == State.FAULT else state)
    assert f"{state.name} -> STAND is not allowed" in bench.send(State.STAND)


@pytest.mark.parametrize("last", list(State))
@pytest.mark.parametrize("state", [State.UNCONFIGURED, State.INACTIVE, State.STANDBY, State.FAULT])
def test_a_robot_may_be_damped_from_anywhere(bench, last, state):
    bench.course(State.STANDBY, State.STAND, *((State.ACTIVE,) if last == State.ACTIVE else ()), last)
    assert bench.send(state) == ""


@pytest.mark.parametrize(
    "fields,says",
    [
        ({"position": (1.01, -1.0)}, r"command 4 \(ACTIVE\): position target of hip is 1.01: outside \[-1, 1\]"),
        ({"position": (0.0, 0.001)}, "position target of knee is 0.001: outside"),
        ({"stiffness": 50.1}, r"stiffness of hip is 50.1: outside \[0, 50\]"),
        ({"stiffness": np.array([1.0, -0.1])}, "stiffness of knee is -0.1"),
        ({"damping": np.array([1.0, 4.1])}, r"damping of knee is 4.1: outside \[0, 4\]"),
        ({"damping": np.array([-0.1, 1.0])}, "damping of hip is -0.1"),
        ({"effort": np.array([20.1, 0.0])}, r"effort of hip is 20.1: outside \[-20, 20\]"),
        ({"effort": np.array([0.0, -30.1])}, "effort of knee is -30.1"),
        ({"position": (math.nan, 0.0)}, "position of hip is nan: not finite"),
        ({"damping": np.array([1.0, math.inf])}, "damping of knee is inf: not finite"),
        ({"step": 0}, "sequence 3 follows 3: it must rise"),
        ({"step": -1}, "sequence 2 follows 3"),
        ({"age_ms": 50.1}, "made 50.100 ms ago and valid for 50 ms: expired"),
        ({"age_ms": -1.5}, "made 1.500 ms in the future"),
        ({"valid_ns": 0}, "valid for 0 ms: must be above 0 and at most 1000 ms"),
        ({"valid_ns": 1001 * MS}, "valid for 1001 ms"),
    ],
)
def test_each_violation_is_named_with_value_and_threshold(bench, fields, says):
    bench.course(State.STANDBY, State.STAND, State.ACTIVE)
    said = bench.send(State.ACTIVE, **{"stiffness": 30.0, **fields})
    assert re.search(says, said), said
    assert bench.checker.violation_count == 1


@pytest.mark.parametrize("state", [State.UNCONFIGURED, State.INACTIVE, State.STANDBY])
@pytest.mark.parametrize("field", ["stiffness", "effort", "velocity"])
def test_only_driving_states_may_drive(bench, state, field):
    assert f"stiffness, effort or speed in {state.name}" in bench.send(state, **{field: np.array([0.0, 0.5])})


def test_motors_do_not_get_stiff_far_from_where_the_joints_are(bench):
    bench.course(State.STANDBY)
    said = bench.send(State.STAND, position=(0.2, -0.84), stiffness=30.0)
    assert "first target of STAND of knee is 0.1600 from where the joint is: at most 0.1500" in said
    bench = Bench()
    bench.course(State.STANDBY)
    assert bench.send(State.STAND, position=(0.2, -0.86), stiffness=30.0) == ""


def test_standing_goes_on_where_the_policy_was_or_where_the_joints_are():
    """The joints are at 0.2 and -1.0; the policy's last target is 0.9 and -1.0."""
    for target, good in ((0.9, True), (0.76, True), (0.2, True), (0.34, True), (0.55, False)):
        bench = Bench()
        bench.course(State.STANDBY, State.STAND, State.ACTIVE)
        bench.send(State.ACTIVE, position=(0.9, -1.0), stiffness=30.0)
        said = bench.send(State.STAND, position=(target, -1.0), stiffness=30.0)
        assert good == (said == ""), said
    assert "first target of STAND after ACTIVE of hip is 0.3500 from the last one and from where the joint is" in said


def test_targets_do_not_jump_while_the_robot_stands_up(bench):
    bench.course(State.STANDBY, State.STAND)
    assert bench.send(State.STAND, position=(0.259, -1.0), stiffness=30.0) == ""  # 0.059 rad in 10 ms
    said = bench.send(State.STAND, position=(0.320, -1.0), stiffness=30.0)  # 0.061 rad
    assert "target of STAND of hip is 0.0610 from the last one: at most 0.0600" in said


def test_a_fault_may_hold_and_not_move(bench):
    bench.course(State.STANDBY, State.STAND, State.ACTIVE)
    assert bench.send(State.FAULT, position=(0.5, -1.0), stiffness=30.0) == ""
    assert bench.send(State.FAULT, position=(0.5, -1.0), stiffness=30.0) == ""
    assert "target of FAULT of hip is 0.0100" in bench.send(State.FAULT, position=(0.51, -1.0), stiffness=30.0)


def test_a_target_without_stiffness_says_nothing(bench):
    assert bench.send(State.STANDBY, position=(9.0, 9.0)) == ""


def test_controls_are_within_their_range():
    bench = Bench(CART, np.array([[-1.0, 1.0]]))
    bench.course(State.STANDBY)
    assert bench.send(State.STAND) == "" and bench.send(State.ACTIVE, effort=np.array([1.0])) == ""
    assert "control of push is 1.1: outside [-1, 1]" in bench.send(State.ACTIVE, effort=np.array([1.1]))
    assert "control in STANDBY" in bench.send(State.STANDBY, effort=np.array([0.1]))


def test_a_command_is_not_blamed_for_a_robot_that_looks_late(bench):
    """Made at 0, valid for 50 ms: at 80 ms the robot looks for the first time since 49 ms, or since 51 ms."""
    for earliest_ms, good in ((49, True), (51, False)):
        command = JointCommand.zeros(2)
        command.sequence, command.valid_ns = earliest_ms, 50 * MS
        assert bench.checker.check(command, MEASURED, 80 * MS, earliest_ms * MS) == good


def test_ages_are_told_only_by_a_shared_clock():
    bench = Bench(CART)
    assert bench.send(State.STANDBY, age_ms=1000.0) == ""


def test_sentences_are_limited_and_all_are_counted(bench):
    for _ in range(MAX_SENTENCES + 20):
        bench.checker.malformed("noise")
    assert len(bench.checker.violations) == MAX_SENTENCES
    assert bench.checker.violation_count == bench.checker.commands == MAX_SENTENCES + 20


def test_a_new_runtime_starts_anew(bench):
    bench.course(State.STANDBY, State.STAND, State.ACTIVE)
    bench.checker.new_runtime()
    bench.sequence = 0
    assert "INACTIVE -> ACTIVE is not allowed" in bench.send(State.ACTIVE)
    assert "sequence" not in bench.checker.violations[-1]


def test_the_first_safe_command_after_a_fault_is_found(bench):
    bench.course(State.STANDBY, State.STAND, State.ACTIVE)
    watch = bench.checker.watch("push", bench.now_ns)
    bench.course(State.ACTIVE)
    assert watch.safe_ns is None
    bench.send(State.FAULT, stiffness=30.0)
    assert watch.safe_ns is None and watch.fault_ns == bench.now_ns
    bench.send(State.FAULT)
    assert watch.safe_ns == bench.now_ns
    bench.checker.damps_by_itself(5)
    bench.checker.damps_by_itself(6)
    assert watch.own_damping_ns == 5


@pytest.mark.parametrize("row,safe", [(0, True), (1, False), (2, False), (3, False), (4, True)])
def test_what_is_safe(row, safe):
    command = JointCommand.zeros(2)
    command.values[row, 1] = 0.1
    assert is_safe(command, pd=True) == safe
    assert is_safe(command, pd=False) == (row != 2)
