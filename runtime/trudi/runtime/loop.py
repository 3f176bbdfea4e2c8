"""The control loop: wakes at absolute deadlines, reads, decides, commands, and times itself while doing so.

    sleep until the slot | read states | commands, requests | begin | the graph, in a control step | finish | write | record
    | the shadow is started, or what it made taken

The thread waits for nothing but its deadline (and within a tenth of a period of it, where the robot tells of arrivals, for a
fresh state: `pace`) and, up to a deadline of its own, the graph. It writes to no disk and prints
nothing. What others give it lies in mailboxes, the latest command and a queue of requests: nobody holds a lock over I/O.
"""

from __future__ import annotations

import collections
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.controller import Controller, Outcome
from trudi.runtime.engines.base import Engine
from trudi.runtime.errors import TrudiRuntimeError, near_matches
from trudi.runtime.flight.histogram import Histogram
from trudi.runtime.flight.worst import WorstCycles
from trudi.runtime.inference import InferenceThread
from trudi.runtime.pace import Pace
from trudi.runtime.realtime import RealtimeCfg, Sleeper, enter_realtime, monotonic_ns
from trudi.runtime.recorder import FlightRecorder
from trudi.runtime.robots.base import Robot, RobotError, StateRejected
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.shadow import READY_BY, Shadow
from trudi.runtime.supervisor import Event, FaultCode, Motors, Violation

STAGES: Final = ("wake_up", "observe", "infer", "act", "publish")
"""Of a tick, one after the other: how late it woke; reading and judging; the graph; making the command; sending."""
SPANS: Final = ("input_age", "tick", "observation_to_command", "state_to_command")
"""Across stages: age of the state when it is used; wake-up to command; a control step's reading of the state to the command
that carries its action; the same from the state's own stamp."""
PUBLISH_BY: Final = 0.8
"""Part of a command period after which a command goes out without an action that is still being computed."""
ANSWER_S: Final = 0.002
"""Time between two looks for the answer to a request; s."""
ENDED: Final = "the control loop has ended"
MAX_STOPS: Final = 16
"""Faults from outside that wait for their tick; only the first is latched, and the rest are counted."""
MAX_ERRORS: Final = 3
"""Ticks in a row that may raise an error before the loop ends and leaves the robot to its own timeout."""


@dataclass(frozen=True)
class LoopCfg:
    """How the loop keeps time."""

    deadline: float = 0.75
    """Part of the control period after which an action is late."""
    realtime: RealtimeCfg = field(default_factory=RealtimeCfg)
    """What the loop's threads ask of the scheduler."""

    def __post_init__(self) -> None:
        if not 0.0 < self.deadline <= 1.0:
            raise TrudiRuntimeError(f"deadline {self.deadline}: a part of the control period, above 0 and at most 1")


class Request:
    """An operator's wish, and the loop's answer to it. Without locks: who asks looks for the answer now and then."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.refusal: str | None = None
        """Why it was refused; None where it was granted."""
        self.answered = False
        self._claims = collections.deque((None,))

    def claim(self) -> bool:
        """True for the first who claims it: the loop, to answer it, or who asked, to take it back."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def answer(self, refusal: str | None) -> None:
        """The loop's answer."""
        self.refusal = refusal
        self.answered = True


@dataclass(frozen=True)
class Tick:
    """What went into a tick beside states and commands, and what came of the graph: enough to compute the tick again."""

    now_ns: int
    slot: int
    missed: int
    request: Event | None
    stopped: Violation | None
    """A fault that came from outside."""
    stepped: bool
    outcome: Outcome
    spread: float


OnTick = Callable[[Tick], None]


class Times:
    """What the loop measured of itself. Written by the loop alone; anybody may read."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram() for name in (*STAGES, *SPANS)}
        self.worst = WorstCycles(STAGES)
        self.cycles = 0
        """Ticks."""
        self.misses = 0
        """Command periods that passed without a tick."""
        self.late = 0
        """Control steps whose action came too late."""
        self.students = 0
        """Control steps whose action was the student's."""
        self.steps = 0
        """Control steps."""
        self.stale = 0
        """Ticks whose state was older than the age that warns."""


