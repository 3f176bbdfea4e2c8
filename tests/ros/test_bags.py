"""Flights recorded in bags by a process of its own and computed again: the same to the last bit; what is not is found."""

import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Twist, TwistStamped
from harness import BEST_EFFORT, PACKAGE, REPOSITORY, Bench, made_bundle, robot_parameters, until
from lifecycle_msgs.srv import ChangeState
from mcap.reader import make_reader
from rclpy.serialization import serialize_message
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Int64MultiArray
from test_flight import GO1, twist
from test_names import HOME, JOINTS

from trudi.runtime.controller import Outcome
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotJoint
from trudi.runtime.robots.base import SupervisorState as State
from trudi_runtime.bag_flight import as_sent, header_stamp_ns, read_runs
from trudi_runtime.bags import Bag, BagError, BagWriter, make_typestore
from trudi_runtime.commands import JointStateForm
from trudi_runtime.ticks import TickRow

INT64 = "std_msgs/msg/Int64MultiArray"
JOINT_STATE = "sensor_msgs/msg/JointState"
TICKS, STATE = "/trudi_runtime/ticks", "/trudi_runtime/state"
JOINT_STATES, COMMANDS = "/joint_states", "/joint_commands"


class Swaying:
    """Positions about `HOME`, others each time they are read."""

    def __init__(self, largest=0.02):
        self._random, self._largest = random.Random(1), largest

    def __iter__(self):
        return (angle + self._random.uniform(-self._largest, self._largest) for angle in HOME)


def steered(node):
    """A velocity that somebody changes."""
    return twist(0.1 + 0.1 * random.random())(node)


def record(bench, output, **parameters):
    """A recorder that listens."""
    process = bench.start("record_bag", parameters={"output": str(output)} | parameters)
    until(lambda: "recording" in said(process), lambda: f"recording: {said(process)}", 30.0)
    return process


def hears(recorder, *topics):
    """Waits until the recorder has heard something on each of the topics: discovery takes its time."""
    until(lambda: all(topic in said(recorder) for topic in topics), lambda: f"{topics}: {said(recorder)}", 30.0)


def said(process):
    assert process.poll() is None or "recording" in process.log.read_text(), process.log.read_text()
    return process.log.read_text()


def end(process, number=signal.SIGINT):
    """Ends a process; its exit code."""
    process.send_signal(number)
    return process.wait(30.0)


