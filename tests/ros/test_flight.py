"""From configure to shutdown, over DDS between processes: a policy drives the simulated robot's node."""

import itertools
import time

import pytest
from geometry_msgs.msg import Twist, TwistStamped
from harness import BEST_EFFORT, SIM, until
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState

GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"


def twist(vx=0.3, still=False):
    """A command as a hand gives it, never quite at rest; or one that a relay repeats, which is believed for 5 s only."""
    trembles = itertools.count()

    def make(node):
        message = TwistStamped()
        message.header.stamp = node.get_clock().now().to_msg()
        message.twist.linear.x = vx + (0.0 if still else 1e-6 * (next(trembles) % 2))
        return message

    return make


def unsafe(report):
    """Violations, but for commands that a machine without real-time priorities let expire on their way."""
    return [sentence for sentence in report["violations"] if not sentence.endswith(": expired")]


def test_the_demo_policy_swings_the_pole_up(bench, cartpole):
    """An episode is 10 s of real time; 794.5 is this policy's return in training's simulator."""
    bench.sim_robot("CartpoleSwingup-v1")
    process = bench.runtime(cartpole, "cartpole")
    bench.ready()
    for _ in range(3):
        before = bench.stood_still()
        bench.stand()
        bench.await_state("ACTIVE")
        time.sleep(11.0)
        stopped, message = bench.trigger("stop")
        if stopped:
            break
        # A robot that says nothing for want of a processor is rightly faulted, and that flight shows nothing else.
        assert bench.stood_still() != before, message
        until(lambda: bench.trigger("reset")[0], "reset")
        assert bench.trigger("reset_pose", SIM)[0]
    assert stopped, message
    bench.await_state("STAND")
    assert bench.transition("deactivate")
    bench.await_state("INACTIVE")
    report = bench.report()
    assert 750.0 < report["returns"][-1] < 850.0
    assert not unsafe(report)
    _, timing = bench.diagnostic("timing")
    assert int(timing["control_steps"]) > 1000
    assert bench.transition("cleanup")
    bench.await_state("UNCONFIGURED")
    assert bench.transition("shutdown")
    assert process.wait(10.0) == 0


def test_go1_is_driven_and_set_down(bench, go1):
    bench.sim_robot(GO1, odometry=True)
    process = bench.runtime(go1, "unitree_go1")
    commands = bench.listen(JointState, "joint_commands")
    bench.repeat(TwistStamped, "cmd_vel", twist(), qos=BEST_EFFORT)
    assert not bench.trigger("stand")[0]
    bench.ready()
    assert [active.data for active in bench.actives[-1:]] == [False]
    # Damping says no positions; everything that is driven says all three.
    until(lambda: commands, "commands")
    assert commands[-1][1].header.frame_id == "STANDBY"
    assert not len(commands[-1][1].position)
    bench.stand()
    bench.await_state("ACTIVE")
    until(lambda: bench.actives[-1].data, "is_active")
    time.sleep(3.0)
    report = bench.report()
    assert report["stiffness"] == 35.0
    assert bench.granted("stop") == "ACTIVE, halting", "it was driven a moment ago, and is to halt before it stands"
    began = time.monotonic()
    until(lambda: any(item.value.startswith("halting") for item in bench.states[-1].values), "it says so")
    bench.await_state("STAND")
    assert time.monotonic() - began > 0.5
    assert bench.transition("deactivate")
    bench.await_state("INACTIVE")
    until(lambda: bench.report()["stiffness"] == 0.0, "the robot damps")
    assert not unsafe(bench.report())
    assert bench.transition("shutdown")
    assert process.wait(10.0) == 0
    driven = [message for _, message in commands if message.header.frame_id == "ACTIVE"]
    assert len(driven) > 400  # three seconds at 200 Hz, less what best effort loses
    assert len(driven[0].position) == len(driven[0].velocity) == len(driven[0].effort) == 12


