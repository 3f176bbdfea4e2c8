"""The policy that rides along: compared by hand-computed values, never waited for, never obeyed, replayed bit for bit."""

import json
import math
import os
import threading
import time
import tracemalloc

import numpy as np
import pytest
from bundles import contract, graph, term
from control import Still, arm_file, arm_values
from fault_matrix import QUICK
from flights import fly, made_bundle
from graphs import linear

from trudi.cli import main
from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import SCHEMA_VERSION
from trudi.runtime.controller import Controller, ControllerCfg, Outcome
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.errors import EngineError, TrudiRuntimeError
from trudi.runtime.flight.recording import Channel, read_recording, write_recording
from trudi.runtime.golden import STUDENT_GOLDEN
from trudi.runtime.loop import ControlLoop, LoopCfg
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns
from trudi.runtime.recorder import SHADOW, STATES, TICKS, FlightRecorder, RecorderCfg
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.session import Session, SessionCfg
from trudi.runtime.shadow import Expected, Shadow, ShadowOutcome, check_shadow, shadow_lines
from trudi.runtime.supervisor import Event, FaultCode
from trudi.runtime.writing import write_bundle

pytestmark = pytest.mark.realtime

MS = 1_000_000
PLAIN = RealtimeCfg(priority=0, lock_memory=False)
RATE = [0.01, 0.02, 0.03]
"""What the robot's gyro says; rad/s."""
DIVERGENCE = {"action_rms": 0.125, "action_p99": 0.25, "action_max": 0.5, "observations": 100}


class Turning(Still):
    """Measures the default pose and a constant rate, one state a tick; keeps what it is sent."""

    def __init__(self):
        super().__init__()
        self.state.angular_velocity[:] = RATE
        self.sent = []

    def write(self, command):
        self.sent.append((command.state, command.position.copy()))


class Policy(OnnxEngine):
    """`linear` times `factor`; `before(number of the call)` is done before each, and may sleep or raise."""

    def __init__(self, factor=1.0, before=lambda call: None, latent=False):
        super().__init__(linear(latent=latent), OnnxCfg())
        self.factor, self.before, self.seen = np.float32(factor), before, []

    def infer(self, observation, latent=None):
        self.seen.append((observation.copy(), None if latent is None else latent.copy()))
        self.before(len(self.seen))
        return super().infer(observation, latent) * self.factor


def values(latent=False):
    made = arm_values([term("w", "base_angular_velocity", 3, "rad/s", "imu")])
    made["schema_version"], made["graph"] = SCHEMA_VERSION, graph(3, 2, latent=latent)
    made["safety"]["max_overruns_in_row"] = 1000
    if latent:
        made["sampler"] |= {"noise": "seeded", "seed": 3, "latent_std": 0.01}
    student = {"sampler": made["sampler"] | {"network": "student", "steps": 1}, "divergence": DIVERGENCE}
    made["student"] = student | {"graph": graph(3, 2, "student.onnx", latent=latent)}
    return made


class Setup:
    """A loop with a policy that is sent and one that rides along, and what it recorded."""

    def __init__(self, sent=None, rides=None, network="student", latent=False, rate_hz=200.0, stand_in=None):
        self.robot, self.rows = Turning(), []
        self.sent, self.rides = sent or Policy(latent=latent), rides or Policy(2.0, latent=latent)
        controller = Controller(
            contract(values(latent)), self.robot.describe(), arm_file(stand_s=0.02), ControllerCfg(rate_hz)
        )
        assert controller.request(Event.CONFIGURE, 0) is None
        self.controller, self.recorder = controller, FlightRecorder(RecorderCfg(20.0), {}, 5)
        self.shadow = Shadow(network, self.rides, controller, PLAIN)
        self.loop = ControlLoop(
            controller,
            self.robot,
            self.sent,
            LoopCfg(realtime=PLAIN),
            student=stand_in,
            recorder=self.recorder,
            sends_student=network == "teacher",
            shadow=self.shadow,
        )
        self.loop.on_tick = self.rows.append

    def fly(self, seconds):
        """Goes to ACTIVE, stays there for a while, and ends: the state it was in."""
        loop = self.loop
        loop.start()
        try:
            until(lambda: self.controller.states.count)
            for event in (Event.ACTIVATE, Event.STAND, Event.START):
                until(lambda event=event: loop.ask(event) is None)
            time.sleep(seconds)
            return self.controller.supervisor.state
        finally:
            loop.stop()

    @property
    def found(self):
        return self.shadow.summary()

    def recorded(self, folder, channel=SHADOW):
        return read_recording(self.recorder.save(folder / "flight.mcap", "test")).channels[channel]


