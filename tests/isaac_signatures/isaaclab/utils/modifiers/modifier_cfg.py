"""Configuration of the modifiers."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.utils import configclass

from . import modifier


@configclass
class ModifierCfg:
    """A function and its keyword arguments, or a class of modifiers."""

    func: Any = MISSING
    params: dict[str, Any] = {}  # noqa: RUF012 - configclass copies it


@configclass
class IntegratorCfg(ModifierCfg):
    """Integrates over calls, `dt` seconds apart."""

    func: Any = modifier.Integrator
    dt: float = MISSING  # type: ignore[assignment]
