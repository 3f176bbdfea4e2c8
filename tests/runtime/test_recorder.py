"""A flight recorded and computed again, without threads: the same to the last bit, and one bit that differs is found."""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from bundles import go1_files, graph, term
from control import ARM_JOINTS, MS, Bench, arm_file, arm_robot, arm_values
from graphs import linear

from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import SCHEMA_VERSION
from trudi.runtime.controller import MOVING, Outcome
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.recording import Channel, RecordingError, read_recording, write_recording
from trudi.runtime.recorder import STATES, TICKS, FlightRecorder, RecorderCfg
from trudi.runtime.replay import replay
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import Event, FaultCode, Violation
from trudi.runtime.writing import write_bundle

STAGES = 5
FILE = arm_file(stand_s=0.1, stand_speed=100.0, fade_in_s=0.05)
LEADING = [Event.CONFIGURE, Event.ACTIVATE, Event.STAND, Event.START, Event.RESET]


def values(*, latent=True, student=True):
    """Hip and knee, and a command of one element: the three observations of `linear`; a history of none, a delay of 5 ms."""
    terms = [
        term("q", "joint_position", 2, "rad", "joint", element_names=ARM_JOINTS, joints=ARM_JOINTS, delay_steps=0.25),
        term("go", "command", 1, "1", "none", element_names=["x"], command="go"),
    ]
    made = arm_values(terms, scale=[0.02, 0.02], rate_limit=[5.0, 5.0])
    made["commands"] = [
        {"name": "go", "element_names": ["x"], "units": ["1"], "frame": "none", "range": [[-1.0, 1.0]]}
        | {"neutral": [0.0], "timeout_s": 0.2}
    ]
    made["schema_version"] = SCHEMA_VERSION
    made["graph"] = graph(3, 2, latent=latent)
    if latent:
        made["sampler"] |= {"noise": "seeded", "seed": 3, "latent_std": 0.25}
    if student:
        made["student"] = {
            "sampler": {"network": "student", "steps": 1, "ode": True, "noise": "zero", "latent_std": 0.25},
            "graph": graph(3, 2, "student.onnx"),
        }
    return made