def until(condition, seconds=10.0):
    end_ns = monotonic_ns() + round(seconds * 1e9)
    while not condition():
        assert monotonic_ns() < end_ns
        time.sleep(0.005)


def test_differences_by_hand(tmp_path):
    """Sent: 0.01 + 3 * 0.02 + 5 * 0.03 = 0.22 and 0.02 + 4 * 0.02 + 6 * 0.03 = 0.28; the shadow makes twice of it."""
    setup = Setup()
    assert setup.fly(0.5) is State.ACTIVE
    found = setup.found
    assert found.compared > 5 and found.compared + sum(found.left_out.values()) == setup.loop.times.steps
    assert found.action_rms == pytest.approx(math.sqrt((0.22**2 + 0.28**2) / 2), rel=1e-5)
    assert found.rms_by_element == pytest.approx({"hip": 0.22, "knee": 0.28}, rel=1e-5)
    assert found.max_by_element == pytest.approx({"hip": 0.22, "knee": 0.28}, rel=1e-5)
    assert found.action_max == pytest.approx(0.28, rel=1e-5) and 0.28 <= found.action_p99 * (1 + 1e-6) <= 0.28 * 65 / 64
    assert found.evaluation == DIVERGENCE and found.error == "" and found.latency.count == found.compared
    page = shadow_lines(found)
    assert page[0].startswith(f"shadow  student (sent: teacher): {found.compared} of {setup.loop.times.steps} control steps")
    assert page[1].startswith("        actions differ by rms 0.252, 99 % below 0.28")
    assert page[2] == "        in the evaluation  rms 0.125, 99 % below 0.25, at most 0.5"
    assert page[3:5] == ["        hip   rms 0.22, at most 0.22", "        knee  rms 0.28, at most 0.28"]
    rows = setup.recorded(tmp_path)
    assert len(rows) == setup.loop.times.steps
    compared = rows[rows["outcome"] == ShadowOutcome.COMPARED]
    assert len(compared) == found.compared and (compared["latency_ns"] > 0).all()
    np.testing.assert_allclose(compared["output"], np.tile([0.44, 0.56], (len(compared), 1)), rtol=1e-5)
    np.testing.assert_allclose(compared["difference"], np.tile([0.22, 0.28], (len(compared), 1)), rtol=1e-5)
    ticks = setup.recorded(tmp_path, TICKS)
    sent = ticks[np.searchsorted(ticks["tick"], compared["tick"])]
    assert (sent["outcome"] == Outcome.TEACHER).all() and (sent["now_ns"] == compared["now_ns"]).all()


def test_only_one_of_the_two_is_obeyed():
    """0.22 and 0.28 lead to 0.1 + 0.5 * 0.22 and -0.5 + 0.25 * 0.28, whoever rides along; the robot's order is knee, hip."""
    for network, outcome in (("student", Outcome.TEACHER), ("teacher", Outcome.STUDENT)):
        setup = Setup(network=network, rides=Policy(-30.0))
        assert setup.fly(1.6) is State.ACTIVE  # faded in after a second
        under_policy = [position for state, position in setup.robot.sent if state is State.ACTIVE]
        np.testing.assert_allclose(under_policy[-1], [-0.43, 0.21], atol=1e-6)
        steps = [row.outcome for row in setup.rows if row.outcome not in (Outcome.NONE, Outcome.PENDING)]
        assert set(steps) <= {outcome, Outcome.LATE} and outcome in steps
        assert setup.found.shadow == network and setup.found.max_by_element["hip"] == pytest.approx(31 * 0.22, rel=1e-5)
        assert setup.loop.times.students == (0 if network == "student" else steps.count(outcome))


def test_the_same_observation_and_latent():
    setup = Setup(latent=True)
    assert setup.fly(0.6) is State.ACTIVE
    first = 8  # calls that measured the latency
    asked = {latent.tobytes(): observation for observation, latent in setup.sent.seen}
    assert len(asked) > 10 and setup.found.compared > 5
    for observation, latent in setup.rides.seen[first:]:
        np.testing.assert_array_equal(asked[latent.tobytes()], observation)


