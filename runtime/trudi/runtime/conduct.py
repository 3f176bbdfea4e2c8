"""Conducting a session from its first state to its last command: activate, stand, start, keep commanding, come to rest."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trudi.runtime.aside import Aside
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.realtime import above_normal, monotonic_ns, quiet_interpreter
from trudi.runtime.robots.base import Float64
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.injection import Fault
from trudi.runtime.script import Leg, values_at
from trudi.runtime.session import Session
from trudi.runtime.signals import Signals
from trudi.runtime.supervisor import Event, Supervisor
from trudi.runtime.supervisor import Fault as LatchedFault

COMMAND_PERIOD_S = 0.05
FIRST_STATE_S = 5.0
REST_AFTER_FAULT_S = 1.0
"""How long a faulted robot is damped before the session ends and leaves it to its own damping; s."""
LAST_DRAWING_S = 1.0
"""How long a terminal may take for the last drawing under way; s."""


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    seconds: float
    """Time under the policy; s."""
    commands: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """The commands to give, by name; those absent are given as neutral."""
    script: tuple[Leg, ...] = ()
    """Commands over time, in place of `commands`."""
    record: Path | None = None
    """File for the flight, written on a fault; on SIGUSR1 one beside it, with a number."""
    record_end: bool = False
    """Whether it is written at the end too."""
    faults: tuple[Fault, ...] = ()
    """The schedule, of which `command_stop` concerns whoever gives the commands."""


@dataclass
class Course:
    """What happened."""

    fault: LatchedFault | None = None
    refusal: str = ""
    """Why the robot could not be activated, made stand or started."""
    ended: str = ""
    """Why the robot was driven no longer."""
    interrupted: str = ""
    """The signal that ended it."""
    final_state: State = State.INACTIVE
    """Where the supervisor stood when the session was ended; the loop damped after that."""
    active_s: float = 0.0
    """Time under the policy; s."""
    tracking: dict[str, float] = field(default_factory=dict[str, float])
    """Mean absolute difference so far of commanded and measured velocity, an entry an element; m/s or rad/s."""
    saved: list[Path] = field(default_factory=list[Path])
    """Files that were written."""
    unsaved: str = ""
    """Why one could not be."""


class Conductor:
    """Runs a plan on a session. Its thread, the main one, commands and watches; it waits for no disk and no terminal."""

    def __init__(self, session: Session, plan: Plan, signals: Signals, on_refresh: Callable[[Course], None]) -> None:
        """`on_refresh` draws; it is called in a thread of its own, again and again until it fails."""
        self._session, self._plan, self._signals, self._on_refresh = session, plan, signals, on_refresh
        self._course = Course()
        self._draws = True
        self._patience = 1
        """Presses of Ctrl-C that end what is under way."""
        self._saves = 0
        self._active_ns = 0
        self._errors: dict[str, list[float]] = {}
        values = {
            command.name: plan.commands.get(command.name, command.neutral)
            for command in session.controller.contract.commands
        }
        if unknown := [name for name in plan.commands if name not in values]:
            raise TrudiRuntimeError(f"the policy takes no command {unknown[0]}; it takes {', '.join(values) or 'none'}")
        self._legs = plan.script or (Leg(0.0, values),)
        self._saver, self._drawer = (Aside(name, session.loop.realtime) for name in ("trudi-saving", "trudi-drawing"))

    def run(self) -> Course:
        """The whole course; the loop has ended, the robot is at rest or damping, and the flight is saved at the end."""
        try:
            with quiet_interpreter(), above_normal(self._session.loop.realtime):
                self._conduct()
        finally:
            self._finish()
        return self._course

    # The course.

    def _conduct(self) -> None:
        course, loop = self._course, self._session.loop
        loop.start()
        try:
            self._fly()
            if self._supervisor.state is State.FAULT:
                self._save_fault()
                self._rest(REST_AFTER_FAULT_S)
        finally:
            course.final_state, course.interrupted = self._supervisor.state, self._signals.name
            loop.stop()
            course.fault = self._supervisor.fault

    def _fly(self) -> None:
        """Every step ends early on a fault, a signal or a refusal. Ctrl-C before the policy drives damps at once."""
        try:
            if not self._until_granted(Event.ACTIVATE, FIRST_STATE_S) or not self._granted(Event.STAND):
                return
            if not self._wait(self._stands, math.inf) or not self._until_granted(Event.START, 1.0):
                return
            self._active_ns = monotonic_ns()
            self._wait(lambda: self._supervisor.state is not State.ACTIVE, self._plan.seconds)
            self._course.active_s = (monotonic_ns() - self._active_ns) * 1e-9
        finally:
            self._course.ended = self._why()
        if not self._signals.ended and self._supervisor.state is not State.FAULT:
            self._come_to_stand()

    def _why(self) -> str:
        """Why the robot is driven no longer."""
        if self._supervisor.state is State.FAULT:
            return "by a fault"
        if self._signals.name:
            return f"by {self._signals.name}"
        if self._course.refusal:
            return "by a refusal"
        if not self._session.loop.running:
            return "by the control loop's own end"
        if self._active_ns and self._supervisor.state is not State.ACTIVE:
            limit_s, after_s = self._session.controller.limits.command_lost_s, self._course.active_s
            return f"by COMMAND_LOST after {after_s:.2f} s: no command for {limit_s:g} s, and the robot stood by itself"
        return f"after the {self._plan.seconds:g} s that were asked for"

    def _come_to_stand(self) -> None:
        """A walking robot halts and stands before it is damped; another Ctrl-C, or SIGTERM, damps at once."""
        self._patience = min(self._signals.interrupts, 1) + 1  # The first may have come in this very moment.
        if self._over:
            return
        if self._supervisor.state is State.ACTIVE:
            self._session.loop.ask(Event.STOP)
            self._wait(lambda: self._supervisor.state is not State.ACTIVE, math.inf)
        self._wait(self._stands, math.inf)

    def _stands(self) -> bool:
        return self._session.controller.ramp_left_s(monotonic_ns()) == 0.0

    def _granted(self, event: Event) -> bool:
        refusal = self._session.loop.ask(event)
        if refusal is not None:
            self._course.refusal = refusal
        return refusal is None

    def _until_granted(self, event: Event, timeout_s: float) -> bool:
        """Asks again while the robot is still getting ready."""
        end = time.monotonic() + timeout_s
        while (refusal := self._session.loop.ask(event)) is not None:
            if time.monotonic() > end or self._over:
                self._course.refusal = "" if self._stopped else refusal
                return False
            self._turn()
        return True

    def _wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Gives commands and refreshes the display until `done`; False where a fault or a signal came first."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not done():
            if self._over:
                return False
            self._turn()
        return True

    @property
    def _stopped(self) -> bool:
        """Whether a signal ends what is under way."""
        return self._signals.ended or self._signals.interrupts >= self._patience

    @property
    def _over(self) -> bool:
        return self._stopped or self._supervisor.state is State.FAULT or not self._session.loop.running

    @property
    def _supervisor(self) -> Supervisor:
        return self._session.controller.supervisor

    def _turn(self) -> None:
        self._give_commands()
        self._note_tracking()
        self._attend()

    def _attend(self) -> None:
        """What is not the robot's: the display, a recording that is asked for, and waiting."""
        if self._draws and not self._drawer.busy:
            self._drawer.do(self._draw)
        self._take_request()
        self._signals.wait(COMMAND_PERIOD_S)

    def _give_commands(self) -> None:
        at_s = (monotonic_ns() - self._active_ns) * 1e-9 if self._active_ns else 0.0
        if self._active_ns and any(fault.kind == "command_stop" and fault.lasts(at_s) for fault in self._plan.faults):
            return
        for name, values in values_at(self._legs, at_s).items():
            self._session.loop.command(name, values)

    def _rest(self, seconds: float) -> None:
        """Lets the loop damp a faulted robot for a while; another Ctrl-C, or SIGTERM, leaves it to damp by itself."""
        self._patience = self._signals.interrupts + 1
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopped and self._session.loop.running:
            self._attend()

    def _note_tracking(self) -> None:
        """How well a base follows a velocity command, seen now and then; the sensors' noise is in it."""
        controller = self._session.controller
        if controller.halting or self._supervisor.state is not State.ACTIVE or not controller.robot.has_linear_velocity:
            return
        wanted = next((shown for shown, command in self._shown() if command == "velocity"), None)
        if wanted is None or len(wanted) != 3:
            return
        state = controller.states.latest
        measured = (*state.linear_velocity[:2].tolist(), float(state.angular_velocity[2]))
        for name, goal, value in zip(("vx", "vy", "wz"), wanted.tolist(), measured, strict=True):
            sums = self._errors.setdefault(name, [0.0, 0.0])
            sums[0] += abs(goal - value)
            sums[1] += 1.0
        self._course.tracking = {name: total / count for name, (total, count) in self._errors.items()}

    def _shown(self) -> list[tuple[Float64, str]]:
        controller = self._session.controller
        names = [command.name for command in controller.contract.commands]
        return list(zip(controller.observer.commands, names, strict=True))

    # Aside: the display and the files.

    def _draw(self) -> None:
        try:
            self._on_refresh(self._course)
        except Exception:  # A terminal or a pipe that is gone ends the drawing, and nothing else.
            self._draws = False

    def _take_request(self) -> None:
        """Saves the flight so far for each SIGUSR1, under a name that no later recording takes."""
        record = self._plan.record
        if self._saves < self._signals.saves and record is not None:
            self._saves = self._signals.saves
            self._saver.do(lambda: self._save(_numbered(record), "request"))

    def _save_fault(self) -> None:
        fault = self._supervisor.fault
        if (record := self._plan.record) is not None:
            self._saver.do(lambda: self._save(record, "fault" if fault is None else str(fault)))

    def _save(self, record: Path, event: str) -> None:
        if self._session.recorder is None:
            return
        try:
            path = self._session.recorder.save(record, event)
        except TrudiRuntimeError as error:
            self._course.unsaved = str(error)
        except Exception as error:  # Not even memory that runs out ends the flight that is under way.
            self._course.unsaved = f"{type(error).__name__}: {error}"
        else:
            if path not in self._course.saved:
                self._course.saved.append(path)

    def _finish(self) -> None:
        """Saves what is to be saved, and waits for it; for the display only a moment."""
        self._take_request()
        record, fault = self._plan.record, self._course.fault
        if record is not None and (self._plan.record_end or fault is not None):
            self._saver.do(lambda: self._save(record, str(fault or "end")))
        self._saver.wait()
        self._drawer.wait(LAST_DRAWING_S)
        self._saver.close()
        self._drawer.close()


def _numbered(path: Path) -> Path:
    """The first of `flight_1.mcap`, `flight_2.mcap` ... that is free."""
    names = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