@dataclass
class Flight:
    """Does what the control loop does, in its order, with inputs drawn at random."""

    latent: bool = True
    seconds: float = 60.0
    keyframe_s: float = 0.5
    seed: int = 0
    calm: bool = False
    engines: tuple = ()
    states: dict = field(default_factory=lambda: dict.fromkeys(State, 0))
    outcomes: set = field(default_factory=set)

    def begin(self, folder):
        self.bench = Bench(values(latent=self.latent), arm_robot(state_period_s=0.005), FILE, between="linear")
        self.files = go1_files() | {"policy.onnx": linear(latent=self.latent), "student.onnx": linear(latent=False)}
        self.path = write_bundle(folder / "arm", self.bench.contract, self.files)
        self.bundle = Bundle.open(self.path)
        self.engines = self.load()
        self.recorder = FlightRecorder(
            RecorderCfg(self.seconds, self.keyframe_s), {"bundle": self.bundle.digest, "engine": "onnx"}, STAGES
        )
        assert self.bench.ask(Event.CONFIGURE) is None
        self.random = np.random.default_rng(self.seed)
        self.recorder.begin(self.bench.controller)
        self.answer = None
        return self

    def load(self):
        return tuple(OnnxEngine(self.files[name], OnnxCfg()) for name in ("policy.onnx", "student.onnx"))

    def read(self):
        """What came from the robot since the last tick."""
        bench, chance = self.bench, 0.5 if self.calm else self.random.random()
        controller, recorder = bench.controller, self.recorder
        if chance < 0.003:
            controller.reject(kind := ("malformed" if chance < 0.0015 else "layout"), "no state")
            recorder.rejected(kind)
        for _ in range(0 if chance > 0.97 else 2 if chance > 0.9 else 1):
            state = bench.state(joint_position=bench.pose + self.random.uniform(-0.05, 0.05, 3))
            state.stamp_ns += int(self.random.integers(-MS, MS))
            state.stamp_ns -= 50 * MS if self.random.random() < 0.003 and not self.calm else 0
            state.sequence = bench.slot
            if self.random.random() < 0.003 and not self.calm:
                state.joint_velocity[0] = self.random.choice([99.0, math.nan, -math.inf])
            if state.stamp_ns < bench.controller._stamp_ns and state.stamp_ns > bench.controller._stamp_ns - 10 * MS:
                state.stamp_ns = bench.controller._stamp_ns
            controller.receive(state)
            recorder.state(state)

    def tick(self, event=None, failing=None):
        """One tick. `failing` says where it raises: `read`, `write`, or not at all."""
        bench, controller, recorder, random = self.bench, self.bench.controller, self.recorder, self.random
        missed = int(random.integers(1, 9)) if random.random() < 0.01 and not self.calm else 0
        bench.slot += 1 + missed
        bench.now_ns += (1 + missed) * controller.period_ns + int(random.integers(0, 100_000))
        self.read()
        if failing == "read":
            return self.fail()
        if random.random() < 0.1 or self.calm:
            bench.command(float(random.uniform(-2, 2)))
        if event is None and random.random() < 0.06 and not self.calm:
            event = Event(random.choice(LEADING if random.random() < 0.9 else list(Event)[:8]))
        if event is not None:
            bench.ask(event)
        stepped = controller.begin(bench.now_ns, bench.slot, missed)
        if stepped:
            self.asked = (
                controller.observer.observation.copy(),
                None if controller.latent is None else controller.latent.copy(),
            )
        outcome, output, spread = Outcome.NONE, None, math.nan
        if controller.awaiting:
            outcome = Outcome(
                random.choice(
                    list(Outcome)[1:], p=[0.15, 0.7, 0.06, 0.09, 0.0] if self.calm else [0.15, 0.66, 0.06, 0.08, 0.05]
                )
            )
            spread = float(random.random())
            if outcome is Outcome.TEACHER:
                output = self.engines[0].infer(*self.asked)
            if outcome is Outcome.STUDENT:
                output = self.engines[1].infer(self.asked[0])
        controller.finish(bench.now_ns, outcome, output, spread)
        self.outcomes.add(outcome)
        self.states[bench.at] += 1
        if failing == "write":
            return self.fail()
        stages = random.integers(0, 1000, STAGES).tolist()
        recorder.tick(controller, bench.now_ns, bench.slot, missed, event, stepped, outcome, output, spread, stages)
        return None

    def fail(self):
        """What the loop does about an error of its own."""
        self.bench.controller.fail(
            Violation(FaultCode.INTERNAL, "RuntimeError: boom", math.nan, math.nan), self.bench.now_ns
        )
        self.recorder.failure(FaultCode.INTERNAL)

    def fly(self, ticks):
        for _ in range(ticks):
            self.tick()
        return self

    def lead(self):
        """To ACTIVE, on the operator's way."""
        for event in (Event.RESET, *LEADING[:3]):
            self.tick(event)
        while self.bench.at is State.STAND and self.bench.controller.ramp_left_s(self.bench.now_ns) > 0:
            self.tick()
        self.bench.command(0.25)
        self.tick(Event.START)
        return self.bench.at is State.ACTIVE

    def save(self, folder):
        return self.recorder.save(folder / "flight.mcap", "test")

    def replay(self, path):
        return replay(path, self.bundle, *self.load())


@pytest.fixture
def quiet():
    """A short flight without surprises, for what is altered afterwards."""

    def make(folder, **options):
        flight = Flight(calm=True, **options).begin(folder)
        assert flight.lead()
        return flight.fly(100)

    return make


@pytest.mark.parametrize("seed", range(4))
def test_a_flight_with_everything_in_it_comes_out_the_same(tmp_path, seed):
    flight = Flight(seed=seed, latent=seed % 2 == 0).begin(tmp_path)
    for _ in range(10):
        flight.fly(80)
        flight.lead()
    assert all(flight.states[state] > 10 for state in (*MOVING, State.FAULT)), flight.states
    assert flight.outcomes == set(Outcome)
    shown = flight.replay(flight.save(tmp_path))
    assert shown.first == () and shown.identical
    # From the first keyframe, which is of the beginning.
    assert (shown.skipped, shown.ticks) == (0, flight.recorder._tick) and shown.steps > 30
    fault = flight.bench.controller.supervisor.fault
    assert shown.fault.split(":")[0] == ("" if fault is None else fault.violation.code.name)


@pytest.mark.parametrize("seed", range(3))
def test_a_ring_that_has_wrapped_is_replayed_from_a_later_keyframe(tmp_path, seed):
    flight = Flight(seconds=2.0, keyframe_s=0.25, seed=10 + seed).begin(tmp_path)
    for _ in range(12):
        flight.fly(80)
        flight.lead()
    shown = flight.replay(flight.save(tmp_path))
    assert shown.first == () and shown.identical
    recorded = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    assert len(recorded) == 402 and recorded["tick"][-1] == flight.recorder._tick - 1
    assert shown.ticks + shown.skipped == 402 and 200 < shown.ticks < 402


