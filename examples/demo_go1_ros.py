"""The minute of demo_go1.py over ROS 2: two nodes in processes of their own, and this one, which holds the joystick.

.ros/kilted/bin/python examples/demo_go1_ros.py        (what `make demo-go1` runs; with a built workspace: sim.launch.py)
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ros2_ws" / "src" / "trudi_runtime"
BUNDLE, COURSE = ROOT / "zoo" / "go1_flat", ROOT / "examples" / "go1_course.yaml"
TASK, ROBOT = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1", PACKAGE / "config" / "unitree_go1.yaml"
SECONDS = float(os.environ.get("TRUDI_DEMO_SECONDS", "60"))
PERIOD_S, PATIENCE_S = 0.05, 30.0

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # nobody else's robot moves
sys.path.insert(0, str(ROOT / "runtime"))

import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import TwistStamped  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from trudi.runtime.bundle import Bundle  # noqa: E402
from trudi.runtime.script import Leg, read_script, values_at  # noqa: E402

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Hand(Node):
    """Asks the runtime's services, gives commands, and looks at what comes of them."""

    def __init__(self) -> None:
        super().__init__("hand")
        self._sticks = self.create_publisher(TwistStamped, "cmd_vel", SENSOR)
        self.create_subscription(Odometry, "odom", self._on_odometry, SENSOR)
        self.create_subscription(DiagnosticStatus, "/trudi_runtime/state", self._on_state, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.state, self.values, self.timing = "", dict[str, str](), dict[str, str]()
        self.velocity: tuple[float, float, float] | None = None
        self.height = math.inf
        self._trembles = 0

    def _on_odometry(self, message: Odometry) -> None:
        twist, self.height = message.twist.twist, message.pose.pose.position.z
        self.velocity = (twist.linear.x, twist.linear.y, twist.angular.z)

    def _on_state(self, message: DiagnosticStatus) -> None:
        self.state, self.values = message.message, {item.key: item.value for item in message.values}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(": timing"):
                self.timing = {item.key: item.value for item in status.values}

    def steer(self, vx: float, vy: float, wz: float) -> None:
        """A command, never quite at rest, as a hand's: one that does not change is taken for a dead relay's."""
        self._trembles = 1 - self._trembles
        message = TwistStamped()
        message.header.stamp = self.get_clock().now().to_msg()
        message.twist.linear.x, message.twist.linear.y = vx + 1e-6 * self._trembles, vy
        message.twist.angular.z = wz
        self._sticks.publish(message)

    def ask(self, kind: type, service: str, request: object) -> object:
        """The service's answer; RuntimeError where it is not there or does not answer."""
        client = self.create_client(kind, service)
        if not client.wait_for_service(PATIENCE_S):
            raise RuntimeError(f"{service} is not there after {PATIENCE_S:g} s")
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:  # what is asked before the other side has heard of this client is lost
            future = client.call_async(request)
            rclpy.spin_until_future_complete(self, future, timeout_sec=5.0)
            if future.done():
                return future.result()
        raise RuntimeError(f"{service} does not answer")

    def transition(self, number: int) -> None:
        """A transition of the runtime's lifecycle."""
        answer = self.ask(ChangeState, "/trudi_runtime/change_state", ChangeState.Request(transition=Transition(id=number)))
        if not answer.success:
            raise RuntimeError(f"the transition {number} was refused: see the runtime's log")

    def trigger(self, word: str) -> None:
        """One of the runtime's own services."""
        answer = self.ask(Trigger, f"/trudi_runtime/{word}", Trigger.Request())
        print(f"~/{word}: {answer.message}", flush=True)
        if not answer.success:
            raise RuntimeError(answer.message)

    def drive(self, seconds: float, legs: tuple[Leg, ...]) -> list[tuple[tuple[float, ...], tuple[float, float, float]]]:
        """Follows the legs; commands and measured velocities, a pair each 50 ms."""
        seen: list[tuple[tuple[float, ...], tuple[float, float, float]]] = []
        begin = time.monotonic()
        while (at_s := time.monotonic() - begin) < seconds and self.state in ("ACTIVE", "STAND"):
            command = values_at(legs, at_s)["velocity"]
            self.steer(*command)
            end = time.monotonic() + PERIOD_S
            while (left_s := end - time.monotonic()) > 0:
                rclpy.spin_once(self, timeout_sec=left_s)
            if self.state == "ACTIVE" and self.velocity is not None:
                seen.append((command, self.velocity))
        return seen

    def wait(self, state: str) -> None:
        """Until the supervisor has come to `state`."""
        end = time.monotonic() + PATIENCE_S
        while self.state != state:
            rclpy.spin_once(self, timeout_sec=0.1)
            if time.monotonic() > end or self.state == "FAULT":
                raise RuntimeError(f"{self.state} in place of {state}: {self.values.get('reason', '')}")


def start(module: str, *words: str) -> subprocess.Popen[bytes]:
    """A node of the package in a process of its own."""
    paths = [str(PACKAGE), str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen([sys.executable, "-m", f"trudi_runtime.{module}", "--ros-args", *words], env=environment)


@contextlib.contextmanager
def nodes(bundle: Path, record_dir: str = "~/.ros/trudi_flights") -> Iterator[Hand]:
    """The robot's node and the runtime's, each in a process of its own, until the end; and the hand that talks to them."""
    rclpy.init()
    hand = Hand()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runtime.yaml"
        file.write_text(f"/**: {{ros__parameters: {{bundle: {bundle.resolve()}, record_dir: {record_dir}}}}}\n")
        started = [
            start("sim_robot", "-p", f"task:={TASK}", "-p", "odometry:=true"),
            start("runtime_node", "--params-file", str(ROBOT), "--params-file", str(file)),
        ]
        try:
            yield hand
        finally:
            for node in reversed(started):
                node.terminate()
            for node in started:
                node.wait()
            hand.destroy_node()
            rclpy.shutdown()


def fly(hand: Hand, legs: tuple[Leg, ...]) -> None:
    """From configure to rest, with what was seen on the way."""
    hand.transition(Transition.TRANSITION_CONFIGURE)
    hand.transition(Transition.TRANSITION_ACTIVATE)
    hand.wait("STANDBY")
    hand.trigger("stand")
    hand.wait("STAND")
    still = (Leg(0.0, {"velocity": (0.0, 0.0, 0.0)}),)
    for _ in range(round(PATIENCE_S)):
        hand.drive(1.0, still)  # commands must be there before the policy starts
        if _granted(hand):
            break
    hand.wait("ACTIVE")
    seen = hand.drive(SECONDS, legs)
    if hand.state != "ACTIVE":
        raise RuntimeError(f"{hand.state}: {hand.values.get('reason', '')}")
    hand.trigger("stop")  # in mid-stride: it halts first
    hand.wait("STAND")
    hand.drive(3.0, still)
    hand.wait("STAND")
    hand.transition(Transition.TRANSITION_DEACTIVATE)
    off = [sum(abs(command[i] - velocity[i]) for command, velocity in seen) / len(seen) for i in range(3)]
    print(f"\n{len(seen) * PERIOD_S:.0f} s under the policy, STAND at the end, no fault")
    print(f"off by {off[0]:.3f} m/s forward, {off[1]:.3f} m/s left, {off[2]:.3f} rad/s on average, every moment counted")
    for name, value in hand.timing.items():
        print(f"{name:32} {value}")


def _granted(hand: Hand) -> bool:
    try:
        hand.trigger("start")
    except RuntimeError:
        return False
    return True


def main() -> None:
    """Starts the nodes, flies, ends them."""
    with Bundle.open(BUNDLE) as bundle:
        legs = read_script(COURSE, bundle.contract.commands)
    with nodes(BUNDLE) as hand:
        fly(hand, legs)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"demo_go1_ros: {error}")
