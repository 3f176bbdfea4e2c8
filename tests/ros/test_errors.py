"""Errors of the program's own: the robot is damped, and the lifecycle says so by its error processing."""

import pytest
from harness import robot_parameters, until
from rclpy.parameter import Parameter
from test_names import HOME, JOINTS

from trudi.runtime.robots.base import SupervisorState as State
from trudi_runtime.runtime_node import RuntimeNode


@pytest.fixture
def node(bench, standing, imu_robot):
    """The node in this process, active and damping a robot that the test plays."""
    given = robot_parameters("unitree_go1") | imu_robot | {"bundle": str(standing), "record_dir": str(bench.folder)}
    given |= {"realtime.priority": 0, "realtime.lock_memory": False}
    # In a namespace of its own: services of a node that ended live on until it is collected, and would look like others'.
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = RuntimeNode(parameter_overrides=overrides, namespace="/errors")
    bench.driver(names=JOINTS, positions=HOME, prefix="/errors/")
    node.trigger_configure()
    node.trigger_activate()
    assert node._run.supervisor.state is State.STANDBY
    yield node
    node.end()
    node.destroy_node()


def label(node):
    return node._state_machine.current_state[1]


def test_a_loop_that_dies_ends_in_error_processing_and_its_flight_is_kept(bench, node):
    """Three commands in a row cannot be published: the loop ends, and the lifecycle does not stay active over it."""
    run = node._run

    def broken(command):
        raise OSError("the cable is loose")

    run.robot.write = broken
    until(lambda: not run.session.loop.running, "the loop ends")
    node._watch()
    assert label(node) == "unconfigured"
    assert node._run is None
    assert "the cable is loose" in run.session.loop.error
    assert run.supervisor.fault.violation.code.name == "INTERNAL"
    until(lambda: list(bench.folder.glob("*.mcap")), "the flight is saved")
    node.trigger_configure()  # the process lives on, and can be used again
    assert label(node) == "inactive"


def test_an_unexpected_error_in_a_transition_damps(node, monkeypatch, capfd):
    run = node._run
    monkeypatch.setattr(node, "_deactivate", lambda: 1 / 0)
    node.trigger_deactivate()
    assert label(node) == "unconfigured"
    assert not run.session.loop.running
    assert run.supervisor.state is State.INACTIVE
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said and "error in active: the robot is damped" in said


def test_what_a_user_got_wrong_fails_the_transition_and_no_more(node):
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.set_parameters([Parameter("rate_hz", value=130.0)])
    node.trigger_configure()
    assert label(node) == "unconfigured"
    node.set_parameters([Parameter("rate_hz", value=200.0)])
    node.trigger_configure()
    assert label(node) == "inactive"
