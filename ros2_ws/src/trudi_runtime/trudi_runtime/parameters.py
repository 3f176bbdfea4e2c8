"""The runtime's parameters: what there is, what each may be, and what a robot is that is described by them."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from trudi.runtime.errors import TrudiRuntimeError, near_matches
from trudi.runtime.robots.base import CustomSensor, RobotDescription, RobotError, RobotJoint

Kind = Parameter.Type
When = Literal["start", "configure", "always"]


@dataclass(frozen=True)
class Declared:
    """One parameter. Without a default it is an array that may be left out."""

    default: Any
    text: str
    """What it is, with its unit."""
    kind: Kind | None = None
    """Of an array without a default; otherwise the default's."""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    when: When = "configure"
    """`start`: read only, given when the node starts; `configure`: read then, and refused while configured; `always`: takes
    effect at once."""

    def complaint(self, name: str, value: Any) -> str:
        """What is wrong with a value; empty where nothing is."""
        if self.choices and value not in self.choices:
            return f"{name} is '{value}'; available: {self._available()}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
            if not low <= value <= high:
                return f"{name} is {value:g}: must be from {low:g} to {high:g}"
        return ""

    def _available(self) -> str:
        return ", ".join(choice or "''" for choice in self.choices)

    def descriptor(self) -> ParameterDescriptor:
        """For `ros2 param describe` and graphical tools."""
        text = self.text + (f" (available: {self._available()})" if self.choices else "")
        described = ParameterDescriptor(description=text, read_only=self.when == "start")
        if isinstance(self.default, float) and self.low is not None and self.high is not None:
            described.floating_point_range = [FloatingPointRange(from_value=float(self.low), to_value=float(self.high))]
        elif isinstance(self.default, int) and not isinstance(self.default, bool) and self.low is not None:
            described.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high or self.low), step=1)]
        return described


STRINGS, DOUBLES = Kind.STRING_ARRAY, Kind.DOUBLE_ARRAY