@pytest.mark.parametrize("seconds", [0.03, 0.2])
def test_one_that_is_too_slow_is_never_started(seconds, tmp_path):
    setup = Setup(rides=Policy(2.0, lambda call: time.sleep(seconds)))
    assert setup.fly(1.0) is State.ACTIVE
    assert len(setup.rides.seen) == 8, "to measure it"
    assert setup.found.compared == 0 and setup.found.left_out["no_time"] > 10
    assert math.isnan(setup.found.action_rms) and math.isnan(setup.found.action_p99)
    assert "left out for want of time" in shadow_lines(setup.found)[0]
    rows = setup.recorded(tmp_path)
    assert set(rows["outcome"]) <= {ShadowOutcome.NO_TIME, ShadowOutcome.NO_ACTION}


@pytest.mark.parametrize(("scheduler", "preempted"), [("SCHED_FIFO", True), ("SCHED_FIFO", False), ("SCHED_OTHER", True)])
def test_the_time_that_it_may_take(scheduler, preempted, monkeypatch):
    """8 ms are less than 80 % of a control period, 20 ms, and more than of a command's, 5 ms."""
    monkeypatch.setattr("trudi.runtime.loop.os.sched_getscheduler", lambda thread: getattr(os, scheduler))
    setup = Setup(rides=Policy(2.0, lambda call: time.sleep(0.008)))
    setup.shadow.preempted = preempted
    assert setup.fly(0.6) is State.ACTIVE
    if preempted and scheduler == "SCHED_FIFO":
        assert setup.found.compared > 5
    else:
        assert setup.found.compared == 0 and setup.found.left_out["no_time"] > 5


def test_an_action_that_came_late_in_its_step_leaves_that_much_less(monkeypatch):
    """The action comes 12 ms after its step began: 8 ms more are beyond 80 % of 20 ms."""
    monkeypatch.setattr("trudi.runtime.loop.os.sched_getscheduler", lambda thread: os.SCHED_FIFO)
    setup = Setup(sent=Policy(1.0, lambda call: time.sleep(0.012)), rides=Policy(2.0, lambda call: time.sleep(0.008)))
    setup.shadow.preempted = True
    assert setup.fly(0.6) is State.ACTIVE
    assert setup.found.compared == 0 and setup.found.left_out["no_time"] > 5


