"""The shorthand of robot files, spelled out into the contract's own fields. What is not shorthand, the contract checks.

| written                        | stands for                                                                       |
|--------------------------------|----------------------------------------------------------------------------------|
| `robot.joint_columns`          | names of the fields, where `robot.joints` is a table: a list of values a joint   |
| `robot.joint_defaults`         | fields that every joint has unless it says otherwise                             |
| one value where a list belongs | that value for every element (`scale: 0.5`, `units: rad`; `clip: [-1, 1]`)       |
| `joints`                       | as a term's element names: the robot's joints                                    |
| `default_position`             | as an offset: the default pose, each joint's own                                 |
| `position_limit`               | as the action's clip: each joint's own position limit                            |
| absent                         | names and units of the robot's joints; x, y, z; the command's elements; `size`   |
"""

from __future__ import annotations

from typing import Any, cast

from trudi.export.errors import ExportError
from trudi.runtime.consistency import JOINT_TERMS
from trudi.runtime.reading import Values

# Per kind of action or term: units of a revolute and of a prismatic joint.
JOINT_UNITS: dict[str, tuple[str, str]] = {
    "joint_position": ("rad", "m"),
    "joint_position_increment": ("rad", "m"),
    "joint_velocity": ("rad/s", "m/s"),
    "joint_effort": ("N m", "N"),
}
VECTOR_UNITS: dict[str, str] = {"base_linear_velocity": "m/s", "base_angular_velocity": "rad/s", "projected_gravity": "1"}

_MISSING = object()


def spell_out(values: Values) -> Values:
    """A robot file's values with the shorthand replaced; what is not understood is left for the contract to refuse."""
    full = dict(values)
    robot = _mapping(values.get("robot"))
    if robot is not None:
        full["robot"] = robot = _robot(robot)
    joints = _mappings(robot.get("joints") if robot is not None else None)
    commands = _mappings(values.get("commands"))
    if (action := _mapping(values.get("action"))) is not None:
        full["action"] = action = _action(action, joints)
    if isinstance(values.get("commands"), list) and len(commands) == len(values["commands"]):
        full["commands"] = [_command(command) for command in commands]
    if isinstance(values.get("observation"), list):
        context = _Context(robot, joints, action or {}, commands)
        full["observation"] = [
            context.term(cast("Values", term)) if isinstance(term, dict) else term for term in values["observation"]
        ]
    return full


class _Context:
    """What a term may leave out, because the rest of the file says it."""

    def __init__(self, robot: Values | None, joints: list[Values], action: Values, commands: list[Values]) -> None:
        self.has_robot = robot is not None
        self.passive = {str(name) for name in _list((robot or {}).get("passive_joints"))}
        self.joints = {str(joint.get("name")): joint for joint in joints}
        self.action_names = action.get("names")
        self.commands = {str(command.get("name")): command for command in commands}

    def term(self, values: Values) -> Values:
        """One term in full."""
        term = dict(values)
        kind = str(term.get("kind"))
        if kind in JOINT_TERMS and self.has_robot:
            self._fill_joints(term, kind)
        elif kind in VECTOR_UNITS:
            _default(term, {"element_names": ["x", "y", "z"], "units": VECTOR_UNITS[kind]})
        elif kind == "base_quaternion":
            _default(term, {"element_names": ["x", "y", "z", "w"], "units": "1"})
        elif kind == "last_action":
            _default(term, {"element_names": self.action_names, "units": "1", "frame": "none"})
        elif kind == "command":
            if (command := self.commands.get(str(term.get("command")))) is None:
                known = ", ".join(self.commands) or "none"
                raise ExportError(
                    f"observation term {term.get('name')}: shows the command {term.get('command')}; commands has {known}"
                )
            _default(term, {key: command.get(key, _MISSING) for key in ("element_names", "units", "frame")})
        if term.get("element_names") == "joints" and self.has_robot:
            term["element_names"] = list(self.joints)
        names = term.get("element_names")
        if isinstance(names, list):
            _default(term, {"size": len(names)})
            _repeat(term, ("units", "offset", "scale"), len(names))
        return term

    def _fill_joints(self, term: Values, kind: str) -> None:
        names = term.setdefault("joints", list(self.joints))
        if not isinstance(names, list):
            return
        _default(term, {"element_names": names, "frame": "joint"})
        if not self.passive.isdisjoint(map(str, names)):
            return  # Nothing says of what type a passive joint is.
        joints = [self.joints.get(str(name), {}) for name in names]
        _default(term, {"units": _joint_units(kind, joints)})
        if term.get("offset") == "default_position" and all(joints):
            term["offset"] = [joint.get("default_position") for joint in joints]


