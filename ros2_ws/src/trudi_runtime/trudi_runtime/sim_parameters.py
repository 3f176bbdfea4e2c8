"""The parameters of the simulated robot, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node

from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.injection import Fault, parse_schedule, read_schedule
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulation import DEFAULT_TIMEOUT_S, GO1_TASK, TASKS
from trudi.runtime.robots.variation import Variation
from trudi.runtime.yaml_file import parse_yaml
from trudi_runtime.parameters import STRINGS, Declared
from trudi_runtime.sim_messages import JointsCfg

SIM_PARAMETERS: Final[Mapping[str, Declared]] = {
    "task": Declared(GO1_TASK, f"Whose robot it is; one of {', '.join(TASKS)}", when="start"),
    "state_rate_hz": Declared(
        0.0,
        "States a second; Hz. 0: one each physics step, of which it must be a multiple",
        low=0.0,
        high=1000.0,
        when="start",
    ),
    "command_timeout_s": Declared(
        DEFAULT_TIMEOUT_S, "Age of a command from which on the robot damps by itself; s", low=0.001, high=1.0, when="start"
    ),
    "odometry": Declared(True, "Whether odom is published, where the robot has linear velocity or height", when="start"),
    "seed": Declared(0, "Of initial states, noise and shuffled joints", low=0, high=2**31 - 1, when="start"),
    "noise": Declared(0.0, "Sensor noise as a factor on that of Go1's training; 0: none", low=0.0, high=100.0, when="start"),
    "quantise": Declared(0.0, "Step that numbers are rounded to; their unit. 0: none", low=0.0, high=10.0, when="start"),
    "dropout": Declared(0.0, "Probability that a state is lost", low=0.0, high=1.0, when="start"),
    "command_latency_s": Declared(0.0, "Time until a command takes effect; s", low=0.0, high=10.0, when="start"),
    "variation": Declared(
        "", "How it differs from its model, as a YAML mapping: {friction: 0.5}; empty: in nothing", when="start"
    ),
    "priority": Declared(0, "SCHED_FIFO priority of the physics; 0: none", low=0, high=99, when="start"),
    "cpu": Declared(-1, "Core that the physics keeps to; -1: any", low=-1, high=4095, when="start"),
    "faults": Declared("", "Schedule of faults: a YAML list, or the path of a file with one; empty: none", when="start"),
    "imu_frame": Declared("imu", "frame_id of imu, and child_frame_id of odom", when="always"),
    "joint_order": Declared("list", "Order of the names in joint_states", choices=("list", "shuffled"), when="always"),
    "extra_joints": Declared(None, "Joints in joint_states that are not the robot's, at 0", STRINGS, when="always"),
    "missing_joints": Declared(None, "Joints of the robot that joint_states leaves out", STRINGS, when="always"),
    "stamp_offset_s": Declared(0.0, "Added to the stamps of states; s", low=-1e6, high=1e6, when="always"),
    "inject": Declared("", "Faults from now on, as a YAML list: at_s counts from when this is set", when="always"),
}


def declare(node: Node) -> None:
    """Declares all of them. What was given at start is checked against type and range by rclpy."""
    for name, declared in SIM_PARAMETERS.items():
        node.declare_parameter(name, declared.kind if declared.default is None else declared.default, declared.descriptor())


def values_of(node: Node) -> dict[str, Any]:
    """The parameters' values; None for an array that was left out."""
    values: dict[str, Any] = {}
    for name in SIM_PARAMETERS:
        try:
            values[name] = node.get_parameter(name).value
        except ParameterUninitializedException:
            values[name] = None
    return values


def check(values: Mapping[str, Any]) -> None:
    """RobotError names the first value that is outside its range."""
    for name, value in values.items():
        if name in SIM_PARAMETERS and (complaint := SIM_PARAMETERS[name].complaint(name, value)):
            raise RobotError(complaint)


def robot_cfg(values: Mapping[str, Any]) -> MujocoCfg:
    """The robot that the parameters describe. RobotError says what does not fit."""
    same = ("task", "command_timeout_s", "seed", "noise", "quantise", "dropout", "command_latency_s", "priority")
    return MujocoCfg(
        **{name: values[name] for name in same},
        state_period_s=1.0 / values["state_rate_hz"] if values["state_rate_hz"] else None,
        cpu=None if values["cpu"] < 0 else values["cpu"],
        faults=parse_faults(values["faults"], "faults"),
        variation=parse_variation(values["variation"], "parameters"),
    )


def joints_cfg(values: Mapping[str, Any]) -> JointsCfg:
    """The joints of `joint_states`."""
    extra, missing = (tuple(values[name] or ()) for name in ("extra_joints", "missing_joints"))
    return JointsCfg(values["joint_order"] == "shuffled", extra, missing, values["seed"])


def parse_faults(text: str, where: str) -> tuple[Fault, ...]:
    """The faults in a YAML list, or in the file at the path `text`. RobotError names the entry and what is available."""
    if not text.strip():
        return ()
    if text.lstrip()[0] in "[{-" or "\n" in text:
        return parse_injected(text, where)
    return read_schedule(Path(text).expanduser())


def parse_variation(text: str, where: str) -> Variation:
    """The variation in a YAML mapping. RobotError names the field that is wrong."""
    return Variation.from_values(parse_yaml(text, where) if text.strip() else {}, where)


def parse_injected(text: str, where: str) -> tuple[Fault, ...]:
    """The faults in a YAML list."""
    return parse_schedule(parse_yaml(text, where), where) if text.strip() else ()
