"""An entity of the scene, and some of its joints, by name."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.utils import configclass


@configclass
class SceneEntityCfg:
    """The names become ids when a manager resolves the term that has this as a parameter."""

    name: str = MISSING  # type: ignore[assignment]
    joint_names: str | list[str] | None = None
    joint_ids: list[int] | slice = slice(None)
    body_names: str | list[str] | None = None
    body_ids: list[int] | slice = slice(None)
    preserve_order: bool = False

    def resolve(self, scene: Any) -> None:
        """ValueError where the scene has no such entity."""
        if self.name not in scene.keys():  # noqa: SIM118 - the scene is no mapping
            raise ValueError(f"no scene entity {self.name!r}. Available: {scene.keys()}")
        if self.joint_names is None:
            return
        entity = scene[self.name]
        keys = [self.joint_names] if isinstance(self.joint_names, str) else self.joint_names
        ids, self.joint_names = entity.find_joints(keys, preserve_order=self.preserve_order)
        self.joint_ids = slice(None) if self.joint_names == entity.joint_names else ids
