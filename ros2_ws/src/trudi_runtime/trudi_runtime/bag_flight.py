"""The flight that a bag holds: its runs, tick by tick, the states each tick took, and what was commanded. Without rclpy.

A tick names the messages that its states were made of by the stamps in their headers. One that the recorder did not get is
missing; which one, and in which tick, is what `Lacking` says.
"""

from __future__ import annotations

import functools
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.errors import near_matches
from trudi.runtime.robots.base import JointCommand, RobotDescription, RobotState
from trudi.runtime.robots.checker import is_safe
from trudi_runtime.about import COMMANDS, GAINS, TOPICS, About
from trudi_runtime.bags import Bag, BagError, make_typestore
from trudi_runtime.ticks import PARTS, TakenState, TickRow

JOINTS, IMU, ODOMETRY, SENSORS = PARTS
TYPES: Final = {
    JOINTS: "sensor_msgs/msg/JointState",
    IMU: "sensor_msgs/msg/Imu",
    ODOMETRY: "nav_msgs/msg/Odometry",
    SENSORS: "sensor_msgs/msg/JointState",
    COMMANDS: "sensor_msgs/msg/JointState",
    GAINS: "std_msgs/msg/Float64MultiArray",
}
TICKS_TYPE: Final = "std_msgs/msg/Int64MultiArray"
ABOUT_TYPE: Final = "std_msgs/msg/String"
SECOND_NS: Final = 1_000_000_000

Float64 = NDArray[np.float64]
Stamped = Mapping[int, Sequence[bytes]]
"""Serialized messages by the stamp in their header; ROS time, ns."""


class Lacking(Exception):
    """A message that a tick was made of is not in the bag."""

    def __init__(self, topic: str, stamp_ns: int) -> None:
        super().__init__(topic, stamp_ns)
        self.topic, self.stamp_ns = topic, stamp_ns


@dataclass(frozen=True)
class SentCommand:
    """A message on joint_commands, its arrays (drives,) or empty."""

    state: str
    position: Float64
    velocity: Float64
    effort: Float64


@dataclass
class Run:
    """What a bag holds of the time from configuring to cleaning up."""

    about: About
    ticks: str
    """Topic of the ticks."""
    rows: list[TickRow] = field(default_factory=list[TickRow])
    """In order of time; some may be missing."""
    received_ns: int = 0
    """When the first of them reached the recorder; wall clock."""
    stamped: dict[str, Stamped] = field(default_factory=dict[str, Stamped])
    """Of each of `TOPICS`, but for the gains, its messages."""
    gains: list[Float64] = field(default_factory=list[Float64])
    """(2 drives,), stiffness and damping, one after the other as they were sent."""

    def sent_ns(self, place: int) -> int:
        """Stamp of the command that was sent in row `place` or last before it; ROS time. 0 before the first."""
        row = self.rows[place]
        return row.now_ns + row.offset_ns

    def sends(self, place: int) -> bool:
        """Whether row `place` sent a command."""
        return place == 0 or self.sent_ns(place) != self.sent_ns(place - 1)

    def command(self, place: int) -> SentCommand | None:
        """What row `place` commanded; None where it commanded nothing, or the message is missing."""
        if not self.sends(place):
            return None
        for data in self.stamped[COMMANDS].get(self.sent_ns(place), ()):
            message = _read(data, TYPES[COMMANDS])
            return SentCommand(message.header.frame_id, message.position, message.velocity, message.effort)
        return None


