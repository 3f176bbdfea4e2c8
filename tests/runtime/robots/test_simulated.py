"""The simulated robot without a transport: faults from now on, and back to the initial state."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import JointCommand, RobotError, SupervisorState
from trudi.runtime.robots.disturbance import Layout
from trudi.runtime.robots.injection import Fault
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulated import SimulatedRobot

State = SupervisorState


def make(task="CartpoleSwingup-v1", **options):
    robot = SimulatedRobot(MujocoCfg(task=task, **options))
    robot.streaming = True
    return robot


def give(robot, state, effort=0.0):
    command = JointCommand.zeros(len(robot.description.drives))
    command.state, command.stamp_ns, command.valid_ns = state, monotonic_ns(), 50_000_000
    command.sequence, command.effort[:] = command.stamp_ns, effort
    robot.take(command, command.stamp_ns)


def tick(robot):
    state = robot.tick(monotonic_ns())
    return None if state is None else state.values.copy()


def test_nothing_is_sent_before_somebody_listens():
    robot = make()
    robot.streaming = False
    assert tick(robot) is None
    robot.streaming = True
    assert tick(robot) is not None


def test_injected_faults_count_from_now_and_scheduled_ones_from_the_flights_start():
    robot = make(faults=(Fault("state_inf", 0.0),))
    robot.inject([Fault("state_nan", 0.0), Fault("state_stop", 3600.0)])
    assert np.isnan(tick(robot)[0])
    (injected,) = robot.report().injected
    assert injected["kind"] == "state_nan" and 0.0 <= injected["at_s"] < 1.0
    give(robot, State.STAND)
    give(robot, State.ACTIVE)
    assert np.isinf(tick(robot)[0])  # the one that began last wins
    assert [fault["kind"] for fault in robot.report().injected] == ["state_nan", "state_inf"]
    assert all(0.0 <= fault["at_s"] < 1.0 for fault in robot.report().injected)


def test_a_fault_ends_with_its_own_clock():
    robot = make()
    robot.inject([Fault("state_nan", 0.0, 1e-9)])
    assert not np.isnan(tick(robot)).any()  # it begins, and has ended before the state is measured
    assert len(robot.report().injected) == 1


@pytest.mark.parametrize("kind,layout", [("state_size", Layout.SHORT), ("state_layout", Layout.OTHER)])
def test_a_wrong_layout_is_told(kind, layout):
    robot = make()
    tick(robot)
    assert robot._disturbance.layout is Layout.RIGHT
    robot.inject([Fault(kind, 0.0)])
    tick(robot)
    assert robot._disturbance.layout is layout


def test_what_cannot_happen_is_refused():
    robot = make()
    for refuse in (robot.check_faults, robot.inject):
        with pytest.raises(RobotError, match="tip_over at 0 s needs a robot with a free base; dm_control_cartpole has none"):
            refuse([Fault("tip_over", 0.0, None, 1.0)])
    assert tick(robot) is not None and robot.report().injected == ()


def test_a_task_with_a_reward_is_held_after_a_reset_until_the_policy_comes():
    robot = make("CartpoleBalance-v1", seed=4)
    first = tick(robot)
    give(robot, State.STAND)
    give(robot, State.ACTIVE, 1.0)
    moved = [tick(robot) for _ in range(20)][-1]
    assert abs(moved[0] - first[0]) > 0.001
    robot.reset_pose()
    np.testing.assert_array_equal(tick(robot), first)
    np.testing.assert_array_equal(tick(robot), first)
    give(robot, State.ACTIVE, 1.0)
    assert (tick(robot) != first).any()
    assert robot.report().returns == ()  # what was broken off does not count


def test_a_legged_robot_is_put_back_to_its_pose():
    robot = make("MuJoCoPlayground/Go1JoystickFlatTerrain-v1")
    first = tick(robot)
    for _ in range(100):
        fallen = tick(robot)
    robot.reset_pose()
    again = tick(robot)
    assert abs(fallen[-1] - first[-1]) > 0.05  # the base's height
    np.testing.assert_allclose(again, first, atol=1e-9)


def test_what_it_is_given_stays_the_givers():
    robot = make("CartpoleBalance-v1")
    command = JointCommand.zeros(1)
    command.state, command.stamp_ns, command.valid_ns, command.effort[:] = State.STAND, monotonic_ns(), 10**9, 0.5
    robot.take(command, command.stamp_ns)
    command.effort[:] = -0.5
    assert robot._drives.obeyed(monotonic_ns()).effort[0] == 0.5
