"""One robot under one policy: everything between a state and a command, without clocks, threads or sockets.

A tick of the control loop is `receive` for each new state, then `begin`, then the policy's graph where `begin` says so, then
`finish`. What comes out depends on what went in and on nothing else, so that a recorded flight can be computed again.

| time            | meaning                                                                               |
|-----------------|---------------------------------------------------------------------------------------|
| slot            | number of the command period since the loop started; skipped ones were missed          |
| control step    | `decimation` slots: one observation, one action                                        |
| `now_ns`        | CLOCK_MONOTONIC at the start of the tick; everything in the tick is judged at this time |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.actions import ActionMap, CommandWriter
from trudi.runtime.contract import Contract
from trudi.runtime.history import StateHistory
from trudi.runtime.latents import LatentSource
from trudi.runtime.limits import check_fit, combine
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotError, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Conditions, Event, Fault, FaultCode, Motors, Supervisor, Violation
from trudi.runtime.terms import Observer
from trudi.runtime.watches import Watches

MAX_VALID_NS = 1e9
"""Longest that any command may be obeyed, however slow the policy; ns."""
LONG_AGO_NS = -(2**62)
"""Before anything that any clock says."""
MOVING = (State.STANDBY, State.STAND, State.ACTIVE)


class Outcome(IntEnum):
    """What became of an action that was asked for."""

    NONE = 0
    """None was asked for, and none is awaited."""
    PENDING = 1
    """The graph still computes, and its deadline has not come."""
    TEACHER = 2
    """The policy's own action is there."""
    STUDENT = 3
    """The student's action is there: it is the policy that is sent, or that one missed its deadline."""
    LATE = 4
    """The deadline has passed without an action: the last target is held."""
    FAILED = 5
    """The engine raised an error."""


class Latents(Protocol):
    """Gives the latent of each control step."""

    def next(self, batch: int = 1) -> NDArray[np.float32] | None: ...


@dataclass(frozen=True)
class ControllerCfg:
    """How the loop's commands relate to the policy's actions."""

    rate_hz: float
    """Commands a second; a whole multiple of the policy's rate."""
    between: Literal["hold", "linear"] = "hold"
    """What is commanded between two actions: the last target, as in training, or a line to it (smoother, a step late)."""
    valid_periods: float = 3.0
    """Command periods for which a command may be obeyed, and at least one control period: a robot that lets go and grips
    again within a few milliseconds is worse off than one that holds on."""

    def __post_init__(self) -> None:
        if self.between not in ("hold", "linear") or not self.valid_periods > 1.0:
            raise RobotError(
                f"between {self.between!r} and valid_periods {self.valid_periods}: between is hold or linear, a command is "
                "valid for more than one period"
            )

    def decimation(self, control_period_s: float) -> int:
        """Commands per action; RobotError where that is no whole number."""
        ratio = self.rate_hz * control_period_s
        if not math.isfinite(ratio) or ratio < 0.999 or abs(ratio - round(ratio)) > 1e-3:
            rate = 1.0 / control_period_s
            raise RobotError(
                f"a command rate of {self.rate_hz:g} Hz does not fit the policy's {rate:g} Hz; "
                f"take a multiple: {rate:g}, {2 * rate:g}, {4 * rate:g}, ..."
            )
        return round(ratio)


