"""The real loop with the real graph's thread, on a robot in this process: late answers, priorities, requests given up."""

import math
import os
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from bundles import contract, graph, term
from control import Still, arm_file, arm_robot, arm_values
from graphs import linear

from trudi.runtime.controller import Controller, ControllerCfg
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.inference import InferenceThread
from trudi.runtime.loop import ENDED, ControlLoop, LoopCfg
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns
from trudi.runtime.robots.base import RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import Event, FaultCode, Motors, Violation

pytestmark = pytest.mark.realtime

PLAIN = RealtimeCfg(priority=0, lock_memory=False)


class Slow(OnnxEngine):
    """Answers right, after `seconds` of sleep."""

    def __init__(self, seconds=0.0):
        super().__init__(linear(latent=False), OnnxCfg())
        self.seconds = seconds
        self.asked = 0

    def infer(self, observation, latent=None):
        self.asked += 1
        time.sleep(self.seconds)
        return super().infer(observation, latent)


def make_loop(engine, rate_hz=200.0, deadline=0.75, overruns=1000, robot=None):
    values = arm_values([term("w", "base_angular_velocity", 3, "rad/s", "imu")])
    values["graph"] = graph(3, 2)
    values["safety"]["max_overruns_in_row"] = overruns
    robot = robot or Still()
    controller = Controller(contract(values), robot.describe(), arm_file(stand_s=0.02), ControllerCfg(rate_hz))
    assert controller.request(Event.CONFIGURE, 0) is None
    return ControlLoop(controller, robot, engine, LoopCfg(deadline=deadline, realtime=PLAIN))


def until(condition, seconds=10.0):
    end_ns = monotonic_ns() + round(seconds * 1e9)
    while not condition():
        assert monotonic_ns() < end_ns
        time.sleep(0.005)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def fly(loop, seconds):
    """Goes to ACTIVE and stays there for a while."""
    controller = loop.controller
    loop.start()
    try:
        until(lambda: controller.states.count)
        for event in (Event.ACTIVATE, Event.STAND, Event.START):
            until(lambda event=event: loop.ask(event) is None)
        time.sleep(seconds)
        return controller.supervisor.state
    finally:
        loop.stop()


@pytest.mark.parametrize("deadline", [0.75, 1.0])
def test_a_graph_that_is_always_late_is_counted_late_in_every_step(deadline):
    """At 50 Hz both, with an answer after 25 ms of 20: never an action, and never a step that is skipped uncounted."""
    loop = make_loop(Slow(0.025), rate_hz=50.0, deadline=deadline)
    assert fly(loop, 0.6) is State.ACTIVE
    times = loop.times
    assert times.steps > 10
    assert times.late >= times.steps - 1, "the last one may be under way"
    assert times.histograms["observation_to_command"].count == 0


def test_a_graph_in_time_is_taken_in_every_step():
    loop = make_loop(Slow(0.001))
    assert fly(loop, 0.4) is State.ACTIVE
    assert loop.times.steps > 8
    assert loop.times.histograms["observation_to_command"].count >= loop.times.steps - loop.times.late - 1


def test_a_request_that_was_given_up_is_not_granted_later():
    loop = make_loop(Slow())
    assert loop.ask(Event.ACTIVATE, timeout_s=0.01) == ENDED  # nobody runs yet
    loop.start()
    try:
        until(lambda: loop.controller.states.count > 5)
        until(lambda: not loop._requests)
        assert loop.controller.supervisor.state is State.INACTIVE
        assert loop.ask(Event.ACTIVATE) is None
        assert loop.controller.supervisor.state is State.STANDBY
        assert "refused in STANDBY" in loop.ask(Event.START)
    finally:
        loop.stop()
    assert loop.ask(Event.STAND) == ENDED and not loop.running


def test_stopping_leaves_neither_threads_nor_files():
    before, open_before = threading.active_count(), open_files()
    for _ in range(5):
        fly(make_loop(Slow()), 0.05)
    assert threading.active_count() == before
    assert open_files() == open_before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a real-time priority")