class ControlLoop:
    """Runs a controller on a robot in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        controller: Controller,
        robot: Robot,
        engine: Engine,
        cfg: LoopCfg,
        *,
        student: Engine | None = None,
        recorder: FlightRecorder | None = None,
        spread_latents: NDArray[np.float32] | None = None,
        sends_student: bool = False,
        shadow: Shadow | None = None,
    ) -> None:
        """`student` stands in where `engine` is late; `sends_student` says that `engine` is the student itself.

        `shadow` is the other policy of a bundle, riding along.
        """
        self.controller, self.times = controller, Times()
        self._own = Outcome.STUDENT if sends_student else Outcome.TEACHER
        self._shadow, self._step_ns, self._shadow_period_ns = shadow, 0, 0
        self._robot, self._student, self._cfg, self._recorder = robot, student, cfg, recorder
        self._inference = InferenceThread(engine, cfg.realtime, spread_latents)
        self._requests: collections.deque[Request] = collections.deque()
        self._stops: collections.deque[Violation] = collections.deque(maxlen=MAX_STOPS)
        self._commands: list[tuple[tuple[float, ...], int] | None] = [None] * len(controller.contract.commands)
        self._taken: list[object] = [None] * len(self._commands)
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._stage_ns = [0] * len(STAGES)
        self._slot = self._due_ns = self._read_ns = self._observed_ns = self._observed_stamp_ns = self._errors = 0
        self._output: NDArray[np.float32] | None = None
        self.on_tick: OnTick | None = None
        """Called at the end of every tick, in the control thread; set before `start`. It may neither wait nor raise."""
        self.notes: list[str] = []
        """What the operating system did not permit."""
        self.error = ""
        """The last unexpected error, with its traceback."""

    # For other threads.

    def start(self) -> None:
        """Starts the thread: from now on states are read; commands are sent once the supervisor is activated."""
        if self._recorder is not None:
            self._recorder.begin(self.controller, shadow=self._shadow is not None)
            if self._shadow is not None:
                self._shadow.record(self._recorder)
        self._thread = threading.Thread(target=self._run, name="trudi-control", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Damps, ends the thread and the graph's; False where one of them does not return, and still uses its engine."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join(timeout_s)
        ended = not self.running and (self._shadow is None or self._shadow.close())
        return self._inference.close() and ended

    @property
    def realtime(self) -> bool:
        """Whether the thread asks for a real-time priority."""
        return self._cfg.realtime.priority > 0

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self, event: Event, timeout_s: float = 1.0) -> str | None:
        """Asks for another state and waits for the answer: None where it was granted, otherwise the reason why not."""
        request = Request(event)
        self._requests.append(request)
        end_ns = monotonic_ns() + round(timeout_s * 1e9)
        while not request.answered:
            if (monotonic_ns() > end_ns or not self.running) and request.claim():
                return f"the control loop did not answer within {timeout_s:g} s" if self.running else ENDED
            time.sleep(ANSWER_S)
        return request.refusal

    def command(self, name: str, values: Sequence[float], received_ns: int | None = None) -> None:
        """Gives a command, by name; the loop takes the latest. TrudiRuntimeError where it is none of the policy's."""
        commands = self.controller.contract.commands
        index = next((place for place, command in enumerate(commands) if command.name == name), None)
        if index is None:
            raise TrudiRuntimeError(f"the policy takes no command {name}; {near_matches(name, [c.name for c in commands])}")
        wanted = commands[index].element_names
        numbers = tuple(map(float, values))
        if len(numbers) != len(wanted) or not all(map(math.isfinite, numbers)):
            raise TrudiRuntimeError(
                f"command {name} is {list(numbers)}; it is {len(wanted)} finite numbers: {', '.join(wanted)}"
            )
        self._commands[index] = (numbers, monotonic_ns() if received_ns is None else received_ns)

    def fault(self, violation: Violation) -> None:
        """Stops the robot in the next tick for a reason that only others see: an emergency stop, say. Never waits."""
        self._stops.append(violation)

    # The thread.

    def _run(self) -> None:
        try:
            self.notes += enter_realtime(self._cfg.realtime)
            self._shadow_period_ns = self._choose_shadow_period()
            np.seterr(all="ignore")  # The watches look for what is no number; a warning would be printed from this thread.
            self._keep_time()
        except Exception:
            self.error = traceback.format_exc()
        finally:
            self._leave()

    def _keep_time(self) -> None:
        sleeper, period_ns = Sleeper(), self.controller.period_ns
        waits = self._robot.arrived_ns is not None
        state_period_ns = round(1e9 * self.controller.robot.state_period_s) if waits else 0
        pace = Pace(period_ns, monotonic_ns() + period_ns, state_period_ns)
        slot = missed = 0
        while not self._stopping and self._errors < MAX_ERRORS:
            due_ns = pace.due_ns(slot)
            if waits and self.controller.begins_step(slot):
                deadline_ns = self._await_state(sleeper, pace, due_ns)
            else:
                sleeper.until(due_ns)
                deadline_ns = due_ns
            now_ns = monotonic_ns()
            overslept = max(now_ns - deadline_ns, 0) // period_ns
            self._guarded_tick(now_ns, deadline_ns, slot + overslept, missed + overslept)
            following = max(pace.slot_at(monotonic_ns()), slot + overslept) + 1
            missed, slot = following - slot - overslept - 1, following

    def _await_state(self, sleeper: Sleeper, pace: Pace, due_ns: int) -> int:
        """Sleeps until the slot's tick is to begin; when that was: `due_ns`, or the arrival of the state it waited for."""
        robot = self._robot
        sleeper.until(due_ns - pace.window_ns)
        pace.note(robot.arrived_ns or 0)
        expected_ns = pace.expected_ns(due_ns)
        if expected_ns is not None:
            pace.follow(due_ns, expected_ns)
        if expected_ns is None or not pace.awaits(due_ns, expected_ns):
            sleeper.until(due_ns)
            return due_ns
        # The one that is awaited arrives later than half a state period before it is expected.
        after_ns = expected_ns - pace.state_period_ns // 2
        robot.wait(after_ns, due_ns + pace.window_ns)
        if (arrived_ns := robot.arrived_ns or 0) > after_ns:
            return max(arrived_ns, due_ns - pace.window_ns)
        return due_ns + pace.window_ns

    def _guarded_tick(self, now_ns: int, deadline_ns: int, slot: int, missed: int) -> None:
        """A tick that raises stops the robot, and never the thread before it has commanded damping."""
        try:
            self._tick(now_ns, deadline_ns, slot, missed)
            self._errors = 0
        except Exception as error:
            self._errors += 1
            self.error = traceback.format_exc()
            code = FaultCode.ROBOT_WRITE if isinstance(error, RobotError) else FaultCode.INTERNAL
            self._fail(Violation(code, f"{type(error).__name__}: {error}", math.nan, math.nan), now_ns)
            if self.controller.supervisor.motors is not Motors.NOTHING:
                self._damp(now_ns)

    def _tick(self, now_ns: int, deadline_ns: int, slot: int, missed: int) -> None:
        controller, recorder = self.controller, self._recorder
        was, was_sent = controller.supervisor.state, controller.supervisor.motors is not Motors.NOTHING
        self._slot = slot
        self._read()
        self._read_ns = monotonic_ns()
        stopped = self._stops.popleft() if self._stops else None  # one a tick: that is what a row of the recording holds
        if stopped is not None:
            self._fail(stopped, now_ns)
        request = self._take_commands(now_ns)
        awaited = controller.awaiting
        wanted = controller.begin(now_ns, slot, missed)
        if wanted:
            self._observed_ns, self._observed_stamp_ns = self._read_ns, controller.states.latest.stamp_ns
        observed_ns = monotonic_ns()
        outcome = self._infer(wanted, awaited, now_ns, deadline_ns)
        inferred_ns = monotonic_ns()
        fresh = outcome in (Outcome.TEACHER, Outcome.STUDENT)
        output = self._output if fresh else None
        spread = self._inference.spread  # once: its thread may change it before the row is written
        command = controller.finish(now_ns, outcome, output, spread)
        if outcome is Outcome.FAILED:
            self._explain_failure()
        acted_ns = monotonic_ns()
        supervisor = controller.supervisor
        if was_sent or supervisor.motors is not Motors.NOTHING:  # the last command before silence damps
            self._robot.write(command)
        published_ns = monotonic_ns()
        stages = self._stage_ns
        stages[0], stages[1], stages[2] = now_ns - deadline_ns, observed_ns - now_ns, inferred_ns - observed_ns
        stages[3], stages[4] = acted_ns - inferred_ns, published_ns - acted_ns
        if was is not State.INACTIVE:
            self._account(now_ns, slot, missed, published_ns, outcome)
        if recorder is not None:
            recorder.tick(controller, now_ns, slot, missed, request, wanted, outcome, output, spread, stages)
        if self.on_tick is not None:
            self.on_tick(Tick(now_ns, slot, missed, request, stopped, wanted, outcome, spread))
        if self._shadow is not None and not self._shadow.broken:
            self._follow(self._shadow, wanted, outcome, deadline_ns)

    def _follow(self, shadow: Shadow, wanted: bool, outcome: Outcome, deadline_ns: int) -> None:
        """The other policy, once the command is out. Whatever goes wrong with it is no fault of the flight."""
        controller = self.controller
        try:
            shadow.collect()
            if wanted:
                shadow.begin()
                self._step_ns = deadline_ns
            if outcome in (Outcome.NONE, Outcome.PENDING):
                return
            if outcome is not self._own or self._output is None or controller.supervisor.state is not State.ACTIVE:
                shadow.leave_out()
                return
            start_ns = self._step_ns if self._shadow_period_ns > controller.period_ns else deadline_ns
            until_ns = start_ns + round(READY_BY * self._shadow_period_ns)
            shadow.submit(controller.observer.observation, controller.latent, self._output, until_ns)
        except Exception:
            shadow.give_up(traceback.format_exc())

    def _choose_shadow_period(self) -> int:
        """The period that a shadow must fit in; ns.

        That of the control step where the scheduler takes the core from it for every tick; otherwise that of the command.
        """
        period_ns, shadow = self.controller.period_ns, self._shadow
        preempted = shadow is not None and shadow.preempted and os.sched_getscheduler(0) == os.SCHED_FIFO
        return self.controller.decimation * period_ns if preempted else period_ns

    def _read(self) -> None:
        controller, robot, recorder = self.controller, self._robot, self._recorder
        while True:
            try:
                state = robot.read()
            except StateRejected as rejected:
                controller.reject(rejected.kind, str(rejected))
                if recorder is not None:
                    recorder.rejected(rejected.kind)
                continue
            if state is None:
                return
            controller.receive(state)
            if recorder is not None:
                recorder.state(state)

    def _take_commands(self, now_ns: int) -> Event | None:
        """Empties the mailboxes: the latest commands, and the oldest request."""
        for index, given in enumerate(self._commands):
            if given is not None and given is not self._taken[index]:
                self._taken[index] = given
                self.controller.command(index, given[0], given[1])
        if not self._requests:
            return None
        request = self._requests.popleft()
        if not request.claim():
            return None  # whoever asked has given up
        try:
            request.answer(self.controller.request(request.event, now_ns))
        except Exception as error:
            request.answer(f"{request.event.name.lower()} failed: {error}")  # who asked waits for an answer
            raise
        return request.event

    def _infer(self, wanted: bool, awaited: bool, now_ns: int, deadline_ns: int) -> Outcome:
        """The deadline policy: the policy's action, else the student's, else none, and then the last target is held."""
        controller, inference = self.controller, self._inference
        if wanted:
            self.times.steps += 1
            self.times.late += awaited  # the step before, whose action has not come
            self._due_ns = now_ns + round(self._cfg.deadline * controller.contract.control_period_s * 1e9)
            if inference.busy and not inference.wait(0):
                return self._late()  # still at the action before, which nobody waits for any more
            inference.submit(controller.observer.observation, controller.latent)
        elif not controller.awaiting:
            return Outcome.NONE
        publish_ns = deadline_ns + round(PUBLISH_BY * controller.period_ns)
        if inference.wait(min(self._due_ns, publish_ns)):
            if inference.finished_ns > self._due_ns:
                return self._late()
            self._output = inference.action
            self.times.students += self._own is Outcome.STUDENT and not inference.failed
            return Outcome.FAILED if inference.failed else self._own
        over = monotonic_ns() >= self._due_ns or controller.last_slot
        return self._late() if over else Outcome.PENDING

    def _late(self) -> Outcome:
        if self._student is None:
            self.times.late += 1
            return Outcome.LATE
        try:
            controller = self.controller
            latent = controller.latent if self._student.takes_latent else None
            self._output = self._student.infer(controller.observer.observation, latent)
        except TrudiRuntimeError as error:
            self._inference.error = f"student: {error}"
            return Outcome.FAILED
        self.times.students += 1
        return Outcome.STUDENT

    def _explain_failure(self) -> None:
        """The engine's own words, for whoever reads the fault."""
        self.error = self._inference.error

    def _account(self, now_ns: int, slot: int, missed: int, published_ns: int, outcome: Outcome) -> None:
        times, stages, histograms = self.times, self._stage_ns, self.times.histograms
        times.cycles += 1
        times.misses += missed
        for name, duration_ns in zip(STAGES, stages, strict=True):
            if name != "infer" or outcome is not Outcome.NONE:
                histograms[name].record(duration_ns)
        histograms["tick"].record(published_ns - now_ns + stages[0])
        if self.controller.supervisor.state is not State.FAULT:
            age_s = self.controller.age_s(now_ns)
            histograms["input_age"].record(round(min(age_s, 1e3) * 1e9))
            times.stale += age_s > self.controller.limits.state_age_warn_s
        if outcome in (Outcome.TEACHER, Outcome.STUDENT):
            histograms["observation_to_command"].record(published_ns - self._observed_ns)
            if self.controller.robot.shared_clock:
                histograms["state_to_command"].record(published_ns - self._observed_stamp_ns)
        times.worst.offer(slot, now_ns, stages, missed)

    def _fail(self, violation: Violation, now_ns: int) -> None:
        self.controller.fail(violation, now_ns)
        if self._recorder is not None:
            self._recorder.failure(violation.code)

    def _damp(self, now_ns: int) -> None:
        """The shortest way to a safe command, for when the usual one is broken."""
        try:
            command = self.controller.rest()
            command.state, command.stamp_ns = self.controller.supervisor.state, now_ns
            command.sequence += 1
            self._robot.write(command)
        except Exception:
            self.error += traceback.format_exc()

    def _leave(self) -> None:
        """The last command of a loop that ends is to damp, whatever it did before."""
        now_ns = monotonic_ns()
        if self.controller.supervisor.motors is not Motors.NOTHING:
            self.controller.request(Event.DEACTIVATE, now_ns)
            self._damp(now_ns)
        if self._recorder is not None and self._errors:  # No tick follows that would say so.
            controller, none = self.controller, (0,) * len(STAGES)
            self._recorder.tick(controller, now_ns, self._slot, 0, None, False, Outcome.NONE, None, math.nan, none)
        while self._requests:
            request = self._requests.popleft()
            if request.claim():
                request.answer(ENDED)
