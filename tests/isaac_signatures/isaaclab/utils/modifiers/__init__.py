"""What is done to an observation before its noise."""

from .modifier import Integrator
from .modifier_base import ModifierBase
from .modifier_cfg import IntegratorCfg, ModifierCfg

__all__ = ["Integrator", "IntegratorCfg", "ModifierBase", "ModifierCfg"]
