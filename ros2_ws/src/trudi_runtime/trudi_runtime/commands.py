"""A joint command as ROS messages, in one of three forms.

| form         | messages                                                 | damping                                        |
|--------------|----------------------------------------------------------|------------------------------------------------|
| joint_state  | JointState, and gains on a topic of their own            | no positions: the drive damps                  |
| ros2_control | Float64MultiArray for each interface's forward controller | kp 0 where kp is sent, else positions hold     |
| trajectory   | JointTrajectory of one point                             | none: the controller holds its last point      |

Called from the control thread: messages are made once and filled again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from trudi.runtime.robots.base import Float64, JointCommand, RobotDescription, RobotError
from trudi.runtime.robots.checker import is_safe
from trudi_runtime.stamps import SECOND_NS, set_stamp

INTERFACES = ("kp", "kd", "velocity", "effort", "position")
"""Interfaces of ros2_control that a command has values for, in the order in which they are sent while the robot damps:
without stiffness no position matters any more. While it is driven the order is the other one."""
NOTHING = array("d")
BY_POSITION = ("joint_position", "joint_position_increment")
"""Kinds of action whose commands are positions."""
LEASE_TIMEOUTS = 5.0
"""Robot's time-outs after which a process that is silent counts as gone."""
MakePublisher = Callable[[Any, str, QoSProfile], Publisher]
"""Makes a publisher of a message type on a topic."""


class CommandForm(ABC):
    """Publishes commands of one robot."""

    damps = True
    """Whether this form can say that the robot is to damp."""

    @abstractmethod
    def publish(self, command: JointCommand, ros_ns: int) -> None:
        """Publishes a command that was made at `ros_ns`, ROS time, now."""

    @property
    @abstractmethod
    def publishers(self) -> Sequence[Publisher]:
        """What it publishes with."""


def command_qos(reliability: str, default: ReliabilityPolicy, robot: RobotDescription) -> QoSProfile:
    """Depth 1 and volatile: an old command is worth nothing. `reliability`: auto, best_effort or reliable.

    The deadline that is offered is the robot's own time-out, the lease of liveliness a few of them: a driver that asks for
    either is told by the middleware when commands stop, or their process is gone. Who asks for none loses nothing.
    """
    chosen = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}.get(reliability, default)
    return QoSProfile(
        depth=1,
        reliability=chosen,
        durability=DurabilityPolicy.VOLATILE,
        deadline=Duration(seconds=robot.command_timeout_s),
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(seconds=LEASE_TIMEOUTS * robot.command_timeout_s),
    )


class JointStateForm(CommandForm):
    """`joint_commands` and `joint_gains`; each command says by itself whether the robot is driven or damps."""

    def __init__(self, make: MakePublisher, topics: tuple[str, str], robot: RobotDescription, reliability: str) -> None:
        """`topics`: of the commands and of the gains."""
        qos = command_qos(reliability, ReliabilityPolicy.BEST_EFFORT, robot)
        latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._commands = make(JointState, topics[0], qos)
        self._gains = make(Float64MultiArray, topics[1], latched) if robot.pd else None
        self._pd = robot.pd
        self._message = JointState(name=list(robot.drives))
        self._zeros = array("d", [0.0] * len(robot.drives))
        self._gain_message = Float64MultiArray()
        self._gain_message.layout.dim = [
            MultiArrayDimension(label="stiffness,damping", size=2, stride=2 * len(robot.drives)),
            MultiArrayDimension(label=",".join(robot.drives), size=len(robot.drives), stride=len(robot.drives)),
        ]
        self._sent_gains: Float64 | None = None

    @property
    def publishers(self) -> Sequence[Publisher]:
        return [self._commands] if self._gains is None else [self._commands, self._gains]

    def publish(self, command: JointCommand, ros_ns: int) -> None:
        message = self._message
        set_stamp(message.header.stamp, ros_ns)
        message.header.frame_id = command.state.name
        if not self._pd:
            message.effort = array("d", command.effort.tobytes())
        elif is_safe(command, pd=True):
            self._send_gains(command)
            message.position, message.velocity, message.effort = NOTHING, self._zeros, NOTHING
        else:
            self._send_gains(command)
            message.position = array("d", command.position.tobytes())
            message.velocity = array("d", command.velocity.tobytes())
            message.effort = array("d", command.effort.tobytes())
        self._commands.publish(message)

    def _send_gains(self, command: JointCommand) -> None:
        gains = command.values[3:]
        if self._gains is None or (self._sent_gains is not None and np.array_equal(gains, self._sent_gains)):
            return
        self._sent_gains = gains.copy()
        self._gain_message.data = array("d", gains.tobytes())
        self._gains.publish(self._gain_message)


