"""What lives from configuring to cleaning up: the bundle, the robot behind its topics, the session and its threads."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import time
from pathlib import Path
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Int64MultiArray, String

from trudi.runtime.aside import Aside
from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import Contract
from trudi.runtime.controller import ControllerCfg
from trudi.runtime.loop import LoopCfg, Tick
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns, quiet_interpreter
from trudi.runtime.recorder import FlightRecorder, RecorderCfg, describe
from trudi.runtime.robots.base import RobotDescription, RobotError
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.session import Session, SessionCfg
from trudi.runtime.site_file import SiteFile, read_site_file
from trudi.runtime.supervisor import FaultCode, Motors, Supervisor, Violation
from trudi_runtime.about import TOPICS, About
from trudi_runtime.commands import INTERFACES, CommandForm, JointStateForm, Ros2ControlForm, TrajectoryForm
from trudi_runtime.operating import Operator
from trudi_runtime.parameters import Settings, describe_robot, inside
from trudi_runtime.spinning import SpinningThread, raise_threads
from trudi_runtime.stamps import RosClock, SimulatedClock, SystemClock
from trudi_runtime.status import Links
from trudi_runtime.ticks import TickRow
from trudi_runtime.topics import IMU, JOINTS, ODOMETRY, SENSORS, RosRobot, TopicsCfg

SAVE_S = 20.0
"""How long the end waits for a recording that is being written; s."""
LINKS_S = 0.1
MOVING = (State.STANDBY, State.STAND, State.ACTIVE)


class RunTopics:
    """Where a run is told of for a bag; None where it is not."""

    def __init__(self, ticks: Publisher | None, about: Publisher | None) -> None:
        self.ticks, self.about = ticks, about


class Run:
    """One configuration of the node. Its topics belong to a node of their own, which is spun in a thread of its own."""

    def __init__(self, node: LifecycleNode, settings: Settings, root: Path, tell: RunTopics) -> None:
        """Configures; TrudiRuntimeError says what does not fit. Nothing has moved then, and nothing is left."""
        self._node, self._logger, self._tell = node, node.get_logger(), tell
        self._clock: RosClock = SystemClock()
        self._settings = settings
        if node.get_parameter("use_sim_time").value:  # Its stamps tell new from old; how old they are only arrival tells.
            self._clock = SimulatedClock(node.get_clock())
            self._settings = settings.but("stamps", "arrival" if settings["stamps"] == "arrival" else "own")
        self.links = Links(self._logger.error)
        self.saved: Path | None = None
        """The recording that was written last."""
        self._stack = contextlib.ExitStack()
        """Undone from its end: the motors first."""
        try:
            self._open(root)
        except BaseException:
            self.close()
            raise

    def _open(self, root: Path) -> None:
        settings, stack = self._settings, self._stack
        realtime = realtime_cfg(settings)
        self.path = inside(root, settings["bundle"], "bundle")
        trust = inside(root, settings["trust"], "trust") if settings["trust"] else None
        bundle = stack.enter_context(Bundle.open(self.path, trust=trust))
        self.digest, contract = bundle.digest, bundle.contract
        description = describe_robot(settings)
        self._operator = Operator(settings, contract, self._clock, self.links)
        self._io = self._make_node()
        stack.callback(self._io.destroy_node)
        self.robot = self._make_robot(description, contract)
        stack.callback(self.robot.close)
        self.session = Session(bundle, self.robot, site_file(settings, root), session_cfg(settings, contract, realtime))
        stack.callback(self.session.close)  # for as long as nothing has begun
        self._operator.listen(self._io, self._node.resolve_topic_name, self.session.loop)
        if self._tell.ticks is not None:
            self.robot.taken = []
            self.session.loop.on_tick = self._publish_tick
            self._publish_about()
        self._begin(realtime)

    def _begin(self, realtime: RealtimeCfg) -> None:
        """The threads: the last to be started, and the control thread the first to end."""
        stack = self._stack
        stack.enter_context(quiet_interpreter())
        thread = SpinningThread(self._io, self._logger.error, realtime.priority > 0)
        stack.callback(thread.close)
        self._saver = Aside("trudi-saving", realtime.priority > 0)
        stack.callback(self._end_saver)
        self.session.loop.start()
        stack.callback(self._end_session)
        if realtime.priority:
            raise_threads(max(realtime.priority - 2, 1), thread.native_id)

    def close(self) -> None:
        """Damps, ends the control thread, waits for a recording that is being written, and lets go of everything."""
        self._stack.close()

    def _end_session(self) -> None:
        self.session.close()
        if self.session.loop.error:
            self._logger.error(self.session.loop.error.strip())

    def _end_saver(self) -> None:
        self._saver.wait(SAVE_S)
        self._saver.close()

    # The robot's side.

    def _make_node(self) -> Node:
        return Node(
            f"{self._node.get_name()}_io",
            context=self._node.context,
            namespace=self._node.get_namespace(),
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )

    def _make_robot(self, description: RobotDescription, contract: Contract) -> RosRobot:
        settings, resolve = self._settings, self._node.resolve_topic_name
        names = {name: resolve(name) for name in (JOINTS, IMU, ODOMETRY, SENSORS)}
        cfg = TopicsCfg(names, settings["stamps"], settings["imu_frame"], settings["odometry_lag_s"])
        form = self._make_form(description, contract.action.kind)
        if not form.damps:
            self._logger.warning(
                f"command_form {settings['command_form']} as configured cannot command damping: at rest and on a fault the "
                "robot holds the last target it was given"
            )
        self._io.create_timer(LINKS_S, self._look_at_links, clock=Clock(clock_type=ClockType.STEADY_TIME))
        return RosRobot(self._io, description, cfg, self._clock, form)

    def _make_form(self, robot: RobotDescription, action: str) -> CommandForm:
        settings, resolve = self._settings, self._node.resolve_topic_name
        kind, reliability = settings["command_form"], settings["command_reliability"]
        if kind == "joint_state":
            topics = resolve("joint_commands"), resolve("joint_gains")
            return JointStateForm(self._publisher, topics, robot, reliability)
        if kind == "trajectory":
            topic = resolve(f"{settings['trajectory.controller']}/joint_trajectory")
            return TrajectoryForm(self._publisher, topic, robot, action, settings["trajectory.lookahead_s"], reliability)
        named = {interface: settings[f"ros2_control.{interface}"] for interface in INTERFACES}
        topics = {interface: resolve(f"{controller}/commands") for interface, controller in named.items() if controller}
        return Ros2ControlForm(self._publisher, topics, robot, action, reliability)

    def _publisher(self, kind: Any, topic: str, qos: QoSProfile) -> Publisher:
        """A publisher of commands. It says where nobody can hear it, and promises how often it speaks."""

        def note(info: Any) -> None:
            self.links.disagree(topic, info.last_policy_kind, "see command_reliability")

        callbacks = PublisherEventCallbacks(incompatible_qos=note)
        self.links.command_topics.append(topic)
        return self._io.create_publisher(kind, topic, qos, event_callbacks=callbacks)

    def _look_at_links(self) -> None:
        """Counts who publishes and who listens; two who publish the robot's state stop it. In the thread of the topics."""
        links, count = self.links, self._io.count_publishers
        links.publishers = self.robot.publisher_counts()
        links.subscribers = self.robot.command_subscribers()
        links.commanders = max(map(count, links.command_topics), default=0)
        links.velocity_publishers = count(links.velocity_topic) if links.velocity_topic else 0
        supervisor, sentence = self.supervisor, self._several_publishers()
        latched = supervisor.fault is not None and supervisor.motors is not Motors.FREEZE
        if sentence and not latched and supervisor.state is not State.INACTIVE:
            self.session.loop.fault(Violation(FaultCode.STATE_SOURCE, sentence, math.nan, math.nan))

    def require_alone(self) -> None:
        """RobotError where several nodes publish the robot's state, or command it."""
        sentence = self._several_publishers()
        if not sentence and self._settings["one_publisher"] and self.links.commanders > 1:
            sentence = f"{self.links.commanders} nodes command the robot on {', '.join(self.links.command_topics)}"
        if sentence:
            raise RobotError(
                f"activate is refused: {sentence}; leave one (a node that was killed is counted for another 20 s), or set "
                "one_publisher to false"
            )

    def _several_publishers(self) -> str:
        if not self._settings["one_publisher"]:
            return ""
        several = {name: count for name, count in self.links.publishers.items() if count > 1}
        return ", ".join(f"{count} nodes publish {name}" for name, count in several.items())

    # For the node.

    @property
    def supervisor(self) -> Supervisor:
        """The session's."""
        return self.session.controller.supervisor

    @property
    def operator(self) -> Operator:
        """What is said on cmd_vel and joy."""
        return self._operator

    def hint(self) -> str:
        """What may be the matter where no state arrives."""
        missing = self.robot.missing()
        rejected = [facts.reason for facts in self.robot.facts.values() if facts.reason]
        if missing:
            return f" (nothing was heard on {', '.join(missing)}: is the robot's driver running, with these names?)"
        return f" ({rejected[-1]})" if rejected else ""

    def save(self, event: str) -> Path | None:
        """Begins to write the flight so far, aside; the file it goes to, None where nothing is recorded."""
        recorder, folder = self.session.recorder, self._settings["record_dir"]
        if recorder is None:
            return None
        moment, robot = time.strftime("%Y-%m-%d_%H-%M-%S"), re.sub(r"[^\w.-]+", "_", self.robot.describe().name)
        stem = Path(folder).expanduser() / f"{moment}_{robot}"
        names = itertools.chain([f"{stem}.mcap"], (f"{stem}_{number}.mcap" for number in itertools.count(1)))
        path = next(path for path in map(Path, names) if not path.exists() and path != self.saved)
        self.saved = path
        self._saver.do(lambda: self._write(recorder, path, event))
        return path

    def _write(self, recorder: FlightRecorder, path: Path, event: str) -> None:
        try:
            self._logger.info(f"the flight is in {recorder.save(path, event)}")
        except Exception as error:  # A disk that fails is told of, and ends nothing.
            self._logger.error(f"the flight was not saved: {error}")

    # For a bag.

    def _publish_about(self) -> None:
        """Before the first tick."""
        if self._tell.about is None:
            return
        engine = self.session.choice.engine.info.described
        about = About(
            at_ns=monotonic_ns(),
            flight={"bundle": self.digest, "engine": engine} | describe(self.session.controller),
            topics={name: self._node.resolve_topic_name(name) for name in TOPICS},
            command_form=self._settings["command_form"],
            imu_frame=self._settings["imu_frame"],
        )
        self._tell.about.publish(String(data=about.to_json()))

    def _publish_tick(self, tick: Tick) -> None:
        """In the control thread."""
        controller, robot, ticks = self.session.controller, self.robot, self._tell.ticks
        if ticks is None or robot.taken is None:
            return
        row = TickRow(
            tick.now_ns,
            tick.slot,
            tick.missed,
            tick.request,
            None if tick.stopped is None else tick.stopped.code,
            tick.stepped,
            tick.outcome,
            tick.spread,
            robot.written_ros_ns - tick.now_ns,  # as it stands in the command's stamp, where one was sent
            tuple(robot.taken),
            tuple(
                (at_ns, tuple(values.tolist()))
                for values, at_ns in zip(controller.commands, controller.command_times_ns, strict=True)
            ),
        )
        robot.taken.clear()
        ticks.publish(Int64MultiArray(data=row.encode()))


def realtime_cfg(settings: Settings) -> RealtimeCfg:
    """What the control thread asks of the scheduler."""
    cpu = settings["realtime.cpu"]
    return RealtimeCfg(settings["realtime.priority"], None if cpu < 0 else cpu, settings["realtime.lock_memory"])


def session_cfg(settings: Settings, contract: Contract, realtime: RealtimeCfg) -> SessionCfg:
    """The session that the parameters ask for."""
    return SessionCfg(
        controller=ControllerCfg(settings["rate_hz"] or 4.0 / contract.control_period_s, between=settings["between"]),
        loop=LoopCfg(deadline=settings["deadline"], realtime=realtime),
        recorder=RecorderCfg(seconds=settings["record_seconds"]) if settings["record_dir"] else None,
        engines=settings.strings("engines") or ("onnx",),
        shadow=settings["shadow"] or None,
    )


def site_file(settings: Settings, root: Path) -> SiteFile:
    """The owner's limits, with the fade-in that the parameters ask for."""
    name = settings["site_file"]
    file = read_site_file(inside(root, name, "site_file")) if name else SiteFile(joints={})
    return file if settings["fade_in_s"] < 0.0 else file.model_copy(update={"fade_in_s": settings["fade_in_s"]})