PARAMETERS: Final[Mapping[str, Declared]] = {
    "bundle": Declared("", "Bundle to run: a folder or .zip inside bundle_root"),
    "bundle_root": Declared("", "Folder that every file lies in; empty: the folder of `bundle` at start", when="start"),
    "site_file": Declared("", "Site file (YAML) with limits of this robot, inside bundle_root; empty: none"),
    "trust": Declared("", "Public key that must have signed the bundle, inside bundle_root; empty: any", when="start"),
    "engines": Declared(("onnx",), "Engines by preference"),
    "rate_hz": Declared(
        0.0, "Commands a second, a multiple of the policy's rate; Hz. 0: four times it", low=0.0, high=2000.0
    ),
    "between": Declared("hold", "Commands between two actions", choices=("hold", "linear")),
    "deadline": Declared(0.75, "Part of the control period that an action may take", low=0.01, high=1.0),
    "shadow": Declared(
        "",
        "Policy of a bundle of both that is computed beside the other and compared, and not sent; empty: none",
        choices=("", "student", "teacher"),
    ),
    "fade_in_s": Declared(-1.0, "Time over which the policy is blended in; s. -1: the site file's", low=-1.0, high=60.0),
    "command_form": Declared("joint_state", "Form of the commands", choices=("joint_state", "ros2_control", "trajectory")),
    "command_reliability": Declared("auto", "Reliability of the commands", choices=("auto", "best_effort", "reliable")),
    "ros2_control.position": Declared("", "Forward controller of positions; empty: none"),
    "ros2_control.velocity": Declared("", "Forward controller of velocities; empty: none"),
    "ros2_control.effort": Declared("", "Forward controller of efforts; empty: none"),
    "ros2_control.kp": Declared("", "Forward controller of stiffnesses; empty: none"),
    "ros2_control.kd": Declared("", "Forward controller of dampings; empty: none"),
    "trajectory.controller": Declared("joint_trajectory_controller", "Joint trajectory controller"),
    "trajectory.lookahead_s": Declared(0.02, "Time until a commanded point is reached; s", low=0.001, high=1.0),
    "robot.name": Declared("", "What the robot is called"),
    "robot.joints": Declared(None, "Joints that the robot measures", STRINGS),
    "robot.drives": Declared(
        None, "Joints that it drives, or actuators where robot.pd is false; absent: all joints", STRINGS
    ),
    "robot.pd": Declared(True, "Whether drives are joints with a PD controller; otherwise each takes one control"),
    "robot.position_lower": Declared(None, "Lowest position of each joint; rad or m. Absent: not known", DOUBLES),
    "robot.position_upper": Declared(None, "Highest position of each joint; rad or m. Absent: not known", DOUBLES),
    "robot.velocity_limit": Declared(None, "Largest speed of each joint; rad/s or m/s. Absent: not known", DOUBLES),
    "robot.effort_limit": Declared(None, "Largest torque or force of each joint; N m or N. Absent: not known", DOUBLES),
    "robot.damping": Declared(
        None, "Gain that brings each drive to rest; N m s/rad or N s/m. Absent: the policy's", DOUBLES
    ),
    "robot.max_stiffness": Declared(0.0, "Largest stiffness a drive takes; N m/rad or N/m. 0: not known", low=0.0, high=1e5),
    "robot.state_rate_hz": Declared(200.0, "States a second, of the slowest of its topics; Hz", low=1.0, high=2000.0),
    "robot.command_timeout_s": Declared(0.1, "Time without a command after which it damps; s", low=0.001, high=10.0),
    "robot.sensor_frame": Declared("imu", "Frame of orientation, angular and linear velocity, as the policy calls it"),
    "robot.imu": Declared(True, "Whether it has an imu"),
    "robot.odometry": Declared(False, "Whether odom gives linear velocity (in robot.sensor_frame) and height"),
    "robot.custom": Declared(None, "Custom sensors on `sensors`, as NAME:SIZE", STRINGS),
    "stamps": Declared("shared", "Whose clock stamps the robot's messages", choices=("shared", "own", "arrival")),
    "imu_frame": Declared("", "Frame that imu messages must name; empty: any"),
    "odometry_lag_s": Declared(0.1, "How much older than the rest of a state odometry may be; s", low=0.0, high=1.0),
    "one_publisher": Declared(True, "Whether a second publisher of the robot's state, of cmd_vel or of commands is refused"),
    "cmd_vel.stamped": Declared(True, "Whether cmd_vel is a TwistStamped; otherwise a Twist"),
    "cmd_vel.unchanged_timeout_s": Declared(
        5.0,
        "Time for which a command is believed that does not change, nor the joystick, unless neutral; s. 0: for ever",
        low=0.0,
        high=3600.0,
        when="always",
    ),
    "commands": Declared(None, "Elements of commands that cmd_vel does not carry, as ELEMENT=VALUE", STRINGS),
    "joy.enabled": Declared(False, "Whether joy is listened to"),
    "joy.deadman_button": Declared(-1, "Button that must be held for cmd_vel to count; -1: none", low=-1, high=63),
    "joy.estop_button": Declared(
        -1, "Button that stops the robot, as does a joystick that falls silent; -1: none", low=-1, high=63
    ),
    "joy.timeout_s": Declared(0.5, "Time for which a message of the joystick counts; s", low=0.05, high=5.0, when="always"),
    "joy.reliable": Declared(True, "Whether joy is asked for reliably, as its usual publishers offer it"),
    "realtime.priority": Declared(60, "SCHED_FIFO priority of the control thread; 0: none", low=0, high=99),
    "realtime.cpu": Declared(-1, "Core of the control thread; -1: any", low=-1, high=1023),
    "realtime.lock_memory": Declared(True, "Whether the process's memory is locked"),
    "record_dir": Declared("~/.ros/trudi_flights", "Folder of flights, written on a fault; empty: none", when="start"),
    "record_seconds": Declared(60.0, "Time the flight recorder looks back; s", low=1.0, high=3600.0),
    "publish_ticks": Declared(False, "Whether each tick is published on ~/ticks, for replaying a bag", when="start"),
}


NOT_OURS: Final = ("use_sim_time", "qos_overrides", "start_type_description_service")


def declare(node: Node) -> None:
    """Declares all of them. TrudiRuntimeError where a name was given at start that there is not: ROS would ignore it."""
    for name in getattr(node, "_parameter_overrides", {}):
        if name not in PARAMETERS and name.split(".")[0] not in NOT_OURS:
            raise TrudiRuntimeError(f"unknown parameter {name}; {near_matches(name, PARAMETERS)}")
    for name, declared in PARAMETERS.items():
        default = declared.kind if declared.default is None else _plain(declared.default)
        node.declare_parameter(name, default, declared.descriptor())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check(parameters: Sequence[Parameter], *, configured: bool) -> SetParametersResult:
    """Whether values may be set; the reason names the range, or says when the parameter can be set."""
    for parameter in parameters:
        if parameter.name == "use_sim_time" and configured:
            return SetParametersResult(successful=False, reason="use_sim_time is read at configure: clean up first")
        declared = PARAMETERS.get(parameter.name)
        if declared is None:
            continue
        complaint = declared.complaint(parameter.name, parameter.value)
        if not complaint and configured and declared.when == "configure":
            complaint = f"{parameter.name} is read at configure: deactivate and clean up first"
        if complaint:
            return SetParametersResult(successful=False, reason=complaint)
    return SetParametersResult(successful=True)


