"""The real loop on a robot in this process whose write fails: damped at once, and every command's number rises."""

import itertools
import time

import numpy as np
from bundles import contract, graph, term
from control import Still, arm_file, arm_values
from flights import PATIENCE
from graphs import linear

from trudi.runtime.controller import Controller, ControllerCfg
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.loop import ControlLoop, LoopCfg
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns
from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.checker import is_safe
from trudi.runtime.supervisor import Event

DEADLINE_NS = 10_000_000_000


class Failing(Still):
    """Measures the default pose; a write fails where it is told to."""

    def __init__(self):
        super().__init__()
        self.fails, self.sent = False, []

    def write(self, command):
        if self.fails:
            self.fails = False
            raise RobotError("the cable is loose")
        self.sent.append((command.sequence, command.state, is_safe(command, pd=True), np.isfinite(command.values).all()))


def until(condition):
    end_ns = monotonic_ns() + DEADLINE_NS
    while not condition():
        assert monotonic_ns() < end_ns
        time.sleep(0.005)


def test_a_write_that_fails_once():
    terms = [term("w", "base_angular_velocity", 3, "rad/s", "imu")]
    values = arm_values(terms)
    values["graph"] = graph(3, 2)
    values["safety"]["max_overruns_in_row"] = PATIENCE
    robot = Failing()
    controller = Controller(contract(values), robot.describe(), arm_file(stand_s=0.02), ControllerCfg(200.0))
    assert controller.request(Event.CONFIGURE, 0) is None
    loop = ControlLoop(
        controller,
        robot,
        OnnxEngine(linear(latent=False), OnnxCfg()),
        LoopCfg(realtime=RealtimeCfg(priority=0, lock_memory=False)),
    )
    loop.start()
    try:
        until(lambda: controller.states.count)
        until(lambda: loop.ask(Event.ACTIVATE) is None)
        assert loop.ask(Event.STAND) is None
        until(lambda: len(robot.sent) > 20)
        robot.fails = True
        until(lambda: controller.supervisor.state is State.FAULT)
        count = len(robot.sent)
        until(lambda: len(robot.sent) > count + 5)
    finally:
        loop.stop()
    assert controller.supervisor.fault.violation.code.name == "ROBOT_WRITE" and "the cable is loose" in loop.error
    numbers = [number for number, *_ in robot.sent]
    assert all(later > earlier for earlier, later in itertools.pairwise(numbers)), numbers
    assert all(finite for *_, finite in robot.sent)
    assert all(safe for _, state, safe, _ in robot.sent if state is State.FAULT)
    # The first one is of the very tick that failed: its number lies between those of two ticks.
    assert next(number for number, state, *_ in robot.sent if state is State.FAULT) % 2 == 1
