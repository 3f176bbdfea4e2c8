"""Which velocity commands are passed on: those that somebody gives now.

A message on `cmd_vel` proves that its last publisher lives, not that anybody steers: a relay (a multiplexer, a throttle, a
bridge) goes on with the last message of a source that died, and stamps it anew. So does a joystick's node whose gamepad is
out of reach, the dead-man button held for ever. What such messages cannot do is change. So a command is passed on no longer
once neither it nor the joystick has changed by a bit for `unchanged_timeout_s`, unless it is neutral; the supervisor's own
time-outs do the rest, to the neutral command and then to standing.
"""

from __future__ import annotations

from collections.abc import Sequence

from trudi.runtime.contract import Contract

TWIST = ("vx", "vy", "vz", "wx", "wy", "wz")
"""Elements that a Twist carries: linear x, y, z; angular x, y, z."""
SECOND_NS = 1_000_000_000


class VelocityGate:
    """Judges the commands of one topic."""

    def __init__(self, unchanged_timeout_s: float) -> None:
        """`unchanged_timeout_s`: s; 0 passes a command that never changes."""
        self.unchanged_timeout_s = unchanged_timeout_s
        self._last: tuple[float, ...] | None = None
        self._changed_ns = 0
        self.reason = ""
        """Why the last command was not passed on; empty where it was."""

    def passes(
        self, values: Sequence[float], now_ns: int, *, held: bool | None, neutral: Sequence[float], also_changed_ns: int = 0
    ) -> bool:
        """Whether a command that arrived at `now_ns` counts. `held`: the dead-man button; None where there is none.

        `also_changed_ns`: when something else showed that somebody is there.
        """
        given = tuple(values)
        if given != self._last:
            self._last, self._changed_ns = given, now_ns
        unchanged_s = (now_ns - max(self._changed_ns, also_changed_ns)) / SECOND_NS
        self.reason = ""
        if held is False:
            self.reason = "the dead-man button is not held"
        elif 0.0 < self.unchanged_timeout_s < unchanged_s and given != tuple(neutral):
            self.reason = (
                f"cmd_vel has not changed by a bit for {unchanged_s:.1f} s: a relay may be repeating the last command of a "
                "source that is gone (vary the command, or set cmd_vel.unchanged_timeout_s)"
            )
        return not self.reason


class Joystick:
    """The two buttons that matter, and whether the joystick is there at all."""

    def __init__(self, deadman_button: int, estop_button: int, timeout_s: float) -> None:
        """Buttons by their index in sensor_msgs/Joy, -1 for none; a message counts for `timeout_s`."""
        self._deadman, self._estop, self.timeout_s = deadman_button, estop_button, timeout_s
        self._last: tuple[tuple[int, ...], tuple[float, ...]] | None = None
        self._at_ns = 0
        self.changed_ns = 0
        """When a message last differed from the one before."""

    @property
    def heard(self) -> bool:
        """Whether there was ever a message."""
        return self._last is not None

    def take(self, buttons: Sequence[int], axes: Sequence[float], now_ns: int) -> None:
        """Takes a message."""
        given = tuple(buttons), tuple(axes)
        if given != self._last:
            self._last, self.changed_ns = given, now_ns
        self._at_ns = now_ns

    def held(self, now_ns: int) -> bool | None:
        """Whether a hand is on the dead-man button; None where there is no such button."""
        if self._deadman < 0:
            return None
        return self._fresh(now_ns) and self._pressed(self._deadman)

    def alarm(self, now_ns: int) -> str:
        """Why the robot must not move: the emergency stop is pressed, or nobody would hear it. Empty where all is well."""
        if self._estop < 0:
            return ""
        if not self._fresh(now_ns):
            return "the joystick with the emergency stop is silent (its node must repeat itself: autorepeat_rate)"
        if self._last is not None and self._estop >= len(self._last[0]):
            return f"the joystick has {len(self._last[0])} buttons, and joy.estop_button is {self._estop}"
        return "the emergency stop button is pressed" if self._pressed(self._estop) else ""

    def _fresh(self, now_ns: int) -> bool:
        return self._last is not None and now_ns - self._at_ns <= self.timeout_s * SECOND_NS

    def _pressed(self, index: int) -> bool:
        return self._last is not None and index < len(self._last[0]) and bool(self._last[0][index])


class VelocityCommand:
    """The policy's command that a Twist can give, and how its elements are read from one."""

    def __init__(self, contract: Contract) -> None:
        self.name, self.neutral = "", ()
        """Of the command; empty where the policy takes none that a Twist carries."""
        self._places: tuple[int, ...] = ()
        for command in contract.commands:
            if not self.name and all(element in TWIST for element in command.element_names):
                self.name, self.neutral = command.name, command.neutral
                self._places = tuple(TWIST.index(element) for element in command.element_names)

    def values(self, twist: Sequence[float]) -> tuple[float, ...]:
        """The command's elements from linear x, y, z and angular x, y, z."""
        return tuple(twist[place] for place in self._places)