def replay_from(folder, flight, recording, keyframe):
    """The flight computed again from one of its keyframes on."""
    channels = {
        TICKS: Channel(recording.channels[TICKS], "now_ns"),
        STATES: Channel(recording.channels[STATES], "received_ns"),
    }
    attachments = {name: data for name, data in recording.attachments.items() if name >= keyframe}
    metadata = {"trudi": recording.metadata["trudi"]}
    return flight.replay(write_recording(folder / "part.mcap", channels, metadata, attachments))


def test_every_keyframe_will_do(tmp_path):
    """One after each tick, but between a question and its answer: in ramps, in flight, in faults."""
    flight = Flight(keyframe_s=0.001, seconds=2.0, seed=3).begin(tmp_path)
    for _ in range(4):
        flight.lead()
        flight.fly(40)
    recording = read_recording(flight.save(tmp_path))
    names = sorted(recording.attachments)
    for name in names[::2]:
        shown = replay_from(tmp_path, flight, recording, name)
        assert shown.first == () and shown.identical, name


def test_states_that_were_overwritten_before_their_ticks(tmp_path, quiet):
    """A robot that gives more states than it said: of those ticks whose states are gone none is computed again."""
    flight = quiet(tmp_path, seconds=1.0, keyframe_s=0.05)
    read = flight.read

    def often():
        for _ in range(4):
            read()

    flight.read = often
    flight.fly(300)
    path = flight.save(tmp_path)
    recording = read_recording(path)
    assert recording.channels[STATES]["tick"][0] > recording.channels[TICKS]["tick"][0] + 20
    shown = flight.replay(path)
    assert shown.first == () and shown.identical and 20 < shown.ticks < 200


def test_the_last_row_is_the_last_tick(tmp_path, quiet):
    flight = quiet(tmp_path)
    recorded = read_recording(flight.save(tmp_path))
    last = recorded.channels[TICKS][-1]
    assert (last["tick"], last["slot"]) == (flight.recorder._tick - 1, flight.bench.slot)
    assert last["command"].tolist() == flight.bench.controller.sent.values.tolist()
    assert recorded.channels[STATES]["tick"][-1] == last["tick"]


@pytest.mark.parametrize("where", ["read", "write"])
@pytest.mark.parametrize("later", range(4))
def test_an_error_of_the_loops_own_in_between(tmp_path, quiet, where, later):
    """Wherever in a tick and between two control steps it comes: what that tick did and no row says is in a keyframe."""
    flight = quiet(tmp_path).fly(later)
    flight.tick(failing=where)
    flight.fly(20)
    assert flight.lead()
    flight.fly(40)
    shown = flight.replay(flight.save(tmp_path))
    assert shown.first == () and shown.identical and shown.skipped == 1
    recorded = read_recording(tmp_path / "flight.mcap").channels[TICKS]
    assert np.count_nonzero(recorded["failure"] == FaultCode.INTERNAL) == 1


def altered(folder, path, channel, name, choose):
    """The recording with one bit of a field of one row flipped, and that row."""
    recording = read_recording(path)
    rows = {key: value.copy() for key, value in recording.channels.items()}
    index = choose(rows[channel])
    column = rows[channel][name]
    if column.ndim == 1:
        value = column[index : index + 1].copy()
        value.view(np.uint8)[0] ^= 1
        rows[channel][name][index] = value[0]
    else:
        value = np.ascontiguousarray(column[index])
        value.reshape(-1).view(np.uint8)[0] ^= 1
        rows[channel][name][index] = value
    metadata = {key: value for key, value in recording.metadata.items() if key == "trudi"}
    channels = {TICKS: Channel(rows[TICKS], "now_ns"), STATES: Channel(rows[STATES], "received_ns")}
    return write_recording(folder / "altered.mcap", channels, metadata, recording.attachments), rows[channel][index]