def _robot(values: Values) -> Values:
    robot = {key: value for key, value in values.items() if key not in ("joint_columns", "joint_defaults")}
    defaults = _mapping(values.get("joint_defaults", {}))
    if defaults is None:
        raise ExportError("robot.joint_defaults must hold `field: value` pairs, such as {stiffness: 35.0}")
    if isinstance(joints := values.get("joints"), list):
        columns = values.get("joint_columns")
        rows = [_row(index, joint, columns) for index, joint in enumerate(cast("list[Any]", joints))]
        robot["joints"] = [defaults | row if isinstance(row, dict) else row for row in rows]
    return robot


def _row(index: int, joint: Any, columns: Any) -> Any:
    """A joint as a mapping, where it is a row of the table."""
    if not isinstance(joint, list) or not isinstance(columns, list):
        return joint
    if len(joint) != len(columns):
        raise ExportError(
            f"robot.joints[{index}] has {len(joint)} values ({joint[0] if joint else 'none'}, ...), "
            f"joint_columns has {len(columns)}: {', '.join(map(str, columns))}"
        )
    return dict(zip(map(str, columns), joint, strict=True))


def _action(values: Values, joints: list[Values]) -> Values:
    action = {"scale_offset_applied_by": "runtime"} | values
    if joints:
        _default(action, {"names": [joint.get("name") for joint in joints]})
    if isinstance(names := action.get("names"), list):
        if joints:
            _fill_from_joints(action, joints)
        _repeat(action, ("units", "scale", "offset", "rate_limit"), len(names))
        clip = action.get("clip")
        if isinstance(clip, list) and clip and not isinstance(clip[0], list):
            action["clip"] = [clip] * len(names)
    return action


def _fill_from_joints(action: Values, joints: list[Values]) -> None:
    by_name = {str(joint.get("name")): joint for joint in joints}
    named = [by_name.get(str(name), {}) for name in action["names"]]
    _default(action, {"units": _joint_units(str(action.get("kind")), named)})
    if action.get("offset") == "default_position":
        action["offset"] = [joint.get("default_position") for joint in named]
    if action.get("clip") == "position_limit":
        action["clip"] = [joint.get("position_limit") for joint in named]


def _command(values: Values) -> Values:
    command = dict(values)
    if isinstance(names := command.get("element_names"), list):
        _repeat(command, ("units", "neutral"), len(names))
    return command


def _joint_units(kind: str, joints: list[Values]) -> Any:
    if kind not in JOINT_UNITS:
        return _MISSING
    return [JOINT_UNITS[kind][joint.get("type", "revolute") == "prismatic"] for joint in joints]


def _default(values: Values, defaults: Values) -> None:
    for key, value in defaults.items():
        if value is not _MISSING:
            values.setdefault(key, value)


def _repeat(values: Values, keys: tuple[str, ...], count: int) -> None:
    """Turns one number or text into a list of `count`."""
    for key in keys:
        value = values.get(key)
        if isinstance(value, (int, float, str)):
            values[key] = [value] * count


def _mapping(value: Any) -> Values | None:
    return cast("Values", value) if isinstance(value, dict) else None


def _mappings(value: Any) -> list[Values]:
    return [cast("Values", item) for item in _list(value) if isinstance(item, dict)]


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