def test_a_policy_that_walks_is_driven_and_stopped_in_mid_stride(bench, walking):
    """Nobody brings cmd_vel to zero first: the robot halts, stands, and is on its feet."""
    bench.sim_robot("Mjlab-Velocity-Flat-Unitree-Go1", odometry=True)
    bench.runtime(walking, "mjlab_go1")
    measured = bench.listen(Odometry, "odom")
    bench.repeat(TwistStamped, "cmd_vel", twist(0.5), qos=BEST_EFFORT)
    bench.ready()
    bench.stand()
    bench.await_state("ACTIVE")
    time.sleep(4.0)
    speeds = [message.twist.twist.linear.x for _, message in measured[-200:]]
    assert sum(speeds) / len(speeds) == pytest.approx(0.5, abs=0.2)
    assert bench.granted("stop") == "ACTIVE, halting"
    bench.await_state("STAND")
    time.sleep(3.0)
    assert (bench.state, bench.fault) == ("STAND", ("", ""))
    assert measured[-1][1].pose.pose.position.z > 0.22
    assert not unsafe(bench.report())


def test_refusals_say_why(bench, go1):
    bench.sim_robot(GO1, odometry=True)
    bench.runtime(go1, "unitree_go1")
    assert bench.trigger("stand") == (False, "stand is refused: the runtime is not configured")
    bench.ready()
    success, message = bench.trigger("start")
    assert not success
    assert "start is refused in STANDBY; possible: deactivate, stand" in message
    bench.granted("stand")
    success, message = bench.trigger("start")
    assert not success
    assert "the robot stands in" in message
    time.sleep(3.0)
    success, message = bench.trigger("start")
    assert not success
    assert "the command velocity has not been given" in message
    success, message = bench.trigger("reset")
    assert not success
    assert "reset is refused in STAND" in message


def test_plain_twists_and_remapped_topics(bench, go1):
    bench.sim_robot(GO1, odometry=True)
    bench.runtime(go1, "unitree_go1", cmd_vel__stamped=False)
    bench.repeat(Twist, "cmd_vel", lambda _: Twist())
    bench.fly()
    _, inputs = bench.diagnostic("inputs")
    assert inputs["joint_states_publishers"] == "1"


def test_a_robot_that_is_not_there_is_named(bench, go1):
    bench.runtime(go1, "unitree_go1")
    assert bench.transition("configure")
    assert not bench.transition("activate")
    until(lambda: "nothing was heard on /joint_states, /imu" in bench.said(), bench.said)
    assert bench.lifecycle() == "inactive"


def test_ctrl_c_damps_and_ends(bench, go1):
    bench.sim_robot(GO1, odometry=True)
    process = bench.runtime(go1, "unitree_go1")
    bench.ready()
    bench.granted("stand")
    time.sleep(0.5)
    assert bench.report()["stiffness"] == 35.0
    process.send_signal(2)
    process.send_signal(2)
    assert process.wait(10.0) == 0
    until(lambda: bench.report()["stiffness"] == 0.0, "the robot damps")
    assert not unsafe(bench.report())


@pytest.mark.parametrize("number", [15, 1])
def test_other_signals_damp_and_end(bench, go1, number):
    bench.sim_robot(GO1, odometry=True)
    process = bench.runtime(go1, "unitree_go1")
    bench.ready()
    bench.granted("stand")
    process.send_signal(number)
    assert process.wait(10.0) == 0
    until(lambda: bench.report()["stiffness"] == 0.0, "the robot damps")


def test_the_sim_robot_outlives_the_runtime(bench, go1):
    """A second runtime takes over a robot that the first left damping."""
    robot = bench.sim_robot(GO1, odometry=True)
    first = bench.runtime(go1, "unitree_go1")
    bench.ready()
    first.kill()
    first.wait()
    until(lambda: bench.trigger("report", SIM)[0], "the robot answers")
    assert robot.poll() is None
    bench.states.clear()
    bench._clients.clear()
    bench.runtime(go1, "unitree_go1")
    bench.ready()
