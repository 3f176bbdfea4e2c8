"""What the tests of a simulator's own robot files share: the file read back, and the runtime's view of a robot by names."""

import contextlib
import io

import numpy as np
from flights import contract_values

from trudi.export.robot_file import load_robot_file
from trudi.runtime.actions import ActionMap
from trudi.runtime.history import StateHistory
from trudi.runtime.limits import combine
from trudi.runtime.reading import parse_contract
from trudi.runtime.robots.base import CustomSensor, RobotDescription, RobotJoint, RobotState
from trudi.runtime.site_file import SiteFile
from trudi.runtime.terms import JOINT_ARRAYS, SENSOR_KINDS, Observer
from trudi.train.envs.robot_description import describe_robot, robot_yaml

SENSOR_FIELDS = {"base_linear_velocity": "linear_velocity", "base_angular_velocity": "angular_velocity"}


def quietly(make, *args, **options):
    """Simulators print tables."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*args, **options)


def described(env, task, folder, *, low=-1.0, high=1.0, groups=("actor",), **options):
    """(file, its text, the contract made of it) of an environment."""
    size = sum(env.action_manager.get_term(name).action_dim for name in env.action_manager.active_terms)
    ends = [np.broadcast_to(np.asarray(end, float), size).tolist() for end in (low, high)]
    values = describe_robot(env, task, groups, *ends, **options)
    return read_back(robot_yaml(values), folder)


def read_back(text, folder):
    """(file, its text with whole notes, the contract made of it) of a robot file's text."""
    path = folder / "robot.yaml"
    path.write_text(text)
    file = load_robot_file(path)
    return file, text.replace("\n#   ", " "), parse_contract(contract_values(str(path), file.tasks[0].partition(":")[2]))[0]


class Deployed:
    """A contract in the runtime's hands, on a robot whose messages have their joints in another order."""

    def __init__(self, contract, *, seed=0, periods_kept=1):
        self.contract = contract
        rng = np.random.default_rng(seed)
        terms = [term for term in contract.observation if term.kind in JOINT_ARRAYS]
        names = list(dict.fromkeys([*contract.action.names, *(name for term in terms for name in term.element_names)]))
        if contract.robot is None:
            names = [name for name in names if name not in contract.action.names]
        rng.shuffle(names)
        drives = list(contract.action.names)
        rng.shuffle(drives)
        sensors = {term.frame for term in contract.observation if term.kind in SENSOR_KINDS}
        custom = [CustomSensor(name=term.name, size=term.size) for term in contract.observation if term.kind == "custom"]
        self.robot = RobotDescription(
            name="shuffled",
            joints=tuple(RobotJoint(name=name) for name in names),
            drives=tuple(drives),
            pd=contract.robot is not None,
            state_period_s=contract.control_period_s,
            command_timeout_s=1.0,
            sensor_frame=sensors.pop() if sensors else "none",
            has_linear_velocity=True,
            custom=tuple(custom),
        )
        self.observer = Observer(contract, self.robot)
        site = SiteFile()
        self.actions = ActionMap(contract, self.robot, combine(contract, self.robot, site))
        self.history = StateHistory(self.robot, self.observer.longest_delay_s)
        self.time_ns = 10**9

    def observe(self, joints, sensors, custom, commands):
        """The policy's observation (n,) from joints {name: (position, velocity)}, sensor vectors, and named arrays."""
        state = RobotState.zeros(self.robot)
        for index, name in enumerate(self.robot.joint_names):
            state.joint_position[index], state.joint_velocity[index] = joints[name]
        state.quaternion_xyzw[:] = sensors["quaternion_xyzw"]
        state.angular_velocity[:], state.linear_velocity[:] = sensors["angular_velocity"], sensors["linear_velocity"]
        start = 0
        for sensor in self.robot.custom:
            state.custom[start : start + sensor.size] = custom[sensor.name]
            start += sensor.size
        for array, command in zip(self.observer.commands, self.contract.commands, strict=True):
            array[:] = commands[command.name]
        self.time_ns += round(self.contract.control_period_s * 1e9)
        state.stamp_ns = self.time_ns
        self.history.push(state)
        return self.observer.observe(self.history)[0].copy()

    def act(self, action):
        """{joint: target} of the policy's action (m,)."""
        out = np.zeros(len(action))
        self.actions.target(np.asarray(action, float), np.array(self.contract.action.offset), out)
        self.observer.remember(np.asarray(action, float))
        return dict(zip(self.contract.action.names, out.tolist(), strict=True))