@pytest.mark.parametrize("asked,got", [(60, 59), (1, 1), (0, 0)])
def test_the_graphs_thread_stays_below_the_loops(asked, got):
    seen = []

    class Seen(Slow):
        def infer(self, observation, latent=None):
            seen.append(os.sched_getparam(0).sched_priority)
            return super().infer(observation, latent)

    thread = InferenceThread(Seen(), RealtimeCfg(priority=asked, lock_memory=False))
    thread.submit(np.zeros((1, 3), np.float32), None)
    assert thread.wait(monotonic_ns() + 10**10)
    assert thread.close() and seen == [got]


class Telling(Still):
    """States come from a thread of their own, `period_s` apart, and the loop is told when."""

    def __init__(self, period_s):
        super().__init__()
        self.description = arm_robot(shared_clock=True, state_period_s=period_s)
        self.states, self.told, self.ages = deque(maxlen=8), threading.Condition(), []
        self.last_ns, self.silent, self.ending = 0, False, False
        self.thread = threading.Thread(target=self.tell, daemon=True)

    def tell(self):
        due_ns = monotonic_ns()
        while not self.ending:
            due_ns += round(1e9 * self.description.state_period_s)
            time.sleep(max(0.0, (due_ns - monotonic_ns()) * 1e-9))
            if self.silent:
                continue
            state = RobotState.zeros(self.description)
            state.values[:] = self.state.values
            with self.told:
                state.stamp_ns = state.received_ns = self.last_ns = monotonic_ns()
                self.states.append(state)
                self.told.notify()

    def read(self):
        return self.states.popleft() if self.states else None

    def write(self, command):
        self.ages.append((command.stamp_ns - self.last_ns) * 1e-9)

    @property
    def arrived_ns(self):
        return self.last_ns

    def wait(self, after_ns, until_ns):
        with self.told:
            while self.last_ns <= after_ns and (left_ns := until_ns - monotonic_ns()) > 0:
                self.told.wait(left_ns * 1e-9)


@pytest.fixture
def telling():
    robot = Telling(0.02)
    robot.thread.start()
    yield robot
    robot.ending = True
    robot.thread.join()


def test_a_tick_begins_when_a_state_has_come(telling):
    """At 50 Hz both: the grid is drawn to the arrivals, and the state is not half a period old any more, as by chance."""
    loop = make_loop(Slow(), rate_hz=50.0, robot=telling)
    assert fly(loop, 2.5) is State.ACTIVE
    settled = np.array(telling.ages[50:])  # a fiftieth of a period each tick, from half a period away
    assert np.median(settled) < 0.1 * 0.02


def test_a_state_that_does_not_come_delays_nothing_for_long(telling):
    loop = make_loop(Slow(), rate_hz=50.0, robot=telling)
    loop.start()
    try:
        until(lambda: loop.controller.states.count > 3)
        until(lambda: loop.ask(Event.ACTIVATE) is None)
        telling.silent = True
        cycles, began = loop.times.cycles, time.monotonic()
        until(lambda: loop.controller.supervisor.state is State.FAULT)
        elapsed_s = time.monotonic() - began
        assert loop.controller.supervisor.fault.violation.code is FaultCode.STATE_LOST
        assert loop.times.cycles - cycles + loop.times.misses >= 0.8 * elapsed_s * 50.0
    finally:
        loop.stop()


def test_an_emergency_stop_damps_in_the_next_tick_and_stays():
    rows = []
    loop = make_loop(Slow())
    loop.on_tick = rows.append
    loop.start()
    try:
        until(lambda: loop.controller.states.count)
        for event in (Event.ACTIVATE, Event.STAND, Event.START):
            until(lambda event=event: loop.ask(event) is None)
        for sentence in ("the first", "the second"):
            loop.fault(Violation(FaultCode.EMERGENCY_STOP, sentence, math.nan, math.nan))
        until(lambda: loop.controller.supervisor.more_faults)
        supervisor = loop.controller.supervisor
        assert str(supervisor.fault) == "EMERGENCY_STOP: the first"
        assert (supervisor.state, supervisor.motors, supervisor.more_faults) == (State.FAULT, Motors.DAMP, 1)
        assert loop.ask(Event.RESET) is None
        assert supervisor.state is State.STANDBY
    finally:
        loop.stop()
    assert [row.stopped.sentence for row in rows if row.stopped] == ["the first", "the second"]
    assert [row.request for row in rows if row.request is Event.RESET] == [Event.RESET]
    slots = [row.slot for row in rows]
    assert slots == sorted(set(slots))
