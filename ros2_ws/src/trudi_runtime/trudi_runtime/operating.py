"""What the operator says on topics: velocity commands, the joystick's two buttons, and the constant commands.

Callbacks run in the thread of the robot's topics, so that neither a service nor a slow disk holds up an emergency stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Joy

from trudi.runtime.command_words import parse_commands
from trudi.runtime.contract import Contract
from trudi.runtime.loop import ControlLoop
from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import RobotError
from trudi.runtime.supervisor import Event, FaultCode, Motors, Violation
from trudi_runtime.gate import Joystick, VelocityCommand, VelocityGate
from trudi_runtime.parameters import Settings
from trudi_runtime.stamps import RosClock, to_ns
from trudi_runtime.status import Links

MOST_AHEAD_S = 0.005
"""How far ahead of this clock a command may be stamped; s."""
AGAIN_S = 0.05
"""Time between two looks at the joystick's silence, and two givings of the constant commands; s."""
VELOCITY_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
GUARDED = (Event.STAND, Event.START, Event.RESET)
"""What is not granted while the emergency stop is pressed, or cannot be heard."""
UNKNOWN = math.nan


class Operator:
    """One configured run's."""

    def __init__(self, settings: Settings, contract: Contract, clock: RosClock, links: Links) -> None:
        """RobotError and TrudiRuntimeError say what in the parameters does not fit."""
        self._settings, self._clock, self._links = settings, clock, links
        self._velocity = VelocityCommand(contract)
        others = [command for command in contract.commands if command.name != self._velocity.name]
        self._constants = parse_commands(settings.strings("commands"), others, "commands, beside cmd_vel's:")
        self._gate = VelocityGate(settings["cmd_vel.unchanged_timeout_s"])
        self._joystick = _joystick(settings)
        self._loop: ControlLoop | None = None

    def listen(self, io: Node, resolve: Callable[[str], str], loop: ControlLoop) -> None:
        """Subscribes on `io`; `resolve` gives a topic the name it has here."""
        self._loop = loop
        if self._velocity.name:
            self._links.velocity_topic = resolve("cmd_vel")
            if self._settings["cmd_vel.stamped"]:
                io.create_subscription(TwistStamped, self._links.velocity_topic, self._on_stamped, VELOCITY_QOS)
            else:
                io.create_subscription(Twist, self._links.velocity_topic, self._on_twist, VELOCITY_QOS)
        if self._joystick is not None:
            reliable = self._settings["joy.reliable"]
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
            callbacks = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible)
            io.create_subscription(Joy, resolve("joy"), self._on_joy, qos, event_callbacks=callbacks)
        io.create_timer(AGAIN_S, self._again, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def adjust(self, values: Mapping[str, Any]) -> None:
        """Parameters that take effect at once."""
        self._gate.unchanged_timeout_s = values.get("cmd_vel.unchanged_timeout_s", self._gate.unchanged_timeout_s)
        if self._joystick is not None:
            self._joystick.timeout_s = values.get("joy.timeout_s", self._joystick.timeout_s)

    def objection(self, event: Event) -> str | None:
        """Why an event is not granted now, for the emergency stop's sake; None where nothing speaks against it."""
        if self._joystick is None or event not in GUARDED:
            return None
        reason = self._joystick.alarm(monotonic_ns())
        return f"{event.name.lower()} is refused: {reason}" if reason else None

    # In the thread of the topics.

    def _on_stamped(self, message: TwistStamped) -> None:
        now_ns, age_s = monotonic_ns(), 0.0
        if self._settings["stamps"] == "shared" and (stamp_ns := to_ns(message.header.stamp)):
            age_s = (now_ns - self._clock.to_monotonic_ns(stamp_ns)) * 1e-9
        self._take_velocity(message.twist, now_ns, age_s)

    def _on_twist(self, message: Twist) -> None:
        self._take_velocity(message, monotonic_ns(), 0.0)

    def _take_velocity(self, twist: Twist, now_ns: int, age_s: float) -> None:
        """A command counts from when it was stamped, and not at all where something speaks against it."""
        linear, angular, links, gate = twist.linear, twist.angular, self._links, self._gate
        given = (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)
        links.velocity_ns = now_ns
        if not all(map(math.isfinite, given)):
            links.velocity_reason = "cmd_vel is not finite"
            return
        if age_s < -MOST_AHEAD_S:
            links.velocity_reason = f"cmd_vel is stamped {-age_s:.3f} s ahead of this machine's clock"
            return
        if links.velocity_publishers > 1 and self._settings["one_publisher"]:
            links.velocity_reason = f"{links.velocity_publishers} nodes publish cmd_vel: let one of them choose (twist_mux)"
            return
        values = self._velocity.values(given)
        held = None if self._joystick is None else self._joystick.held(now_ns)
        changed_ns = 0 if self._joystick is None else self._joystick.changed_ns
        passes = gate.passes(values, now_ns, held=held, neutral=self._velocity.neutral, also_changed_ns=changed_ns)
        links.velocity_reason = gate.reason
        if passes and self._loop is not None:
            self._loop.command(self._velocity.name, values, now_ns - round(max(age_s, 0.0) * 1e9))

    def _on_joy(self, message: Joy) -> None:
        if self._joystick is not None:
            now_ns = self._links.joy_ns = monotonic_ns()
            self._joystick.take(message.buttons, message.axes, now_ns)
            self._stop_if(self._joystick.alarm(now_ns))

    def _again(self) -> None:
        if self._loop is None:
            return
        for name, values in self._constants.items():
            self._loop.command(name, values)
        if self._joystick is not None and self._joystick.heard:
            self._stop_if(self._joystick.alarm(monotonic_ns()))

    def _stop_if(self, reason: str) -> None:
        """Stops the robot, once: a fault that is latched already is only told of again where motors are still stiff."""
        if not reason or self._loop is None:
            return
        supervisor = self._loop.controller.supervisor
        if supervisor.fault is None or supervisor.motors is Motors.FREEZE:
            self._loop.fault(Violation(FaultCode.EMERGENCY_STOP, reason, UNKNOWN, UNKNOWN))

    def _on_incompatible(self, info: Any) -> None:
        self._links.disagree("joy", info.last_policy_kind, "set joy.reliable to false, or let its publisher be reliable")


def _joystick(settings: Settings) -> Joystick | None:
    buttons = settings["joy.deadman_button"], settings["joy.estop_button"]
    if not settings["joy.enabled"]:
        if max(buttons) >= 0:
            raise RobotError("joy.deadman_button or joy.estop_button is given, and joy.enabled is false: set it to true")
        return None
    return Joystick(*buttons, settings["joy.timeout_s"])
