"""What the simulators' own observation functions measure, by the function's name. All others are `custom`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trudi.runtime.interface import Command
from trudi.train.envs.robot_description.actions import UNITS
from trudi.train.envs.robot_description.commands import describe_command
from trudi.train.envs.robot_description.parts import XYZ, Frame, Kind, Machine, RawAction, Reading, Undescribed, plain

JOINT_FRAME, NO_FRAME = Frame("joint"), Frame("none")


@dataclass
class Context:
    """What the functions read from. Commands that they show, and what the contract has no place for, are collected."""

    env: Any
    machine: Machine
    action_names: tuple[str, ...]
    raw: RawAction
    control_steps: int | None
    """Control steps of an environment in the whole training; None for those so far."""
    notes: list[str]
    commands: dict[str, Command] = field(default_factory=dict)
    """By the simulator's name."""


def argument(cfg: Any, name: str) -> Any:
    """What a term's function gets for a parameter: from the configuration, else its default."""
    return cfg.params[name] if name in cfg.params else inspect.signature(cfg.func).parameters[name].default


def _own_asset(context: Context, cfg: Any) -> Any:
    """How the term's configuration selects parts of the machine; Undescribed where it is about something else."""
    asset = argument(cfg, "asset_cfg")
    if asset.name != context.machine.entity:
        raise Undescribed(f"it is about {asset.name}, not about {context.machine.entity}")
    return asset


def _joints(context: Context, cfg: Any, kind: Kind) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, units) of the joints that the term selects, in its order."""
    machine, ids = context.machine, _own_asset(context, cfg).joint_ids
    place = range(len(machine.joint_names))[ids] if isinstance(ids, slice) else plain(ids).reshape(-1).tolist()
    names = tuple(machine.joint_names[index] for index in place)
    return names, tuple(UNITS[kind, machine.joint_type(name)] for name in names)


def _joint_position(context: Context, cfg: Any) -> Reading:
    return Reading("joint_position", *_joints(context, cfg, "joint_position"), JOINT_FRAME)


def _joint_position_relative(context: Context, cfg: Any) -> Reading:
    names, units = _joints(context, cfg, "joint_position")
    offset = np.array([context.machine.default_position[name] for name in names])
    return Reading("joint_position", names, units, JOINT_FRAME, offset)


def _joint_position_in_limits(context: Context, cfg: Any) -> Reading:
    """(q - middle) * 2 / span of the soft limits."""
    names, units = _joints(context, cfg, "joint_position")
    limits = np.array([context.machine.soft_limits[name] for name in names])
    span = limits[:, 1] - limits[:, 0]
    if not np.isfinite(span).all() or not (span > 0.0).all():
        raise Undescribed("a joint has no limits")
    return Reading("joint_position", names, units, JOINT_FRAME, limits.mean(1), 2.0 / span)


def _joint_velocity(context: Context, cfg: Any) -> Reading:
    return Reading("joint_velocity", *_joints(context, cfg, "joint_velocity"), JOINT_FRAME)


def _joint_velocity_relative(context: Context, cfg: Any) -> Reading:
    names, units = _joints(context, cfg, "joint_velocity")
    offset = np.array([context.machine.default_velocity[name] for name in names])
    return Reading("joint_velocity", names, units, JOINT_FRAME, offset)


def _joint_effort(context: Context, cfg: Any) -> Reading:
    return Reading("joint_effort", *_joints(context, cfg, "joint_effort"), JOINT_FRAME)


def _base_linear_velocity(context: Context, cfg: Any) -> Reading:
    _own_asset(context, cfg)
    base = context.machine.base
    if base.place is not None and base.place.any():
        context.notes.append(
            f"base_linear_velocity is that of the base link's centre of mass, {np.round(base.place, 4).tolist()} m from the "
            "link's origin (and moved about by what training draws at random)."
        )
    return Reading("base_linear_velocity", XYZ, "m/s", base)


def _base_angular_velocity(context: Context, cfg: Any) -> Reading:
    _own_asset(context, cfg)
    return Reading("base_angular_velocity", XYZ, "rad/s", context.machine.base.turned_only())


def _projected_gravity(context: Context, cfg: Any) -> Reading:
    _own_asset(context, cfg)
    return Reading("projected_gravity", XYZ, "1", context.machine.base.turned_only())


def _base_quaternion(context: Context, cfg: Any) -> Reading:
    _own_asset(context, cfg)
    axes = described(cfg.func).get("axes") or ()
    order = ", ".join(str(axis).lower() for axis in axes)
    if order != "x, y, z, w" or argument(cfg, "make_quat_unique"):
        raise Undescribed(
            f"its order is {order or 'not said'}; the contract's quaternions are x, y, z, w and of either sign"
        )
    return Reading("base_quaternion", ("x", "y", "z", "w"), "1", context.machine.base.turned_only())


def _base_height(context: Context, cfg: Any) -> Reading:
    _own_asset(context, cfg)
    terrain = getattr(getattr(context.env.scene, "terrain", None), "cfg", None)
    if getattr(terrain, "terrain_type", None) != "plane":
        raise Undescribed("it is the height in the world, and the ground is no plane at 0")
    return Reading("base_height", ("z",), "m", Frame("world"))


def _last_action(context: Context, cfg: Any) -> Reading:
    """The raw action r = middle + half * a = half * (a - (-middle / half)) of the policy's action a."""
    term, raw = argument(cfg, "action_name"), context.raw
    if term is not None and list(context.env.action_manager.active_terms) != [term]:
        raise Undescribed("it shows a part of the action")
    if raw.middle.any():
        context.notes.append(
            "Raw actions are not symmetric around 0: before its first action the policy saw a raw action of 0, "
            "a runtime shows it the middle of the range."
        )
    return Reading("last_action", context.action_names, "1", NO_FRAME, -raw.middle / raw.half, raw.half)


