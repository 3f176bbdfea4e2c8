"""What goes wrong on the robot's side, through topics: each is found, named, and answered with damping."""

import math
import shutil
import time
from pathlib import Path

import pytest
from geometry_msgs.msg import TwistStamped
from harness import BEST_EFFORT, until
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState, Joy
from test_flight import GO1, twist, unsafe
from test_names import HOME, JOINTS

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


@pytest.fixture
def driven(bench, standing, imu_robot):
    """A robot that the test plays, under the policy."""
    bench.runtime(standing, imu_robot)
    driver = bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.commands = bench.listen(JointState, "joint_commands")
    bench.fly()
    return bench, driver


def found(bench, code):
    """Waits for the fault; from then on every command damps, and a reset is refused for as long as it lasts."""
    bench.await_state("FAULT")
    assert bench.fault[0] == code, bench.fault
    time.sleep(0.2)
    in_fault = [message for _, message in bench.commands if message.header.frame_id == "FAULT"]
    assert in_fault
    assert all(not len(message.position) and not len(message.effort) and not any(message.velocity) for message in in_fault)
    assert not bench.actives[-1].data
    return bench.fault[1]


def recovers(bench):
    """An explicit reset, and the robot can be used again."""
    until(lambda: bench.trigger("reset")[0], lambda: f"reset; {bench.said()}")
    bench.await_state("STANDBY")


def test_a_driver_that_falls_silent(driven):
    bench, driver = driven
    driver.silent = True
    assert "s old: no newer one arrives" in found(bench, "STATE_LOST")
    assert "no newer one arrives" in bench.trigger("reset")[1]
    driver.silent = False
    recovers(bench)


def test_a_killed_driver(bench, go1):
    robot = bench.sim_robot(GO1, odometry=True)
    bench.runtime(go1, "unitree_go1")
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.commands = bench.listen(JointState, "joint_commands")
    bench.fly()
    robot.kill()
    found(bench, "STATE_LOST")


def test_an_imu_that_falls_silent_makes_the_whole_state_old(driven):
    bench, driver = driven
    driver.imu = False
    found(bench, "STATE_LOST")
    driver.imu = True
    recovers(bench)


def test_stamps_that_stand_still(driven):
    bench, driver = driven
    driver.frozen_stamp = bench.node.get_clock().now().to_msg()
    found(bench, "STATE_LOST")


def test_stamps_of_long_ago(driven):
    bench, driver = driven
    driver.stamp_offset_s = -0.9
    assert "before the one that came before it" in found(bench, "STATE_BACKWARDS")


def test_stamps_of_the_future(driven):
    bench, driver = driven
    driver.stamp_offset_s = 0.5
    assert "ahead of this machine's clock" in found(bench, "STATE_FUTURE")


