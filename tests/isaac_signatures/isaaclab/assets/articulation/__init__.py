"""A robot."""

from .articulation import Articulation
from .articulation_cfg import ArticulationCfg
from .articulation_data import ArticulationData

__all__ = ["Articulation", "ArticulationCfg", "ArticulationData"]