class StateBuilder:
    """Makes states of a bag's messages, as the node made them of the same messages."""

    def __init__(self, run: Run, robot: RobotDescription) -> None:
        self._run, self._robot = run, robot
        self._state = RobotState.zeros(robot)
        self._places: dict[tuple[str, tuple[str, ...]], NDArray[np.intp] | None] = {}
        self._sensor_names = [f"{one.name}[{place}]" for one in robot.custom for place in range(one.size)]
        self._fill = {JOINTS: self._fill_joints}
        if robot.has_imu:
            self._fill[IMU] = self._fill_imu
        if robot.has_linear_velocity or robot.has_height:
            self._fill[ODOMETRY] = self._fill_odometry
        if robot.custom:
            self._fill[SENSORS] = self._fill_sensors

    def build(self, taken: TakenState) -> RobotState:
        """The state that a tick took; overwritten by the next. Lacking where a message of it is not in the bag."""
        for part, stamp_ns in zip(PARTS, taken.parts, strict=True):
            if part in self._fill:
                self._take(part, stamp_ns)
        state = self._state
        state.stamp_ns, state.received_ns = taken.stamp_ns, taken.received_ns
        state.sequence += 1
        return state

    def _take(self, part: str, stamp_ns: int) -> None:
        topic = self._run.about.topics[part]
        if stamp_ns == 0:
            raise BagError(
                f"messages on {topic} carried no stamp (parameter stamps: arrival), so a tick cannot say which of them it "
                "took: record flights of this robot with record_dir"
            )
        # Several of one stamp are those of other nodes on the same topic, and one that is the robot's.
        for data in self._run.stamped[part].get(stamp_ns, ()):
            if self._fill[part](_read(data, TYPES[part])):
                return
        raise Lacking(topic, stamp_ns)

    def _fill_joints(self, message: Any) -> bool:
        places = self._places_of(JOINTS, message.name, self._robot.joint_names)
        count, state = len(message.name), self._state
        if places is None or len(message.position) != count or len(message.velocity) != count:
            return False
        if len(message.effort) not in (0, count):
            return False
        state.joint_position[:] = message.position[places]
        state.joint_velocity[:] = message.velocity[places]
        if count and len(message.effort):
            efforts = message.effort[places]
            state.joint_effort[:] = np.where(np.isnan(efforts), 0.0, efforts)
        return True

    def _fill_imu(self, message: Any) -> bool:
        wanted, q, w = self._run.about.imu_frame, message.orientation, message.angular_velocity
        if (wanted and message.header.frame_id != wanted) or message.orientation_covariance[0] == -1.0:
            return False
        self._state.quaternion_xyzw[:] = (q.x, q.y, q.z, q.w)
        self._state.angular_velocity[:] = (w.x, w.y, w.z)
        return True

    def _fill_odometry(self, message: Any) -> bool:
        v = message.twist.twist.linear
        self._state.linear_velocity[:] = (v.x, v.y, v.z)
        self._state.height[0] = message.pose.pose.position.z
        return True

    def _fill_sensors(self, message: Any) -> bool:
        places = self._places_of(SENSORS, message.name, self._sensor_names)
        if places is None or len(message.position) != len(message.name):
            return False
        self._state.custom[:] = message.position[places]
        return True

    def _places_of(self, part: str, names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.intp] | None:
        """Where `wanted` stand among `names`; None where they do not, each once."""
        key = part, tuple(names)
        if key not in self._places:
            position = {name: place for place, name in enumerate(names)}
            fits = len(position) == len(names) and all(name in position for name in wanted)
            self._places[key] = np.array([position[name] for name in wanted], np.intp) if fits else None
        return self._places[key]


def as_sent(command: JointCommand, pd: bool) -> tuple[Float64, Float64, Float64]:
    """Position, velocity and effort of the message that a command is sent as on joint_commands."""
    nothing = np.zeros(0)
    if not pd:
        return nothing, nothing, command.effort
    if is_safe(command, pd=True):
        return nothing, np.zeros_like(command.velocity), nothing
    return command.position, command.velocity, command.effort


