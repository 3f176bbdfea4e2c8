"""A description as a robot file: the short forms that `trudi export` reads, and the YAML with its header."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

from trudi.runtime.interface import Action, Command, Robot, Term

Values = dict[str, Any]
COLUMNS = ("name", "default_position", "stiffness", "damping", "position_limit", "velocity_limit", "effort_limit")
IMPLIED_FRAME = {
    "joint_position": "joint",
    "joint_velocity": "joint",
    "joint_effort": "joint",
    "last_action": "none",
    "command": "base",
}
WIDTH = 122


def robot_values(robot: Robot | None) -> Values | None:
    """The robot, its joints as a table."""
    if robot is None:
        return None
    joints = [joint.model_dump(mode="json") for joint in robot.joints]
    columns = [*COLUMNS[:1], "type", *COLUMNS[1:]] if any(joint["type"] != "revolute" for joint in joints) else [*COLUMNS]
    return {
        "name": robot.name,
        "joint_columns": columns,
        "joints": [[joint[column] for column in columns] for joint in joints],
        "passive_joints": list(robot.passive_joints),
    }


def action_values(action: Action, robot: Robot | None) -> Values:
    """The action; what the robot's joints say already is left out."""
    values = action.model_dump(mode="json", exclude_defaults=True, exclude={"scale_offset_applied_by"})
    if robot is not None:
        del values["names"], values["units"]
        if action.kind == "joint_position" and action.offset == tuple(joint.default_position for joint in robot.joints):
            values["offset"] = "default_position"
    return {key: value if key == "names" else _one(value) for key, value in values.items()}


def term_values(term: Term, robot: Robot | None) -> Values:
    """One term; what its kind says already is left out."""
    values = term.model_dump(mode="json", exclude_defaults=True, exclude={"size", "joints"})
    joints = [] if robot is None else [joint.name for joint in robot.joints]
    if values["frame"] == IMPLIED_FRAME.get(term.kind) and (term.joints is not None or "joint" not in values["frame"]):
        del values["frame"]
    if term.kind in ("command", "last_action", "base_linear_velocity", "base_angular_velocity", "projected_gravity"):
        del values["element_names"], values["units"]
    elif robot is not None and term.joints is not None:
        del values["element_names"]
        if set(term.joints) <= set(joints):
            del values["units"]
        if list(term.joints) != joints:
            values["joints"] = list(term.joints)
        by_name = {joint.name: joint.default_position for joint in robot.joints}
        if term.kind == "joint_position" and term.offset == tuple(by_name.get(name) for name in term.joints):
            values["offset"] = "default_position"
    first = ("name", "kind", "frame")
    ordered = {key: values[key] for key in first if key in values} | values
    return {key: value if key in ("clip", "joints", "element_names") else _one(value) for key, value in ordered.items()}


def command_values(command: Command) -> Values:
    """One command."""
    values = command.model_dump(mode="json")
    return {key: _one(value) if key in ("units", "neutral") else value for key, value in values.items()}


def robot_yaml(description: Values) -> str:
    """The text of a robot file: notes as a header, then a line for each joint and each term."""
    lines = [line for note in description.get("notes", ()) for line in _comment(note)]
    for key, value in description.items():
        if key == "notes":
            continue
        if key == "robot" and value is not None:
            lines.append("robot:")
            lines += [f"  {name}: {_flow(entry)}" for name, entry in value.items() if name != "joints" and entry != []]
            lines += ["  joints:", *(f"    - {_flow(joint)}" for joint in value["joints"])]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{key}:", *(f"  - {_flow(entry)}" for entry in value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _comment(note: str) -> list[str]:
    return textwrap.wrap(note, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _one(value: Any) -> Any:
    """One value for a list of the same: what a robot file repeats."""
    if isinstance(value, list) and value and all(entry == value[0] for entry in value):
        return value[0]
    return value
