"""The scene."""

from .interactive_scene import InteractiveScene
from .interactive_scene_cfg import InteractiveSceneCfg

__all__ = ["InteractiveScene", "InteractiveSceneCfg"]
