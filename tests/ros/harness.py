"""The other side of the runtime in tests: starts nodes as processes, asks, listens, and plays a robot's driver."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log, Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameterTypes, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "ros2_ws" / "src" / "trudi_runtime"
MAIN_PYTHON = os.environ.get("TRUDI_PYTHON", str(REPOSITORY / ".venv" / "bin" / "python"))
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RUNTIME, SIM = "/trudi_runtime", "/sim_robot"
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}
SHUTDOWNS = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


MAKE = """
import json, sys
from flights import GO1, contract_values, made_bundle
options = json.loads(sys.argv[2])
if without := options.pop("without", ()):
    values = contract_values("unitree_go1", GO1)
    terms = [term for term in values["observation"] if term["name"] not in without]
    size = sum(term["size"] * term["history"] for term in terms)
    values["graph"]["inputs"][0]["shape"] = [1, size]
    options["changes"] = {"observation": terms, "graph": values["graph"]} | options.get("changes", {})
made_bundle(sys.argv[1], **options)
"""


def made_bundle(target, **options):
    """tests/flights.py's made_bundle, by the environment that has what it takes to export; `without` takes terms away."""
    paths = [REPOSITORY / name for name in ("tests", "train", "export", "runtime")]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    }
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    done = subprocess.run(
        [MAIN_PYTHON, "-c", MAKE, str(target), json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return Path(target)


def robot_parameters(name):
    """The parameters in the package's file for a robot."""
    return flat(yaml.safe_load((PACKAGE / "config" / f"{name}.yaml").read_text())["/**"]["ros__parameters"])


def flat(nested, prefix=""):
    found = {}
    for key, value in nested.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def segments():
    """Fast DDS's files of shared memory."""
    return {str(path) for path in Path("/dev/shm").glob("*fast*")}


def mapped(pid):
    """Those that a process uses; a session that runs beside this one needs its own."""
    try:
        return {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/dev/shm/" in line}
    except OSError:
        return set()


def remove_unused(candidates):
    """Takes away what processes that were killed have left."""
    used = set().union(*(mapped(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()))
    for path in candidates - used:
        if path.removesuffix("_el") not in used:
            Path(path).unlink(missing_ok=True)


CLAIMS = []
"""Open files, each locked: the domains that this process has claimed."""


def claim_domain():
    """Goes to a DDS domain, 1 to 100, that nobody else who runs these tests is in; it stays this process's to its end."""
    for number in range(100):
        domain = 1 + (os.getpid() + number) % 100
        try:
            claim = (Path(tempfile.gettempdir()) / f"trudi_ros_domain_{domain}").open("w")
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        CLAIMS.append(claim)
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return
    raise AssertionError("no DDS domain is free")


def until(condition, what, timeout_s=15.0):
    """Waits for what a test needs; its value."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what() if callable(what) else what}"
        time.sleep(0.01)
    return value


class Bench:
    """Everything of one test."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self.logs, self.states, self.diagnostics, self.actives = [], [], {}, []
        self.node = Node(f"bench_{os.getpid()}_{id(self):x}")
        node = self.node
        node.create_subscription(Log, "/rosout", self.logs.append, QoSProfile(depth=1000, durability=LATCHED.durability))
        node.create_subscription(DiagnosticStatus, f"{RUNTIME}/state", self.states.append, LATCHED)
        node.create_subscription(Bool, f"{RUNTIME}/is_active", self.actives.append, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._clients, self._drivers = {}, []
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._ending = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    # Processes.

    def start(self, module, *, name=None, parameters=None, arguments=(), env=None):
        """A node of the package in a process of its own."""
        file = self.folder / f"parameters_{len(self.processes)}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters or {}}}))
        command = [sys.executable, "-m", f"trudi_runtime.{module}", "--ros-args", "--params-file", str(file)]
        command += ["-r", f"__node:={name}"] if name else []
        paths = [str(PACKAGE), str(REPOSITORY / "runtime"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | (env or {})
        output = (self.folder / f"{module}_{len(self.processes)}.log").open("w")
        process = subprocess.Popen(
            [*command, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self.folder
        )
        process.log = Path(output.name)
        output.close()
        self.processes.append(process)
        return process

    def runtime(self, bundle, robot=None, **parameters):
        """The runtime node, up and unconfigured. Parameters with `__` for `.`."""
        given = {"bundle": str(bundle), "realtime.priority": 0, "realtime.lock_memory": False, "record_dir": ""}
        given |= robot_parameters(robot) if isinstance(robot, str) else robot or {}
        given |= {name.replace("__", "."): value for name, value in parameters.items()}
        self._forgets(f"{RUNTIME}/get_state")
        process = self.start("runtime_node", parameters=given)
        self._answers(f"{RUNTIME}/get_state", process)
        return process

    def sim_robot(self, task, **parameters):
        """The simulated robot, streaming."""
        self._forgets(f"{SIM}/report")
        process = self.start("sim_robot", parameters={"task": task} | parameters)
        self._answers(f"{SIM}/report", process)
        return process

    def _forgets(self, service):
        """A process that was killed seems to be there for as long as its lease, 20 s, and what is asked of it is lost."""
        node = service.rpartition("/")[0]
        self._clients = {name: client for name, client in self._clients.items() if name.rpartition("/")[0] != node}
        until(lambda: not self._exists(service), f"{service} of an earlier process is forgotten", 45.0)

    def _exists(self, service):
        return service in [name for name, _ in self.node.get_service_names_and_types()]

    def _answers(self, service, process):
        def up():
            assert process.poll() is None, process.log.read_text()
            return self._exists(service)

        until(up, lambda: f"{service} exists: {process.log.read_text()}", 30.0)

    # Asking.

    def call(self, kind, service, request, timeout_s=30.0):
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
            self._introduce(service.rpartition("/")[0])
        client = self._clients[service]
        assert client.wait_for_service(timeout_s), f"no service {service}"
        future = client.call_async(request)
        until(future.done, lambda: f"{service} answers; {self.said()}", timeout_s)
        return future.result()

    def _introduce(self, node):
        """Waits until the node has heard of the clients that were made so far.

        What it answers before that is lost, and most requests are not to be made twice. It hears of clients in the order in
        which they were made: one whose question harms nobody is made last, and asks until it is answered.
        """
        client = self.node.create_client(GetParameterTypes, f"{node}/get_parameter_types")

        def answered():
            assert client.wait_for_service(30.0), f"no node {node}"
            future = client.call_async(GetParameterTypes.Request())
            end = time.monotonic() + 1.0
            while not future.done() and time.monotonic() < end:
                time.sleep(0.001)
            return future.done()

        until(answered, lambda: f"{node} answers; {self.said()}", 30.0)

    def trigger(self, word, node=RUNTIME):
        """A std_srvs/Trigger; whether it was granted, and what it said."""
        answer = self.call(Trigger, f"{node}/{word}", Trigger.Request())
        return answer.success, answer.message

    def granted(self, word):
        success, message = self.trigger(word)
        assert success, message
        return message

    def transition(self, word):
        """A lifecycle transition, by name or number; whether it succeeded."""
        number = SHUTDOWNS[self.lifecycle()] if word == "shutdown" else TRANSITIONS.get(word, word)
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(ChangeState, f"{RUNTIME}/change_state", request).success

    def lifecycle(self):
        return self.call(GetState, f"{RUNTIME}/get_state", GetState.Request()).current_state.label

    def set(self, node=RUNTIME, **values):
        """Sets parameters, `__` for `.`; the reason of the first refusal, empty where all were taken."""
        request = SetParameters.Request(
            parameters=[Parameter(name=name.replace("__", "."), value=_value(value)) for name, value in values.items()]
        )
        results = self.call(SetParameters, f"{node}/set_parameters", request).results
        return next((result.reason for result in results if not result.successful), "")

    def report(self):
        """What the simulated robot saw."""
        success, message = self.trigger("report", SIM)
        assert success, message
        return json.loads(message)

    def stood_still(self):
        """What the robot, simulated or played by the test, says of times at which the machine did not let it run."""
        notes = [f"{behind_s:.2f} s behind" for driver in self._drivers for behind_s in driver.behind]
        if self._exists(f"{SIM}/report"):
            notes += [note for note in self.report()["notes"] if "fell behind the wall clock" in note]
        return notes

    # Going somewhere.

    def ready(self):
        """Configured and activated: STANDBY.

        An overrun fails, unless the robot, another process, says that the machine did not let it run meanwhile: reset, once.
        """
        before = self.stood_still()
        assert self.transition("configure"), self.said()
        assert self.transition("activate"), self.said()
        until(lambda: self.state in ("STANDBY", "FAULT"), lambda: f"STANDBY (it is {self.state}); {self.said()}")
        if self.state == "FAULT" and self.fault[0] == "OVERRUN" and self.stood_still() != before:
            until(lambda: self.trigger("reset")[0], lambda: f"reset; {self.said()}")
        self.await_state("STANDBY")

    def stand(self):
        self.granted("stand")
        self.await_state("STAND")
        until(self._stands, "the robot stands")

    def _stands(self):
        success, message = self.trigger("start")
        assert success or " stands in " in message or "command" in message, message
        if success:
            return True
        time.sleep(0.1)
        return False

    def fly(self):
        """To ACTIVE: `ready`, stand and start."""
        self.ready()
        self.stand()
        self.await_state("ACTIVE")

    def await_state(self, wanted, timeout_s=15.0):
        until(lambda: self.state == wanted, lambda: f"{wanted} (it is {self.state}); {self.said()}", timeout_s)

    @property
    def state(self):
        """The supervisor's state, as it was told last."""
        return self.states[-1].message if self.states else ""

    @property
    def fault(self):
        """Code and sentence of the fault that was told last."""
        values = {item.key: item.value for item in self.states[-1].values}
        return values.get("fault", ""), values.get("reason", "")

    def said(self):
        """What the nodes logged, and where DDS complained, what their processes printed."""
        printed = [line for process in self.processes for line in process.log.read_text(errors="replace").splitlines()]
        complaints = [line for line in printed if "failed to send" in line or "RTPS" in line]
        return "; ".join([message.msg for message in self.logs[-12:]] + complaints[-12:])

    def diagnostic(self, part):
        """Message and values of a part of the diagnostics."""
        status = until(lambda: self.diagnostics.get(f"trudi_runtime: {part}"), f"diagnostics of {part}")
        return status.message, {item.key: item.value for item in status.values}

    # Listening and playing.

    def listen(self, kind, topic, qos=BEST_EFFORT):
        """Messages on a topic, with the time of each arrival: a list that grows."""
        heard = []
        self.node.create_subscription(kind, topic, lambda message: heard.append((time.monotonic(), message)), qos)
        return heard

    def driver(self, **options):
        """A robot's driver, played by the test."""
        driver = Driver(**options)
        self._drivers.append(driver)
        return driver

    def repeat(self, kind, topic, make, rate_hz=20.0, qos=10):
        """Publishes `make()` again and again, until the object's `stop`."""
        driver = Repeater(kind, topic, make, rate_hz, qos)
        self._drivers.append(driver)
        return driver

    def close(self):
        for driver in self._drivers:
            driver.stop()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ending = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        if CLAIMS and any(process.returncode == -signal.SIGKILL for process in self.processes):
            rclpy.shutdown()  # here it seems to be there for as long as its lease: the next test need not wait for that
            claim_domain()
            rclpy.init()

    def _spin(self):
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.05)

    def _on_diagnostics(self, message):
        for status in message.status:
            self.diagnostics[status.name] = status


BEHIND_S = 0.1
"""For so long a thread that only waits for its time does not run where the machine stands still."""


class Player:
    """A node of the test's own that does the same thing again and again, until `stop`."""

    def __init__(self, rate_hz):
        self.rate_hz = rate_hz
        self.behind = []
        """By how much it came late, where that was more than `BEHIND_S`; s."""
        self._node = Node(f"player_{id(self):x}")
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self):
        if not self._ending:
            self._ending = True
            self._thread.join()
            self._node.destroy_node()

    def _run(self):
        due = time.monotonic()
        while not self._ending:
            self.publish()
            due = max(due + 1.0 / self.rate_hz, time.monotonic() - BEHIND_S)
            time.sleep(max(0.0, due - time.monotonic()))
            if (late_s := time.monotonic() - due) > BEHIND_S:
                self.behind.append(late_s)


class Repeater(Player):
    """Publishes what `make(node)` gives."""

    def __init__(self, kind, topic, make, rate_hz, qos):
        super().__init__(rate_hz)
        self._publisher = self._node.create_publisher(kind, topic, qos)
        self._make = make
        self._thread.start()

    def publish(self):
        self._publisher.publish(self._make(self._node))


class Driver(Player):
    """Publishes the states of a robot that does not move. What is set on it takes effect with the next message."""

    def __init__(self, names, positions, rate_hz=100.0, imu=True, qos=BEST_EFFORT, prefix=""):
        super().__init__(rate_hz)
        self.names, self.positions, self.imu = list(names), list(positions), imu
        self.velocities = [0.0] * len(self.names)
        self.frame = "imu"
        self.orientation = (0.0, 0.0, 0.0, 1.0)
        self.stamp_offset_s = 0.0
        self.frozen_stamp = None
        self.silent = False
        self._joints = self._node.create_publisher(JointState, f"{prefix}joint_states", qos)
        self._imu = self._node.create_publisher(Imu, f"{prefix}imu", qos) if imu else None
        self._thread.start()

    def publish(self):
        if self.silent:
            return
        nanoseconds = time.time_ns() + round(self.stamp_offset_s * 1e9)
        stamp = rclpy.time.Time(nanoseconds=nanoseconds).to_msg() if self.frozen_stamp is None else self.frozen_stamp
        message = JointState(name=self.names)
        message.header.stamp = stamp
        message.position, message.velocity = array("d", self.positions), array("d", self.velocities)
        self._joints.publish(message)
        if self.imu and self._imu is not None:
            imu = Imu()
            imu.header.stamp, imu.header.frame_id = stamp, self.frame
            o = imu.orientation
            o.x, o.y, o.z, o.w = self.orientation
            self._imu.publish(imu)


def _value(value):
    kinds = {
        bool: ("PARAMETER_BOOL", "bool_value"),
        int: ("PARAMETER_INTEGER", "integer_value"),
        float: ("PARAMETER_DOUBLE", "double_value"),
        str: ("PARAMETER_STRING", "string_value"),
        list: ("PARAMETER_STRING_ARRAY", "string_array_value"),
    }
    kind, field = kinds[type(value)]
    return ParameterValue(type=getattr(ParameterType, kind), **{field: value})
