"""Configuration of the action terms."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.managers import ActionTermCfg
from isaaclab.utils import configclass

from . import joint_actions


@configclass
class JointActionCfg(ActionTermCfg):
    """Joints by regular expression; scale, offset and clip as one number or one for each expression."""

    joint_names: list[str] = MISSING  # type: ignore[assignment]
    scale: float | dict[str, float] = 1.0
    offset: float | dict[str, float] = 0.0
    preserve_order: bool = False


@configclass
class JointPositionActionCfg(JointActionCfg):
    """Position targets."""

    class_type: Any = joint_actions.JointPositionAction
    use_default_offset: bool = True


@configclass
class JointVelocityActionCfg(JointActionCfg):
    """Velocity targets."""

    class_type: Any = joint_actions.JointVelocityAction
    use_default_offset: bool = True


@configclass
class JointEffortActionCfg(JointActionCfg):
    """Efforts."""

    class_type: Any = joint_actions.JointEffortAction