@pytest.mark.parametrize(
    ("loop", "rides", "preempted"), [(60, 57, True), (4, 1, True), (3, 1, False), (1, 1, False), (0, 0, False)]
)
def test_its_priority_is_below_all_that_a_command_waits_for(loop, rides, preempted):
    """The loop's p, the graph's p - 1, a ROS node's topics p - 2."""
    asked = []
    robot = Turning()
    controller = Controller(contract(values()), robot.describe(), arm_file(), ControllerCfg(200.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trudi.runtime.inference.enter_realtime", asked.append)
        shadow = Shadow("student", Policy(), controller, RealtimeCfg(priority=loop, lock_memory=False))
        until(lambda: asked)
    assert shadow.close()
    assert asked[0].priority == rides and shadow.preempted == preempted


def test_one_that_turns_slow_delays_nothing():
    """At 50 Hz a shadow that takes 110 ms from its third step on: five steps or so go by, and all are sent in time."""
    setup = Setup(rides=Policy(2.0, lambda call: time.sleep(0.11 if call > 10 else 0.0)))
    assert setup.fly(1.5) is State.ACTIVE
    times, found = setup.loop.times, setup.found
    assert found.left_out["busy"] >= 3 and found.compared >= 3
    assert times.late <= 2 and times.histograms["observation_to_command"].percentile(90) < 20 * MS
    slots = np.diff([row.slot for row in setup.rows])
    assert np.median(slots) == 1


def test_one_that_hangs_holds_up_nothing_but_its_own_end():
    gate = threading.Event()
    setup = Setup(rides=Policy(2.0, lambda call: gate.wait(30.0) if call > 8 else None))
    assert setup.fly(0.5) is State.ACTIVE
    try:
        assert setup.found.left_out["unfinished"] == 1 and setup.found.left_out["busy"] > 5
        assert setup.loop.times.late <= 2
        assert not setup.loop.stop(), "its engine is still in use"
    finally:
        gate.set()
    assert setup.loop.stop()


def test_a_loop_that_ends_while_it_is_given_up_leaves_the_shadows_engine_open(monkeypatch):
    """The loop outlives the wait for it and ends a moment later, before the graph's thread: the shadow still computes."""
    gate = threading.Event()
    setup = Setup(rides=Policy(2.0, lambda call: gate.wait(30.0) if call > 8 else None))
    loop, close = setup.loop, setup.loop._inference.close

    def close_late():
        until(lambda: not loop.running)
        return close()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop", lambda: None)
        assert setup.fly(0.3) is State.ACTIVE
    monkeypatch.setattr(loop._inference, "close", close_late)
    try:
        assert setup.found.left_out["unfinished"] == 1
        assert not loop.stop(timeout_s=0.0), "the shadow's engine is still in use"
    finally:
        gate.set()
    assert loop.stop()


@pytest.mark.parametrize("error", [EngineError("no memory"), ZeroDivisionError("division by zero")])
def test_one_that_fails_is_counted_and_said_and_no_fault(error, tmp_path):
    def fail(call):
        if call > 8 and call % 2:
            raise error

    setup = Setup(rides=Policy(2.0, fail))
    assert setup.fly(0.6) is State.ACTIVE
    found, loop = setup.found, setup.loop
    assert found.left_out["failed"] > 2 and found.compared > 2
    assert found.error == f"{type(error).__name__}: {error}" and loop.error == ""
    assert setup.controller.supervisor.fault is None
    assert shadow_lines(found)[-1] == f"        it failed: {found.error}"
    rows = setup.recorded(tmp_path)
    failed = rows[rows["outcome"] == ShadowOutcome.FAILED]
    assert len(failed) == found.left_out["failed"] and np.isnan(failed["output"]).all()
    assert found.action_max == pytest.approx(0.28, rel=1e-5), "of the others"


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_that_is_no_number_is_counted_and_no_fault(wrong, recwarn):
    setup = Setup(rides=Policy(wrong))
    assert setup.fly(0.5) is State.ACTIVE
    assert setup.found.left_out["not_finite"] > 5 and setup.found.compared == 0
    assert setup.found.error == "its action is no number" and setup.controller.supervisor.fault is None
    assert not [str(one) for one in recwarn if one.filename.endswith("/shadow.py")]


def test_an_error_of_the_comparison_is_no_fault(monkeypatch):
    setup = Setup()
    monkeypatch.setattr(setup.shadow, "_take", lambda: 1 / 0)
    assert setup.fly(0.4) is State.ACTIVE
    assert "ZeroDivisionError" in setup.found.error and setup.loop.error == ""


def test_a_step_without_an_action_is_left_out():
    """The policy that is sent answers after 30 ms of 20; the student stands in, or the target is held."""
    for stand_in in (None, Policy()):
        setup = Setup(sent=Policy(1.0, lambda call: time.sleep(0.03)), stand_in=stand_in)
        assert setup.fly(0.6) is State.ACTIVE
        assert setup.found.compared == 0 and setup.found.left_out["no_action"] == setup.loop.times.steps
        assert (setup.loop.times.students > 5) == (stand_in is not None)


def test_an_action_that_is_not_obeyed_is_compared_with_nothing(tmp_path):
    """The tenth is no number: a fault of the flight, and the last of its control steps."""

    def spoil(call):
        if call == 10:
            setup.sent.factor = np.float32(math.nan)

    setup = Setup(sent=Policy(1.0, spoil))
    assert setup.fly(0.5) is State.FAULT
    assert setup.controller.supervisor.fault.violation.code is FaultCode.ACTION_NOT_FINITE
    found, rows = setup.found, setup.recorded(tmp_path)
    assert found.error == "" and not setup.shadow.broken and len(rows) == setup.loop.times.steps == 10
    assert rows["outcome"][-1] == ShadowOutcome.NO_ACTION and found.action_max == pytest.approx(0.28, rel=1e-5)


def test_a_student_that_is_sent_has_nobody_to_stand_in():
    setup = Setup(sent=Policy(1.0, lambda call: time.sleep(0.03)), network="teacher")
    assert setup.fly(0.5) is State.ACTIVE
    assert setup.loop.times.late > 5 and setup.loop.times.students == 0


def test_what_it_is_expected_to_take():
    """Up at once; down by an eighth of the way, towards the latest, and where it is left out towards the shortest ever."""
    expected = Expected()
    for latency in (1000, 1800):
        expected.measured(latency)
    assert expected.ns == 1800
    expected.measured(1000)
    assert expected.ns == 1700
    expected.left_out()
    assert expected.ns == 1612  # 88 is an eighth of 700, rounded up
    for _ in range(100):
        expected.left_out()
    assert expected.ns == 1000


def test_a_step_allocates_nothing_that_stays():
    setup = Setup()
    shadow, observation = setup.shadow, np.array([RATE], np.float32)
    sent = np.array([[0.22, 0.28]], np.float32)
    setup.recorder.begin(setup.controller, shadow=True)
    shadow.record(setup.recorder)

    def step():
        shadow.collect()
        shadow.begin()
        shadow.submit(observation, None, sent, monotonic_ns() + 10**9)
        while shadow._under_way:
            shadow.collect()

    setup.rides.seen = type("Nothing", (), {"append": lambda self, one: None, "__len__": lambda self: 0})()
    for _ in range(50):
        step()
    tracemalloc.start()
    try:
        step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(500):
            step()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        setup.loop.stop()
    assert shadow.summary().compared == 551 and grown < 2_000


def test_a_row_that_was_overwritten_is_left_alone():
    setup = Setup()
    recorder = FlightRecorder(RecorderCfg(0.1, 0.05), {}, 5)
    recorder.begin(setup.controller, shadow=True)
    first, capacity = recorder.shadow(ShadowOutcome.UNFINISHED), 7
    assert len(recorder._shadow.array) == capacity
    last = [recorder.shadow(ShadowOutcome.BUSY) for _ in range(capacity)][-1]
    output, away = np.ones((1, 2), np.float32), np.ones(2)
    recorder.shadow_result(first, ShadowOutcome.COMPARED, output, away, 5)
    assert (recorder._shadow.array["outcome"] == ShadowOutcome.BUSY).all()
    recorder.shadow_result(last, ShadowOutcome.COMPARED, output, away, 5)
    assert recorder._shadow.snapshot()["outcome"].tolist() == [ShadowOutcome.BUSY] * 6 + [ShadowOutcome.COMPARED]
    setup.loop.stop()


# As a user meets it.


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A bundle of a policy and a student whose actions are nine tenths of the policy's."""
    return made_bundle(tmp_path_factory.mktemp("both") / "go1", student=True, student_scale=0.9)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_flight_with_a_shadow(both, tmp_path, network, capsys):
    code, report, said = fly(both, tmp_path, "--seconds", "1.5", "--shadow", network, site_file=QUICK)
    assert code == 0 and not report["faults"], said
    shadow = report["shadow"]
    assert report["sent"] == ("student" if network == "teacher" else "teacher")
    assert shadow["shadow"] == network and shadow["compared"] > 5
    assert shadow["compared"] + sum(shadow["left_out"].values()) == report["control_steps"]
    assert len(shadow["rms_by_element"]) == 12 and "FR_hip_joint" in shadow["max_by_element"]
    flight = read_recording(tmp_path / "flight.mcap")
    rows, ticks = flight.channels[SHADOW], flight.channels[TICKS]
    rows = rows[rows["outcome"] == ShadowOutcome.COMPARED]
    sent = ticks["output"][np.searchsorted(ticks["tick"], rows["tick"])]
    part = {"student": -0.1, "teacher": 0.1 / 0.9}[network]  # of what was sent
    np.testing.assert_allclose(rows["difference"], part * sent.astype(float), atol=1e-7)
    assert 0.0 < shadow["action_max"] == pytest.approx(np.abs(rows["difference"]).max())
    assert shadow["action_rms"] == pytest.approx(np.sqrt(np.square(rows["difference"]).mean()))
    assert f"shadow  {network} (sent: " in said and "the shadow's graph, aside" in said
    assert shadow["evaluation"] is None, "this bundle does not say"
    used = {Outcome(int(one)) for one in ticks["outcome"][ticks["output"].any(1)]}
    assert used == {Outcome.TEACHER} if network == "student" else used == {Outcome.STUDENT}
    result = tmp_path / "replay.json"
    assert main(["replay", str(tmp_path / "flight.mcap"), "--bundle", str(both), "--json", str(result)]) == 0
    replayed = json.loads(result.read_text())
    assert replayed["identical"] and replayed["shadows"] == shadow["compared"]
    assert f", {shadow['compared']} actions of the shadow" in capsys.readouterr().out


def test_a_bit_of_the_shadows_action_is_found(both, tmp_path, capsys):
    code, _, said = fly(both, tmp_path, "--seconds", "1", "--shadow", "student", site_file=QUICK)
    assert code == 0, said
    flight = read_recording(tmp_path / "flight.mcap")
    rows = {name: value.copy() for name, value in flight.channels.items()}
    row = int(np.flatnonzero(rows[SHADOW]["outcome"] == ShadowOutcome.COMPARED)[3])
    bits = rows[SHADOW]["output"][row].view(np.int32)
    bits[5] ^= 1
    rows[SHADOW]["output"][row] = bits.view(np.float32)
    times = {TICKS: "now_ns", STATES: "received_ns", SHADOW: "now_ns"}
    channels = {name: Channel(value, times[name]) for name, value in rows.items()}
    metadata = {"trudi": flight.metadata["trudi"]}
    altered = write_recording(tmp_path / "altered.mcap", channels, metadata, flight.attachments)
    assert main(["replay", str(altered), "--bundle", str(both)]) == 1
    said = capsys.readouterr().out
    assert "DIFFERENT in 1 fields" in said and f"tick {rows[SHADOW]['tick'][row]}, shadow[5]:" in said
    unnamed = write_recording(
        tmp_path / "unnamed.mcap", channels, {"trudi": metadata["trudi"] | {"shadow": ""}}, flight.attachments
    )
    assert main(["replay", str(unnamed), "--bundle", str(both)]) == 2
    assert "has the actions of a shadow, and does not say of which policy" in capsys.readouterr().err


def test_a_flight_without_a_shadow_has_none(both, tmp_path):
    code, report, said = fly(both, tmp_path, "--seconds", "0.5", site_file=QUICK)
    assert code == 0 and report["shadow"] is None and "\nshadow  " not in said
    assert SHADOW not in read_recording(tmp_path / "flight.mcap").channels
    assert main(["replay", str(tmp_path / "flight.mcap"), "--bundle", str(both)]) == 0


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_bundle_without_a_student_is_refused_with_what_to_do(tmp_path, network, capsys):
    bundle = made_bundle(tmp_path / "go1")
    assert main(["run", str(bundle), "--shadow", network, "--seconds", "1"]) == 2
    line = capsys.readouterr().err.strip()
    assert "the bundle has no student beside its own: export both with `trudi export RUN --student STUDENT`" in line
    assert len(line.splitlines()) == 1


def test_a_student_that_nothing_was_shown_of_is_not_sent(both, tmp_path, capsys):
    """In an older bundle it may ride along, as it may stand in."""
    with Bundle.open(both) as bundle:
        kept = {name: bundle.read(name) for name in bundle.files if name not in ("bundle.json", STUDENT_GOLDEN)}
        older = write_bundle(tmp_path / "older", bundle.contract, kept)
    assert main(["run", str(older), "--shadow", "teacher", "--seconds", "1"]) == 2
    assert "the student may not be sent: the bundle has no golden_student.npz" in capsys.readouterr().err
    code, report, said = fly(older, tmp_path, "--seconds", "0.5", "--shadow", "student", site_file=QUICK)
    assert code == 0 and report["shadow"]["compared"] > 3, said


def test_other_latents_cannot_be_compared():
    made = values(latent=True)
    made["student"]["sampler"]["seed"] = 4
    with pytest.raises(TrudiRuntimeError, match="actions from different latents cannot be compared"):
        check_shadow(contract(made))
    check_shadow(contract(values(latent=True)))
    check_shadow(contract(values()))
    made = values()  # a fixed latent is inside either graph, and as large as its own prior
    for sampler in (made["sampler"], made["student"]["sampler"]):
        sampler |= {"noise": "fixed", "seed": 3}
    check_shadow(contract(made))
    made["student"]["sampler"]["latent_std"] = 0.5
    with pytest.raises(TrudiRuntimeError, match="the policy's latents are fixed, its student's fixed, or drawn otherwise"):
        check_shadow(contract(made))


def test_threads_and_engines_are_gone_afterwards(both, monkeypatch):
    from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
    from trudi.runtime.site_file import SiteFile

    with MujocoRobot(MujocoCfg()) as robot, Bundle.open(both) as bundle:
        before = threading.active_count()
        for network in ("student", "teacher"):
            cfg = SessionCfg(ControllerCfg(200.0), LoopCfg(realtime=PLAIN), shadow=network)
            with Session(bundle, robot, SiteFile(joints={}), cfg) as session:
                assert threading.active_count() == before + 2
                assert session.log_lines()[-1].startswith(f"shadow: the {network} rides along")
                assert session.shadow is not None and session.student is not session._rides
                assert session.sent == ("student" if network == "teacher" else "teacher")
                assert session.engine is (session.student if network == "teacher" else session.choice.engine)
            assert threading.active_count() == before
        monkeypatch.setattr("trudi.runtime.session.ControlLoop", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Session(bundle, robot, SiteFile(joints={}), cfg)
        assert threading.active_count() == before