class Settings:
    """The parameters' values, by name."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """`values` may be some of them; the others have their defaults."""
        given = {name: declared.default for name, declared in PARAMETERS.items()} | dict(values)
        self._values = {name: tuple(value) if isinstance(value, (list, array)) else value for name, value in given.items()}

    @classmethod
    def of(cls, node: Node) -> Settings:
        """Those that a node has now."""
        values: dict[str, Any] = {}
        for name in PARAMETERS:
            with contextlib.suppress(ParameterUninitializedException):
                values[name] = node.get_parameter(name).value
        return cls(values)

    def but(self, name: str, value: Any) -> Settings:
        """These, with another value of one of them."""
        return Settings(self._values | {name: value})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def complaint(self) -> str:
        """What is wrong with the first value that is not allowed; empty where all are."""
        complaints = (declared.complaint(name, self._values[name]) for name, declared in PARAMETERS.items())
        return next((complaint for complaint in complaints if complaint), "")

    def strings(self, name: str) -> tuple[str, ...]:
        """An array of words; empty where it was left out."""
        return self._values[name] or ()

    def numbers(self, name: str, count: int) -> tuple[float | None, ...]:
        """An array of one number a joint; None for each where it was left out, and for one that is infinite.

        RobotError where the count is another, or one is no number.
        """
        given = self._values[name]
        if not given:
            return (None,) * count
        if len(given) != count:
            raise RobotError(f"{name} has {len(given)} numbers, and there are {count} joints or drives")
        if any(map(math.isnan, given)):
            raise RobotError(f"{name} holds .nan: write .inf for a limit that is not known")
        return tuple(value if math.isfinite(value) else None for value in given)


def describe_robot(settings: Settings) -> RobotDescription:
    """The robot that the parameters `robot.*` describe. RobotError says what is missing or does not fit."""
    joints = settings.strings("robot.joints")
    if not joints:
        raise RobotError(
            "robot.joints is empty: give the parameter file of your robot (config/<robot>.yaml), which names its joints"
        )
    count = len(joints)
    lower, upper = settings.numbers("robot.position_lower", count), settings.numbers("robot.position_upper", count)
    speeds, efforts = settings.numbers("robot.velocity_limit", count), settings.numbers("robot.effort_limit", count)
    drives = settings.strings("robot.drives") or joints
    damping = settings.numbers("robot.damping", len(drives))
    if half := [name for name, low, high in zip(joints, lower, upper, strict=True) if (low is None) != (high is None)]:
        raise RobotError(f"joint {half[0]} has one position limit and not the other: give both, or .inf for both")
    try:
        return RobotDescription(
            name=settings["robot.name"] or "robot",
            joints=tuple(
                RobotJoint(
                    name=name,
                    position_limit=None if low is None or high is None else (low, high),
                    velocity_limit=speed,
                    effort_limit=effort,
                )
                for name, low, high, speed, effort in zip(joints, lower, upper, speeds, efforts, strict=True)
            ),
            drives=drives,
            pd=settings["robot.pd"],
            damping=() if None in damping else tuple(value for value in damping if value is not None),
            max_stiffness=settings["robot.max_stiffness"] or None,
            state_period_s=1.0 / settings["robot.state_rate_hz"],
            command_timeout_s=settings["robot.command_timeout_s"],
            shared_clock=settings["stamps"] == "shared",
            sensor_frame=settings["robot.sensor_frame"],
            has_imu=settings["robot.imu"],
            has_linear_velocity=settings["robot.odometry"],
            has_height=settings["robot.odometry"],
            custom=tuple(map(_custom, settings.strings("robot.custom"))),
        )
    except ValueError as error:
        raise RobotError(f"the parameters robot.* describe no robot: {error}") from None


def _custom(word: str) -> CustomSensor:
    name, _, size = word.rpartition(":")
    if not name or not size.isdecimal() or int(size) < 1:
        raise RobotError(f"robot.custom: '{word}': write NAME:SIZE, as in position:3")
    return CustomSensor(name=name, size=int(size))


def bundle_root(settings: Settings) -> Path | None:
    """The folder that files may be taken from; None where no bundle was given yet."""
    if settings["bundle_root"]:
        return Path(settings["bundle_root"]).expanduser().resolve()
    return Path(settings["bundle"]).expanduser().resolve().parent if settings["bundle"] else None


def inside(root: Path, path: str, name: str) -> Path:
    """The file or folder at `path`, links followed. TrudiRuntimeError where it is absent or lies outside `root`."""
    given = Path(path).expanduser()
    found = (given if given.is_absolute() else root / given).resolve()
    if not found.is_relative_to(root):
        raise TrudiRuntimeError(f"{name} is {path}: it lies outside bundle_root, {root}; nothing is loaded from there")
    if not found.exists():
        others = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
        raise TrudiRuntimeError(f"{name} is {path}: there is nothing; {near_matches(found.name, others)}")
    return found