def test_states_that_are_always_stale_are_not_activated(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    driver = bench.driver(names=JOINTS, positions=HOME)
    driver.stamp_offset_s = -0.9
    assert bench.transition("configure")
    assert not bench.transition("activate")
    until(lambda: "s old: no newer one arrives" in bench.said(), bench.said)


def test_no_stamps_at_all(driven):
    bench, driver = driven
    driver.frozen_stamp = type(bench.node.get_clock().now().to_msg())()
    assert "carries no stamp" in found(bench, "STATE_MALFORMED")


def test_a_number_that_is_none(driven):
    bench, driver = driven
    driver.positions = [math.nan, *HOME[1:]]
    assert found(bench, "STATE_NOT_FINITE") == "the state's position of FR_hip_joint is nan"


def test_a_message_with_fewer_values_than_names(driven):
    bench, driver = driven
    driver.positions = HOME[:-1]
    assert "12 names, 11 positions" in found(bench, "STATE_MALFORMED")


def test_a_joint_beyond_its_limit(driven):
    bench, driver = driven
    driver.positions = [1.2, *HOME[1:]]
    assert "joint FR_hip_joint is at 1.2000" in found(bench, "JOINT_POSITION")


def test_a_robot_that_falls(driven):
    bench, driver = driven
    driver.orientation = (math.sin(0.6), 0.0, 0.0, math.cos(0.6))  # 1.2 rad of roll
    assert "tilted by 1.200 rad" in found(bench, "TILT")


def test_the_wrong_frame(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, imu_frame="imu")
    driver = bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.commands = bench.listen(JointState, "joint_commands")
    bench.fly()
    driver.frame = "base_link"
    assert found(bench, "STATE_LAYOUT") == "imu is in the frame 'base_link', and imu_frame says 'imu'"


def test_an_imu_without_an_orientation(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    bench.driver(names=JOINTS, positions=HOME, imu=False)

    def blind(node):
        message = Imu()
        message.header.stamp = node.get_clock().now().to_msg()
        message.header.frame_id = "imu"
        message.orientation_covariance[0] = -1.0
        return message

    bench.repeat(Imu, "imu", blind, rate_hz=100.0, qos=BEST_EFFORT)
    assert bench.transition("configure")
    assert not bench.transition("activate")
    until(lambda: "imu says that it measures no orientation" in bench.said(), bench.said)


def test_two_drivers_stop_the_robot(driven):
    bench, _ = driven
    bench.driver(names=JOINTS, positions=HOME)
    bench.await_state("FAULT")
    # Whichever is seen first: interleaved stamps, or the second publisher itself.
    assert bench.fault[0] in ("STATE_SOURCE", "STATE_BACKWARDS")


def test_two_drivers_are_not_activated(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    for _ in range(2):
        bench.driver(names=JOINTS, positions=HOME)
    assert bench.transition("configure")
    until(lambda: bench.node.count_publishers("joint_states") == 2, "both drivers are seen")
    time.sleep(0.5)
    assert not bench.transition("activate")
    until(lambda: "2 nodes publish" in bench.said(), bench.said)


def test_a_quality_of_service_that_does_not_match_is_told(bench, standing, imu_robot):
    bench.listen(JointState, "joint_commands", RELIABLE)  # hears nothing: commands are best effort
    bench.runtime(standing, imu_robot)
    bench.driver(names=JOINTS, positions=HOME)
    bench.ready()
    until(lambda: "quality of service (reliability)" in bench.diagnostic("inputs")[0], bench.said)
    until(lambda: "command_reliability" in bench.said(), bench.said)


def test_reliable_commands_match_everybody(bench, standing, imu_robot):
    heard = bench.listen(JointState, "joint_commands", RELIABLE)
    bench.runtime(standing, imu_robot, command_reliability="reliable")
    bench.driver(names=JOINTS, positions=HOME)
    bench.ready()
    until(lambda: heard, "a reliable subscriber hears the commands")


def test_a_driver_that_asks_for_a_deadline_is_told_when_commands_end(bench, standing, imu_robot):
    """By the middleware, in its own process: deactivating ends the commands, a kill ends the publisher's liveliness."""
    process = bench.runtime(standing, imu_robot)
    missed, alive = [], []
    callbacks = SubscriptionEventCallbacks(
        deadline=lambda info: missed.append(info.total_count), liveliness=lambda info: alive.append(info.alive_count)
    )
    wanted = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        deadline=Duration(seconds=0.15),
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(seconds=0.6),
    )
    heard = []
    bench.node.create_subscription(JointState, "joint_commands", heard.append, wanted, event_callbacks=callbacks)
    bench.driver(names=JOINTS, positions=HOME)
    bench.ready()
    until(lambda: len(heard) > 20, "commands")
    count = len(missed)
    assert bench.transition("deactivate")
    until(lambda: len(missed) > count, "the deadline is missed")
    assert alive[-1] == 1
    process.kill()
    until(lambda: alive[-1] == 0, "the process is gone")


def test_states_at_ten_times_the_rate(driven):
    bench, driver = driven
    driver.rate_hz = 1000.0
    time.sleep(2.0)
    assert bench.state == "ACTIVE", bench.fault


def test_the_policy_on_disk_is_replaced(bench, standing, go1, imu_robot, tmp_path):
    """What runs was read and proven when it was configured; what lies there now counts from the next time on."""
    bundle = shutil.copytree(standing, tmp_path / "bundle")
    bench.runtime(bundle, imu_robot | {"site_file": ""})
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.fly()
    digest = bench.diagnostic("bundle")[1]["digest"]
    (bundle / "policy.onnx").write_bytes((go1 / "policy.onnx").read_bytes())
    time.sleep(1.5)
    assert bench.state == "ACTIVE"
    assert bench.diagnostic("bundle")[1]["digest"] == digest
    bench.granted("stop")
    assert bench.transition("deactivate")
    assert bench.transition("cleanup")
    assert not bench.transition("configure")
    until(lambda: "policy.onnx" in bench.said(), bench.said)


def test_a_killed_runtime_leaves_a_robot_that_damps(bench, go1):
    bench.sim_robot(GO1, odometry=True)
    process = bench.runtime(go1, "unitree_go1")
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.fly()
    assert bench.report()["stiffness"] == 35.0
    process.kill()
    said = lambda: f"the robot damps by itself; it reports {bench.report()}; {bench.said()}"  # noqa: E731
    until(lambda: bench.report()["stiffness"] == 0.0, said, 2.0)
    assert not unsafe(bench.report())


def test_two_who_steer_are_not_followed(driven):
    """One alone is heard again: a relay of a dead source beside a living one would otherwise look like somebody's hand."""
    bench, _ = driven
    second = bench.repeat(TwistStamped, "cmd_vel", twist(0.0, still=True), qos=BEST_EFFORT)
    bench.await_state("STAND")
    assert "2 nodes publish cmd_vel" in bench.diagnostic("inputs")[0]
    second.stop()
    until(lambda: bench.trigger("start")[0], lambda: f"start is granted; {bench.said()}")


def test_two_runtimes_do_not_command_one_robot(bench, standing, imu_robot):
    bench.driver(names=JOINTS, positions=HOME)
    other = bench.node.create_publisher(JointState, "joint_commands", BEST_EFFORT)
    bench.runtime(standing, imu_robot)
    assert bench.transition("configure")
    time.sleep(1.0)
    assert not bench.transition("activate")
    until(lambda: "2 nodes command the robot" in bench.said(), bench.said)
    bench.node.destroy_publisher(other)
    until(lambda: bench.transition("activate"), "alone")


def test_deactivating_in_a_fault_ends_the_commands_and_keeps_the_fault(driven):
    bench, driver = driven
    driver.silent = True
    found(bench, "STATE_LOST")
    driver.silent = False
    assert bench.transition("deactivate")
    time.sleep(0.3)
    count = len(bench.commands)
    time.sleep(0.3)
    assert len(bench.commands) == count
    assert bench.state == "FAULT"
    assert bench.trigger("stand") == (False, "stand is refused: the runtime is not activated")
    assert not bench.transition("activate")
    bench.granted("reset")
    bench.await_state("INACTIVE")
    assert bench.transition("activate"), bench.said()


def test_a_command_that_stops_leads_to_standing(driven):
    bench, _ = driven
    for repeater in bench._drivers[1:]:
        repeater.stop()
    bench.await_state("STAND")
    assert bench.fault == ("", "")


def test_a_relay_does_not_keep_a_dead_command_alive(bench, standing, imu_robot):
    """The source of cmd_vel is gone; a relay goes on with its last message, stamped anew."""
    bench.runtime(standing, imu_robot, cmd_vel__unchanged_timeout_s=1.0)
    bench.driver(names=JOINTS, positions=HOME)
    source = bench.repeat(TwistStamped, "cmd_vel", twist(0.2), qos=BEST_EFFORT)
    bench.fly()
    time.sleep(2.0)
    assert bench.state == "ACTIVE"
    source.stop()
    began = time.monotonic()
    bench.repeat(TwistStamped, "cmd_vel", twist(0.2, still=True), qos=BEST_EFFORT)
    bench.await_state("STAND")
    # A second unchanged, then two seconds (command_lost_s) without a command that counts.
    assert 2.0 < time.monotonic() - began < 6.0
    assert "a relay may be repeating" in bench.diagnostic("inputs")[0]


def test_a_neutral_command_may_stay_as_it_is(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, cmd_vel__unchanged_timeout_s=0.3)
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.0, still=True), qos=BEST_EFFORT)
    bench.fly()
    time.sleep(3.0)
    assert bench.state == "ACTIVE"


