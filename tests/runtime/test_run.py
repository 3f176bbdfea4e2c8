"""`trudi run` and `trudi replay` as a user meets them: flights, refusals in one line, exit codes."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fault_matrix import QUICK
from flights import GO1, fly, made_bundle, unsafe

from trudi.cli import main
from trudi.runtime.flight.recording import read_recording
from trudi.runtime.recorder import STATES, TICKS
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
from trudi.runtime.supervisor import TABLE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def go1_bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1")


@pytest.fixture(scope="module")
def cartpole_bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "cartpole", "cartpole_swingup", "CartpoleSwingup-v1")


@pytest.fixture(scope="module")
def robot():
    """A robot that waits; what is refused never touches it."""
    with MujocoRobot(MujocoCfg()) as robot:
        yield robot


def refused(capsys, *argv):
    """The one line of an error, and the exit code of bad input."""
    try:
        assert main(["run", *map(str, argv)]) == 2
    except SystemExit as ended:  # argparse
        assert ended.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("trudi run: error: ")
    return lines[-1]


def test_go1_stands_and_is_driven_by_an_untrained_bundle(go1_bundle, tmp_path):
    code, report, said = fly(go1_bundle, tmp_path, "--seconds", "2", "--command", "vx=0.3", site_file={"stand_s": 0.5})
    assert code == 0 and report["state"] == "STAND", said
    assert not unsafe(report["robot"]) and report["control_steps"] > 50, "half of what 2 s have"
    assert report["ended"] == "after the 2 s that were asked for" and set(report["tracking"]) == {"vx", "vy", "wz"}
    assert report["sending"] == {"unsent": 0, "refused": 0} and "\nunsent" not in said
    flight = read_recording(tmp_path / "flight.mcap")
    ticks, states = flight.channels[TICKS], flight.channels[STATES]
    during = np.isin(states["tick"], ticks["tick"][ticks["supervisor"] == State.ACTIVE])
    height = states["values"][during][:, 3 * 12 + 4 + 3 + 3]
    assert height.min() > 0.2, "the trunk of a standing Go1 is about 0.27 m above the floor"
    course = [State(state) for state, _ in itertools.groupby(ticks["supervisor"].tolist())]
    assert course == [State.INACTIVE, State.STANDBY, State.STAND, State.ACTIVE, State.STAND]
    for name in ("wake_up", "observation_to_command", "infer", "input_age"):
        assert (
            report["stages"][name]["count"] > 0
            and {"p50_ms", "p99_ms", "p999_ms", "max_ms"} <= report["stages"][name].keys()
        )


def test_a_task_of_actuators_has_returns(cartpole_bundle, tmp_path):
    code, report, said = fly(cartpole_bundle, tmp_path, "--seconds", "12", "--rate", "100")
    assert code == 0, said
    assert len(report["returns"]) == 1 and report["return_mean"] == report["returns"][0]
    assert 0.0 <= report["return_mean"] < 300.0  # an untrained policy: the pole hangs


def test_seeded_latents_and_their_spread_are_flown_and_replayed(tmp_path):
    bundle = made_bundle(tmp_path / "seeded", latent=True)
    watched = QUICK | {"safety": {"max_latent_spread": 1e-6}, "out_of_range_steps": 5}
    code, report, said = fly(bundle, tmp_path, "--seconds", "1", "--spread-latents", "4", site_file=watched)
    assert code == 1 and [fault["code"] for fault in report["faults"]] == ["LATENT_SPREAD"], said
    assert main(["replay", str(tmp_path / "flight.mcap"), "--bundle", str(bundle)]) == 0
    watched["safety"]["max_latent_spread"] = 10.0
    code, report, said = fly(bundle, tmp_path, "--seconds", "0.5", "--spread-latents", "4", site_file=watched)
    assert code == 0 and not report["faults"], said


def test_an_engine_that_cannot_be_had_is_passed_over_with_its_reason(go1_bundle, tmp_path):
    engines = ("--engine", "tensorrt", "--engine", "onnx-cuda", "--engine", "onnx")
    code, report, said = fly(go1_bundle, tmp_path, "--seconds", "0.3", *engines, site_file=QUICK)
    assert code == 0, said
    first, second, taken = report["engine_choice"]
    assert first == "tensorrt: rejected, there is no file for it"
    assert second.startswith("onnx-cuda: rejected, onnxruntime") and "CUDAExecutionProvider" in second
    assert taken.startswith("onnx: taken")


def test_a_graph_that_does_not_reproduce_its_golden_actions_is_refused(go1_bundle, tmp_path, robot, capsys):
    from trudi.runtime.bundle import Bundle
    from trudi.runtime.golden import GOLDEN, GoldenCases
    from trudi.runtime.writing import write_bundle

    with Bundle.open(go1_bundle) as bundle:
        golden = GoldenCases.from_bytes(bundle.read(GOLDEN), bundle.contract)
        wrong = GoldenCases(golden.observation, None, golden.action_float64 + 1e-3, golden.action_float32)
        files = {"policy.onnx": bundle.read("policy.onnx"), GOLDEN: wrong.to_bytes()}
        other = write_bundle(tmp_path / "wrong", bundle.contract, files)
    line = refused(capsys, other, "--robot", f"udp:127.0.0.1:{robot.port}")
    assert "no engine may be used: onnx: golden case" in line and "this engine does not compute the policy" in line


@pytest.mark.parametrize(
    "options,words",
    [
        (("--robot", "gazebo"), "--robot gazebo: available: mujoco, udp:HOST:PORT"),
        (("--rate", "120"), "a command rate of 120 Hz does not fit the policy's 50 Hz; take a multiple: 50, 100, 200"),
        (("--rate", "nan"), "does not fit the policy's 50 Hz"),
        (("--command", "vq=1"), "the policy's commands have no vq; did you mean"),
        (("--command", "vx"), "write NAME=NUMBER"),
        (("--command", "vx=9"), "the policy was trained with vx from -1.5 to 1.5"),
        (("--seconds", "0"), "must be above 0"),
        (("--deadline", "1.5"), "deadline 1.5: a part of the control period"),
        (("--priority", "100"), "a SCHED_FIFO priority is 1 to 99, or 0 for none"),
        (("--cpu", "4000"), "cpu 4000 may not be used by this process; it may use"),
        (("--engine", "torch"), "unknown engine 'torch'; available: onnx, onnx-cuda"),
        (("--spread-latents", "4"), "export it with --noise seeded"),
        (("--task", "CartpoleSwingup"), "--task, --view, --vary and the robot's faults are for --robot mujoco"),
        (("--faults", "/nowhere/faults.yaml"), "/nowhere/faults.yaml cannot be read"),
        (("--json", "/proc/nothing/x.json"), "--json /proc/nothing/x.json cannot be written: No such file"),
        (("--json", "/"), "--json / cannot be written: it is a folder"),
        (("--record", "/proc/nothing/x.mcap"), "--record /proc/nothing/x.mcap cannot be written"),
        (("--record", "/proc/x.mcap"), "--record /proc/x.mcap cannot be written"),
        (("--robot", "udp:127.0.0.1:99999"), "--robot udp:127.0.0.1:99999: a port is 1 to 65535"),
        (("--robot", "udp:127.0.0.1:0"), "a port is 1 to 65535"),
        (("--robot", "udp:127.0.0.1:²"), "available: mujoco, udp:HOST:PORT"),
        (("--robot", f"udp:{'a' * 70}.com:9"), "check the address"),
        (("--record-seconds", "1e300"), "--record-seconds 1e+300: at most a day"),
        (("--rate", "100000"), "recording 120 s at 100000 Hz takes"),
        (("--record-seconds", "40000"), "of memory, and may take 512: give --record-seconds"),
    ],
)
def test_bad_options_are_one_line(options, words, go1_bundle, robot, capsys):
    own = () if "--robot" in options else ("--robot", f"udp:127.0.0.1:{robot.port}")
    short = () if "--seconds" in options else ("--seconds", "0.1")
    before = robot.report().commands
    assert words in refused(capsys, go1_bundle, *own, *short, *options)
    assert robot.report().commands == before


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"joints": {"FR_knee_joint": {}}}, "names the joint FR_knee_joint, which unitree_go1 lacks; did you mean"),
        ({"stand_speed": -1.0}, "stand_speed: Input should be greater than 0"),
        ({"fade_inn_s": 1.0}, "unknown field 'fade_inn_s'; did you mean fade_in_s"),
    ],
)
def test_a_bad_site_file_is_one_line(changes, words, go1_bundle, robot, tmp_path, capsys):
    (tmp_path / "site.yaml").write_text(json.dumps(changes))
    line = refused(capsys, go1_bundle, "--robot", f"udp:127.0.0.1:{robot.port}", "--site", tmp_path / "site.yaml")
    assert words in line


def test_a_bundle_for_another_robot_is_refused_before_the_motors(cartpole_bundle, robot, capsys):
    before = robot.report().commands
    line = refused(capsys, cartpole_bundle, "--robot", f"udp:127.0.0.1:{robot.port}")
    assert "the bundle commands actuators without joints, unitree_go1 is driven by joints" in line
    assert robot.report().commands == before


def test_wider_limits_than_the_robots_are_refused_and_can_be_accepted(robot, tmp_path, capsys):
    from flights import contract_values

    values = contract_values("unitree_go1", GO1)
    values["robot"]["joints"][2]["position_limit"] = [-3.0, -0.888]
    bundle = made_bundle(tmp_path / "wide", changes={"robot": values["robot"]})
    address, before = f"udp:127.0.0.1:{robot.port}", robot.report().commands
    line = refused(capsys, bundle, "--robot", address)
    assert (
        "joint FR_calf_joint: the bundle's position limit [-3, -0.888] is wider than unitree_go1's [-2.818, -0.888]" in line
    )
    assert "accept_wider_limits" in line and robot.report().commands == before
    code, report, said = fly(bundle, tmp_path, "--seconds", "0.3", site_file=QUICK | {"accept_wider_limits": True})
    assert code == 0 and not unsafe(report["robot"]), said


def test_nobody_at_the_robots_port_is_said_with_what_to_check(go1_bundle, capsys):
    line = refused(capsys, go1_bundle, "--robot", "udp:127.0.0.1:9")
    assert "did not answer `describe` within" in line and "check that its process runs" in line


def test_a_robot_that_is_not_upright_is_not_activated(tmp_path, go1_bundle):
    """The refusal is said, nothing is commanded, and the exit code is 1."""
    code, report, said = fly(go1_bundle, tmp_path, "--seconds", "0.3", site_file={"safety": {"max_tilt_rad": 1e-9}})
    assert code == 1 and report["refusal"].startswith("activate is refused: the robot is tilted by"), said
    assert report["state"] == "INACTIVE" and report["robot"]["commands"] == 0


def test_replay_refuses_what_is_no_flight_of_the_bundle(go1_bundle, cartpole_bundle, tmp_path, capsys):
    fly(go1_bundle, tmp_path, "--seconds", "1.2", site_file=QUICK)
    flight = tmp_path / "flight.mcap"
    assert main(["replay", str(flight), "--bundle", str(go1_bundle), "--json", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["identical"] and result["steps"] > 30
    assert main(["replay", str(flight), "--bundle", str(cartpole_bundle)]) == 2
    assert "give the bundle that was flown" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none.mcap"), "--bundle", str(go1_bundle)]) == 2
    flight.write_bytes(flight.read_bytes()[:-1000])
    assert main(["replay", str(flight), "--bundle", str(go1_bundle)]) == 2


def test_the_page_shows_the_table_of_the_code():
    page = (ROOT / "docs" / "control_loop.md").read_text()
    rows = re.findall(r"^\| ([A-Z]+) \| ([A-Z_]+) \| ([^|]+) \| ([A-Z]+) \| ([A-Z]+) \|$", page, re.MULTILINE)
    mine = [(r.state.name, r.event.name, ", ".join(r.guard) or "-", r.next.name, r.motors.name) for r in TABLE]
    assert rows == mine
    drawn = set(re.findall(r"^    ([A-Z]+) --> ([A-Z]+): ", page, re.MULTILINE))
    resets = {("FAULT", "UNCONFIGURED"), ("FAULT", "INACTIVE")}  # said in words beside the diagram
    assert drawn == {(r.state.name, r.next.name) for r in TABLE} - resets


def test_the_loop_reads_the_monotonic_clock_alone():
    """In everything that runs in the loop; the recorder's date of a file is not in it."""
    names = "loop controller inference shadow realtime watches supervisor terms actions history conduct signals aside"
    for name in names.split():
        text = (ROOT / "runtime/trudi/runtime" / f"{name}.py").read_text()
        assert not re.search(r"time\.time|CLOCK_REALTIME|datetime|perf_counter", text), name