def _generated_command(context: Context, cfg: Any) -> Reading:
    name = str(argument(cfg, "command_name"))
    if name not in context.commands:
        is_first = not context.commands
        context.commands[name] = describe_command(context.env, name, context.control_steps, context.notes, is_first=is_first)
    command = context.commands[name]
    return Reading("command", command.element_names, command.units, Frame(command.frame), command=command.name)


def _sensor(context: Context, cfg: Any) -> Reading:
    named = "sensor_name" in inspect.signature(cfg.func).parameters
    name = argument(cfg, "sensor_name") if named else argument(cfg, "asset_cfg").name
    return context.machine.sensor(str(name), cfg.func.__name__)


def described(function: Any) -> dict[str, Any]:
    """What Isaac Lab's IO descriptor says of an observation function beside its name: units, axes; often nothing.

    `env.get_IO_descriptors` is no help here: it leaves out the functions without a descriptor, and says of the others which
    function they are but not which term.
    """
    return dict(getattr(getattr(function, "_descriptor", None), "extras", None) or {})


READERS: dict[str, Callable[[Context, Any], Reading]] = {
    "joint_pos": _joint_position,
    "joint_pos_rel": _joint_position_relative,
    "joint_pos_limit_normalized": _joint_position_in_limits,
    "joint_vel": _joint_velocity,
    "joint_vel_rel": _joint_velocity_relative,
    "joint_effort": _joint_effort,
    "base_lin_vel": _base_linear_velocity,
    "base_ang_vel": _base_angular_velocity,
    "projected_gravity": _projected_gravity,
    "root_quat_w": _base_quaternion,
    "base_pos_z": _base_height,
    "last_action": _last_action,
    "generated_commands": _generated_command,
    "builtin_sensor": _sensor,
    "projected_gravity_from_sensor": _sensor,
    "imu_ang_vel": _sensor,
    "imu_projected_gravity": _sensor,
}