def joy(*pressed, moving=True):
    """A joystick whose axes are noisy, as those of a hand are; or one that repeats itself."""
    changing = iter(range(10**9))

    def make(_):
        axis = 1e-3 * next(changing) if moving else 0.5
        return Joy(axes=[axis % 1.0] * 8, buttons=[int(index in pressed) for index in range(12)])

    return make


def test_the_emergency_stop(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, joy__enabled=True, joy__estop_button=3)
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.commands = bench.listen(JointState, "joint_commands")
    stick = bench.repeat(Joy, "joy", joy())
    bench.ready()
    until(lambda: bench.trigger("stand")[0], "the joystick is heard, and stand is granted")
    until(bench._stands, "the robot stands")
    bench.await_state("ACTIVE")
    stick._make = joy(3)
    assert found(bench, "EMERGENCY_STOP") == "the emergency stop button is pressed"
    assert bench.trigger("reset") == (False, "reset is refused: the emergency stop button is pressed")
    stick._make = joy()
    time.sleep(0.2)
    recovers(bench)


def test_a_joystick_with_the_emergency_stop_that_falls_silent(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, joy__enabled=True, joy__estop_button=3)
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.commands = bench.listen(JointState, "joint_commands")
    bench.ready()
    assert "stand is refused: the joystick with the emergency stop is silent" in bench.trigger("stand")[1]
    stick = bench.repeat(Joy, "joy", joy())
    until(lambda: bench.trigger("stand")[0], "stand is granted")
    stick.stop()
    assert "is silent" in found(bench, "EMERGENCY_STOP")