def replay(bag, bundle, *argv):
    """`replay_bag` in a process without ROS: exit code, its JSON, all it printed."""
    report = Path(bag).parent / f"{Path(bag).name}_report.json"
    program = "import sys; sys.modules['rclpy'] = None; from trudi_runtime.replay_bag import main; sys.exit(main())"
    paths = os.pathsep.join([str(PACKAGE), str(REPOSITORY / "runtime"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, str(bag), "--bundle", str(bundle), "--json", str(report), *argv]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=120
    )
    shown = json.loads(report.read_text()) if report.exists() else {}
    report.unlink(missing_ok=True)
    return done.returncode, shown, done.stdout + done.stderr


def identical(bag, bundle):
    """The JSON of a replay that must show no difference."""
    code, shown, text = replay(bag, bundle)
    assert code == 0, text
    assert shown["identical"] and not shown["differences"] and not shown["missing"], text
    return shown


def same(bag, bundle):
    """The JSON of a replay without a difference. Messages may be missing: a machine that does something else loses some."""
    code, shown, text = replay(bag, bundle)
    assert code in (0, 1) and not shown["differences"], text
    assert shown["identical"] == (not shown["missing"]), text
    return shown


def refusal(bag, bundle, *argv):
    code, shown, text = replay(bag, bundle, *argv)
    assert code == 2 and not shown, text
    assert text.startswith("trudi replay_bag: error: ") and text.count("\n") == 1, text
    return text


def make_flight(folder, bundle, order=("record", "configure", "activate")):
    """Two flights of a robot that the test plays, a fault between them, and configured anew for a third."""
    bench = Bench(folder)
    bag = folder / "bag"
    recorder = None
    try:
        robot = robot_parameters("unitree_go1") | {"robot.odometry": False, "robot.state_rate_hz": 100.0}
        driver = bench.driver(names=JOINTS, positions=Swaying())
        bench.repeat(TwistStamped, "cmd_vel", steered, qos=BEST_EFFORT)
        started = False
        for word in order:
            if word == "record":
                recorder = record(bench, bag)
                if started:
                    hears(recorder, JOINT_STATES, STATE)
                continue
            if not started:
                bench.runtime(bundle, robot, publish_ticks=True, fade_in_s=0.3)
                started = True
                if recorder is not None:
                    hears(recorder, JOINT_STATES, STATE)
            assert bench.transition(word), bench.said()
            time.sleep(0.3)
        bench.await_state("STANDBY")
        fly(bench)
        driver.orientation = (1.0, 0.0, 0.0, 0.0)
        bench.await_state("FAULT")
        driver.orientation = (0.0, 0.0, 0.0, 1.0)
        until(lambda: bench.trigger("reset")[0], "reset")
        fly(bench)
        bench.granted("stop")
        bench.await_state("STAND")
        for word in ("deactivate", "cleanup", "configure", "activate"):
            assert bench.transition(word), bench.said()
        fly(bench)
        assert bench.transition("deactivate")
        time.sleep(0.3)
        assert end(recorder) == 0, recorder.log.read_text()
    finally:
        bench.close()
    return bag


def fly(bench, seconds=1.0):
    bench.stand()
    bench.await_state("ACTIVE")
    time.sleep(seconds)


@pytest.fixture(scope="module")
def flight(tmp_path_factory, standing):
    """The bag of an eventful flight, recorded from its beginning, that lacks nothing."""
    for _ in range(4):
        bag = make_flight(tmp_path_factory.mktemp("flight"), standing)
        if not same(bag, standing)["missing"]:
            return bag
    raise AssertionError("messages were lost in each of four flights: this machine is too busy for these tests")


@pytest.fixture(scope="module")
def run(flight):
    """The first run of it, tick by tick."""
    with Bag(flight) as bag:
        return read_runs(bag, None)[0]


@pytest.fixture(scope="module")
def skipped(flight, standing):
    """Ticks at its ends that are not compared: the recorder heard them before it heard of their states."""
    return identical(flight, standing)["skipped"]


def altered(flight, target, change):
    """The bag with each message as `change(topic, data)` has it: other bytes, or None to leave it out."""
    writer = BagWriter(target)
    connections = {}
    with Reader(flight) as reader:
        for connection, received_ns, data in reader.messages():
            if (made := change(connection.topic, bytes(data))) is not None:
                if connection.topic not in connections:
                    offered = connection.ext.offered_qos_profiles
                    connections[connection.topic] = writer.add(connection.topic, connection.msgtype, offered)
                writer.write(connections[connection.topic], received_ns, made)
    writer.close()
    return target


def step_in_flight(rows):
    """Place of a control step in the middle of the flight, whose action came at once, from states that came in its tick."""
    good = [
        place
        for place, row in enumerate(rows)
        if row.stepped and row.outcome is Outcome.TEACHER and row.states and row.request is None
    ]
    return good[len(good) // 2]


# Flights.


def test_an_eventful_flight_comes_out_the_same(flight, standing):
    shown = identical(flight, standing)
    assert shown["runs"] == 2 and shown["steps"] > 100
    assert shown["ticks"] > 4 * shown["steps"] and shown["commands"] > 0.5 * shown["ticks"]
    assert shown["exact_ticks"] == shown["ticks"]
    assert shown["unjudged"] == 0
    assert shown["fault"] == ""


def test_the_demo_policy_on_the_simulated_robot(bench, cartpole, tmp_path):
    recorder = record(bench, tmp_path / "bag")
    bench.sim_robot("CartpoleSwingup-v1")
    bench.runtime(cartpole, "cartpole", publish_ticks=True)
    hears(recorder, JOINT_STATES, "/sensors", STATE)
    bench.fly()
    time.sleep(3.0)
    bench.trigger("stop")  # refused where the machine was too busy for the policy
    assert bench.transition("deactivate")
    time.sleep(0.3)
    assert end(recorder) == 0
    assert same(tmp_path / "bag", cartpole)["steps"] > 50


def test_a_walker_with_odometry_and_joints_in_another_order(bench, go1, tmp_path):
    recorder = record(bench, tmp_path / "bag")
    bench.sim_robot(GO1, odometry=True, joint_order="shuffled", extra_joints=["tail"], noise=0.01)
    bench.runtime(go1, "unitree_go1", publish_ticks=True)
    bench.repeat(TwistStamped, "cmd_vel", steered, qos=BEST_EFFORT)
    hears(recorder, JOINT_STATES, "/odom", STATE)
    bench.fly()
    time.sleep(2.0)
    assert end(recorder) == 0  # in the middle of the flight
    shown = same(tmp_path / "bag", go1)
    assert shown["steps"] > 50


def test_faults_of_several_kinds(bench, standing, imu_robot, tmp_path):
    """From outside, by a message that is no state, by stamps, by a command that stops: each is computed again."""
    recorder = record(bench, tmp_path / "bag")
    bench.runtime(standing, imu_robot, publish_ticks=True, joy__enabled=True, joy__estop_button=2)
    driver = bench.driver(names=JOINTS, positions=Swaying())
    steering = bench.repeat(TwistStamped, "cmd_vel", steered, qos=BEST_EFFORT)
    buttons = [0, 0, 0]
    bench.repeat(Joy, "joy", lambda _: Joy(buttons=buttons))
    hears(recorder, JOINT_STATES, STATE, "/joy")
    bench.ready()
    until(lambda: bench.trigger("stand")[0], lambda: f"it hears the joystick; {bench.said()}")
    bench.granted("stop")
    for cause, undo, code in (
        (lambda: buttons.__setitem__(2, 1), lambda: buttons.__setitem__(2, 0), "EMERGENCY_STOP"),
        (lambda: setattr(driver, "names", JOINTS[:-1]), lambda: setattr(driver, "names", JOINTS), "STATE_LAYOUT"),
        (lambda: setattr(driver, "stamp_offset_s", -0.2), lambda: setattr(driver, "stamp_offset_s", 0.0), None),
        (lambda: setattr(driver, "silent", True), lambda: setattr(driver, "silent", False), "STATE_LOST"),
    ):
        bench.stand()
        bench.await_state("ACTIVE")
        cause()
        bench.await_state("FAULT")
        assert code is None or bench.fault[0] == code
        undo()
        until(lambda: bench.trigger("reset")[0], lambda: f"reset; {bench.said()}")
        bench.await_state("STANDBY")
    bench.stand()
    bench.await_state("ACTIVE")
    steering.stop()
    bench.await_state("STAND")
    bench.granted("stop")
    bench.await_state("STANDBY")
    time.sleep(0.3)
    assert end(recorder) == 0
    assert same(tmp_path / "bag", standing)["steps"] > 5


def test_seeded_latents_are_drawn_again(tmp_path):
    inputs = [{"name": "observation", "shape": [1, 45]}, {"name": "latent", "shape": [1, 12]}]
    graph = {"file": "policy.onnx", "opset": 20, "precision": "fp32", "batch": 1, "inputs": inputs}
    graph["outputs"] = [{"name": "action", "shape": [1, 12]}]
    bundle = made_bundle(tmp_path / "seeded", latent=True, without=["linvel"], changes={"graph": graph})
    shown = same(make_flight(tmp_path, bundle), bundle)
    assert shown["steps"] > 20 and shown["runs"] == 2


@pytest.mark.parametrize(
    "order", [("configure", "record", "activate"), ("configure", "activate", "record")], ids=["inactive", "standby"]
)
def test_a_recorder_that_comes_later(tmp_path, standing, order):
    shown = same(make_flight(tmp_path, standing, order), standing)
    assert shown["steps"] > 20 and shown["skipped"] > 0


def test_a_namespace(bench, standing, tmp_path):
    """Recorder and runtime in a namespace; the joints' topic has a name of its own besides."""
    prefix = ["-r", "__ns:=/left", "-r", "joint_states:=/arm/states"]
    recorder = bench.start("record_bag", parameters={"output": str(tmp_path / "bag")}, arguments=prefix)
    until(lambda: "recording" in said(recorder), "recording")
    parameters = robot_parameters("unitree_go1") | {"robot.odometry": False, "bundle": str(standing), "publish_ticks": True}
    parameters |= {"realtime.priority": 0, "realtime.lock_memory": False}
    bench.start("runtime_node", parameters=parameters, arguments=prefix)
    bench.repeat(JointState, "/arm/states", joint_state)
    topic = "/left/trudi_runtime/get_state"
    until(lambda: topic in dict(bench.node.get_service_names_and_types()), "the runtime")
    hears(recorder, "/arm/states", "/left/trudi_runtime/state")
    request = ChangeState.Request()
    request.transition.id = 1
    assert bench.call(ChangeState, "/left/trudi_runtime/change_state", request).success
    time.sleep(1.0)
    assert end(recorder) == 0
    shown = same(tmp_path / "bag", standing)
    assert shown["ticks"] > 100 and shown["commands"] == 0


def joint_state(node):
    message = JointState(name=JOINTS, position=HOME, velocity=[0.0] * len(JOINTS))
    message.header.stamp = node.get_clock().now().to_msg()
    return message


# What is not the same.


def test_one_bit_of_a_command_is_found_in_its_tick(flight, standing, run, tmp_path):
    place = step_in_flight(run.rows)
    stamp_ns = run.sent_ns(place)

    def change(topic, data):
        if topic == COMMANDS and header_stamp_ns(data) == stamp_ns:
            changed = bytearray(data)
            changed[-1] ^= 1  # the last effort's highest byte: its exponent
            return bytes(changed)
        return data

    code, shown, text = replay(altered(flight, tmp_path / "bag", change), standing)
    assert code == 1 and shown["differences"] == 1 and not shown["identical"], text
    assert shown["first"][0]["tick"] == run.rows[place].slot and shown["first"][0]["field"] == "effort[11]"
    assert shown["exact_ticks"] < shown["ticks"]
    assert f"tick {run.rows[place].slot}, effort[11]" in text


def test_an_altered_joint_is_found_in_the_tick_that_took_it(flight, standing, run, tmp_path):
    place = step_in_flight(run.rows)
    stamp_ns = run.rows[place].states[-1].parts[0]
    store = make_typestore()

    def change(topic, data):
        if topic == JOINT_STATES and header_stamp_ns(data) == stamp_ns:
            message = store.deserialize_cdr(data, JOINT_STATE)
            velocity = message.velocity.copy()
            velocity[3] += 1.0
            return bytes(store.serialize_cdr(with_velocity(store, message, velocity), JOINT_STATE))
        return data

    code, shown, text = replay(altered(flight, tmp_path / "bag", change), standing)
    assert code == 1 and shown["differences"] > 0 and not shown["missing"], text
    first = shown["first"][0]
    # At once, or with the next control steps, where a term shows states of a moment ago.
    assert run.rows[place].slot <= first["tick"] <= run.rows[place].slot + 8, (first, run.rows[place].slot)
    assert first["field"].startswith("position[")


def with_velocity(store, message, velocity):
    kind = store.types[JOINT_STATE]
    return kind(message.header, message.name, message.position, velocity, message.effort)


def test_another_request_than_was_granted(flight, standing, run, tmp_path):
    """A tick that says it was asked to stop: its command is another."""
    place = step_in_flight(run.rows)
    wanted = run.rows[place].now_ns

    def change(topic, data):
        if topic == TICKS:
            store = make_typestore()
            row = TickRow.decode(store.deserialize_cdr(data, INT64).data.tolist())
            if row.now_ns == wanted:
                numbers = row.encode()
                numbers[3] = 6  # Event.STOP
                return serialize_message(Int64MultiArray(data=numbers))
        return data

    code, shown, text = replay(altered(flight, tmp_path / "bag", change), standing)
    assert code == 1 and shown["first"][0]["tick"] == run.rows[place].slot, text


# What is missing.


@pytest.mark.parametrize("part", [0, 1], ids=["joint_states", "imu"])
def test_a_state_that_the_recorder_did_not_get(flight, standing, run, skipped, tmp_path, part):
    place = step_in_flight(run.rows)
    stamp_ns, topic = run.rows[place].states[-1].parts[part], (JOINT_STATES, "/imu")[part]

    def change(name, data):
        return None if name == topic and header_stamp_ns(data) == stamp_ns else data

    code, shown, text = replay(altered(flight, tmp_path / "bag", change), standing)
    assert code == 1 and not shown["differences"], text
    assert shown["missing_count"] == 1
    assert shown["missing"][0] == {"tick": run.rows[place].slot, "topic": topic, "stamp_ns": stamp_ns, "count": 1}
    assert place - skipped <= shown["exact_ticks"] <= place and shown["unjudged"] > 0
    # It goes on behind the next rest: at least the second run is compared.
    assert shown["ticks"] > place + 200
    assert f"a message on {topic} stamped {stamp_ns // 10**9}." in text


def test_ticks_that_the_recorder_did_not_get(flight, standing, run, skipped, tmp_path):
    place = step_in_flight(run.rows)
    lost = {row.now_ns for row in run.rows[place : place + 3]}

    def change(topic, data):
        store = make_typestore()
        return None if topic == TICKS and store.deserialize_cdr(data, INT64).data[0] in lost else data

    code, shown, text = replay(altered(flight, tmp_path / "bag", change), standing)
    assert code == 1 and not shown["differences"], text
    slot = run.rows[place + 3].slot
    assert shown["missing"] == [{"tick": slot, "topic": TICKS, "stamp_ns": 0, "count": 3}]
    assert place - skipped <= shown["exact_ticks"] <= place


def test_a_command_that_the_recorder_did_not_get(flight, standing, run, tmp_path):
    """Nothing depends on it: the replay goes on at once."""
    place = step_in_flight(run.rows)
    stamp_ns = run.sent_ns(place)

    def change(topic, data):
        return None if topic == COMMANDS and header_stamp_ns(data) == stamp_ns else data

    code, shown, text = replay(altered(flight, tmp_path / "bag", change), standing)
    assert code == 1 and not shown["differences"] and shown["unjudged"] == 0, text
    assert shown["missing"] == [{"tick": run.rows[place].slot, "topic": COMMANDS, "stamp_ns": stamp_ns, "count": 1}]


def test_gains_that_are_missing_or_others(flight, standing, tmp_path):
    count = itertools.count()

    def change(topic, data):
        if topic != "/joint_gains" or next(count) != 1:
            return data
        changed = bytearray(data)
        changed[-2] ^= 1
        return bytes(changed)

    code, shown, text = replay(altered(flight, tmp_path / "other", change), standing)
    assert code == 1 and shown["differences"] == 1 and shown["first"][0]["field"] == "gains[23]", text
    code, shown, text = replay(altered(flight, tmp_path / "none", leaving_out("/joint_gains")), standing)
    assert code == 1 and {one["topic"] for one in shown["missing"]} == {"/joint_gains"}, text


def leaving_out(*topics):
    return lambda topic, data: None if topic in topics else data


# What is no bag of such a flight.


def test_another_bundle(flight, tmp_path):
    other = made_bundle(tmp_path / "other", without=["linvel"], changes={"provenance": {"run": "another", "seed": 1}})
    assert "was flown with the bundle " in (text := refusal(flight, other)) and "give the bundle that was flown" in text


@pytest.mark.parametrize(
    ("topics", "words"),
    [
        ([TICKS], "has no ~/ticks of a runtime"),
        (["/trudi_runtime/about"], "has nothing on /trudi_runtime/about, which says what was flown"),
        (["/imu"], "nothing of it can be computed again"),
        ([JOINT_STATES], "nothing of it can be computed again"),
    ],
)
def test_a_bag_that_lacks_a_topic(flight, standing, tmp_path, topics, words):
    assert words in refusal(altered(flight, tmp_path / "bag", leaving_out(*topics)), standing)


def test_runtimes_are_chosen_by_name(flight, standing):
    assert replay(flight, standing, "--runtime", "trudi_runtime")[0] == 0
    assert "did you mean /trudi_runtime?" in refusal(flight, standing, "--runtime", "/trudi_runtim")


def test_what_is_no_bag(tmp_path, standing, flight):
    assert "does not exist" in refusal(tmp_path / "nothing", standing)
    (tmp_path / "empty").mkdir()
    assert "has no metadata.yaml, and 0 .mcap files" in refusal(tmp_path / "empty", standing)
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    assert "is no bag that can be read" in refusal(tmp_path / "garbage", standing)
    (tmp_path / "noise.mcap").write_bytes(os.urandom(5000))
    assert "is no bag that can be read" in refusal(tmp_path / "noise.mcap", standing)
    assert "bundle" in refusal(flight, tmp_path / "empty")


def test_a_bag_without_its_metadata(flight, standing, tmp_path):
    """Only the file was copied."""
    shutil.copy(next(flight.glob("*.mcap")), tmp_path / "only.mcap")
    shown = identical(tmp_path / "only.mcap", standing)
    assert shown["notes"] == []


@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("described", [True, False], ids=["metadata", "no metadata"])
def test_a_bag_that_was_cut_off_is_read_as_far_as_it_goes(flight, standing, tmp_path, part, described):
    bag = tmp_path / "bag"
    shutil.copytree(flight, bag)
    file = next(bag.glob("*.mcap"))
    file.rename(bag / f"{bag.name}.mcap")
    file = bag / f"{bag.name}.mcap"
    with file.open("r+b") as opened:
        opened.truncate(round(part * file.stat().st_size))
    if not described:
        (bag / "metadata.yaml").unlink()
    shown = identical(bag, standing)
    assert "read as far as it goes" in shown["notes"][0]
    assert shown["ticks"] > 50


def test_a_bag_with_a_damaged_middle(flight, standing, tmp_path):
    bag = tmp_path / "bag"
    shutil.copytree(flight, bag)
    file = next(bag.glob("*.mcap"))
    with file.open("r+b") as opened:
        chunks = make_reader(opened).get_summary().chunk_indexes
        opened.seek(chunks[len(chunks) // 2].chunk_start_offset + 53)  # behind the chunk's own header
        opened.write(bytes(100))
    shown = identical(bag, standing)
    assert "is damaged" in shown["notes"][0]


# The recorder.


def test_what_a_bag_holds(flight):
    """Every topic with its type, the qualities that were offered, and what was latched before anything was heard."""
    with Reader(flight) as reader:
        found = {one.topic: one for one in reader.connections}
        assert {JOINT_STATES, "/imu", "/cmd_vel", COMMANDS, "/joint_gains", "/diagnostics"} <= found.keys()
        assert {f"/trudi_runtime/{name}" for name in ("ticks", "about", "state", "is_active")} <= found.keys()
        assert reader.message_count == sum(one.msgcount for one in reader.connections)
        offered = {topic: one.ext.offered_qos_profiles for topic, one in found.items()}
        assert offered[JOINT_STATES][0].reliability is QosReliability.BEST_EFFORT
        assert offered["/joint_gains"][0].durability is QosDurability.TRANSIENT_LOCAL
        assert offered["/joint_gains"][0].reliability is QosReliability.RELIABLE
        times = [received_ns for _, received_ns, _ in reader.messages()]
        assert times == sorted(times)
        states = [make_typestore().deserialize_cdr(data, one.msgtype).message
                  for one, _, data in reader.messages([found["/trudi_runtime/state"]])]  # fmt: skip
    assert {"STANDBY", "STAND", "ACTIVE", "FAULT", "INACTIVE"} <= set(states)
    with next(flight.glob("*.mcap")).open("rb") as file:  # the library of the format's own makers reads it, too
        summary = make_reader(file).get_summary()
        assert summary.statistics.message_count == len(times)
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}


def test_what_is_latched_is_recorded_however_late(bench, standing, imu_robot, tmp_path):
    bench.runtime(standing, imu_robot, publish_ticks=True)
    assert bench.transition("configure")
    recorder = record(bench, tmp_path / "bag")
    hears(recorder, STATE)
    assert end(recorder, signal.SIGTERM) == 0
    with Reader(tmp_path / "bag") as reader:
        counts = {one.topic: one.msgcount for one in reader.connections}
    assert counts["/trudi_runtime/about"] == counts["/trudi_runtime/state"] == counts["/trudi_runtime/is_active"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_completes_the_bag(bench, tmp_path, number):
    bench.driver(names=JOINTS, positions=HOME)
    recorder = record(bench, tmp_path / "bag")
    hears(recorder, JOINT_STATES)
    assert end(recorder, number) == 0
    with Reader(tmp_path / "bag") as reader:
        assert {one.topic: one.msgcount for one in reader.connections}[JOINT_STATES] > 20


def test_a_bag_in_which_nothing_was_heard(bench, tmp_path):
    recorder = record(bench, tmp_path / "bag", topics=["/nobody", "imu"])
    assert end(recorder) == 0
    assert "nothing was heard on /nobody, /imu" in recorder.log.read_text()
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 0


def test_a_killed_recorder_leaves_what_it_had_a_second_before(bench, standing, imu_robot, tmp_path):
    recorder = record(bench, tmp_path / "bag")
    bench.runtime(standing, imu_robot, publish_ticks=True)
    bench.driver(names=JOINTS, positions=Swaying())
    bench.repeat(TwistStamped, "cmd_vel", steered, qos=BEST_EFFORT)
    hears(recorder, JOINT_STATES, STATE)
    bench.fly()
    time.sleep(3.0)
    recorder.kill()
    recorder.wait()
    assert not (tmp_path / "bag" / "metadata.yaml").exists()
    shown = same(tmp_path / "bag", standing)
    assert "it has no metadata.yaml" in shown["notes"][0] and shown["steps"] > 50


def test_an_output_that_exists_is_left_alone(bench, tmp_path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "mine").write_text("precious")
    for output, words in (
        (tmp_path / "bag", "that exists already"),
        (tmp_path / "no" / "bag", f"there is no folder {tmp_path / 'no'}"),
        ("", "no output"),
    ):
        process = bench.start("record_bag", parameters={"output": str(output)})
        assert process.wait(30.0) == 2
        assert words in process.log.read_text() and "Traceback" not in process.log.read_text()
    assert (tmp_path / "bag" / "mine").read_text() == "precious"
    assert [path.name for path in (tmp_path / "bag").iterdir()] == ["mine"]


def test_a_disk_that_fails_is_told_of_and_nothing_hangs(bench, standing, imu_robot, tmp_path):
    """A limit of the size of files stands for the disk; the middleware's shared memory is files, too, and is not used."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from trudi_runtime.record_bag import main; sys.exit(main())"
    )
    paths = os.pathsep.join([str(PACKAGE), str(REPOSITORY / "runtime"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4", "PYTHONUNBUFFERED": "1"}
    bench.driver(names=JOINTS, positions=Swaying())
    command = [sys.executable, "-c", program, "--ros-args", "-p", f"output:={tmp_path / 'bag'}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        bench.processes.append(process)
        process.log = tmp_path / "log"
        assert process.wait(60.0) == 1
    text = (tmp_path / "log").read_text()
    assert "the bag ends here, broken off: File too large" in text and "Traceback" not in text, text
    with Bag(tmp_path / "bag") as bag:
        assert sum(1 for _ in bag.messages([JOINT_STATES])) > 100 and bag.damage


def test_a_velocity_topic_of_the_other_type(bench, tmp_path):
    bench.repeat(Twist, "cmd_vel", lambda _: Twist())
    recorder = record(bench, tmp_path / "stamped")
    until(lambda: "/cmd_vel is not recorded: it is geometry_msgs/msg/Twist" in said(recorder), "a complaint")
    assert "set cmd_vel_stamped" in said(recorder)
    assert end(recorder) == 0
    recorder = record(bench, tmp_path / "plain", cmd_vel_stamped=False)
    hears(recorder, "/cmd_vel")
    assert end(recorder) == 0
    with Reader(tmp_path / "plain") as reader:
        assert {one.topic: one.msgcount for one in reader.connections}["/cmd_vel"] > 0


def test_topics_that_come_later(bench, tmp_path):
    """Their type is learnt from who publishes them."""
    recorder = record(bench, tmp_path / "bag", topics=["/later", "cmd_vel"])
    bench.repeat(JointState, "/later", joint_state)
    hears(recorder, "/later")
    assert end(recorder) == 0
    with Reader(tmp_path / "bag") as reader:
        assert {one.topic: one.msgtype for one in reader.connections} == {"/later": JOINT_STATE}
        assert reader.message_count > 5


def test_recording_ends_by_itself(bench, tmp_path):
    recorder = record(bench, tmp_path / "bag", max_minutes=0.02)
    assert recorder.wait(30.0) == 0
    assert (tmp_path / "bag" / "metadata.yaml").exists()


# Parts.


@pytest.mark.parametrize("pd", [True, False])
def test_commands_are_compared_in_the_form_they_are_sent_in(pd):
    robot = RobotDescription(
        name="two",
        joints=(RobotJoint(name="hip"), RobotJoint(name="knee")),
        drives=("hip", "knee"),
        pd=pd,
        damping=(1.0, 1.0),
        state_period_s=0.01,
        command_timeout_s=0.1,
    )
    sent = []

    class Publisher:
        def __init__(self, kind):
            self.kind = kind

        def publish(self, message):
            if self.kind is JointState:
                sent.append([array("d", part) for part in (message.position, message.velocity, message.effort)])

    form = JointStateForm(lambda kind, topic, qos: Publisher(kind), ("c", "g"), robot, "auto")
    generator = np.random.default_rng(0)
    for case in range(200):
        command = JointCommand.zeros(2)
        command.state = State.ACTIVE
        for row in np.flatnonzero(generator.random(5) < 0.4):
            command.values[row] = generator.choice([0.0, -0.0, 1.5, math.nan], 2)
        form.publish(command, 0)
        mine = as_sent(command, pd)
        assert [part.tobytes() for part in sent[-1]] == [part.tobytes() for part in mine], case


def test_a_writer_refuses_what_exists(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "link")
