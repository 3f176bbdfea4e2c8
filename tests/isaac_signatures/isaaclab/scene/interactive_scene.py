"""The scene: entities by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isaaclab.assets import Articulation, ArticulationCfg
from isaaclab.sim import SimulationContext

from .interactive_scene_cfg import InteractiveSceneCfg


class InteractiveScene:
    """Creates what its configuration lists; a direct task adds its own to `articulations`."""

    def __init__(self, cfg: InteractiveSceneCfg) -> None:
        sim = SimulationContext.instance()
        assert sim is not None
        self.cfg = cfg
        sim.num_envs = cfg.num_envs
        self._device = sim.device
        self._articulations: dict[str, Articulation] = {}
        for name, entity in vars(cfg).items():
            if isinstance(entity, ArticulationCfg):
                self._articulations[name] = Articulation(entity)

    @property
    def device(self) -> str:
        return self._device

    @property
    def num_envs(self) -> int:
        return self.cfg.num_envs

    @property
    def env_origins(self) -> Tensor:
        return torch.zeros(self.num_envs, 3, device=self._device)

    @property
    def articulations(self) -> dict[str, Articulation]:
        return self._articulations

    def clone_environments(self, copy_from_source: bool = False) -> None:
        """All environments are rows of one tensor already."""

    def reset(self, env_ids: Sequence[int] | Tensor | None = None) -> None:
        for articulation in self._articulations.values():
            articulation.reset(env_ids)

    def write_data_to_sim(self) -> None:
        for articulation in self._articulations.values():
            articulation.write_data_to_sim()

    def update(self, dt: float) -> None:
        for articulation in self._articulations.values():
            articulation.update(dt)

    def keys(self) -> list[str]:
        return ["terrain", *self._articulations]

    def __getitem__(self, key: str) -> Any:
        if key == "terrain":
            return None
        if key not in self._articulations:
            raise KeyError(f"no scene entity {key!r}. Available: {self.keys()}")
        return self._articulations[key]
