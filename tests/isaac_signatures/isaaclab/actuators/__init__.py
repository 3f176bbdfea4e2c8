"""Actuators."""

from __future__ import annotations

from dataclasses import MISSING

from isaaclab.utils import configclass

Value = dict[str, float] | float | None


@configclass
class ActuatorBaseCfg:
    """Joints by regular expression, and their gains and limits: one number, or one for each expression."""

    joint_names_expr: list[str] = MISSING  # type: ignore[assignment]
    effort_limit: Value = None
    velocity_limit: Value = None
    effort_limit_sim: Value = None
    velocity_limit_sim: Value = None
    stiffness: Value = MISSING  # type: ignore[assignment]
    damping: Value = MISSING  # type: ignore[assignment]
    armature: Value = None
    friction: Value = None


@configclass
class ImplicitActuatorCfg(ActuatorBaseCfg):
    """A PD law that the simulator itself applies."""


__all__ = ["ActuatorBaseCfg", "ImplicitActuatorCfg"]
