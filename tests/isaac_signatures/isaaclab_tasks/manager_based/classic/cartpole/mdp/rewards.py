"""Rewards of the cart-pole."""

from __future__ import annotations

from typing import Any

from isaaclab.managers import SceneEntityCfg
from isaaclab.utils.math import wrap_to_pi
from torch import Tensor

__all__ = ["joint_pos_target_l2"]


def joint_pos_target_l2(env: Any, target: float, asset_cfg: SceneEntityCfg) -> Tensor:
    position = wrap_to_pi(env.scene[asset_cfg.name].data.joint_pos[:, asset_cfg.joint_ids])
    return (position - target).square().sum(dim=1)
