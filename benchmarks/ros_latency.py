"""From a sensor's stamp to the command, over DDS between two processes: the runtime's node beside a naive one.

    .ros/kilted/bin/python benchmarks/ros_latency.py --bundle BUNDLE        (four runs each; --seconds 10 --runs 1 for a try)

A robot process publishes joint_states, imu and odom at 50, 200 and 500 Hz and hears the commands. On the other side, in
turn, under the same policy and the same states:

| node    | how                                                                                                         |
|---------|-------------------------------------------------------------------------------------------------------------|
| runtime | `runtime_node`: its control thread wakes on a fresh state, its deadline is the backstop                     |
| naive   | an rclpy timer, single-threaded executor: the latest state, the same terms and graph, one message out       |

Latency is taken in the node that commands, from the stamp in the state's header to the return of `publish`. Jitter and
misses are taken in the robot's process, from when commands arrive: the deviation of each interval from the period, and whole
periods without a command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "ros2_ws" / "src" / "trudi_runtime"
for place in (PACKAGE, REPOSITORY / "runtime"):
    sys.path.insert(0, str(place))
RESULTS = Path(__file__).parent
RATES = (50, 200, 500)
HOME = [0.1, 0.9, -1.8, -0.1, 0.9, -1.8, 0.1, 0.9, -1.8, -0.1, 0.9, -1.8]
ROBOT_PRIORITY = 70
QUANTILES = {"p50": 50.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


def quantiles(values) -> dict[str, float]:
    """In ms, of values in ns."""
    return {name: float(np.percentile(values, q)) / 1e6 for name, q in QUANTILES.items()} if len(values) else {}


# The robot's process.


def robot(args: argparse.Namespace) -> None:
    """Publishes states with FIFO at absolute deadlines; writes down when commands arrive."""
    import rclpy
    from nav_msgs.msg import Odometry
    from rclpy.node import Node
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Imu, JointState

    from trudi.runtime.realtime import RealtimeCfg, Sleeper, enter_realtime, monotonic_ns, quiet_interpreter
    from trudi_runtime.spinning import Ending, SpinningThread, raise_threads
    from trudi_runtime.stamps import set_stamp

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    ending = Ending()
    node = Node("bench_robot")
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    joints, imu, odom = (
        node.create_publisher(kind, topic, qos)
        for kind, topic in ((JointState, "joint_states"), (Imu, "imu"), (Odometry, "odom"))
    )
    arrivals: list[int] = []
    node.create_subscription(JointState, "joint_commands", lambda _: arrivals.append(monotonic_ns()), qos)
    thread = SpinningThread(node, print, True)
    enter_realtime(RealtimeCfg(priority=ROBOT_PRIORITY))
    raise_threads(ROBOT_PRIORITY - 1, thread.native_id)
    state, inertial, odometry = JointState(name=args.joints.split(",")), Imu(), Odometry()
    inertial.orientation.w, inertial.header.frame_id = 1.0, "imu"
    state.velocity = array("d", [0.0] * len(HOME))
    positions, noise = np.array(HOME), np.random.default_rng(0).normal(0.0, 1e-3, (512, len(HOME)))
    sleeper, period_ns = Sleeper(), round(1e9 / args.rate)
    due_ns, count = monotonic_ns() + period_ns, 0
    with quiet_interpreter():
        while not ending.name:
            sleeper.until(due_ns)
            now_ns = time.time_ns()
            state.position = array("d", (positions + noise[count % 512]).tobytes())
            for message in (state, inertial, odometry):
                set_stamp(message.header.stamp, now_ns)
            joints.publish(state)
            imu.publish(inertial)
            odom.publish(odometry)
            count += 1
            due_ns = max(due_ns + period_ns, monotonic_ns() - period_ns)
    args.out.write_text(json.dumps(arrivals))
    thread.close()


# The naive node.


def naive(args: argparse.Namespace) -> None:
    """What one writes first: a timer at the control rate, the latest messages, ONNX Runtime, one message out."""
    import rclpy
    from geometry_msgs.msg import TwistStamped
    from nav_msgs.msg import Odometry
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Imu, JointState

    from trudi.runtime.bundle import Bundle
    from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
    from trudi.runtime.history import StateHistory
    from trudi.runtime.robots.base import RobotDescription, RobotState
    from trudi.runtime.terms import Observer
    from trudi_runtime.stamps import to_ns

    bundle = Bundle.open(args.bundle)
    contract = bundle.contract
    engine = OnnxEngine(bundle.read(contract.graph.file), OnnxCfg(precision=contract.graph.precision))
    engine.warm_up()
    robot = RobotDescription.model_validate_json(args.robot.read_text())
    observer, states, heard = Observer(contract, robot), StateHistory(robot, 0.02), RobotState.zeros(robot)
    offset, scale = np.array(contract.action.offset), np.array(contract.action.scale)
    rclpy.init()
    node = Node("naive")
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    latencies: list[int] = []

    def on_joints(message: JointState) -> None:
        order = [message.name.index(name) for name in robot.joint_names]
        heard.joint_position[:] = np.array(message.position)[order]
        heard.joint_velocity[:] = np.array(message.velocity)[order]
        heard.stamp_ns = to_ns(message.header.stamp)

    def on_imu(message: Imu) -> None:
        q, w = message.orientation, message.angular_velocity
        heard.quaternion_xyzw[:] = q.x, q.y, q.z, q.w
        heard.angular_velocity[:] = w.x, w.y, w.z

    def on_odom(message: Odometry) -> None:
        v = message.twist.twist.linear
        heard.linear_velocity[:] = v.x, v.y, v.z

    def on_timer() -> None:
        if not heard.stamp_ns:
            return
        states.push(heard)
        observer.observe(states)
        action = engine.infer(observer.observation, None)[0]
        observer.remember(action)
        message = JointState(name=list(robot.drives), position=(offset + scale * action).tolist())
        message.header.stamp = node.get_clock().now().to_msg()
        commands.publish(message)
        latencies.append(time.time_ns() - heard.stamp_ns)

    node.create_subscription(JointState, "joint_states", on_joints, qos)
    node.create_subscription(Imu, "imu", on_imu, qos)
    node.create_subscription(Odometry, "odom", on_odom, qos)
    node.create_subscription(TwistStamped, "cmd_vel", lambda _: None, qos)
    commands = node.create_publisher(JointState, "joint_commands", qos)
    node.create_timer(1.0 / args.rate, on_timer)
    try:
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            rclpy.spin(node)
    finally:  # the signal may end rclpy's context under a callback, which then raises
        args.out.write_text(json.dumps(latencies))


# One run of each.


class Side:
    """Starts the other processes of a run, and asks the runtime's node what is needed."""

    def __init__(self, args: argparse.Namespace, rate: int, folder: Path) -> None:
        self.args, self.rate, self.folder = args, rate, folder
        self.robot_json = folder / "robot.json"

    def process(self, *words: object, module: bool = False) -> subprocess.Popen:
        paths = os.pathsep.join([str(PACKAGE), str(REPOSITORY / "runtime"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, *(["-m"] if module else []), *map(str, words)]
        log = (self.folder / f"log_{time.monotonic_ns()}").open("w")
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=log, stderr=log)

    def run(self, kind: str, bundle: Path) -> dict:
        """Latencies in the node, intervals in the robot."""
        arrivals, latencies = self.folder / "arrivals.json", self.folder / "latencies.json"
        joints = ",".join(json.loads((bundle / "bundle.json").read_text())["action"]["names"])
        body = self.process(__file__, "robot", "--rate", self.rate, "--joints", joints, "--out", arrivals)
        try:
            if kind == "naive":
                words = ["naive", "--rate", self.rate, "--bundle", bundle, "--robot", self.robot_json, "--out", latencies]
                node = self.process(__file__, *words)
                time.sleep(4.0 + self.args.seconds)
                node.send_signal(signal.SIGINT)
                node.wait(20.0)
                if not latencies.is_file():
                    return {"ended": "the naive node ended before it had written its latencies"}
                found = {"latency_ms": quantiles(json.loads(latencies.read_text())[self.rate :])}
            else:
                found = self._runtime(bundle)
        finally:
            body.send_signal(signal.SIGTERM)
            body.wait(20.0)
        return found | self._intervals(json.loads(arrivals.read_text()))

    def _runtime(self, bundle: Path) -> dict:
        import rclpy
        from harness import Bench, robot_parameters

        bench = Bench(self.folder)
        try:
            parameters = robot_parameters("unitree_go1") | {"robot.state_rate_hz": float(self.rate)}
            process = bench.runtime(
                bundle,
                parameters,
                rate_hz=float(self.rate),
                realtime__priority=60,
                realtime__lock_memory=True,
                cmd_vel__unchanged_timeout_s=0.0,
            )
            from geometry_msgs.msg import TwistStamped

            def forward(node):
                message = TwistStamped()
                message.header.stamp = node.get_clock().now().to_msg()
                message.twist.linear.x = 0.3
                return message

            bench.repeat(TwistStamped, "cmd_vel", forward)
            bench.fly()
            began = {
                key: float(value) for key, value in bench.diagnostic("timing")[1].items() if key in ("cycles", "missed")
            }
            time.sleep(self.args.seconds)
            bench.diagnostics.clear()
            timing = bench.diagnostic("timing")[1]
            if bench.state != "ACTIVE":
                return {"ended": ": ".join(bench.fault)}
            latency = {name: float(timing[f"state_to_command_{name}_ms"]) for name in QUANTILES}
            del process, rclpy
            return {"latency_ms": latency, "own_misses": float(timing["missed"]) - began["missed"]}
        finally:
            bench.close()

    def _intervals(self, arrivals: list[int]) -> dict:
        """Of `seconds` less two: neither of the start nor of the end, when the robot is damped at once."""
        times = np.array(arrivals)
        end_ns = times[-1] - round(1e9)
        times = times[(times > end_ns - round((self.args.seconds - 2.0) * 1e9)) & (times < end_ns)]
        gaps, period_ns = np.diff(times), 1e9 / self.rate
        missed = np.maximum(np.round(gaps / period_ns) - 1, 0).sum()
        return {"jitter_ms": quantiles(np.abs(gaps - period_ns)), "missed": int(missed), "commands": len(times)}


def bundle_at(rate: int, source: Path, folder: Path) -> Path:
    """The same policy with another control period; a contract's delays are counted in control steps.

    It may miss as many periods in a row as take as long as before.
    """
    from trudi.runtime.bundle import Bundle
    from trudi.runtime.contract import SCHEMA_VERSION
    from trudi.runtime.writing import write_bundle

    with Bundle.open(source) as bundle:
        contract = bundle.contract
        patience = max(
            contract.safety.max_overruns_in_row,
            round(rate * contract.control_period_s * contract.safety.max_overruns_in_row),
        )
        safety = contract.safety.model_copy(update={"max_overruns_in_row": patience})
        changed = {"control_period_s": 1.0 / rate, "schema_version": SCHEMA_VERSION, "safety": safety}
        contract = contract.model_copy(update=changed)
        files = {name: bundle.read(name) for name in bundle.files if name != "bundle.json"}
        return Path(write_bundle(folder / f"at_{rate}", contract, files))


def table(results: list[dict]) -> list[str]:
    """Medians over the runs; misses are summed."""
    lines = ["| Hz | node | runs | latency p50 | p99 | p99.9 | max | jitter p50 | p99 | p99.9 | max | missed | own |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for rate in RATES:
        for kind in ("runtime", "naive"):
            runs = [one for one in results if one["rate"] == rate and one["node"] == kind and "ended" not in one]
            if not runs:
                continue
            cells = [
                f"{statistics.median(one[part][name] for one in runs):.2f}"
                for part in ("latency_ms", "jitter_ms")
                for name in QUANTILES
            ]
            missed = f"{sum(one['missed'] for one in runs)} of {sum(one['commands'] for one in runs)}"
            own = f"{sum(one['own_misses'] for one in runs):g}" if kind == "runtime" else ""
            lines.append(f"| {rate} | {kind} | {len(runs)} | " + " | ".join(cells) + f" | {missed} | {own} |")
    return lines


def bench(args: argparse.Namespace) -> None:
    """All runs, one after the other."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "ros"))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    import rclpy
    from harness import robot_parameters

    from trudi_runtime.parameters import Settings, describe_robot

    rclpy.init()
    results: list[dict] = []
    for number in range(args.runs):
        for rate in RATES:
            for kind in ("runtime", "naive"):
                with tempfile.TemporaryDirectory() as name:
                    side = Side(args, rate, Path(name))
                    bundle = bundle_at(rate, args.bundle, side.folder)
                    described = describe_robot(Settings(robot_parameters("unitree_go1")))
                    side.robot_json.write_text(described.model_dump_json())
                    results.append({"rate": rate, "node": kind, "run": number} | side.run(kind, bundle))
                    print(json.dumps(results[-1]), flush=True)
                commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=REPOSITORY).strip()
                facts = {"commit": commit, "seconds": args.seconds, "beside": args.beside, "results": results}
                write(args.name, facts | {"bundle": args.bundle.name})
    rclpy.shutdown()
    print(RESULTS.joinpath(f"{args.name}.md").read_text())


def write(name: str, facts: dict) -> None:
    """The figures so far: a run that comes after them may fail."""
    RESULTS.joinpath(f"{name}.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")
    results, ended = facts["results"], [one for one in facts["results"] if "ended" in one]
    lines = [
        "# Latency and jitter over DDS",
        "",
        f"`.ros/kilted/bin/python benchmarks/ros_latency.py --bundle {facts['bundle']} --name {name}`: runs of",
        f"{facts['seconds']:g} s, medians of runs, ms ({facts['commit']}). Beside it: {facts['beside']}.",
        "",
        *table(results),
        "",
        *(f"Run {one['run']} of {one['node']} at {one['rate']} Hz was ended: {one['ended']}." for one in ended),
        *([""] if ended else []),
        "`missed`: whole periods without an arrival in the robot's process; `own`: without a tick, by the runtime's count.",
        "",
    ]
    RESULTS.joinpath(f"{name}.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="bench", choices=("bench", "robot", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help="a bundle for Go1, an exported one of 8 steps, 3 x 512")
    parser.add_argument("--name", default="ros_latency", help="of the .json and .md beside this script")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--beside", default="nothing else", help="what else the machine did, for the record")
    for hidden, kind in (("--rate", int), ("--joints", str), ("--out", Path), ("--robot", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    {"bench": bench, "robot": robot, "naive": naive}[args.part](args)


if __name__ == "__main__":
    main()