class Controller:
    """Terms, watches, supervisor and actions put together. One thread at a time."""

    def __init__(self, contract: Contract, robot: RobotDescription, file: SiteFile, cfg: ControllerCfg) -> None:
        self.contract, self.robot, self.file, self.cfg = contract, robot, file, cfg
        self.decimation = cfg.decimation(contract.control_period_s)
        self.period_ns = round(1e9 / cfg.rate_hz)
        self._valid_ns = round(min(max(cfg.valid_periods * self.period_ns, 1e9 * contract.control_period_s), MAX_VALID_NS))
        check_fit(contract, robot, file, 1.0 / cfg.rate_hz)
        self.limits = combine(contract, robot, file)
        self._by_position = contract.action.kind in ("joint_position", "joint_position_increment")
        holding = (State.STAND, State.ACTIVE) if self._by_position else (State.STAND,)
        self.supervisor = Supervisor(freeze_on_fault=file.on_fault == "freeze", holding=holding)
        self.observer = Observer(contract, robot)
        self.states = StateHistory(robot, self.observer.longest_delay_s)
        self.watches = Watches(robot, self.limits, observation_names(contract))
        self._map = ActionMap(contract, robot, self.limits)
        self._writer = CommandWriter(contract, robot, file)
        self.latents: Latents = LatentSource(contract.sampler, contract.action.size)
        self.latent: NDArray[np.float32] | None = None
        """(1, m), of the control step begun last; None where the graph takes none."""
        driven = contract.action.names if contract.robot is not None else ()
        self._joints = np.array([robot.joint_names.index(name) for name in driven], np.intp)
        m = contract.action.size
        self.action = np.zeros(m)
        """The policy's last action before scale and offset (m,)."""
        self.target = np.zeros(m)
        """The target commanded last (m,), policy order; the command's unit."""
        self._pose, self._policy, self._before, self._last = self._default_pose(), np.zeros(m), np.zeros(m), np.zeros(m)
        self._ramp_from = np.zeros(m)
        self._commands = [np.array(command.neutral, float) for command in contract.commands]
        self._command_ns: list[int | None] = [None] * len(contract.commands)
        self.sent: JointCommand = self._writer.damp()
        """The command of the last tick."""
        self.sent.valid_ns = self._valid_ns
        self._pending: Violation | None = None
        self._state_reason: str | None = "no state has arrived from the robot"
        self._stamp_ns = self._fresh_ns = 0
        self._ramp_begin_ns = self._ramp_end_ns = self._active_ns = self._step_slot = 0
        self._next_step = -1
        """Slot of the next control step; -1 before a policy's first."""
        self._slot = 0
        self._awaited = False
        self.commands_stale = False
        """Whether the policy sees neutral commands because those given are too old."""
        self._leaving: Event | None = None
        """Why ACTIVE will be left once the robot has halted; None where nothing asks for that."""
        self._driven_ns = LONG_AGO_NS
        """When the policy was last shown a command that is not neutral."""
        self._out_begin_ns = self._out_end_ns = 0
        """When the policy is blended out, on the way out of ACTIVE; 0 before that is known."""

    # What happens outside.

    def receive(self, state: RobotState) -> None:
        """Takes a new state, oldest first."""
        newer = not self._stamp_ns or state.stamp_ns > self._stamp_ns
        violation = self.watches.stamp(state, self._stamp_ns)
        rebased = (
            violation is not None and violation.code is FaultCode.STATE_BACKWARDS and self.supervisor.state not in MOVING
        )
        if rebased:  # The robot was restarted: nothing moves, so its new time may count from here.
            self._fresh_ns, violation = state.received_ns, None
        if violation is None:
            if newer:
                self._fresh_ns = state.stamp_ns if self.robot.shared_clock else state.received_ns
            self._stamp_ns = state.stamp_ns
            self.states.push(state)
        elif self._pending is None:
            self._pending = violation

    def reject(self, kind: Literal["malformed", "layout"], sentence: str) -> None:
        """Takes note that a message from the robot was no state."""
        code = FaultCode.STATE_MALFORMED if kind == "malformed" else FaultCode.STATE_LAYOUT
        self._pending = self._pending or Violation(code, sentence, math.nan, math.nan)

    def command(self, index: int, values: Sequence[float], received_ns: int) -> None:
        """Takes a command (elements,) of the contract's `commands[index]`; it is clipped to its range when it is used."""
        self._commands[index][:] = values
        self._command_ns[index] = received_ns

    def request(self, event: Event, now_ns: int) -> str | None:
        """An operator's wish. None where it is granted, otherwise the reason why not.

        STOP under a policy that takes commands is granted at once and obeyed when the robot has halted: the policy is shown
        neutral commands for `halt_s`, and then blended out. A second STOP is obeyed at once.
        """
        stops = event is Event.STOP and self.supervisor.state is State.ACTIVE and self._leaving is not Event.STOP
        if stops and (self._drives(now_ns) or self._fade_out_s > 0.0):
            self._leaving = event  # also where the robot halts already, since its commands were lost: it is not hurried
            return None
        return self._follow(event, now_ns)

    def _follow(self, event: Event, now_ns: int) -> str | None:
        was, motors = self.supervisor.state, self.supervisor.motors
        refused = self.supervisor.request(event, self._conditions(now_ns))
        if refused is None:
            self._entered(was, motors, now_ns)
        return refused

    def fail(self, violation: Violation, now_ns: int) -> None:
        """Stops the robot for a reason that the watches do not know."""
        self.supervisor.raise_fault(violation, now_ns)

    # A tick.

    def begin(self, now_ns: int, slot: int, missed: int) -> bool:
        """Judges the robot and, where a control step begins, fills `observer.observation` and `latent`: then True."""
        self._slot = slot
        violation = self._judge(now_ns, missed)
        state = self.supervisor.state
        if violation is not None and (state in MOVING or self.supervisor.motors is Motors.FREEZE):
            self.supervisor.raise_fault(violation, now_ns)
            return False
        if state is State.ACTIVE and self._follow_commands(now_ns):
            return self._begin_step(now_ns)
        return False

    def finish(
        self, now_ns: int, outcome: Outcome, output: NDArray[np.float32] | None, spread: float = math.nan
    ) -> JointCommand:
        """Takes what the graph gave, its output (1, m), and gives the command of this tick.

        Where `supervisor.motors` is NOTHING the command is DAMP, and need not be sent.
        """
        if self.supervisor.state is State.ACTIVE and self._awaited and outcome is not Outcome.PENDING:
            self._end_step(now_ns, outcome, output, spread)
        command = self.sent = self._compose(now_ns)
        command.state = self.supervisor.state
        command.stamp_ns = now_ns
        command.valid_ns = self._valid_ns
        command.sequence = 2 * self._slot  # the odd ones are for damping behind a tick that failed
        return command

    @property
    def awaiting(self) -> bool:
        """Whether an action was asked for and has neither come nor been given up."""
        return self._awaited and self.supervisor.state is State.ACTIVE

    @property
    def halting(self) -> bool:
        """Whether the policy is shown neutral commands because it is about to be stopped."""
        return self._leaving is not None and self.supervisor.state is State.ACTIVE

    @property
    def last_slot(self) -> bool:
        """Whether the next slot begins another control step."""
        return self._slot + 1 >= self._next_step

    def begins_step(self, slot: int) -> bool:
        """Whether a control step begins in this slot, or would under a policy."""
        return (slot - max(self._next_step, 0)) % self.decimation == 0

    def blend(self, now_ns: int) -> float:
        """The policy's part of what is commanded, 0 to 1: it is blended in from START on, and out when it has halted."""
        fade_ns = self.file.fade_in_s * 1e9 if self.contract.robot is not None else 0.0
        part = min((now_ns - self._active_ns) / fade_ns, 1.0) if fade_ns else 1.0
        if self._out_end_ns > self._out_begin_ns:
            part = min(part, max(self._out_end_ns - now_ns, 0) / (self._out_end_ns - self._out_begin_ns))
        return part

    @property
    def commands(self) -> list[NDArray[np.float64]]:
        """The commands as they were given, each (elements,)."""
        return self._commands

    @property
    def command_times_ns(self) -> list[int | None]:
        """When each was given; None before the first."""
        return self._command_ns

    def unscaled(self, output: NDArray[np.float32], out: NDArray[np.float64]) -> None:
        """Writes the action before scale and offset (m,) that a graph's output (1, m) stands for."""
        self._map.unscaled(output, out)

    def rest(self) -> JointCommand:
        """The command to damp, whatever else is broken."""
        return self._writer.damp()

    def ramp_left_s(self, now_ns: int) -> float:
        """Time until the robot has arrived at its default pose; s."""
        return max((self._ramp_end_ns - now_ns) * 1e-9, 0.0) if self.supervisor.motors is Motors.RAMP else 0.0

    def age_s(self, now_ns: int) -> float:
        """Age of the robot's latest state; s."""
        return (now_ns - self._fresh_ns) * 1e-9 if self.states.count else math.inf

    # Judging.

    def _judge(self, now_ns: int, missed: int) -> Violation | None:
        """The first thing that is wrong; the robot's own part of it decides whether it may be activated or reset."""
        found, self._pending = self._pending, None
        if not self.states.count:
            self._state_reason = "no state has arrived from the robot"
            return found
        found = found or self.watches.age(self.age_s(now_ns)) or self.watches.state(self.states.latest)
        self._state_reason = None if found is None else found.sentence
        periods = missed // self.decimation
        if not periods and self.supervisor.state is State.ACTIVE:
            return found  # there the row ends with an action in time
        return found or self.watches.overrun(periods)

    def _conditions(self, now_ns: int) -> Conditions:
        ramp = None
        if (left_s := self.ramp_left_s(now_ns)) > 0.0:
            ramp = f"the robot stands in {left_s:.1f} s"
        return Conditions(self._state_reason or self._doubt(now_ns), ramp, self._no_command(now_ns))

    def _doubt(self, now_ns: int) -> str | None:
        """What is wrong with what has arrived since the last tick; a request comes before this tick's judgement."""
        found = self._pending or self.watches.age(self.age_s(now_ns)) or self.watches.state(self.states.latest)
        return None if found is None else found.sentence

    def _no_command(self, now_ns: int) -> str | None:
        for command, at_ns in zip(self.contract.commands, self._command_ns, strict=True):
            if at_ns is None or (now_ns - at_ns) * 1e-9 > command.timeout_s:
                age = "has not been given" if at_ns is None else f"is {(now_ns - at_ns) * 1e-9:.2f} s old"
                return f"the command {command.name} {age}; it must be given at least every {command.timeout_s:g} s"
        return None

    def _follow_commands(self, now_ns: int) -> bool:
        """Shows the policy its commands; False where it has halted, and the robot stands instead.

        They are neutral where they are stale, while it is blended in, and while it halts: a policy that is told to run
        while its actions are half of themselves falls. None changes faster than `command_slew_s` allows.
        """
        self.commands_stale = False
        withheld = self.blend(now_ns) < 1.0
        # Ticks that were missed count for nothing: the ramp is then less steep.
        part = self.period_ns * 1e-9 / self.limits.command_slew_s if self.limits.command_slew_s else math.inf
        for index, command in enumerate(self.contract.commands):
            at_ns, shown = self._command_ns[index], self.observer.commands[index]
            age_s = math.inf if at_ns is None else (now_ns - at_ns) * 1e-9
            if age_s > self.limits.command_lost_s and self._leaving is None:
                self._leaving = Event.COMMAND_LOST
            self.commands_stale = self.commands_stale or age_s > command.timeout_s
            is_neutral = age_s > command.timeout_s or withheld or self._leaving is not None
            given = command.neutral if is_neutral else self._commands[index]
            for place, (low, high) in enumerate(command.range):
                wanted, most = min(max(given[place], low), high), part * (high - low) if high > low else 0.0
                step = wanted - shown[place]
                shown[place] = wanted if abs(step) <= most else shown[place] + math.copysign(most, step)
            if any(value != neutral for value, neutral in zip(shown, command.neutral, strict=True)):
                self._driven_ns = now_ns
        if self._leaving is None or self._drives(now_ns) or self._fades_out(now_ns):
            return True
        self._follow(self._leaving, now_ns)
        return False

    @property
    def _fade_out_s(self) -> float:
        """Shortest time in which a policy that has halted is blended out; s. 0 where it is not.

        Only a policy with commands halts. One of efforts or speeds gives way to no pose that the joints may be far from.
        """
        can = self._by_position and self.contract.robot is not None and self.contract.commands
        return self.file.fade_out_s if can else 0.0

    def _fades_out(self, now_ns: int) -> bool:
        """Whether the robot has halted and its policy is still being blended out, which begins here."""
        if not self._out_end_ns:
            farthest = float(np.abs(self._between() - self._pose).max()) if self._fade_out_s else 0.0
            time_s = max(self._fade_out_s, farthest / self.file.stand_speed)
            self._out_begin_ns, self._out_end_ns = now_ns, now_ns + round(time_s * 1e9)
        return now_ns < self._out_end_ns

    def _drives(self, now_ns: int) -> bool:
        """Whether the robot may still be in motion: it was given a command that is not neutral within the last `halt_s`."""
        return (now_ns - self._driven_ns) * 1e-9 < self.file.halt_s

    # Control steps.

    def _begin_step(self, now_ns: int) -> bool:
        if self._next_step < 0:
            self._next_step = self._slot
        if self._slot < self._next_step:
            return False
        if self._awaited and not self._give_up(now_ns):
            return False
        late = (self._slot - self._next_step) // self.decimation
        self._next_step = self._slot + self.decimation - (self._slot - self._next_step) % self.decimation
        for _ in range(late):  # Control steps that never were: the robot went on under the action it had.
            self.observer.miss(self.action)
        violation = self.watches.observation(self.observer.observe(self.states))
        if violation is not None:
            self.supervisor.raise_fault(violation, now_ns)
            return False
        self.latent = self.latents.next()
        self._awaited = True
        return True

    def _give_up(self, now_ns: int) -> bool:
        """The next control step is due before the last one's action came; False where that was once too often."""
        self._end_step(now_ns, Outcome.LATE, None, math.nan)
        return self.supervisor.state is State.ACTIVE

    def _end_step(self, now_ns: int, outcome: Outcome, output: NDArray[np.float32] | None, spread: float) -> None:
        self._awaited = False
        violation: Violation | None = None
        if outcome in (Outcome.TEACHER, Outcome.STUDENT) and output is not None:
            violation = self._take(output) or self.watches.spread(spread) or self.watches.overrun(0)
        elif outcome is Outcome.FAILED:
            violation = Violation(FaultCode.ENGINE, "the engine failed", math.nan, math.nan)
        else:
            violation = self.watches.overrun(1)
        self.observer.remember(self.action)
        if violation is not None:
            self.supervisor.raise_fault(violation, now_ns)

    def _take(self, output: NDArray[np.float32]) -> Violation | None:
        """A new action, unless something is wrong with it."""
        made = np.empty_like(self.action)
        self._map.unscaled(output, made)
        violation = self.watches.action(made, self.contract.control_period_s)
        if violation is None:
            self.action[:] = made
            self._last[:] = self._policy
            self._before[:] = self._between()
            self._map.target(self.action, self._last, self._policy)
            self._step_slot = self._slot
        return violation

    def _between(self) -> NDArray[np.float64]:
        """Where the line from one target to the next has come to; without lines, the last target."""
        if self.cfg.between == "hold":
            return self._policy
        part = min((self._slot - self._step_slot + 1) / self.decimation, 1.0)
        return self._before + part * (self._policy - self._before)

    # Commanding.

    def _compose(self, now_ns: int) -> JointCommand:
        motors, target = self.supervisor.motors, self.target
        if motors is Motors.RAMP and self.contract.robot is not None:
            self._ramp(now_ns)
            return self._writer.hold(target)
        if motors is Motors.FREEZE and self.contract.robot is not None:
            return self._writer.hold(target)
        if motors is Motors.POLICY:
            return self._policy_command(now_ns)
        return self._writer.damp()

    def _ramp(self, now_ns: int) -> None:
        """pose_from + (1 - cos(pi x)) / 2 (pose - pose_from): at rest at both ends."""
        whole = max(self._ramp_end_ns - self._ramp_begin_ns, 1)
        x = min((now_ns - self._ramp_begin_ns) / whole, 1.0)
        if x == 1.0:
            self.target[:] = self._pose  # from + (pose - from) would be a rounding away
            return
        s = 0.5 - 0.5 * math.cos(math.pi * x)
        np.multiply(self._pose - self._ramp_from, s, out=self.target)
        self.target += self._ramp_from

    def _policy_command(self, now_ns: int) -> JointCommand:
        policy, weight = self._between(), self.blend(now_ns)
        if self._by_position:
            self.target[:] = policy if weight == 1.0 else self._pose + weight * (policy - self._pose)
            return self._writer.act(self.target)
        command = self._writer.act(weight * policy)
        if weight < 1.0:  # Standing gives way as the policy comes in.
            self._writer.stand_within(self._pose, 1.0 - weight)
        return command

    def _default_pose(self) -> NDArray[np.float64]:
        robot = self.contract.robot
        if robot is None:
            return np.zeros(self.contract.action.size)
        return self._within_limits(np.array([joint.default_position for joint in robot.joints]))

    def _within_limits(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions of the driven joints (m,), in policy order, kept within their limits."""
        return np.clip(position, self.limits.position_low[self._joints], self.limits.position_high[self._joints])

    def _entered(self, was: State, motors: Motors, now_ns: int) -> None:
        """Sets what the new state starts from."""
        if self.supervisor.motors is Motors.RAMP:
            self._begin_ramp(motors, now_ns)
        if self.supervisor.state is State.ACTIVE and was is not State.ACTIVE:
            self.observer.reset()
            self.watches.reset()
            self.action[:] = 0.0
            for array in (self._policy, self._before):
                array[:] = self._pose if self._by_position else 0.0
            self._active_ns, self._next_step, self._awaited = now_ns, -1, False
            self._leaving, self._driven_ns = None, LONG_AGO_NS
            self._out_begin_ns = self._out_end_ns = 0
            for command, shown in zip(self.contract.commands, self.observer.commands, strict=True):
                shown[:] = command.neutral

    def _begin_ramp(self, motors: Motors, now_ns: int) -> None:
        if self.contract.robot is None:
            self._ramp_begin_ns = self._ramp_end_ns = now_ns
            return
        stiff = motors in (Motors.RAMP, Motors.POLICY, Motors.FREEZE) and self._by_position
        if stiff:
            self._ramp_from[:] = self.target
        else:
            measured = self.states.latest.joint_position[self._joints]
            # A position that is no number is a fault a moment later; until then there must be one.
            self._ramp_from[:] = self._within_limits(np.where(np.isfinite(measured), measured, self._pose))
            self.target[:] = self._ramp_from
        farthest = float(np.abs(self._pose - self._ramp_from).max())
        time_s = max(self.file.stand_s, 0.5 * math.pi * farthest / self.file.stand_speed)  # a cosine's peak speed
        self._ramp_begin_ns, self._ramp_end_ns = now_ns, now_ns + round(time_s * 1e9)

    # Keyframes.

    def memory(self) -> dict[str, NDArray[Any]]:
        """Everything that the next tick depends on beside its input."""
        fault = self.supervisor.fault
        found = None if fault is None else fault.violation
        integers = [self.supervisor.state, self.supervisor.motors, self._stamp_ns, self._fresh_ns, self._ramp_begin_ns]
        integers += [self._ramp_end_ns, self._active_ns, self._step_slot, self._next_step, self._slot, self._awaited]
        integers += [-1 if fault is None or found is None else found.code, 0 if fault is None else fault.at_ns]
        integers += [-1 if fault is None else fault.state, self.supervisor.more_faults, self._state_reason is not None]
        integers += [-1 if at_ns is None else at_ns for at_ns in self._command_ns]
        arrays = {name: getattr(self, name).copy() for name in _ARRAYS}
        arrays["integers"] = np.array([int(value) for value in integers], np.int64)
        leaving = -1 if self._leaving is None else self._leaving
        arrays["halt"] = np.array([leaving, self._driven_ns, self._out_begin_ns, self._out_end_ns], np.int64)
        arrays["fault"] = np.array([math.nan] * 2 if found is None else [found.value, found.threshold])
        arrays["commands"] = np.concatenate([np.zeros(0), *self._commands])
        arrays["shown"] = np.concatenate([np.zeros(0), *self.observer.commands])
        for owner, part in (("observer", self.observer), ("watches", self.watches), ("states", self.states)):
            arrays |= {f"{owner}.{name}": value for name, value in part.memory().items()}
        return arrays

    def restore(self, memory: dict[str, NDArray[Any]]) -> None:
        """Goes on from a keyframe, as if nothing had been between."""
        values = [int(value) for value in memory["integers"]]
        state, motors, self._stamp_ns, self._fresh_ns, self._ramp_begin_ns = values[:5]
        self._ramp_end_ns, self._active_ns, self._step_slot, self._next_step, self._slot, awaited = values[5:11]
        code, at_ns, arose, more, doubtful = values[11:16]
        self._command_ns = [None if at < 0 else at for at in values[16:]]
        self._state_reason = "the robot's state was in doubt at this keyframe" if doubtful else None
        leaving, self._driven_ns, self._out_begin_ns, self._out_end_ns = (int(value) for value in memory["halt"])
        self._leaving = None if leaving < 0 else Event(leaving)
        self._awaited = bool(awaited)
        supervisor = self.supervisor
        supervisor.state, supervisor.motors, supervisor.more_faults = State(state), Motors(motors), more
        supervisor.fault = None
        if code >= 0:
            value, threshold = memory["fault"].tolist()
            violation = Violation(FaultCode(code), "found before this keyframe", value, threshold)
            supervisor.fault = Fault(violation, at_ns, State(arose))
        for name in _ARRAYS:
            getattr(self, name)[:] = memory[name]
        for key, group in (("commands", self._commands), ("shown", self.observer.commands)):
            start = 0
            for array in group:
                array[:] = memory[key][start : start + len(array)]
                start += len(array)
        for owner, part in (("observer", self.observer), ("watches", self.watches), ("states", self.states)):
            prefix = f"{owner}."
            part.restore({name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)})


_ARRAYS = ("action", "target", "_policy", "_before", "_ramp_from")


def observation_names(contract: Contract) -> tuple[str, ...]:
    """A name for each element of the graph's observation: `gyro.x`, or `gyro.x@-1` for the frame before the newest."""
    names: list[str] = []
    for term in contract.observation:
        for frame in range(1 - term.history, 1):
            names += [f"{term.name}.{element}{f'@{frame}' if frame else ''}" for element in term.element_names]
    return tuple(names)