class Ros2ControlForm(CommandForm):
    """A forward controller for each interface, by its name; values in the order of the robot's drives."""

    def __init__(
        self, make: MakePublisher, controllers: Mapping[str, str], robot: RobotDescription, action: str, reliability: str
    ) -> None:
        """`controllers`: topic by interface, of `INTERFACES`. RobotError where they cannot drive this robot by `action`, the
        policy's kind of action."""
        self._pd = robot.pd
        self.damps = "kp" in controllers or not robot.pd
        _check_interfaces(controllers, robot, action)
        qos = command_qos(reliability, ReliabilityPolicy.RELIABLE, robot)
        self._topics = {
            interface: make(Float64MultiArray, controllers[interface], qos)
            for interface in INTERFACES
            if interface in controllers
        }
        self._message = Float64MultiArray()
        self._message.layout.dim = [
            MultiArrayDimension(label=",".join(robot.drives), size=len(robot.drives), stride=len(robot.drives))
        ]

    @property
    def publishers(self) -> Sequence[Publisher]:
        return list(self._topics.values())

    def publish(self, command: JointCommand, ros_ns: int) -> None:
        rows = {"position": command.position, "velocity": command.velocity, "effort": command.effort}
        rows |= {"kp": command.stiffness, "kd": command.damping}
        resting = self._pd and is_safe(command, pd=True)  # an actuator's 0 is a control like any other
        for interface in INTERFACES if resting else reversed(INTERFACES):
            if interface in self._topics and not (resting and interface == "position"):
                self._message.data = array("d", rows[interface].tobytes())
                self._topics[interface].publish(self._message)


class TrajectoryForm(CommandForm):
    """A trajectory of one point, `lookahead_s` ahead, for a joint trajectory controller; at rest nothing is sent."""

    damps = False

    def __init__(
        self, make: MakePublisher, topic: str, robot: RobotDescription, action: str, lookahead_s: float, reliability: str
    ) -> None:
        if not robot.pd or action not in BY_POSITION:
            raise RobotError(
                "command_form trajectory carries positions alone, and this policy or robot asks for something else"
            )
        self._commands = make(JointTrajectory, topic, command_qos(reliability, ReliabilityPolicy.RELIABLE, robot))
        self._point = JointTrajectoryPoint()
        set_duration_s(self._point, lookahead_s)
        self._message = JointTrajectory(joint_names=list(robot.drives), points=[self._point])

    @property
    def publishers(self) -> Sequence[Publisher]:
        return [self._commands]

    def publish(self, command: JointCommand, ros_ns: int) -> None:
        if not command.stiffness.any():
            return  # The controller holds the point it has come to.
        self._point.positions = array("d", command.position.tobytes())
        self._commands.publish(self._message)


def set_duration_s(point: JointTrajectoryPoint, seconds: float) -> None:
    """When the point is to be reached, from the arrival of the trajectory on (its stamp is 0)."""
    point.time_from_start.sec, point.time_from_start.nanosec = divmod(round(seconds * SECOND_NS), SECOND_NS)


def _check_interfaces(controllers: Mapping[str, str], robot: RobotDescription, action: str) -> None:
    """A set of interfaces on which the robot could be told half of a command is refused."""
    if not controllers:
        raise RobotError(
            "command_form ros2_control: no controller is named; give ros2_control.position, .velocity, .effort, .kp or .kd"
        )
    if not robot.pd:
        if set(controllers) != {"effort"}:
            raise RobotError("this robot's drives are actuators: give ros2_control.effort alone, of their controls")
        return
    if ("kp" in controllers) != ("kd" in controllers):
        raise RobotError(
            "ros2_control.kp and ros2_control.kd belong together: without one of them damping cannot be commanded"
        )
    if "position" not in controllers:
        raise RobotError("ros2_control.position is not named: a robot that is to stand must be told positions")
    if action in BY_POSITION:
        return
    interface = action.removeprefix("joint_")
    for needed in ("kp", interface):
        if needed not in controllers:
            raise RobotError(
                f"the policy commands {interface}s, and ros2_control.{needed} is not named: positions with the hardware's "
                f"own stiffness would work against it; it needs position, {interface}, kp and kd"
            )
