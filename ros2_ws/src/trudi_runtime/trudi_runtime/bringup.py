"""What bringup.launch.py starts: whether a robot's parameter file, its controllers and its description fit each other.

A Float64MultiArray carries no names: a controller whose joints stand in another order than the runtime's drives would move
the wrong ones. Nothing of launch is imported.
"""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trudi_runtime.arguments import ArgumentError, RuntimeArguments, existing_file, listed, parameters_of

INTERFACES = ("position", "velocity", "effort", "kp", "kd")
FORMS = ("ros2_control", "trajectory")
JOINT_STATES = "joint_state_broadcaster/JointStateBroadcaster"
IMU = "imu_sensor_broadcaster/IMUSensorBroadcaster"
XACRO_S = 60.0


@dataclass(frozen=True)
class BringupArguments:
    """Arguments of bringup.launch.py, and what was found in the files that they name."""

    runtime: RuntimeArguments
    description: str
    """The robot's URDF."""
    controllers_file: Path
    spawned: tuple[str, ...]
    """Controllers to start: broadcasters first."""
    imu_topic: str
    """Where the inertial sensor is published; empty where the robot has none."""

    @classmethod
    def read(cls, given: Mapping[str, str], config: Path) -> BringupArguments:
        """From the words given to launch. Controllers are found at the root, so there is no namespace."""
        runtime = RuntimeArguments.read({**given, "namespace": ""}, config)
        robot = parameters_of(runtime.robot)
        form = robot.get("command_form", "joint_state")
        if form not in FORMS:
            raise ArgumentError(f"{runtime.robot.name} has command_form {form}, without controllers: use runtime.launch.py")
        beside = config / "controllers" / runtime.robot.name
        file = existing_file("controllers_file", given["controllers_file"] or str(beside))
        controllers = Controllers.read(file)
        commanded = controllers.trajectory(robot) if form == "trajectory" else controllers.forwarded(robot)
        imu = controllers.imu(robot)
        description = describe(existing_file("description_file", given["description_file"]))
        check_description(description, commanded)
        return cls(runtime, description, file, (*controllers.broadcasters(), *commanded), f"{imu}/imu" if imu else "")


@dataclass(frozen=True)
class Commanded:
    """What a controller writes to."""

    joints: tuple[str, ...]
    interfaces: tuple[str, ...]


@dataclass(frozen=True)
class Controllers:
    """A controllers file: what each controller is."""

    path: Path
    types: Mapping[str, str]
    """By name."""
    parameters: Mapping[str, Mapping[str, Any]]
    """By name."""

    @classmethod
    def read(cls, path: Path) -> Controllers:
        """ArgumentError where the file names no controllers."""
        manager = parameters_of(path, "controller_manager")
        types = {name.removesuffix(".type"): str(kind) for name, kind in manager.items() if name.endswith(".type")}
        return cls(path, types, {name: parameters_of(path, name, needed=False) for name in types})

    def broadcasters(self) -> tuple[str, ...]:
        """Those that publish what the hardware measures."""
        if JOINT_STATES not in self.types.values():
            raise ArgumentError(f"{self.path} has no {JOINT_STATES}: nobody would publish joint_states")
        return tuple(name for name, kind in self.types.items() if kind.endswith("Broadcaster"))

    def imu(self, robot: Mapping[str, Any]) -> str:
        """The broadcaster of the inertial sensor; empty where the robot has none."""
        if not robot.get("robot.imu", True):
            return ""
        name = next((name for name, kind in self.types.items() if kind == IMU), "")
        if not name:
            raise ArgumentError(f"{self.path} has no {IMU}, and robot.imu is true")
        frame, wanted = self.parameters[name].get("frame_id", ""), robot.get("imu_frame", "")
        if wanted and frame != wanted:
            raise ArgumentError(f"{name} publishes in the frame '{frame}', and imu_frame is '{wanted}'")
        return name

    def forwarded(self, robot: Mapping[str, Any]) -> dict[str, Commanded]:
        """The forward controllers that the runtime sends to, one an interface, checked against its drives."""
        named = {interface: robot.get(f"ros2_control.{interface}") or "" for interface in INTERFACES}
        commanded = {name: self._forward(name, interface, robot) for interface, name in named.items() if name}
        if not commanded:
            raise ArgumentError(f"command_form is ros2_control, and none of ros2_control.{', .'.join(INTERFACES)} is named")
        return commanded

    def trajectory(self, robot: Mapping[str, Any]) -> dict[str, Commanded]:
        """The joint trajectory controller. Its messages carry names, so the order is free."""
        name = robot.get("trajectory.controller", "joint_trajectory_controller")
        parameters = self._known(name, "trajectory.controller")
        joints, drives = tuple(parameters.get("joints", ())), drives_of(robot)
        if set(joints) != set(drives):
            raise ArgumentError(f"{name} moves {', '.join(joints) or 'nothing'}; the runtime drives {', '.join(drives)}")
        return {name: Commanded(joints, tuple(parameters.get("command_interfaces", ())))}

    def _forward(self, name: str, interface: str, robot: Mapping[str, Any]) -> Commanded:
        parameters = self._known(name, f"ros2_control.{interface}")
        if (given := parameters.get("interface_name", interface)) != interface:
            raise ArgumentError(f"ros2_control.{interface} is {name}, which commands the interface {given}")
        joints, drives = tuple(parameters.get("joints", ())), drives_of(robot)
        if joints != drives:
            order = f"the runtime sends {', '.join(drives)}, in this order and without names"
            raise ArgumentError(f"{name} has the joints {', '.join(joints) or 'none'}; {order}")
        return Commanded(joints, (interface,))

    def _known(self, name: str, asked_by: str) -> Mapping[str, Any]:
        if name not in self.types:
            has = listed("controllers", self.types)
            raise ArgumentError(f"{asked_by} is {name}, which {self.path} does not have; {has}")
        return self.parameters[name]


def drives_of(robot: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the drives, in the order of the runtime's messages."""
    return tuple(robot.get("robot.drives") or robot.get("robot.joints") or ())


def describe(path: Path) -> str:
    """The URDF at `path`; .xacro is expanded."""
    if path.suffix != ".xacro":
        return path.read_text(encoding="utf-8")
    xacro = shutil.which("xacro")
    if xacro is None:
        raise ArgumentError(f"{path.name} needs xacro, which is not installed (rosdep's key is xacro)")
    done = subprocess.run([xacro, str(path)], capture_output=True, text=True, timeout=XACRO_S, check=False)
    if done.returncode:
        raise ArgumentError(f"xacro cannot expand {path}: {' '.join(done.stderr.split())}")
    return done.stdout


def check_description(urdf: str, commanded: Mapping[str, Commanded]) -> None:
    """ArgumentError where the hardware has not every interface that a controller writes to."""
    try:
        joints = ET.fromstring(urdf).findall("ros2_control/joint")
    except ET.ParseError as error:
        raise ArgumentError(f"description_file is no URDF: {error}") from None
    offered = {
        joint.get("name", ""): [one.get("name", "") for one in joint.iterfind("command_interface")] for joint in joints
    }
    if not offered:
        raise ArgumentError("description_file has no <ros2_control> with joints: it describes no hardware")
    for name, controller in commanded.items():
        for joint in controller.joints:
            if joint not in offered:
                has = listed("joints", offered)
                raise ArgumentError(f"{name} commands {joint}, which the hardware does not have; {has}")
            for interface in controller.interfaces:
                if interface not in offered[joint]:
                    has = listed("interfaces", offered[joint])
                    raise ArgumentError(f"{name} commands {joint}/{interface}, which the hardware does not have; {has}")
