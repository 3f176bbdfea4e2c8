"""The lifecycle: a thousand transitions at random, errors, and parameters that are not allowed."""

import random
import shutil
from pathlib import Path

import pytest
from harness import TRANSITIONS, until
from test_names import HOME, JOINTS

# State -> transition -> state; everything else is refused and changes nothing.
LIFECYCLE = {
    "unconfigured": {"configure": "inactive"},
    "inactive": {"activate": "active", "cleanup": "unconfigured"},
    "active": {"deactivate": "inactive"},
}
WORDS = ("stand", "start", "stop", "reset")


def test_a_thousand_transitions_in_random_order(bench, standing, imu_robot):
    process = bench.runtime(standing, imu_robot)
    bench.driver(names=JOINTS, positions=HOME)
    choose = random.Random(7)
    now, done = "unconfigured", 0
    while done < 1000:
        if choose.random() < 0.2:
            success, _ = bench.trigger(choose.choice(WORDS))
            assert not success or now == "active"
            continue
        # Mostly what leads on, so that deep states are reached; otherwise anything.
        word = choose.choice(list(LIFECYCLE[now])) if choose.random() < 0.5 else choose.choice(list(TRANSITIONS))
        expected = LIFECYCLE[now].get(word)
        succeeded = bench.transition(word)
        if word == "activate" and expected and not succeeded:
            # The robot's first state takes as long as DDS takes to find a subscription that new. A refusal changes nothing.
            assert "no state has arrived" in bench.said() and bench.lifecycle() == now
            until(lambda: bench.transition("activate"), "an activation")
            succeeded = True
        assert succeeded == (expected is not None), (now, word, bench.said())
        now = expected or now
        done += 1
        if done % 50 == 0:
            assert bench.lifecycle() == now
    assert process.poll() is None
    threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    assert threads < 60  # none is left behind by each configuring
    assert bench.transition("shutdown")
    assert process.wait(10.0) == 0


@pytest.mark.parametrize(
    "parameters, sentence",
    [
        ({"bundle": ""}, "no bundle: start with"),
        ({"bundle": "/etc"}, "lies outside bundle_root"),
        ({"site_file": "../secret.yaml"}, "lies outside bundle_root"),
        ({"trust": "no_such.pub"}, "there is nothing"),
        ({"rate_hz": 130.0}, "a command rate of 130 Hz does not fit the policy's 50 Hz"),
        ({"engines": ["onyx"]}, "unknown engine 'onyx'"),
        ({"command_form": "ros2_control"}, "no controller is named"),
        ({"command_form": "ros2_control", "ros2_control.kp": "kp"}, "kp and ros2_control.kd belong together"),
        ({"robot.position_lower": [0.0]}, "robot.position_lower has 1 numbers"),
        ({"robot.custom": ["height"]}, "write NAME:SIZE"),
        ({"robot.imu": False}, "tilt is to be watched"),
        ({"robot.state_rate_hz": 20.0}, "raise the robot's rate"),
        ({"commands": ["speed=1.0"]}, "the policy's commands have no speed"),
        ({"joy.estop_button": 3}, "joy.enabled is false"),
        ({"robot.max_stiffness": 10.0}, "stiffness 35 is above 10"),
    ],
)
def test_what_does_not_fit_is_refused_at_configure(bench, standing, imu_robot, tmp_path, parameters, sentence):
    root = tmp_path / "root"
    root.mkdir()
    bundle = shutil.copytree(standing, root / "bundle")
    robot = imu_robot | {"bundle": str(bundle), "bundle_root": str(root), "site_file": ""}
    if parameters == {"bundle": ""}:
        robot["bundle_root"] = ""
    bench.runtime(bundle, robot | parameters)
    assert not bench.transition("configure")
    until(lambda: sentence in bench.said(), bench.said)
    assert bench.lifecycle() == "unconfigured"


@pytest.mark.parametrize(
    "parameters, sentence",
    [
        ({"rate_hz": -1.0}, "rate_hz"),
        ({"between": "spline"}, "available: hold, linear"),
        ({"rate_hz": 200}, "rate_hz"),
        ({"joy.deadman_button": 64}, "joy.deadman_button"),
        ({"robot.jonts": ["a"]}, "did you mean robot.joints"),
    ],
)
def test_a_node_is_not_started_with_a_bad_value(bench, standing, parameters, sentence):
    process = bench.start("runtime_node", parameters={"bundle": str(standing)} | parameters)
    assert process.wait(20.0) == 2
    said = process.log.read_text()
    assert sentence in said
    assert "Traceback" not in said


def test_parameters_while_configured(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    assert bench.set(between="linear") == ""
    assert "available: hold, linear" in bench.set(between="spline")
    assert "rate_hz" in bench.set(rate_hz=99999.0)
    assert bench.set(bundle_root="/") != ""  # read only
    assert bench.transition("configure"), bench.said()
    assert bench.set(between="hold") == "between is read at configure: deactivate and clean up first"
    assert bench.set(cmd_vel__unchanged_timeout_s=2.0) == ""
    assert "cmd_vel.unchanged_timeout_s" in bench.set(cmd_vel__unchanged_timeout_s=-2.0)
    assert bench.transition("cleanup")
    assert bench.set(between="hold") == ""


def test_a_link_out_of_the_root_is_followed_before_it_is_judged(bench, standing, imu_robot, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "bundle").symlink_to(standing)
    bench.runtime(root / "bundle", imu_robot | {"bundle_root": str(root)})
    assert not bench.transition("configure")
    until(lambda: "lies outside bundle_root" in bench.said(), bench.said)
    assert "lies outside" not in bench.set(bundle="bundle")


def test_a_damaged_bundle_is_refused(bench, standing, imu_robot, tmp_path):
    imu_robot["site_file"] = ""
    bundle = shutil.copytree(standing, tmp_path / "bundle")
    data = bytearray((bundle / "policy.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "policy.onnx").write_bytes(data)
    bench.runtime(bundle, imu_robot)
    assert not bench.transition("configure")
    until(lambda: "policy.onnx" in bench.said(), bench.said)
    shutil.rmtree(bundle)
    shutil.copytree(standing, bundle)
    assert bench.transition("configure"), bench.said()
