"""A robot behind ROS topics: callbacks judge messages, assemble states and leave them in a mailbox for the control loop.

A state is complete when joints, imu and custom sensors have all been heard anew since the last one. It is as old as its
oldest part, so a topic that stops, or goes on with the same stamp, stops the states, however lively the others are.
Odometry, an estimator's product, may lag by `odometry_lag_s`.

| stamps    | a message is new where                 | a state's time                                                  |
|-----------|----------------------------------------|-----------------------------------------------------------------|
| `shared`  | its stamp has risen                    | the oldest of its parts' stamps, moved to CLOCK_MONOTONIC       |
| `own`     | its stamp has risen, by its own clock  | when the oldest of its parts arrived                            |
| `arrival` | it arrives                             | the same                                                        |
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header

from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import JointCommand, Robot, RobotDescription, RobotError, RobotState, StateRejected
from trudi_runtime.commands import CommandForm
from trudi_runtime.stamps import RosClock, to_ns
from trudi_runtime.ticks import PARTS, TakenState

SENSOR_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
"""Best effort matches every publisher; a few states deep, since the loop looks at each one."""
MAILBOX = 64
AHEAD_NS = 5_000_000
"""How far ahead of this clock a stamp of a shared clock may be; the watches then take it for a fault."""
LAST_WORD = Duration(seconds=0.2)
"""How long the last command may take to arrive before its publisher is taken away."""
SAME = 0.75
"""Part of the state period: what arrives sooner after another takes its place; parts this far apart are of two times."""
JOINTS, IMU, ODOMETRY, SENSORS = "joint_states", "imu", "odom", "sensors"


@dataclass(frozen=True)
class TopicsCfg:
    """How messages are read."""

    names: dict[str, str]
    """Topic of each of joint_states, imu, odom and sensors, with its namespace."""
    stamps: Literal["shared", "own", "arrival"] = "shared"
    """Whose clock the headers' stamps are of: this machine's, the robot's own (they only tell new from old), or none."""
    imu_frame: str = ""
    """Frame that imu messages must name; empty accepts any."""
    odometry_lag_s: float = 0.1
    """How much older than the rest odometry may be; s."""


@dataclass
class TopicFacts:
    """What was heard on one topic."""

    count: int = 0
    received_ns: int = 0
    """CLOCK_MONOTONIC; 0 before the first message."""
    stamp_ns: int = 0
    rejected: int = 0
    reason: str = ""
    """Why the last one that was rejected was."""


@dataclass
class _Mapping:
    """Where the robot's joints stand in a message with these names."""

    names: list[str] = field(default_factory=list[str])
    places: np.ndarray | None = None
    """(joints,); None where the message is of other joints, or lacks some."""
    problem: str = ""
    """What is wrong with the names; empty also where none of the robot's joints is among them."""