def read_runs(bag: Bag, runtime: str | None) -> list[Run]:
    """The runs in a bag of the runtime node of that name, or of the only one. BagError says what the bag lacks."""
    ticks = _ticks_topic(bag, runtime)
    about = f"{ticks.removesuffix('/ticks')}/about"
    if bag.types.get(about) != ABOUT_TYPE:
        raise BagError(f"{bag.path} has nothing on {about}, which says what was flown: record that topic, too")
    texts: list[str] = []
    rows: dict[int, TickRow] = {}
    received: dict[int, int] = {}
    try:
        for topic, received_ns, data in bag.messages({ticks, about}):
            if topic == about:
                texts.append(_read(data, ABOUT_TYPE).data)
            else:
                row = TickRow.decode(_read(data, TICKS_TYPE).data.tolist())
                rows[row.now_ns], received[row.now_ns] = row, received_ns
        told = {one.at_ns: one for one in map(About.from_json, texts)}
    except ValueError as error:
        raise BagError(f"{bag.path}: {error}") from None
    if not rows or not told:
        what = f"no message on {ticks if told else about}"
        raise BagError(f"{bag.path} has {what}: start the runtime with publish_ticks:=true, and record_bag before it")
    runs = [Run(told[at_ns], ticks) for at_ns in sorted(told)]
    for now_ns in sorted(rows):
        if (number := sum(run.about.at_ns <= now_ns for run in runs)) > 0:
            runs[number - 1].rows.append(rows[now_ns])
    runs = [run for run in runs if run.rows]
    for run in runs:
        run.received_ns = received[run.rows[0].now_ns]
    if not runs:
        raise BagError(f"{bag.path}: what it has on {about} is of a later run than its ticks")
    _read_messages(bag, runs)
    return runs


def _ticks_topic(bag: Bag, runtime: str | None) -> str:
    found = sorted(topic for topic, kind in bag.types.items() if topic.endswith("/ticks") and kind == TICKS_TYPE)
    names = [topic.removesuffix("/ticks") for topic in found]
    if not found:
        raise BagError(
            f"{bag.path} has no ~/ticks of a runtime, without which nobody knows what it took when: start the runtime with "
            "publish_ticks:=true, and record_bag before it"
        )
    if runtime is not None:
        wanted = runtime if runtime.startswith("/") else f"/{runtime}"
        if wanted not in names:
            raise BagError(f"{bag.path} has no ticks of {wanted}; {near_matches(wanted, names)}")
        return f"{wanted}/ticks"
    if len(found) > 1:
        raise BagError(f"{bag.path} is of several runtimes: choose one with --runtime; available: {', '.join(names)}")
    return found[0]


def _read_messages(bag: Bag, runs: Sequence[Run]) -> None:
    """Everything that the runs name, by its stamp; nothing is deserialized yet."""
    kinds = {run.about.topics[name]: TYPES[name] for run in runs for name in TOPICS}
    for topic, kind in kinds.items():
        if bag.types.get(topic, kind) != kind:
            raise BagError(f"{bag.path}: {topic} is {bag.types[topic]}, and a runtime's is {kind}")
    stamped: dict[str, dict[int, list[bytes]]] = {topic: defaultdict(list) for topic in kinds}
    gains: list[tuple[str, int, bytes]] = []
    for topic, received_ns, data in bag.messages(kinds.keys()):
        if kinds[topic] == TYPES[GAINS]:
            gains.append((topic, received_ns, data))
        elif (stamp_ns := header_stamp_ns(data)) is not None:
            stamped[topic][stamp_ns].append(data)
    for number, run in enumerate(runs):
        run.stamped = {name: stamped[run.about.topics[name]] for name in TOPICS if name != GAINS}
        begin_ns = run.received_ns if number else 0
        end_ns = runs[number + 1].received_ns if number + 1 < len(runs) else 1 << 63
        run.gains = [
            np.array(_read(data, TYPES[GAINS]).data)
            for topic, received_ns, data in gains
            if topic == run.about.topics[GAINS] and begin_ns <= received_ns < end_ns
        ]


def header_stamp_ns(data: bytes) -> int | None:
    """The stamp of a serialized message that begins with a header; None where it is cut off."""
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * SECOND_NS + int(nanoseconds)


def _read(data: bytes, kind: str) -> Any:
    """A message. BagError where its bytes are none."""
    try:
        return _typestore().deserialize_cdr(data, kind)
    except Exception as error:  # The library trusts what it reads.
        raise BagError(f"a message of the type {kind} in the bag is damaged ({type(error).__name__})") from None


@functools.cache
def _typestore() -> Any:
    return make_typestore()
