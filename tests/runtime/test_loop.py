"""The real loop with the real graph's thread, on a robot in this process: late answers, priorities, requests given up."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bundles import contract, graph, term
from control import arm_file, arm_robot, arm_values
from graphs import linear

from trudi.runtime.controller import Controller, ControllerCfg
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.inference import InferenceThread
from trudi.runtime.loop import ENDED, ControlLoop, LoopCfg
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns
from trudi.runtime.robots.base import Robot, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import Event

PLAIN = RealtimeCfg(priority=0, lock_memory=False)


class Still(Robot):
    """Measures the default pose, one state a tick."""

    def __init__(self):
        self.description = arm_robot(shared_clock=True)
        self.state = RobotState.zeros(self.description)
        self.state.joint_position[:] = [-0.5, 0.0, 0.1]
        self.given = False

    def describe(self):
        return self.description

    def read(self):
        self.given = not self.given
        if not self.given:
            return None
        self.state.stamp_ns = self.state.received_ns = monotonic_ns()
        return self.state

    def write(self, command):
        pass


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


def make_loop(engine, rate_hz=200.0, deadline=0.75, overruns=1000):
    values = arm_values([term("w", "base_angular_velocity", 3, "rad/s", "imu")])
    values["graph"] = graph(3, 2)
    values["safety"]["max_overruns_in_row"] = overruns
    robot = Still()
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
