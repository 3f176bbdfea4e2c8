"""Conducting a session from its first state to its last command: activate, stand, start, keep commanding, come to rest."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.realtime import above_normal, monotonic_ns, quiet_interpreter
from trudi.runtime.robots.base import Float64
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.injection import Fault
from trudi.runtime.session import Session
from trudi.runtime.supervisor import Event, Supervisor
from trudi.runtime.supervisor import Fault as LatchedFault

COMMAND_PERIOD_S = 0.05
FIRST_STATE_S = 5.0
REST_AFTER_FAULT_S = 1.0
"""How long a faulted robot is damped before the session ends and leaves it to its own damping; s."""


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    seconds: float
    """Time under the policy; s."""
    commands: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """The commands to give, by name; those absent are given as neutral."""
    record: Path | None = None
    """File for the flight, written on a fault and on SIGUSR1."""
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
    interrupted: str = ""
    """The signal that ended it."""
    final_state: State = State.INACTIVE
    """Where the supervisor stood when the session was ended; the loop damped after that."""
    active_s: float = 0.0
    """Time under the policy; s."""
    tracking: dict[str, float] = field(default_factory=dict[str, float])
    """Mean absolute difference of commanded and measured velocity, an entry an element; m/s or rad/s."""
    saved: list[Path] = field(default_factory=list[Path])
    """Files that were written."""
    unsaved: str = ""
    """Why one could not be."""


class Conductor:
    """Runs a plan on a session from the main thread, which also receives the signals."""

    def __init__(self, session: Session, plan: Plan, on_refresh: Callable[[], None]) -> None:
        self._session, self._plan, self._on_refresh = session, plan, on_refresh
        self._course = Course()
        self._wanted = threading.Event()
        self._saving = False
        self._active_ns = 0
        self._errors: dict[str, list[float]] = {}
        self._values = {
            command.name: plan.commands.get(command.name, command.neutral)
            for command in session.controller.contract.commands
        }
        if unknown := [name for name in plan.commands if name not in self._values]:
            raise TrudiRuntimeError(
                f"the policy takes no command {unknown[0]}; it takes {', '.join(self._values) or 'none'}"
            )

    def run(self) -> Course:
        """The whole course; the loop has ended and the robot is at rest, or damping, when it returns."""
        previous = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save_wanted)
        try:
            with quiet_interpreter(), above_normal(self._session.loop.realtime):
                self._session.loop.start()
                self._fly()
                self._course.fault = self._session.controller.supervisor.fault
                self._course.final_state = self._session.controller.supervisor.state
                self._session.loop.stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._finish()
        return self._course

    # The course.

    def _fly(self) -> None:
        """Every step ends early on a fault, a signal or a refusal."""
        if not self._until_granted(Event.ACTIVATE, FIRST_STATE_S):
            return
        if not self._granted(Event.STAND):
            return
        if not self._wait(lambda: self._session.controller.ramp_left_s(monotonic_ns()) == 0.0, math.inf):
            return
        if not self._until_granted(Event.START, 1.0):
            return
        self._active_ns = monotonic_ns()
        self._wait(lambda: self._supervisor.state is not State.ACTIVE, self._plan.seconds)
        self._course.active_s = (monotonic_ns() - self._active_ns) * 1e-9
        if self._supervisor.state is State.FAULT:
            self._save_fault()
            self._rest(REST_AFTER_FAULT_S)
        elif self._course.interrupted != signal.SIGTERM.name:
            self._come_to_stand()

    def _come_to_stand(self) -> None:
        """A walking robot is stood up before it is damped; a second signal, or SIGTERM, damps at once."""
        self._wanted.clear()
        if self._supervisor.state is State.ACTIVE:
            self._session.loop.ask(Event.STOP)
        self._wait(lambda: self._session.controller.ramp_left_s(monotonic_ns()) == 0.0, math.inf)

    def _granted(self, event: Event) -> bool:
        refusal = self._session.loop.ask(event)
        if refusal is not None:
            self._course.refusal = self._course.refusal or refusal
        return refusal is None

    def _until_granted(self, event: Event, timeout_s: float) -> bool:
        """Asks again while the robot is still getting ready."""
        end = time.monotonic() + timeout_s
        while (refusal := self._session.loop.ask(event)) is not None:
            if time.monotonic() > end or self._over:
                self._course.refusal = refusal
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
    def _over(self) -> bool:
        return self._wanted.is_set() or self._supervisor.state is State.FAULT or not self._session.loop.running

    @property
    def _supervisor(self) -> Supervisor:
        return self._session.controller.supervisor

    def _turn(self) -> None:
        self._give_commands()
        self._note_tracking()
        self._on_refresh()
        if self._saving:
            self._saving = False
            self._save("request")
        self._wanted.wait(COMMAND_PERIOD_S)

    def _give_commands(self) -> None:
        if self._active_ns:
            at_s = (monotonic_ns() - self._active_ns) * 1e-9
            if any(fault.kind == "command_stop" and fault.lasts(at_s) for fault in self._plan.faults):
                return
        for name, values in self._values.items():
            self._session.loop.command(name, values)

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._wanted.is_set():
            self._on_refresh()
            self._wanted.wait(COMMAND_PERIOD_S)

    def _note_tracking(self) -> None:
        """How well a base follows a velocity command, seen now and then; the sensors' noise is in it."""
        controller = self._session.controller
        if self._supervisor.state is not State.ACTIVE or not controller.robot.has_linear_velocity:
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

    def _shown(self) -> list[tuple[Float64, str]]:
        controller = self._session.controller
        names = [command.name for command in controller.contract.commands]
        return list(zip(controller.observer.commands, names, strict=True))

    # Signals and files.

    def _signalled(self, number: int, _: object) -> None:
        self._course.interrupted = signal.Signals(number).name
        self._wanted.set()

    def _save_wanted(self, number: int, _: object) -> None:
        del number
        self._saving = True

    def _save_fault(self) -> None:
        fault = self._supervisor.fault
        self._save("fault" if fault is None else str(fault))

    def _save(self, event: str) -> None:
        recorder = self._session.recorder
        if recorder is None or self._plan.record is None:
            return
        try:
            path = recorder.save(self._plan.record, event)
        except TrudiRuntimeError as error:  # A flight that cannot be written must not end the one that is under way.
            self._course.unsaved = str(error)
            return
        if path not in self._course.saved:
            self._course.saved.append(path)

    def _finish(self) -> None:
        self._course.tracking = {name: total / count for name, (total, count) in self._errors.items() if count}
        if self._plan.record_end or self._course.fault is not None:
            self._save(str(self._course.fault or "end"))
