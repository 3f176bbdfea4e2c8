"""The robot's own judge of every command that reaches it. It knows the robot and nothing of the runtime.

| rule        | a command is unsafe where                                                                              |
|-------------|--------------------------------------------------------------------------------------------------------|
| finite      | any number is not finite                                                                               |
| limits      | a position target is outside the joint's limits, a gain or an effort outside its range                 |
| control     | an actuator's control is outside its range                                                             |
| sequence    | its number does not rise                                                                               |
| time        | it was made in the future, is valid for no time or for longer than a second, or has expired            |
| drive       | stiffness, effort or control in a state that must not move: only STAND, ACTIVE and, holding, FAULT may |
| transition  | its state may not follow the last one: STAND comes from STANDBY or ACTIVE, ACTIVE from STAND           |
| engage      | the first target of STAND is far from the joints and, after ACTIVE, from the last target, too          |
| ramp        | targets move faster than `stand_speed` during STAND                                                    |
| hold        | targets move during FAULT                                                                              |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trudi.runtime.robots.base import Float64, JointCommand, RobotDescription, SupervisorState

MAX_SENTENCES = 100
MAX_SENTENCE = 240
MAX_VALID_NS = 1_000_000_000
# Two readings of one clock by two processes; and the digits that a float64 target loses on its way through a clip.
CLOCK_SLACK_NS = 1_000_000
SLACK = 1e-9

_MAY_DRIVE = frozenset({SupervisorState.STAND, SupervisorState.ACTIVE, SupervisorState.FAULT})
# Only what leads to driven motors is restricted: a robot may be damped from anywhere.
_MAY_LEAD_TO = {
    SupervisorState.STAND: frozenset({SupervisorState.STANDBY, SupervisorState.STAND, SupervisorState.ACTIVE}),
    SupervisorState.ACTIVE: frozenset({SupervisorState.STAND, SupervisorState.ACTIVE}),
}


@dataclass(frozen=True)
class CheckerCfg:
    """What a command may ask of the motors beyond what the robot's description says."""

    max_damping: float | None = None
    """Largest derivative gain of a drive; N m s/rad or N s/m. None: not judged."""
    engage_distance: float = 0.15
    """Farthest that the first target of STAND may be from the measured position; rad or m."""
    stand_speed: float = 6.0
    """Fastest that a target may move during STAND; rad/s or m/s."""


@dataclass
class Watch:
    """A fault, and when the robot was safe after it; times are CLOCK_MONOTONIC, ns."""

    kind: str
    began_ns: int
    safe_ns: int | None = None
    """The first command that drives nothing arrived (PD: no stiffness, effort or speed; actuators: control 0)."""
    fault_ns: int | None = None
    """The first command of the state FAULT arrived."""
    own_damping_ns: int | None = None
    """The robot began to damp by itself."""
    zero_ns: int = 0
    """When the fault's `at_s` is 0."""


@dataclass
class _Last:
    """What the judgement of the next command depends on."""

    state: SupervisorState = SupervisorState.INACTIVE
    sequence: int | None = None
    stamp_ns: int = 0
    position: Float64 = field(default_factory=lambda: np.zeros(0))


