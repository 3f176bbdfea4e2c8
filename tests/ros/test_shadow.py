"""The policy that rides along, in the node: its parameter, its diagnostics, its rows in a flight that is computed again."""

import time

import pytest
from geometry_msgs.msg import TwistStamped
from harness import BEST_EFFORT, RUNTIME, made_bundle, robot_parameters, until
from rcl_interfaces.srv import DescribeParameters
from test_bags import JOINT_STATES, STATE, end, hears, record, same
from test_flight import twist
from test_names import HOME, JOINTS

from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.replay import open_engines
from trudi.runtime.flight.recording import read_recording
from trudi.runtime.recorder import SHADOW
from trudi.runtime.replay import replay


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A policy that stands and sways a little, and a student whose actions are nine tenths of its."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "quick.yaml").write_text("{stand_s: 0.3, stand_speed: 6.0, fade_in_s: 0.2}")
    return made_bundle(folder / "both", without=["linvel"], student=True, student_scale=0.9)


@pytest.fixture
def robot(both):
    found = robot_parameters("unitree_go1") | {"robot.odometry": False, "robot.state_rate_hz": 100.0}
    return found | {"site_file": str(both.parent / "quick.yaml")}


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_flight_with_a_shadow(bench, both, robot, tmp_path, network):
    bench.runtime(both, robot | {"record_dir": str(tmp_path / "flights")}, shadow=network)
    bench.driver(names=JOINTS, positions=HOME)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    bench.fly()

    def compared():
        _, values = bench.diagnostic("shadow")
        return int(values["compared"]) > 20 and values

    values = until(compared, lambda: f"steps are compared: {bench.diagnostic('shadow')}")
    assert (values["shadow"], values["sent"]) == (network, "teacher" if network == "student" else "student")
    assert 0.0 < float(values["action_rms"]) <= float(values["action_max"]) < 0.012
    assert float(values["FR_hip_joint_rms"]) <= float(values["FR_hip_joint_max"]) <= float(values["action_max"])
    assert float(values["latency_p50_ms"]) > 0.0 and "error" not in values
    assert values["left_out_failed"] == values["left_out_not_finite"] == "0"
    _, told = bench.diagnostic("bundle")
    assert (told["sent"], told["denoising_steps"]) == (values["sent"], "8" if network == "student" else "1")
    _, timing = bench.diagnostic("timing")
    assert (int(timing["student_actions"]) > 10) == (network == "teacher")
    assert bench.set(shadow="") == "shadow is read at configure: deactivate and clean up first"
    success, said = bench.trigger("save")
    assert success, said
    assert bench.transition("deactivate") and bench.transition("cleanup")
    path = next((tmp_path / "flights").glob("*.mcap"))
    assert len(read_recording(path).channels[SHADOW]) > 20
    with Bundle.open(both) as bundle, open_engines(bundle, None) as (teacher, student):
        shown = replay(path, bundle, teacher, student)
    assert shown.first == () and shown.identical and shown.shadows > 10
    assert bench.set(shadow="") == ""
    bench.diagnostics.clear()
    assert bench.transition("configure"), bench.said()
    bench.diagnostic("timing")
    assert "trudi_runtime: shadow" not in bench.diagnostics


def test_a_bag_of_a_student_that_is_sent_comes_out_the_same(bench, both, robot, tmp_path):
    recorder = record(bench, tmp_path / "bag")
    bench.driver(names=JOINTS, positions=HOME)
    bench.runtime(both, robot, shadow="teacher", publish_ticks=True)
    bench.repeat(TwistStamped, "cmd_vel", twist(0.1), qos=BEST_EFFORT)
    hears(recorder, JOINT_STATES, "/imu", STATE)
    bench.fly()
    time.sleep(2.0)
    assert bench.transition("deactivate")
    time.sleep(0.3)
    assert end(recorder) == 0
    assert same(tmp_path / "bag", both)["steps"] > 30


def test_a_bundle_without_a_student_is_refused_with_what_to_do(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot, shadow="student")
    assert not bench.transition("configure")
    sentence = "export both with `trudi export RUN --student STUDENT`"
    until(lambda: sentence in bench.said(), bench.said)
    assert bench.lifecycle() == "unconfigured"
    assert "shadow is 'pupil'; available: '', student, teacher" in bench.set(shadow="pupil")
    assert bench.set(shadow="") == ""
    assert bench.transition("configure"), bench.said()


def test_the_parameter_is_described(bench, standing, imu_robot):
    bench.runtime(standing, imu_robot)
    request = DescribeParameters.Request(names=["shadow"])
    (described,) = bench.call(DescribeParameters, f"{RUNTIME}/describe_parameters", request).descriptors
    assert "computed beside the other and compared" in described.description
    assert "(available: '', student, teacher)" in described.description
