"""What is in the scene."""

from isaaclab._kit import require

require()

from .articulation import Articulation, ArticulationCfg, ArticulationData  # noqa: E402 - Kit comes first

__all__ = ["Articulation", "ArticulationCfg", "ArticulationData"]
