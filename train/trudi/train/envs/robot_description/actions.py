"""Action terms: which joints they command, and how a raw action becomes the command."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trudi.runtime.interface import Action
from trudi.train.envs.robot_description.parts import (
    Float64,
    Kind,
    Machine,
    RawAction,
    Undescribed,
    own_name,
    row,
)

# What the simulators' terms do with a processed action, by the function that does it.
APPLIES: dict[str, Kind] = {
    "JointPositionAction.apply_actions": "joint_position",
    "JointVelocityAction.apply_actions": "joint_velocity",
    "JointEffortAction.apply_actions": "joint_effort",
    "JointPositionToLimitsAction.apply_actions": "joint_position",
}
UNITS = {
    ("joint_position", "revolute"): "rad",
    ("joint_position", "prismatic"): "m",
    ("joint_velocity", "revolute"): "rad/s",
    ("joint_velocity", "prismatic"): "m/s",
    ("joint_effort", "revolute"): "N m",
    ("joint_effort", "prismatic"): "N",
}


@dataclass(frozen=True)
class ActionPart:
    """A term's command u = clip(offset + scale * r, low, high) of its raw action r; arrays are (joints,)."""

    kind: Kind
    machine: Machine
    joints: tuple[str, ...]
    scale: Float64
    offset: Float64
    low: Float64
    high: Float64


def action_parts(manager: Any, machine_of: Callable[[str], Machine]) -> list[ActionPart]:
    """Every action term, in the order of the policy's action; Undescribed names one that is no map of joint targets."""
    return [_part(name, manager.get_term(name), machine_of) for name in manager.active_terms]


def joint_action(parts: list[ActionPart], raw: RawAction) -> tuple[Action, Machine]:
    """The terms as one action on one machine; Undescribed where they are of several kinds or machines."""
    if not parts:
        raise Undescribed("the task has no action terms")
    kind, machine = parts[0].kind, parts[0].machine
    if any(part.kind != kind for part in parts):
        raise Undescribed(f"action terms are of several kinds ({', '.join(sorted({part.kind for part in parts}))})")
    if any(part.machine.entity != machine.entity for part in parts):
        raise Undescribed("action terms drive several machines")
    joints = tuple(name for part in parts for name in part.joints)
    if len(set(joints)) != len(joints):
        raise Undescribed("two actions drive the same joint")
    factor, start, low, high = (
        np.concatenate([getattr(part, field) for part in parts]) for field in ("scale", "offset", "low", "high")
    )
    unit = np.array([machine.command_factor(name, kind) for name in joints])
    ranges = np.array([machine.command_range(name, kind) for name in joints])
    ends = np.sort(np.stack([low * unit, high * unit]), axis=0)
    low, high = np.maximum(ends[0], ranges[:, 0]), np.minimum(ends[1], ranges[:, 1])
    scale, offset = unit * factor * raw.half, unit * (start + factor * raw.middle)
    return (
        Action(
            kind=kind,
            names=joints,
            units=tuple(UNITS[kind, machine.joint_type(name)] for name in joints),
            scale=tuple(scale.tolist()),
            offset=tuple(offset.tolist()),
            scale_offset_applied_by="runtime",
            clip=_clip(kind, machine, joints, low, high, scale, offset),
        ),
        machine,
    )


def raw_action(manager: Any, raw: RawAction) -> Action:
    """The raw action itself as what is commanded, for terms that a robot file cannot describe."""
    names = [f"{term}_{index}" for term in manager.active_terms for index in range(manager.get_term(term).action_dim)]
    return plain_action(names, raw)


def plain_action(names: list[str], raw: RawAction) -> Action:
    """Controls without a meaning, which [-1, 1] spans from end to end."""
    low, high = raw.middle - raw.half, raw.middle + raw.half
    return Action(
        kind="actuator",
        names=tuple(names),
        units=("1",) * len(names),
        scale=tuple(raw.half.tolist()),
        offset=tuple(raw.middle.tolist()),
        scale_offset_applied_by="runtime",
        clip=tuple(zip(low.tolist(), high.tolist(), strict=True)),
    )


