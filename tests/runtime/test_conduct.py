"""Conducting a flight whose disk, terminal or memory fails, and signals at bad moments; the robot is in this process."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from bundles import contract, go1_values, graph, term
from control import Still, arm_file, arm_values
from flights import PATIENCE, until
from graphs import linear

from trudi.runtime.conduct import Conductor, Plan
from trudi.runtime.controller import Controller, ControllerCfg
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.loop import ControlLoop, LoopCfg
from trudi.runtime.realtime import RealtimeCfg
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.injection import Fault
from trudi.runtime.signals import CAUGHT, Signals
from trudi.runtime.supervisor import Event

LOST_S, SLOW_S = 1.0, 1.5


class Blinding(Still):
    """Measures the default pose, until it goes blind."""

    def __init__(self):
        super().__init__()
        self.blind, self.states, self.watch = False, [], lambda: None

    def read(self):
        self.state.joint_velocity[0] = np.nan if self.blind else 0.0
        return super().read()

    def write(self, command):
        self.states.append(command.state)
        self.watch()


class Recorder:
    """What the loop and the conductor ask of a flight recorder; `saving` is what a save does."""

    def __init__(self, saving=lambda: None):
        self.saving, self.saved = saving, []

    def save(self, path, event):
        self.saving()
        self.saved.append((path.name, event))
        return path


class Session:
    """The parts of a session that a conductor uses."""

    def __init__(self, recorder, stand_s=0.02):
        shown = term(
            "c", "command", 3, ["m/s", "m/s", "rad/s"], "base", element_names=["vx", "vy", "wz"], command="velocity"
        )
        values = arm_values([shown])
        values["graph"], values["commands"] = graph(3, 2), go1_values()["commands"]
        values["safety"]["max_overruns_in_row"] = PATIENCE
        self.robot, self.recorder = Blinding(), recorder
        file = arm_file(stand_s=stand_s, fade_in_s=0.0, fade_out_s=0.0, safety={"command_lost_s": LOST_S})
        self.controller = Controller(contract(values), self.robot.describe(), file, ControllerCfg(200.0))
        assert self.controller.request(Event.CONFIGURE, 0) is None
        quiet = LoopCfg(realtime=RealtimeCfg(priority=0, lock_memory=False))
        self.loop = ControlLoop(self.controller, self.robot, OnnxEngine(linear(latent=False), OnnxCfg()), quiet)


@pytest.fixture
def plan(tmp_path):
    return Plan(0.3, record=tmp_path / "flight.mcap", record_end=True)


def conduct(session, plan, on_refresh=lambda course: None, during=lambda: None):
    """The course of a plan; `during` happens in a thread of its own once the policy drives."""

    def act():
        until(lambda: session.controller.supervisor.state is State.ACTIVE, "the policy drives")
        during()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    with Signals() as signals:
        course = Conductor(session, plan, signals, on_refresh).run()
    thread.join(5.0)
    assert not session.loop.running and session.robot.states[-1] in (State.INACTIVE, State.FAULT)
    return course


def raises(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    "error,said",
    [
        (TrudiRuntimeError("the disk is full"), "the disk is full"),
        (MemoryError("no more"), "MemoryError: no more"),
    ],
)
def test_a_flight_that_cannot_be_saved_is_flown_and_said(error, said, plan):
    course = conduct(Session(Recorder(raises(error))), plan)
    assert course.unsaved == said and course.saved == [] and course.fault is None
    assert course.final_state is State.STAND and course.active_s >= 0.3


def test_a_display_that_fails_is_drawn_no_more(plan):
    drawn = []

    def refresh(course):
        drawn.append(course)
        raise BrokenPipeError

    session = Session(Recorder())
    course = conduct(session, plan, refresh)
    assert len(drawn) == 1 and course.fault is None and course.ended == "after the 0.3 s that were asked for"
    assert session.recorder.saved == [("flight.mcap", "end")]


def test_neither_a_slow_disk_nor_a_stalled_terminal_keeps_commands_from_the_robot(plan, tmp_path):
    """Commands are lost after 1 s; the save and the drawing take longer, and the policy drives on meanwhile."""
    session = Session(Recorder(lambda: time.sleep(SLOW_S)))
    long = Plan(2 * SLOW_S, record=plan.record, record_end=True)
    course = conduct(session, long, lambda course: time.sleep(SLOW_S), lambda: os.kill(os.getpid(), signal.SIGUSR1))
    assert course.active_s >= 2 * SLOW_S and course.final_state is State.STAND and not course.interrupted
    assert session.recorder.saved == [("flight_1.mcap", "request"), ("flight.mcap", "end")]


def test_a_fault_of_the_stand_up_is_saved_and_damped_for_a_while(plan):
    session = Session(Recorder(), stand_s=30.0)
    blind = threading.Thread(target=lambda: (until(lambda: State.STAND in session.robot.states, "it stands"), blindfold()))

    def blindfold():
        session.robot.blind = True

    blind.start()
    with Signals() as signals:
        course = Conductor(session, Plan(1.0, record=plan.record), signals, lambda course: None).run()
    blind.join()
    assert course.fault.violation.code.name == "STATE_NOT_FINITE" and course.ended == "by a fault"
    assert [name for name, _ in session.recorder.saved] == ["flight.mcap"] * 2
    assert session.robot.states.count(State.FAULT) > 60, "a second at 200 Hz is 200"


def test_a_fault_while_coming_to_stand_is_damped_for_a_while(plan):
    session = Session(Recorder(), stand_s=0.5)

    def during():
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: session.controller.supervisor.state is State.STAND, "it comes to stand")
        session.robot.blind = True

    course = conduct(session, Plan(60.0, record=plan.record), during=during)
    assert course.fault is not None and course.interrupted == "SIGINT"
    assert session.robot.states.count(State.FAULT) > 60


def shown_while_active(session):
    """What the policy sees of its velocity command in every tick under it; a list that fills."""
    shown, controller = [], session.controller

    def watch():
        if controller.supervisor.state is State.ACTIVE:
            shown.append(tuple(controller.observer.commands[0]))

    session.robot.watch = watch
    return shown


def test_a_walking_robot_is_halted_before_it_is_stood_up(plan):
    """On the way to the default pose from the middle of a stride it would fall over."""
    session = Session(Recorder())
    shown = shown_while_active(session)
    course = conduct(session, Plan(0.3, {"velocity": (0.5, 0.0, 0.0)}))
    assert course.fault is None and course.final_state is State.STAND and course.active_s >= 0.3
    assert set(shown) == {(0.5, 0.0, 0.0), (0.0, 0.0, 0.0)} and shown == sorted(shown, reverse=True)
    assert shown.count((0.0, 0.0, 0.0)) > 60, "a second at 200 Hz is 200"


def test_a_second_ctrl_c_does_not_wait_for_the_halt(plan):
    session = Session(Recorder())

    def during():
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: not session.controller.observer.commands[0].any(), "it is being halted")
        os.kill(os.getpid(), signal.SIGINT)

    course = conduct(session, Plan(60.0, {"velocity": (0.5, 0.0, 0.0)}), during=during)
    assert course.interrupted == "SIGINT" and course.fault is None
    assert State.STAND not in session.robot.states[session.robot.states.index(State.ACTIVE) :]


@pytest.mark.parametrize(
    "signals,stood", [((signal.SIGINT,), True), ((signal.SIGINT, signal.SIGTERM), False), ((signal.SIGTERM,), False)]
)
def test_what_comes_at_once_is_not_swallowed(signals, stood, plan):
    """SIGTERM together with Ctrl-C: between the two no step may forget the second."""
    session = Session(Recorder())

    def during():
        interval = sys.getswitchinterval()
        sys.setswitchinterval(10.0)  # no other thread runs between the two: a flight that had stood by then did right
        for number in signals:
            os.kill(os.getpid(), number)
        sys.setswitchinterval(interval)

    course = conduct(session, Plan(60.0, record=plan.record), during=during)
    assert course.interrupted == signals[-1].name and course.fault is None
    assert (State.STAND in session.robot.states[session.robot.states.index(State.ACTIVE) :]) == stood


def test_ctrl_c_while_the_recording_is_saved_does_not_lose_it(plan):
    session = Session(Recorder(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2))))
    conduct(session, plan)
    assert session.recorder.saved == [("flight.mcap", "end")]


def test_commands_that_stop_end_it_with_the_reason(plan):
    session = Session(Recorder())
    course = conduct(session, Plan(10.0, record=plan.record, faults=(Fault("command_stop", 0.1),)))
    assert course.final_state is State.STAND and course.fault is None and not course.interrupted
    assert course.ended.startswith("by COMMAND_LOST after 1.") and "no command for 1 s" in course.ended


def test_signals_end_a_wait_are_counted_and_given_back():
    before = {number: signal.getsignal(number) for number in CAUGHT}
    with Signals() as signals:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        begin = time.monotonic()
        signals.wait(5.0)
        assert time.monotonic() - begin < 2.0
        assert (signals.interrupts, signals.saves, signals.ended, signals.name) == (2, 1, False, "SIGINT")
        signals.wait(0.01)  # of those before, nothing is left to wake it
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.ended and signals.name == "SIGHUP"
    assert {number: signal.getsignal(number) for number in CAUGHT} == before


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.ended
    finally:
        signal.signal(signal.SIGHUP, before)