def test_a_gamepad_out_of_reach_holds_no_button(bench, standing, imu_robot):
    """Its node repeats the last message, the dead-man button held: neither that nor cmd_vel changes any more."""
    bench.runtime(standing, imu_robot, joy__enabled=True, joy__deadman_button=5, cmd_vel__unchanged_timeout_s=0.5)
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1, still=True), qos=BEST_EFFORT)
    stick = bench.repeat(Joy, "joy", joy(5))
    bench.fly()
    stick._make = joy(5, moving=False)
    bench.await_state("STAND")
    assert "has not changed by a bit" in bench.diagnostic("inputs")[0]


def test_a_hand_that_leaves_the_dead_man_button(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, joy__enabled=True, joy__deadman_button=5, cmd_vel__unchanged_timeout_s=0.5)
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1, still=True), qos=BEST_EFFORT)
    stick = bench.repeat(Joy, "joy", joy(5))
    bench.fly()
    time.sleep(1.5)  # a constant command counts for as long as somebody's hand moves and holds the button
    assert bench.state == "ACTIVE"
    stick._make = joy()
    bench.await_state("STAND")
    assert "the dead-man button is not held" in bench.diagnostic("inputs")[0]


def test_a_robot_without_its_own_clock_is_believed_by_arrival(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, stamps="own")
    driver = bench.driver(names=JOINTS, positions=HOME)
    driver.stamp_offset_s = -3600.0
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.commands = bench.listen(JointState, "joint_commands")
    bench.fly()
    driver.frozen_stamp = bench.node.get_clock().now().to_msg()  # an hour ahead of the others, and then no more
    found(bench, "STATE_LOST")


def test_a_fault_is_saved(bench, standing, imu_robot, tmp_path):
    flights = tmp_path / "flights"
    bench.runtime(standing, imu_robot, record_dir=str(flights))
    driver = bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.fly()
    time.sleep(2.0)
    driver.positions = [math.nan, *HOME[1:]]
    bench.await_state("FAULT")
    until(lambda: list(flights.glob("*.mcap")), "the flight is written")
    success, message = bench.trigger("save")
    assert success
    until(lambda: Path(message.removeprefix("being written: ")).exists(), message)