class Checker:
    """Judges commands for one robot."""

    def __init__(
        self, description: RobotDescription, cfg: CheckerCfg | None = None, control_range: Float64 | None = None
    ) -> None:
        """`control_range` (drives, 2) is needed where drives are actuators."""
        self._cfg, self._description = cfg or CheckerCfg(), description
        count = len(description.drives)
        self._control_range = control_range if control_range is not None else np.tile([-np.inf, np.inf], (count, 1))
        self._low, self._high, self._effort = np.full(count, -np.inf), np.full(count, np.inf), np.full(count, np.inf)
        joints = {joint.name: joint for joint in description.joints}
        for index, name in enumerate(description.drives if description.pd else ()):
            if (limit := joints[name].position_limit) is not None:
                self._low[index], self._high[index] = limit
            self._effort[index] = joints[name].effort_limit or np.inf
        self._last = _Last(position=np.zeros(count))
        self.violations: list[str] = []
        """A sentence for each unsafe thing, the first hundred."""
        self.violation_count = 0
        self.commands = 0
        self.watches: list[Watch] = []

    def new_runtime(self) -> None:
        """Another runtime has taken over: its commands count from anew, and it starts from no state."""
        self._last = _Last(position=np.zeros(len(self._description.drives)))

    def malformed(self, sentence: str) -> None:
        """A message came that is no command."""
        self.commands += 1
        self._note(sentence)

    def watch(self, kind: str, now_ns: int, zero_ns: int = 0) -> Watch:
        """Begins to look for the first safe command after a fault."""
        self.watches.append(watch := Watch(kind, now_ns, zero_ns=zero_ns))
        return watch

    def damps_by_itself(self, now_ns: int) -> None:
        """The robot obeys nobody any more, and damps."""
        for watch in self.watches:
            watch.own_damping_ns = watch.own_damping_ns or now_ns

    def check(self, command: JointCommand, measured: Float64, now_ns: int, earliest_ns: int | None = None) -> bool:
        """Whether `command` is safe, `measured` (drives,) being where the driven joints are at `now_ns`.

        It arrived between `earliest_ns` and `now_ns`: it is not the runtime's fault if the robot looks late.
        """
        self.commands += 1
        before = self.violation_count
        finite = bool(np.isfinite(command.values).all())
        if not finite:
            row, drive = map(int, np.argwhere(~np.isfinite(command.values))[0])
            name = ("position", "velocity", "effort", "stiffness", "damping")[row]
            self._note(f"{name} of {self._description.drives[drive]} is {command.values[row, drive]}: not finite", command)
        self._check_time(command, now_ns if earliest_ns is None else earliest_ns, now_ns)
        self._check_state(command)
        if finite:
            self._check_range(command)
            if self._description.pd:
                self._check_motion(command, measured)
        self._look_for_safety(command, now_ns)
        last = self._last
        last.state, last.sequence, last.stamp_ns = command.state, command.sequence, command.stamp_ns
        np.copyto(last.position, command.position)
        return self.violation_count == before

    def _check_time(self, command: JointCommand, earliest_ns: int, now_ns: int) -> None:
        last = self._last.sequence
        if last is not None and command.sequence <= last:
            self._note(f"sequence {command.sequence} follows {last}: it must rise", command)
        age_ns, ahead_ns = earliest_ns - command.stamp_ns, command.stamp_ns - now_ns
        if not 0 < command.valid_ns <= MAX_VALID_NS:
            self._note(f"valid for {command.valid_ns / 1e6:g} ms: must be above 0 and at most 1000 ms", command)
        elif not self._description.shared_clock:
            return  # its age cannot be told
        elif age_ns > command.valid_ns:
            self._note(f"made {age_ns / 1e6:.3f} ms ago and valid for {command.valid_ns / 1e6:g} ms: expired", command)
        elif ahead_ns > CLOCK_SLACK_NS:
            self._note(f"made {ahead_ns / 1e6:.3f} ms in the future", command)

    def _check_state(self, command: JointCommand) -> None:
        allowed = _MAY_LEAD_TO.get(command.state)
        if allowed is not None and self._last.state not in allowed:
            self._note(f"{self._last.state.name} -> {command.state.name} is not allowed", command)
        if command.state not in _MAY_DRIVE and not is_safe(command, self._description.pd):
            what = "stiffness, effort or speed" if self._description.pd else "control"
            self._note(f"{what} in {command.state.name}: only STAND, ACTIVE and FAULT may drive", command)

    def _check_range(self, command: JointCommand) -> None:
        if not self._description.pd:
            low, high = self._control_range.T
            self._within("control", command.effort, low, high, command)
            return
        if command.stiffness.any():  # without stiffness a target does nothing
            self._within("position target", command.position, self._low, self._high, command)
        self._within("stiffness", command.stiffness, 0.0, self._description.max_stiffness or np.inf, command)
        self._within("damping", command.damping, 0.0, self._cfg.max_damping or np.inf, command)
        self._within("effort", command.effort, -self._effort, self._effort, command)

    def _check_motion(self, command: JointCommand, measured: Float64) -> None:
        last, cfg, state = self._last, self._cfg, command.state
        if not command.stiffness.any():
            return
        if state == SupervisorState.STAND and last.state not in _MAY_DRIVE:
            self._near("first target of STAND", command, measured, cfg.engage_distance, "where the joint is")
        elif state == SupervisorState.STAND and last.state == SupervisorState.ACTIVE:
            nearer = np.where(np.abs(command.position - last.position) <= cfg.engage_distance, last.position, measured)
            where = "the last one and from where the joint is"
            self._near("first target of STAND after ACTIVE", command, nearer, cfg.engage_distance, where)
        elif state == SupervisorState.STAND and last.state == SupervisorState.STAND:
            elapsed_s = max(command.stamp_ns - last.stamp_ns, 0) / 1e9
            self._near("target of STAND", command, last.position, cfg.stand_speed * elapsed_s + SLACK, "the last one")
        elif state == SupervisorState.FAULT and last.state == SupervisorState.FAULT:
            self._near("target of FAULT", command, last.position, SLACK, "the last one, which it holds")

    def _near(self, what: str, command: JointCommand, other: Float64, limit: float, where: str) -> None:
        distance = np.abs(command.position - other)
        worst = int(distance.argmax())
        if distance[worst] > limit:
            name = self._description.drives[worst]
            self._note(f"{what} of {name} is {distance[worst]:.4f} from {where}: at most {limit:.4f}", command)

    def _within(
        self, what: str, values: Float64, low: Float64 | float, high: Float64 | float, command: JointCommand
    ) -> None:
        outside = (values < np.subtract(low, SLACK)) | (values > np.add(high, SLACK))
        if outside.any():
            at = int(outside.argmax())
            ends = np.broadcast_to(low, values.shape)[at], np.broadcast_to(high, values.shape)[at]
            name = self._description.drives[at]
            self._note(f"{what} of {name} is {values[at]:.6g}: outside [{ends[0]:g}, {ends[1]:g}]", command)

    def _look_for_safety(self, command: JointCommand, now_ns: int) -> None:
        for watch in self.watches:
            if watch.fault_ns is None and command.state == SupervisorState.FAULT:
                watch.fault_ns = now_ns
            if watch.safe_ns is None and is_safe(command, self._description.pd):
                watch.safe_ns = now_ns

    def _note(self, sentence: str, command: JointCommand | None = None) -> None:
        self.violation_count += 1
        if len(self.violations) < MAX_SENTENCES:
            where = f"command {command.sequence} ({command.state.name}): " if command is not None else ""
            self.violations.append((where + sentence)[:MAX_SENTENCE])


def is_safe(command: JointCommand, pd: bool) -> bool:
    """Whether a command drives nothing: with a PD drive only damping is left, an actuator's control is 0."""
    if not pd:
        return not command.effort.any()
    return not (command.stiffness.any() or command.effort.any() or command.velocity.any())
