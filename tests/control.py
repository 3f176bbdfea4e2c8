"""What tests of the runtime's core share: two robots described by hand, states, and a controller led where it is wanted."""

import math

import numpy as np
from bundles import JOINTS, LIMITS, contract, go1_values, graph, plain, term

from trudi.runtime.controller import Controller, ControllerCfg, Outcome
from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import Robot, RobotDescription, RobotJoint, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event

MS = 1_000_000
START_NS = 10**12


def go1_robot(order=None, drives=None, **changes) -> RobotDescription:
    """The Go1 of `go1_values`, its joints and drives in any order."""
    joints = [
        RobotJoint(name=name, position_limit=LIMITS[index % 3], velocity_limit=30.1, effort_limit=35.55)
        for index, name in enumerate(JOINTS)
    ]
    order = range(12) if order is None else order
    drives = range(12) if drives is None else drives
    fields = {
        "name": "go1",
        "joints": tuple(joints[index] for index in order),
        "drives": tuple(JOINTS[index] for index in drives),
        "state_period_s": 0.004,
        "command_timeout_s": 0.1,
        "shared_clock": True,
        "has_linear_velocity": True,
    }
    return RobotDescription(**fields | changes)


ARM_JOINTS = ["hip", "knee"]


def arm_values(observation=None, robot=True, **action):
    """A contract of two joints, hip and knee, with a period of 20 ms; `action` changes its action."""
    joints = [
        {"name": "hip", "default_position": 0.1, "stiffness": 20.0, "damping": 0.5}
        | {"position_limit": [-1.0, 1.0], "velocity_limit": 10.0, "effort_limit": 5.0},
        {"name": "knee", "default_position": -0.5, "stiffness": 30.0, "damping": 0.6}
        | {"position_limit": [-2.0, 0.0], "velocity_limit": 12.0, "effort_limit": 6.0},
    ]
    position = term("q", "joint_position", 2, "rad", "joint", element_names=ARM_JOINTS, joints=ARM_JOINTS)
    terms = [position] if observation is None else observation
    size = sum(item["size"] * item.get("history", 1) for item in terms)
    values = go1_values()
    values |= {
        "robot": {"name": "arm", "joints": joints} if robot else None,
        "action": {"kind": "joint_position", "names": ARM_JOINTS, "units": ["rad"] * 2, "scale": [0.5, 0.25]}
        | {"offset": [0.1, -0.5], "scale_offset_applied_by": "runtime"}
        | action,
        "observation": terms,
        "commands": [],
        "graph": graph(size, 2),
        "safety": {"max_tilt_rad": 1.0},
    }
    return plain(values)


def arm_robot(**changes) -> RobotDescription:
    """Measures knee, wheel, hip; drives knee, hip: another order than the policy's."""
    fields = {
        "name": "arm",
        "joints": (
            RobotJoint(name="knee", position_limit=(-2.0, 0.0)),
            RobotJoint(name="wheel"),
            RobotJoint(name="hip", position_limit=(-1.0, 1.0)),
        ),
        "drives": ("knee", "hip"),
        "state_period_s": 0.005,
        "command_timeout_s": 0.1,
    }
    return RobotDescription(**fields | changes)


class Still(Robot):
    """The arm at rest in its default pose: one state a tick, commands go nowhere."""

    def __init__(self):
        self.description = arm_robot(shared_clock=True)
        self.state = RobotState.zeros(self.description)
        self.state.joint_position[:] = [-0.5, 0.0, 0.1]
        self.given = False

    def describe(self):
        return self.description

    def read(self):
        self.given = not self.given
        if not self.given:
            return None
        self.state.stamp_ns = self.state.received_ns = monotonic_ns()
        return self.state

    def write(self, command):
        pass


def arm_file(**fields) -> SiteFile:
    return SiteFile(**{"joints": {}} | fields)


def state_of(robot: RobotDescription, stamp_ns: int, **parts) -> RobotState:
    """A state, upright and at rest but for `parts`; it is received when it is stamped."""
    state = RobotState.zeros(robot)
    for name, values in parts.items():
        getattr(state, name)[:] = values
    state.stamp_ns = state.received_ns = stamp_ns
    return state


class Bench:
    """A controller and its time: each tick is a command period later, with a state at the default pose."""

    def __init__(self, values=None, robot=None, file=None, rate_hz=200.0, **cfg):
        self.contract = contract(go1_values() if values is None else values)
        self.robot = go1_robot() if robot is None else robot
        self.file = SiteFile(joints={}) if file is None else file
        self.cfg = ControllerCfg(rate_hz, **cfg)
        self.controller = self.fresh()
        self.now_ns, self.slot = START_NS, 0
        self.stepped = False
        pose = {joint.name: joint.default_position for joint in self.contract.robot.joints} if self.contract.robot else {}
        self.pose = np.array([pose.get(name, 0.0) for name in self.robot.joint_names])
        self.zero = np.zeros((1, self.contract.action.size), np.float32)

    def fresh(self) -> Controller:
        return Controller(self.contract, self.robot, self.file, self.cfg)

    @property
    def at(self) -> State:
        return self.controller.supervisor.state

    @property
    def fault(self) -> str | None:
        """The latched fault's code."""
        fault = self.controller.supervisor.fault
        return None if fault is None else fault.violation.code.name

    def state(self, **parts) -> RobotState:
        return state_of(self.robot, self.now_ns, **{"joint_position": self.pose} | parts)

    def ask(self, event: Event) -> str | None:
        return self.controller.request(event, self.now_ns)

    def command(self, *values, index=0, age_s=0.0):
        self.controller.command(index, values, self.now_ns - round(age_s * 1e9))

    def tick(self, output=None, outcome=None, missed=0, spread=math.nan, ask=None, **parts):
        """Runs one tick and gives the command. `state=None` gives no state; `output` answers a control step."""
        controller = self.controller
        self.slot += 1 + missed
        self.now_ns += (1 + missed) * controller.period_ns
        state = parts.pop("state", ...)
        if state is not None:
            controller.receive(self.state(**parts) if state is ... else state)
        if ask is not None:
            assert self.ask(ask) is None
        self.stepped = controller.begin(self.now_ns, self.slot, missed)
        if outcome is None:
            outcome = Outcome.TEACHER if controller.awaiting else Outcome.NONE
        fresh = outcome in (Outcome.TEACHER, Outcome.STUDENT)
        made = self.zero if output is None else np.array(output, np.float32).reshape(1, -1)
        return controller.finish(self.now_ns, outcome, made if fresh else None, spread)

    def to(self, state: State):
        """Goes the operator's way to STANDBY, STAND (arrived) or ACTIVE (its first control step done)."""
        if self.at is State.UNCONFIGURED:
            assert self.ask(Event.CONFIGURE) is None
        self.tick()
        self.tick(ask=Event.ACTIVATE)
        if state is State.STANDBY:
            return self
        self.tick(ask=Event.STAND)
        while self.controller.ramp_left_s(self.now_ns) > 0.0:
            self.tick()
        if state is State.ACTIVE:
            self.activate()
        return self

    def activate(self, **tick):
        for index, command in enumerate(self.contract.commands):
            self.command(*command.neutral, index=index)
        return self.tick(ask=Event.START, **tick)