def active_step(rows):
    """A control step in the middle whose action came in the same tick from the teacher, ahead of another one."""
    good = (rows["stepped"] == 1) & (rows["outcome"] == Outcome.TEACHER) & (rows["supervisor"] == State.ACTIVE)
    return int(np.flatnonzero(good)[len(np.flatnonzero(good)) // 2])


@pytest.mark.parametrize("name", ["observation", "action", "target", "command", "supervisor", "motors"])
def test_a_bit_of_what_came_out_is_found_where_it_is(tmp_path, quiet, name):
    flight = quiet(tmp_path)
    path, row = altered(tmp_path, flight.save(tmp_path), TICKS, name, active_step)
    shown = flight.replay(path)
    assert not shown.identical and shown.differences == 1
    found = shown.first[0]
    assert found.tick == row["tick"] and found.field.split("[")[0] == name


def test_a_bit_of_the_graphs_answer_is_found_there_first(tmp_path, quiet):
    """The flight goes on under the answer that was flown: that an engine computes another is one difference."""
    flight = quiet(tmp_path)
    path, row = altered(tmp_path, flight.save(tmp_path), TICKS, "output", active_step)
    shown = flight.replay(path)
    assert (shown.first[0].tick, shown.first[0].field) == (row["tick"], "output[0]") and not shown.identical


def test_a_bit_of_a_state_shows_in_the_observation(tmp_path, quiet):
    """The lowest byte of a double is below a float's resolution, so the highest bits of the position are changed."""
    flight = quiet(tmp_path)
    path = flight.save(tmp_path)
    recording = read_recording(path)
    rows = {key: value.copy() for key, value in recording.channels.items()}
    tick = rows[TICKS]["tick"][active_step(rows[TICKS])]
    index = int(np.flatnonzero(rows[STATES]["tick"] <= tick)[-2])  # a delay of a state: the one before
    rows[STATES]["values"][index, [0, 2]] += 2.0**-10
    metadata = {"trudi": recording.metadata["trudi"]}
    channels = {TICKS: Channel(rows[TICKS], "now_ns"), STATES: Channel(rows[STATES], "received_ns")}
    shown = flight.replay(write_recording(tmp_path / "altered.mcap", channels, metadata, recording.attachments))
    assert not shown.identical and {found.field.split("[")[0] for found in shown.first} >= {"observation"}
    assert min(found.tick for found in shown.first) <= tick + 4


def test_a_lost_state_is_found(tmp_path, quiet):
    flight = quiet(tmp_path)
    recording = read_recording(flight.save(tmp_path))
    rows = recording.channels
    index = len(rows[STATES]) // 2
    channels = {
        TICKS: Channel(rows[TICKS], "now_ns"),
        STATES: Channel(np.delete(rows[STATES], slice(index, index + 8)), "received_ns"),
    }
    metadata = {"trudi": recording.metadata["trudi"]}
    shown = flight.replay(write_recording(tmp_path / "altered.mcap", channels, metadata, recording.attachments))
    assert not shown.identical


def test_another_bundle_is_refused(tmp_path, quiet):
    flight = quiet(tmp_path)
    path = flight.save(tmp_path)
    other = write_bundle(tmp_path / "other", flight.bench.contract, flight.files | {"extra.txt": b"x"})
    with Bundle.open(other) as bundle, pytest.raises(RecordingError, match=r"was flown with the bundle .* give the bundle"):
        replay(path, bundle, *flight.load())


def test_a_flight_of_a_student_needs_one(tmp_path, quiet):
    flight = quiet(tmp_path)
    flight.fly(200)
    assert Outcome.STUDENT in flight.outcomes
    teacher, _ = flight.load()
    with pytest.raises(TrudiRuntimeError, match="the flight used the bundle's student"):
        replay(flight.save(tmp_path), flight.bundle, teacher, None)


def test_recordings_that_are_no_flights(tmp_path, quiet):
    flight = quiet(tmp_path)
    recording = read_recording(flight.save(tmp_path))
    ticks, states = Channel(recording.channels[TICKS], "now_ns"), Channel(recording.channels[STATES], "received_ns")
    about, attachments = recording.metadata["trudi"], recording.attachments

    def refused(words, channels, metadata, attached):
        path = write_recording(tmp_path / "no.mcap", channels, metadata, attached)
        with pytest.raises(TrudiRuntimeError, match=words):
            flight.replay(path)

    both = {TICKS: ticks, STATES: states}
    refused("is no flight of `trudi run`", both, {}, attachments)
    refused("is no flight of `trudi run`", both, {"trudi": {"bundle": about["bundle"]}}, attachments)
    refused("its description of the flight is damaged", both, {"trudi": about | {"robot": "{}"}}, attachments)
    refused("its description of the flight is damaged", both, {"trudi": about | {"controller": '{"x": 1}'}}, attachments)
    refused("holds no ticks", {STATES: states}, {"trudi": about}, attachments)
    refused("holds no keyframe", both, {"trudi": about}, {})
    other = Channel(recording.channels[TICKS][["tick", "now_ns"]].copy(), "now_ns")
    refused("the rows of ticks are of another TruDi", {TICKS: other, STATES: states}, {"trudi": about}, attachments)


def test_what_a_recording_says_of_itself(tmp_path, quiet):
    flight = quiet(tmp_path)
    about = read_recording(flight.save(tmp_path)).metadata["trudi"]
    assert about["bundle"] == flight.bundle.digest and about["event"] == "test" and about["engine"] == "onnx"
    assert json.loads(about["controller"])["rate_hz"] == 200.0 and json.loads(about["robot"])["name"] == "arm"