class RosRobot(Robot):
    """The robot as the control loop sees it."""

    def __init__(self, node: Node, robot: RobotDescription, cfg: TopicsCfg, clock: RosClock, form: CommandForm) -> None:
        """Subscribes. The node is to be spun in a thread of its own, from now on until `close`."""
        self._description, self._cfg, self._clock, self._form, self._node = robot, cfg, clock, form, node
        self._mailbox: collections.deque[tuple[RobotState | StateRejected, TakenState]] = collections.deque(maxlen=MAILBOX)
        self._heard: RobotState = RobotState.zeros(robot)
        self._times: dict[str, int] = {}
        """Of the latest message on each topic; CLOCK_MONOTONIC."""
        self._fresh: set[str] = set()
        """Topics that were heard anew since the last state."""
        self._period_ns = round(1e9 * robot.state_period_s)
        self._pushed_ns = self._sequence = self._arrived_ns = self._slot_ns = 0
        self._last: tuple[RobotState | StateRejected, TakenState] | None = None
        self.written_ros_ns = 0
        """Stamp of the command that was published last; ROS time."""
        self.taken: list[TakenState] | None = None
        """What the loop took since somebody emptied it, where somebody wants to know; None where nobody does."""
        self._raw: dict[str, int] = {}
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._joints, self._sensors = _Mapping(), _Mapping()
        self._sensor_names = [f"{one.name}[{place}]" for one in robot.custom for place in range(one.size)]
        self.facts = {name: TopicFacts() for name in self._topics()}
        self._needed = frozenset(self.facts) - {ODOMETRY}
        self._lag_ns = round(1e9 * cfg.odometry_lag_s)
        self.ignored = 0
        """Messages on joint_states that were of other joints altogether."""
        self._subscribe()

    # For the control loop.

    def describe(self) -> RobotDescription:
        return self._description

    def read(self) -> RobotState | None:
        try:
            found, taken = self._mailbox.popleft()
        except IndexError:
            return None
        if self.taken is not None:
            self.taken.append(taken)
        if isinstance(found, StateRejected):
            raise found
        return found

    def write(self, command: JointCommand) -> None:
        self.written_ros_ns = self._clock.to_ros_ns(command.stamp_ns)
        try:
            self._form.publish(command, self.written_ros_ns)
        except Exception as error:
            raise RobotError(f"the command could not be published: {error}") from error

    @property
    def arrived_ns(self) -> int:
        return self._arrived_ns

    def wait(self, after_ns: int, until_ns: int) -> None:
        while self._arrived_ns <= after_ns and (left_ns := until_ns - monotonic_ns()) > 0:
            if select.select([self._event], [], [], left_ns * 1e-9)[0]:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._event)

    def close(self) -> None:
        """Waits until the last command has arrived, where that is told. The node is not to be spun any more."""
        for publisher in self._form.publishers:
            with contextlib.suppress(Exception):  # the middleware may have ended
                publisher.wait_for_all_acked(LAST_WORD)
        if self._event >= 0:
            event, self._event = self._event, -1
            os.close(event)

    # For whoever reports.

    def missing(self) -> list[str]:
        """Topics that nothing was heard on, by the names they have here."""
        return [self._cfg.names[name] for name, facts in self.facts.items() if not facts.count + facts.rejected]

    def publisher_counts(self) -> dict[str, int]:
        """Publishers of each topic that is read."""
        return {name: self._node.count_publishers(self._cfg.names[name]) for name in self.facts}

    def command_subscribers(self) -> int:
        """Who listens to the commands."""
        return self._form.publishers[0].get_subscription_count()

    # Messages.

    def _topics(self) -> list[str]:
        robot = self._description
        wanted = {JOINTS: True, IMU: robot.has_imu, ODOMETRY: robot.has_linear_velocity or robot.has_height}
        return [name for name, is_wanted in wanted.items() if is_wanted] + [SENSORS] * bool(robot.custom)

    def _subscribe(self) -> None:
        callbacks: dict[str, tuple[type, Callable[..., None]]] = {
            JOINTS: (JointState, self._on_joints),
            IMU: (Imu, self._on_imu),
            ODOMETRY: (Odometry, self._on_odometry),
            SENSORS: (JointState, self._on_sensors),
        }
        for name in self.facts:
            kind, callback = callbacks[name]
            self._node.create_subscription(kind, self._cfg.names[name], callback, SENSOR_QOS)

    def _on_joints(self, message: JointState) -> None:
        received_ns = monotonic_ns()
        places = self._places(self._joints, list(message.name), self._description.joint_names, JOINTS)
        if places is None:
            return
        count, heard = len(message.name), self._heard
        if len(message.position) != count or len(message.velocity) != count or len(message.effort) not in (0, count):
            sizes = f"{count} names, {len(message.position)} positions, {len(message.velocity)} velocities"
            self._reject(JOINTS, "malformed", f"joint_states has {sizes} and {len(message.effort)} efforts")
        elif self._is_new(JOINTS, message.header, received_ns):
            heard.joint_position[:] = np.frombuffer(message.position)[places]
            heard.joint_velocity[:] = np.frombuffer(message.velocity)[places]
            if count and len(message.effort):  # NaN is how a broadcaster says that it measures none
                heard.joint_effort[:] = np.nan_to_num(
                    np.frombuffer(message.effort)[places], nan=0.0, posinf=np.inf, neginf=-np.inf
                )
            self._complete(received_ns)

    def _on_sensors(self, message: JointState) -> None:
        received_ns = monotonic_ns()
        places = self._places(self._sensors, list(message.name), self._sensor_names, SENSORS)
        if places is None:
            return
        if len(message.position) != len(message.name):
            self._reject(SENSORS, "malformed", f"sensors has {len(message.name)} names, {len(message.position)} values")
        elif self._is_new(SENSORS, message.header, received_ns):
            self._heard.custom[:] = np.frombuffer(message.position)[places]
            self._complete(received_ns)

    def _on_imu(self, message: Imu) -> None:
        received_ns = monotonic_ns()
        frame, wanted = message.header.frame_id, self._cfg.imu_frame
        if wanted and frame != wanted:
            self._reject(IMU, "layout", f"imu is in the frame '{frame}', and imu_frame says '{wanted}'")
        elif message.orientation_covariance[0] == -1.0:
            self._reject(IMU, "malformed", "imu says that it measures no orientation (orientation_covariance[0] is -1)")
        elif self._is_new(IMU, message.header, received_ns):
            q, w = message.orientation, message.angular_velocity
            self._heard.quaternion_xyzw[:] = (q.x, q.y, q.z, q.w)
            self._heard.angular_velocity[:] = (w.x, w.y, w.z)
            self._complete(received_ns)

    def _on_odometry(self, message: Odometry) -> None:
        received_ns = monotonic_ns()
        if self._is_new(ODOMETRY, message.header, received_ns):
            v = message.twist.twist.linear
            self._heard.linear_velocity[:] = (v.x, v.y, v.z)
            self._heard.height[0] = message.pose.pose.position.z
            self._complete(received_ns)

    def _places(self, known: _Mapping, names: list[str], wanted: Sequence[str], topic: str) -> np.ndarray | None:
        """Where `wanted` stand among `names`; None where the message is rejected or of others altogether."""
        if known.names != names:
            known.names, known.problem, known.places = names, "", None
            position = {name: place for place, name in enumerate(names)}
            lacking = [name for name in wanted if name not in position]
            if len(position) != len(names):
                known.problem = f"{topic} names a joint twice: {', '.join(names)}"
            elif lacking and len(lacking) < len(wanted):
                known.problem = f"{topic} lacks {', '.join(lacking)}; it has {', '.join(names)}"
            elif not lacking:
                known.places = np.array([position[name] for name in wanted], np.intp)
        if known.problem:
            self._reject(topic, "layout", known.problem)
        elif known.places is None:
            self.ignored += 1
        return known.places

    # Time.

    def _is_new(self, topic: str, header: Header, received_ns: int) -> bool:
        """Whether a message says something new; then its time is kept. A time that cannot be is handed on as a state's."""
        raw_ns, facts = to_ns(header.stamp), self.facts[topic]
        facts.count += 1
        facts.received_ns = received_ns
        before_ns, stamps = self._raw.get(topic, 0), self._cfg.stamps
        if stamps != "arrival":
            if raw_ns == 0:
                reason = f"{topic} carries no stamp; let its publisher stamp it, or set the parameter stamps to arrival"
                self._reject(topic, "malformed", reason)
                return False
            if raw_ns == before_ns:
                return False
        time_ns = self._clock.to_monotonic_ns(raw_ns) if stamps == "shared" else received_ns
        self._raw[topic] = facts.stamp_ns = raw_ns
        self._times[topic] = time_ns + (self._lag_ns if topic == ODOMETRY else 0)
        if stamps == "shared" and time_ns - received_ns > AHEAD_NS:
            self._push(time_ns, received_ns)
            return False
        if stamps != "arrival" and raw_ns < before_ns:
            if self._pushed_ns:
                self._push(self._pushed_ns - (before_ns - raw_ns), received_ns)
            return False
        self._fresh.add(topic)
        return True

    def _complete(self, received_ns: int) -> None:
        """Makes a state where every part has been heard anew. What belongs to the next one already counts for that."""
        if self._needed <= self._fresh and len(self._times) == len(self.facts):
            oldest_ns = min(self._times.values())
            self._fresh = {topic for topic in self._needed if self._times[topic] - oldest_ns >= SAME * self._period_ns}
            self._push(oldest_ns, received_ns)

    def _push(self, stamp_ns: int, received_ns: int) -> None:
        """Into the mailbox; in place of the last one, if that came just before and nobody has taken it."""
        state = RobotState.zeros(self._description)
        state.values[:] = self._heard.values
        self._sequence += 1
        state.stamp_ns, state.received_ns, state.sequence = stamp_ns, received_ns, self._sequence
        parts = tuple(self._raw.get(name, 0) for name in PARTS)
        entry = (state, TakenState("state", stamp_ns, received_ns, parts))
        if received_ns - self._slot_ns < SAME * self._period_ns and stamp_ns >= self._pushed_ns:
            with contextlib.suppress(IndexError):
                if (newest := self._mailbox.pop()) is not self._last:
                    self._mailbox.append(newest)
        else:
            self._slot_ns = received_ns
        self._pushed_ns, self._last = stamp_ns, entry
        self._mailbox.append(entry)
        self._arrived_ns = received_ns
        self._wake()

    def _reject(self, topic: str, kind: Literal["malformed", "layout"], reason: str) -> None:
        facts = self.facts[topic]
        facts.rejected += 1
        facts.reason = reason
        self._mailbox.append((StateRejected(kind, reason), TakenState(kind, 0, 0, (0,) * len(PARTS))))

    def _wake(self) -> None:
        if self._event >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._event, 1)
