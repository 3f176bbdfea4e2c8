"""What the simulated robot says and understands: states as ROS messages, and commands read from them.

Called from the thread of the physics, up to 400 times a second: messages are made once, and their arrays overwritten.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Vector3
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

from trudi.runtime.errors import near_matches, quoted
from trudi.runtime.robots.base import Float64, JointCommand, RobotDescription, RobotError, RobotState, SupervisorState
from trudi.runtime.robots.disturbance import UNKNOWN_JOINT, Layout
from trudi.runtime.robots.messages import CommandRejected
from trudi_runtime.stamps import SECOND_NS, SystemClock, set_stamp, to_ns

SENSOR_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
"""Of states, as drivers offer them, and of the commands that are listened to."""
GAINS_LABEL = "stiffness,damping"
GAINS_WAIT_NS = 500_000_000
"""How long commands may come before the gains: these are latched and reliable, those are not, and may overtake them."""
MAX_STAMP_NS = (2**31 - 1) * SECOND_NS


@dataclass(frozen=True)
class JointsCfg:
    """Which joints `joint_states` names, and in which order."""

    shuffled: bool = False
    """Whether they stand in some other order than the robot's."""
    extra: tuple[str, ...] = ()
    """Joints that are not the robot's; they rest at 0."""
    missing: tuple[str, ...] = ()
    """Joints of the robot that are left out."""
    seed: int = 0
    """Of the order."""

    def joints_of(self, description: RobotDescription) -> list[tuple[str, int | None]]:
        """Name of each joint and its place in the robot's state, None for an extra one. RobotError where one is wrong."""
        own = description.joint_names
        for name in self.missing:
            if name not in own:
                raise RobotError(
                    f"missing_joints: {description.name} has no joint {quoted(name)}; {near_matches(name, own)}"
                )
        for name in self.extra:
            if not name or name in own or self.extra.count(name) > 1:
                raise RobotError(f"extra_joints: {quoted(name)} is empty, stands twice, or is a joint of {description.name}")
        joints: list[tuple[str, int | None]] = [(name, place) for place, name in enumerate(own) if name not in self.missing]
        joints += [(name, None) for name in self.extra]
        if self.shuffled:
            joints = [joints[place] for place in np.random.default_rng(self.seed).permutation(len(joints))]
        return joints


class JointMessage:
    """A JointState of some joints."""

    def __init__(self, joints: Sequence[tuple[str, int | None]]) -> None:
        """`joints` as from `JointsCfg.joints_of`."""
        self.message = JointState(name=[name for name, _ in joints])
        measured = [(slot, place) for slot, (_, place) in enumerate(joints) if place is not None]
        self._slots = np.array([slot for slot, _ in measured], np.intp)
        self._places = np.array([place for _, place in measured], np.intp)
        message, zeros = self.message, array("d", bytes(8 * len(joints)))
        message.position, message.velocity, message.effort = zeros, zeros[:], zeros[:]
        # Views of the message's own arrays, which may be copies of those that it was given.
        self._position, self._velocity, self._effort = map(np.asarray, (message.position, message.velocity, message.effort))

    def fill(self, state: RobotState) -> JointState:
        """The message, with what `state` says."""
        self._position[self._slots] = state.joint_position[self._places]
        self._velocity[self._slots] = state.joint_velocity[self._places]
        self._effort[self._slots] = state.joint_effort[self._places]
        return self.message


class JointMessages:
    """The good message of all joints, and those of the faults `state_size` and `state_layout`."""

    def __init__(self, description: RobotDescription, cfg: JointsCfg, stamp: Time) -> None:
        """`stamp` becomes that of every message. RobotError where `cfg` does not fit the robot."""
        joints = cfg.joints_of(description)
        first = min((place for _, place in joints if place is not None), default=None)
        other = [(UNKNOWN_JOINT if place is not None and place == first else name, place) for name, place in joints]
        self._messages = {
            Layout.RIGHT: JointMessage(joints),
            Layout.SHORT: JointMessage(joints[:-1]),
            Layout.OTHER: JointMessage(other),
        }
        for made in self._messages.values():
            made.message.header.stamp = stamp

    def fill(self, state: RobotState, layout: Layout) -> JointState:
        """The message of `state`."""
        return self._messages[layout].fill(state)


