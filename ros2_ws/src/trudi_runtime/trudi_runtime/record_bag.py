"""Records the topics of a runtime and its robot into a bag: a folder with metadata.yaml and an MCAP file, as of `ros2 bag`.

    record_bag --ros-args -p output:=walk

A process of its own, which never keeps the runtime waiting: it listens with best effort, leaves messages serialized, and
writes in a thread aside. Once a second what was heard is handed to the operating system. It ends with a complete bag on
Ctrl-C, SIGTERM or SIGHUP, after `max_minutes`, and before the disk is full. What a recorder that was killed leaves behind
`replay_bag` reads; `mcap recover` and `ros2 bag reindex` make a complete bag of it.
"""

from __future__ import annotations

import importlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import ParameterUninitializedException
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from trudi.runtime.aside import Aside
from trudi.runtime.errors import one_line
from trudi_runtime.bags import BagError, BagWriter
from trudi_runtime.spinning import Ending, run_node, spin_while

if TYPE_CHECKING:
    from rosbags.interfaces import Qos

LISTENING: Final = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
LATCHED: Final = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LOOK_S: Final = 1.0
"""Time between two looks at the disk and at who publishes what; s."""
RESERVE_BYTES: Final = 64 << 20
"""What is left of the disk to everybody else, and to complete the bag."""
MAX_BACKLOG_BYTES: Final = 256 << 20
"""Messages that wait for a slow disk; what comes beyond is lost, and counted."""
LAST_S: Final = 0.3
"""How long the recorder goes on listening when it is to end; s."""
CLOSE_S: Final = 30.0
"""How long a disk may take to complete the bag; s."""
DEFAULT_TOPICS: Final = {
    "joint_states": "sensor_msgs/msg/JointState",
    "imu": "sensor_msgs/msg/Imu",
    "odom": "nav_msgs/msg/Odometry",
    "sensors": "sensor_msgs/msg/JointState",
    "cmd_vel": "geometry_msgs/msg/TwistStamped",
    "joy": "sensor_msgs/msg/Joy",
    "joint_commands": "sensor_msgs/msg/JointState",
    "joint_gains": "std_msgs/msg/Float64MultiArray",
    "~/ticks": "std_msgs/msg/Int64MultiArray",
    "~/about": "std_msgs/msg/String",
    "~/state": "diagnostic_msgs/msg/DiagnosticStatus",
    "~/is_active": "std_msgs/msg/Bool",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
"""Recorded unless `topics` says otherwise, with their types; ~ is the runtime."""
LATCHED_TOPICS: Final = frozenset({"joint_gains", "~/about", "~/state", "~/is_active"})


@dataclass
class Heard:
    """A topic that is recorded."""

    name: str
    kind: str = ""
    """Type of its messages, pkg/msg/Name; empty while nobody says it."""
    connection: Any = None
    """In the bag; None before the first message."""
    count: int = 0
    told: bool = False
    """Whether it was said that it is heard."""
    complained: bool = False


class RecordBag(Node):
    """Subscribes to everything, and leaves what it hears to the thread that writes."""

    def __init__(self) -> None:
        """BagError where the bag cannot be made, or a parameter does not fit."""
        super().__init__("record_bag")
        self._declare()
        output = self.get_parameter("output").value
        if not output:
            raise BagError("no output: start with -p output:=FOLDER, a folder that is not there yet")
        self.output = Path(output).expanduser().absolute()
        self._runtime = self.get_parameter("runtime").value
        minutes = self.get_parameter("max_minutes").value
        self._end = time.monotonic() + 60.0 * minutes if minutes else math.inf
        self._topics = {heard.name: heard for heard in self._wanted()}
        self._writer = BagWriter(self.output)
        self._disk = Aside("trudi-bag", False)
        self._heard_bytes = self._written_bytes = 0
        """Counted by two threads, each its own."""
        self._lost = 0
        self._broken = False
        self.failure = ""
        """Why recording ended, if not because it was to."""
        self._check_disk()
        for heard in self._topics.values():
            if heard.kind:
                self._subscribe(heard, self._is_latched(heard.name))
        self.create_timer(LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))  # a simulation may stand still
        self.get_logger().info(f"recording {len(self._topics)} topics into {self.output}")

    @property
    def done(self) -> bool:
        """Whether there is nothing more to record."""
        return bool(self.failure) or time.monotonic() > self._end

    def end(self) -> int:
        """Completes the bag; 1 where it is not whole, or ended early."""
        self._disk.do(self._close)
        in_time = self._disk.wait(CLOSE_S)
        self._disk.close()
        if not in_time:
            self.failure = self.failure or f"the disk did not take the end of the bag within {CLOSE_S:g} s"
        silent = [heard.name for heard in self._topics.values() if not heard.count]
        self.get_logger().info(f"{self._writer.count} messages are in {self.output}")
        if silent:
            self.get_logger().info(f"nothing was heard on {', '.join(silent)}")
        if self._lost:
            self.get_logger().error(f"{self._lost} messages were lost: the disk is too slow")
        if self.failure:
            self.get_logger().error(one_line(self.failure))
        return 1 if self.failure or self._lost else 0

    # What is recorded.

    def _declare(self) -> None:
        def described(text: str) -> ParameterDescriptor:
            return ParameterDescriptor(description=text, read_only=True)

        self.declare_parameter("output", "", described("Folder of the bag; it must not be there yet"))
        self.declare_parameter(
            "topics", Parameter.Type.STRING_ARRAY, described("Topics; absent: those of the runtime and its robot")
        )
        self.declare_parameter("runtime", "trudi_runtime", described("Name of the runtime node, in this node's namespace"))
        self.declare_parameter("cmd_vel_stamped", True, described("Whether cmd_vel is a TwistStamped; otherwise a Twist"))
        limited = described("Time after which the bag is complete; min. 0: when this node ends")
        limited.floating_point_range = [FloatingPointRange(from_value=0.0, to_value=10000.0)]
        self.declare_parameter("max_minutes", 0.0, limited)

    def _wanted(self) -> list[Heard]:
        known = {self._resolved(name): kind for name, kind in DEFAULT_TOPICS.items()}
        if not self.get_parameter("cmd_vel_stamped").value:
            known[self._resolved("cmd_vel")] = "geometry_msgs/msg/Twist"
        try:
            given = self.get_parameter("topics").value
        except ParameterUninitializedException:
            given = None
        names = map(self._resolved, given) if given else known
        return [Heard(name, known.get(name, "")) for name in dict.fromkeys(names)]

    def _resolved(self, name: str) -> str:
        """A topic's whole name; ~ stands for the runtime, and everything else is resolved as this node's own."""
        return self.resolve_topic_name(f"{self._runtime}{name[1:]}" if name.startswith("~") else name)

    def _is_latched(self, name: str) -> bool:
        return name in map(self._resolved, LATCHED_TOPICS)

    def _subscribe(self, heard: Heard, latched: bool) -> None:
        try:
            if not self._writer.knows(heard.kind):
                raise LookupError(f"rosbags does not know {heard.kind}")
            package, _, name = heard.kind.partition("/msg/")
            kind = getattr(importlib.import_module(f"{package}.msg"), name)
        except (ImportError, AttributeError, LookupError) as error:
            self._complain(heard, f"{heard.name} is not recorded: {error}")
            return
        qos = LATCHED if latched else LISTENING
        self.create_subscription(kind, heard.name, partial(self._hear, heard), qos, raw=True)

    # What is heard.

    def _hear(self, heard: Heard, data: bytes) -> None:
        received_ns = time.time_ns()
        if self.failure:
            return
        if self._heard_bytes - self._written_bytes > MAX_BACKLOG_BYTES:
            self._lost += 1
            return
        if not heard.count:
            self._disk.do(partial(self._add, heard, self._offered(heard.name)))
        heard.count += 1
        self._heard_bytes += len(data)
        self._disk.do(partial(self._write, heard, received_ns, data))

    def _offered(self, topic: str) -> list[Qos]:
        return [to_qos(info.qos_profile) for info in self.get_publishers_info_by_topic(topic)]

    def _look(self) -> None:
        """Now and then: the disk, what is heard by now, and who publishes what."""
        self._disk.do(self._flush)
        self._check_disk()
        new = [heard for heard in self._topics.values() if heard.count and not heard.told]
        for heard in new:
            heard.told = True
        if new:
            self.get_logger().info(f"hears {', '.join(heard.name for heard in new)}")
        for heard in self._topics.values():
            if not heard.count:
                self._look_for(heard)

    def _look_for(self, heard: Heard) -> None:
        """Looks who publishes a topic on which nothing was heard yet."""
        offers = self.get_publishers_info_by_topic(heard.name)
        kinds = sorted({offer.topic_type for offer in offers})
        if kinds and not heard.kind:
            heard.kind = kinds[0]
            latched = all(offer.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
            self._subscribe(heard, latched)
        elif kinds and heard.kind not in kinds:
            hint = "; set cmd_vel_stamped to what it is" if heard.name == self._resolved("cmd_vel") else ""
            self._complain(heard, f"{heard.name} is not recorded: it is {', '.join(kinds)}, and not {heard.kind}{hint}")

    def _complain(self, heard: Heard, sentence: str) -> None:
        if not heard.complained:
            heard.complained = True
            self.get_logger().warning(sentence)

    def _check_disk(self) -> None:
        try:
            free = shutil.disk_usage(self.output).free
        except OSError as error:
            self.failure = self.failure or f"{self.output} is gone: {error.strerror}"
            return
        if free < RESERVE_BYTES:
            self.failure = self.failure or (
                f"the disk of {self.output} has {free >> 20} MiB left: the bag ends here, complete; make room for the next"
            )

    # In the thread that writes.

    def _add(self, heard: Heard, offered: Sequence[Qos]) -> None:
        self._try(lambda: setattr(heard, "connection", self._writer.add(heard.name, heard.kind, offered)))

    def _write(self, heard: Heard, received_ns: int, data: bytes) -> None:
        self._written_bytes += len(data)
        self._try(lambda: self._writer.write(heard.connection, received_ns, data))

    def _flush(self) -> None:
        self._try(self._writer.flush)

    def _close(self) -> None:
        self._try(self._writer.close)

    def _try(self, work: Callable[[], object]) -> None:
        """Does something with the bag, unless it is broken off already."""
        if self._broken:
            return
        try:
            work()
        except Exception as error:
            self._broken = True
            self._writer.break_off()
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self.failure = (
                f"the bag ends here, broken off: {reason}; replay_bag reads it as far as it goes, and `mcap recover` "
                "makes a file of it that is complete"
            )


def to_qos(profile: QoSProfile) -> Qos:
    """A quality of service as bags keep it."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    def time_of(duration: Any) -> QosTime:
        return QosTime(*divmod(duration.nanoseconds, 10**9))

    def named(kind: Any, policy: Any) -> Any:
        return kind.__members__.get(policy.name, kind.UNKNOWN)

    return Qos(
        named(QosHistory, profile.history),
        profile.depth,
        named(QosReliability, profile.reliability),
        named(QosDurability, profile.durability),
        time_of(profile.deadline),
        time_of(profile.lifespan),
        named(QosLiveliness, profile.liveliness),
        time_of(profile.liveliness_lease_duration),
        profile.avoid_ros_namespace_conventions,
    )


def main(args: list[str] | None = None) -> int:
    """Runs the node; 2 where it cannot be started, 1 where the bag ended early or lacks something."""
    return run_node(RecordBag, _run, args)


def _run(node: RecordBag, executor: Executor, ending: Ending) -> int:
    try:
        spin_while(executor, lambda: not (ending.name or node.done) and node.context.ok(), node.get_logger().error)
        # Whoever else was ended by the same Ctrl-C still says its last: that it damps, for instance.
        last = time.monotonic() + LAST_S
        spin_while(executor, lambda: time.monotonic() < last and not node.failure, node.get_logger().error)
    finally:
        ending.ignore_more()
        code = node.end()
    return code


if __name__ == "__main__":
    sys.exit(main())
