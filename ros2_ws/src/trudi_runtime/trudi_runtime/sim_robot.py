"""The simulated robot as a ROS 2 node: the driver side of `joint_states`, `imu`, `odom`, `sensors` and `joint_commands`.

    python -m trudi_runtime.sim_robot --ros-args -p task:=CartpoleSwingup-v1

The physics runs in a thread of its own against the wall clock. Callbacks leave what they hear in a mailbox; that thread
alone judges commands and moves the robot. A node that nobody commands damps by itself. At its end it prints its report as
one line of JSON.
"""

from __future__ import annotations

import collections
import json
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.realtime import above_normal, monotonic_ns
from trudi.runtime.robots.base import RobotError, RobotState
from trudi.runtime.robots.disturbance import Layout
from trudi.runtime.robots.messages import CommandRejected
from trudi.runtime.robots.simulated import SimulatedRobot, print_report
from trudi_runtime.sim_messages import SENSOR_QOS, CommandReader, StateTopics
from trudi_runtime.sim_parameters import check, declare, joints_cfg, parse_injected, robot_cfg, values_of
from trudi_runtime.spinning import Ending, raise_threads, run_node, spin_while
from trudi_runtime.stamps import SystemClock

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MAILBOX = 1024


class SimRobot(Node):
    """The robot behind its topics; a `Transport` of `SimulatedRobot`."""

    def __init__(self) -> None:
        """TrudiRuntimeError or rclpy's ParameterException say which parameter does not fit."""
        super().__init__("sim_robot")
        declare(self)
        self._values = values_of(self)
        check(self._values)
        cfg = robot_cfg(self._values)
        try:
            self.robot = SimulatedRobot(cfg)
        except RobotError as error:
            raise RobotError(str(error).replace("state_period_s", "1 / state_rate_hz")) from None
        self.failure = ""
        """Why the physics ended, if not because it was stopped."""
        description, clock = self.robot.description, SystemClock()
        self._mailbox: collections.deque[Callable[[], None]] = collections.deque(maxlen=MAILBOX)
        self._reader = CommandReader(description, clock, round(cfg.command_timeout_s * 1e9))
        self._states = StateTopics(self, description, clock, odometry=self._values["odometry"])
        self._apply(self._values)
        self.create_subscription(JointState, "joint_commands", self._hear(self._take_command), SENSOR_QOS)
        self.create_subscription(Float64MultiArray, "joint_gains", self._hear(self._take_gains), LATCHED)
        self.create_service(Trigger, "~/report", self._report)
        self.create_service(Trigger, "~/reset_pose", self._reset_pose)
        self.add_on_set_parameters_callback(self._judge_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        self._priority = cfg.priority
        self._thread = threading.Thread(target=self._step, name="trudi-physics", daemon=True)

    def run(self, executor: Executor, ending: Ending) -> None:
        """Until a signal ends it, or the physics fails."""
        description = self.robot.description
        self.robot.streaming = True
        self._thread.start()
        rates = (
            f"{1.0 / description.state_period_s:g} states a second, commands obeyed for {description.command_timeout_s:g} s"
        )
        self.get_logger().info(f"{description.name}, {len(description.joints)} joints: {rates}")
        with above_normal(self._priority > 0):
            spin_while(executor, lambda: not ending.name and self._thread.is_alive(), self.get_logger().error)
        self.robot.stop()
        self._thread.join()

    # For the thread of the physics.

    def receive(self) -> None:
        """Does what callbacks left to be done."""
        while self._mailbox:
            self._mailbox.popleft()()

    def send(self, state: RobotState, layout: Layout) -> None:
        """Publishes a state."""
        try:
            self._states.publish(state, layout)
        except Exception as error:
            self.robot.note(f"a state could not be published: {error}")

    def _step(self) -> None:
        try:
            self.robot.enter_realtime()
            if self._priority:
                raise_threads(max(self._priority - 2, 1))
            self.robot.run(self)
        except Exception:
            self.failure = traceback.format_exc()

    def _take_command(self, message: JointState, now_ns: int) -> None:
        try:
            command = self._reader.read(message, now_ns)
        except CommandRejected as error:
            self.robot.malformed(str(error))
        else:
            if command is not None:
                self.robot.take(command, now_ns)

    def _take_gains(self, message: Float64MultiArray, _: int) -> None:
        try:
            self._reader.take_gains(message)
        except CommandRejected as error:
            self.robot.malformed(str(error))

    # For the executor.

    def _hear(self, take: Callable[[Any, int], None]) -> Callable[[Any], None]:
        return lambda message: self._mailbox.append(partial(take, message, monotonic_ns()))

    def _report(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, json.dumps(asdict(self.robot.report()))
        return response

    def _reset_pose(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._mailbox.append(self.robot.reset_pose)
        response.success, response.message = True, f"{self.robot.description.name} is put back to its initial state"
        return response

    def _judge_parameters(self, given: Sequence[Parameter]) -> SetParametersResult:
        new = {parameter.name: parameter.value for parameter in given}
        try:
            check(new)
            joints_cfg(self._values | new).joints_of(self.robot.description)
            self.robot.check_faults(parse_injected(new.get("inject") or "", "inject"))
        except TrudiRuntimeError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take_parameters(self, given: Sequence[Parameter]) -> None:
        new = {parameter.name: parameter.value for parameter in given}
        self._values |= new
        self._apply(new)

    def _apply(self, new: dict[str, object]) -> None:
        """Puts parameters into force that may change at any time."""
        values = self._values
        self._states.arrange(joints_cfg(values))
        self._states.name_frame(values["imu_frame"])
        self._states.stamp_offset_ns = round(values["stamp_offset_s"] * 1e9)
        if faults := parse_injected(str(new.get("inject") or ""), "inject"):
            self.robot.check_faults(faults)
            self._mailbox.append(partial(self.robot.inject, faults))


def main(args: list[str] | None = None) -> int:
    """Runs the node; 2 where it cannot be made, 1 where the physics failed."""
    return run_node(SimRobot, _run, args)


def _run(node: SimRobot, executor: Executor, ending: Ending) -> int:
    try:
        node.run(executor, ending)
    finally:
        ending.ignore_more()
        print_report(node.robot)
    if node.failure:
        print(f"error: the physics failed: {node.failure}", file=sys.stderr)
    return 1 if node.failure else 0


if __name__ == "__main__":
    sys.exit(main())