class StateTopics:
    """Publishes states: imu, odometry and custom sensors first, so that a state is whole when its joints arrive."""

    def __init__(self, node: Node, description: RobotDescription, clock: SystemClock, *, odometry: bool) -> None:
        """Creates the publishers; `odometry` only where the robot has something to say there."""
        self._description, self._clock = description, clock
        self.stamp_offset_ns = 0
        """Added to every stamp."""
        self._stamp, self._turn, self._turning = Time(), Quaternion(), Vector3()
        self._imu, self._odometry = Imu(), Odometry()
        self._describe_frames()
        self._custom = JointState(name=[f"{one.name}[{place}]" for one in description.custom for place in range(one.size)])
        self._custom.position = array("d", bytes(8 * len(self._custom.name)))
        self._custom.header.stamp = self._stamp
        self._custom_values = np.asarray(self._custom.position)  # a view
        self.arrange(JointsCfg())

        def topic(kind: type, name: str, wanted: bool) -> Any:
            return node.create_publisher(kind, name, SENSOR_QOS) if wanted else None

        self._imu_topic = topic(Imu, "imu", description.has_imu)
        has_odometry = description.has_linear_velocity or description.has_height
        self._odometry_topic = topic(Odometry, "odom", odometry and has_odometry)
        self._custom_topic = topic(JointState, "sensors", bool(description.custom))
        self._joints_topic = topic(JointState, "joint_states", True)

    def arrange(self, cfg: JointsCfg) -> None:
        """From the next state on joints are named as `cfg` says; from any thread. RobotError where it does not fit."""
        self._joints = JointMessages(self._description, cfg, self._stamp)

    def name_frame(self, frame: str) -> None:
        """The frame of the imu, and of the odometry's velocities; from any thread."""
        self._imu.header.frame_id = self._odometry.child_frame_id = frame

    def publish(self, state: RobotState, layout: Layout) -> None:
        """Publishes everything that `state` says."""
        ros_ns = self._clock.to_ros_ns(state.stamp_ns) + self.stamp_offset_ns
        set_stamp(self._stamp, min(max(ros_ns, -MAX_STAMP_NS), MAX_STAMP_NS))
        turn, turning = self._turn, self._turning
        turn.x, turn.y, turn.z, turn.w = state.quaternion_xyzw.tolist()
        turning.x, turning.y, turning.z = state.angular_velocity.tolist()
        if self._imu_topic is not None:
            self._imu_topic.publish(self._imu)
        if self._odometry_topic is not None:
            speed = self._odometry.twist.twist.linear
            speed.x, speed.y, speed.z = state.linear_velocity.tolist()
            self._odometry.pose.pose.position.z = float(state.height[0])
            self._odometry_topic.publish(self._odometry)
        if self._custom_topic is not None:
            self._custom_values[:] = state.custom
            self._custom_topic.publish(self._custom)
        self._joints_topic.publish(self._joints.fill(state, layout))

    def _describe_frames(self) -> None:
        imu, odometry = self._imu, self._odometry
        imu.header.stamp = odometry.header.stamp = self._stamp
        imu.orientation = odometry.pose.pose.orientation = self._turn
        imu.angular_velocity = odometry.twist.twist.angular = self._turning
        odometry.header.frame_id = "odom"
        imu.linear_acceleration_covariance[0] = -1.0  # as the message has it: not measured


class CommandReader:
    """Makes commands of `joint_commands` and `joint_gains`. CommandRejected says why a message is none for this robot."""

    def __init__(self, description: RobotDescription, clock: SystemClock, valid_ns: int) -> None:
        """`valid_ns`: how long a command may be obeyed, by its stamp."""
        self._drives, self._pd, self._clock = list(description.drives), description.pd, clock
        self._gains: Float64 | None = None
        self._waits_since_ns: int | None = None
        self._stamp_ns: int | None = None
        self._command = JointCommand.zeros(len(self._drives))
        self._command.valid_ns = valid_ns

    def take_gains(self, message: Float64MultiArray) -> None:
        """Stiffness and damping of the commands to come. After rejected ones no command is accepted until good ones come."""
        self._gains = None
        count, names = len(self._drives), ",".join(self._drives)
        dimensions = [(dimension.label, dimension.size) for dimension in message.layout.dim]
        if dimensions != [(GAINS_LABEL, 2), (names, count)] or len(message.data) != 2 * count:
            raise CommandRejected(
                f"joint_gains of the dimensions {quoted(dimensions)} and {len(message.data)} numbers; this robot's are "
                f"{GAINS_LABEL} (2) and {quoted(names)} ({count})"
            )
        self._gains = np.array(message.data).reshape(2, count)

    def read(self, message: JointState, now_ns: int) -> JointCommand | None:
        """The command that arrived at `now_ns`, overwritten by the next; None where it waits for the gains."""
        self._check(message)
        if self._pd and self._gains is None:
            self._waits_since_ns = self._waits_since_ns or now_ns
            if now_ns - self._waits_since_ns <= GAINS_WAIT_NS:
                return None
            raise CommandRejected("a command without gains: no good message came on joint_gains")
        command, stamp_ns = self._command, to_ns(message.header.stamp)
        command.state = SupervisorState[message.header.frame_id]
        command.stamp_ns = self._clock.to_monotonic_ns(stamp_ns)
        if self._stamp_ns is None or stamp_ns > self._stamp_ns:
            command.sequence += 1
        self._stamp_ns = stamp_ns
        self._fill(message)
        return command

    def _check(self, message: JointState) -> None:
        if message.header.frame_id not in SupervisorState.__members__:
            known = ", ".join(SupervisorState.__members__)
            raise CommandRejected(f"frame_id is {quoted(message.header.frame_id)}: must be the supervisor's state ({known})")
        if message.name != self._drives:
            raise CommandRejected(f"a command for {quoted(','.join(message.name))}; this robot's drives: {self._drives}")
        count = len(self._drives)
        sizes = len(message.position), len(message.velocity), len(message.effort)
        if sizes not in ([(count, count, count), (0, count, 0)] if self._pd else [(0, 0, count)]):
            wanted = f"{count} each, or velocities alone to damp" if self._pd else f"{count} efforts alone"
            raise CommandRejected(f"a command of {sizes} positions, velocities and efforts; this robot takes {wanted}")

    def _fill(self, message: JointState) -> None:
        command = self._command
        if not self._pd:
            command.effort[:] = message.effort
            return
        driven = len(message.position) > 0
        command.values[3:] = self._gains
        command.velocity[:] = message.velocity
        command.effort[:] = message.effort if driven else 0.0
        if driven:
            command.position[:] = message.position
        else:
            command.stiffness[:] = 0.0