def _part(name: str, term: Any, machine_of: Callable[[str], Machine]) -> ActionPart:
    where = f"action term {name} ({type(term).__name__})"
    kind = APPLIES.get(own_name(type(term).apply_actions))
    make = _MAPS.get(own_name(type(term).process_actions))
    if kind is None or make is None:
        raise Undescribed(f"{where} is no fixed map from actions to joint targets")
    machine = machine_of(str(getattr(term.cfg, "entity_name", None) or term.cfg.asset_name))
    joints = tuple(map(str, term.target_names if hasattr(term, "target_names") else term._joint_names))
    scale, offset, low, high = make(term, machine, joints, where)
    return ActionPart(kind, machine, joints, scale, offset, low, high)


Map = tuple[Float64, Float64, Float64, Float64]


def _affine(term: Any, machine: Machine, joints: tuple[str, ...], where: str) -> Map:
    count = len(joints)
    scale = row(term._scale, count, f"{where}: scale")
    try:
        offset = row(term._offset, count, f"{where}: offset")
    except Undescribed:
        if not getattr(term.cfg, "use_default_offset", False):
            raise
        offset = np.array([machine.default_position[joint] for joint in joints])  # randomised around it
    low, high = _term_clip(term, count, where)
    return scale, offset, low, high


def _to_limits(term: Any, machine: Machine, joints: tuple[str, ...], where: str) -> Map:
    """u = middle + half * clip(scale * r, -1, 1) of the soft limits: the clip is one of u, at those limits."""
    count = len(joints)
    scale = row(term._scale, count, f"{where}: scale")
    low, high = _term_clip(term, count, where)
    if not term.cfg.rescale_to_limits:
        return scale, np.zeros(count), low, high
    limits = np.array([machine.soft_limits[joint] for joint in joints])
    if not np.isfinite(limits).all():
        raise Undescribed(f"{where} spans joint limits, and a joint has none")
    middle, half = limits.mean(1), (limits[:, 1] - limits[:, 0]) / 2.0
    low, high = (middle + half * side.clip(-1.0, 1.0) for side in (low, high))
    return scale * half, middle, low, high


def _averaged(term: Any, machine: Machine, joints: tuple[str, ...], where: str) -> Map:
    if not (row(term._alpha, len(joints), f"{where}: alpha") == 1.0).all():
        raise Undescribed(f"{where} commands a moving average of its actions")
    return _to_limits(term, machine, joints, where)


_MAPS: dict[str, Callable[[Any, Machine, tuple[str, ...], str], Map]] = {
    "BaseAction.process_actions": _affine,
    "JointAction.process_actions": _affine,
    "JointPositionToLimitsAction.process_actions": _to_limits,
    "EMAJointPositionToLimitsAction.process_actions": _averaged,
}


def _term_clip(term: Any, count: int, where: str) -> tuple[Float64, Float64]:
    if getattr(term.cfg, "clip", None) is None:
        return np.full(count, -math.inf), np.full(count, math.inf)
    clip = row(term._clip, count, f"{where}: clip")
    return clip[:, 0], clip[:, 1]


def _clip(
    kind: Kind, machine: Machine, joints: tuple[str, ...], low: Float64, high: Float64, scale: Float64, offset: Float64
) -> tuple[tuple[float, float], ...] | None:
    """The contract's clip: finite or none. An open side is closed where [-1, 1] reaches, which changes no command.

    A runtime drives nothing that is unbounded: where the joints have no limits of the command's kind either, that reach
    bounds them.
    """
    open_low, open_high = ~np.isfinite(low), ~np.isfinite(high)
    bounded = kind == "joint_position" and all(machine.joint(name, kind).position_limit is not None for name in joints)
    if open_low.all() and open_high.all() and bounded:
        return None
    reach = np.abs(scale)
    low, high = np.where(open_low, offset - reach, low), np.where(open_high, offset + reach, high)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))
