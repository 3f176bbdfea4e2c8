"""Rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import RewardTermCfg


class RewardManager(ManagerBase):
    """sum_i weight_i term_i dt."""

    def __init__(self, cfg: object, env: Any) -> None:
        self._term_names: list[str] = []
        self._term_cfgs: list[RewardTermCfg] = []
        self._class_term_cfgs: list[RewardTermCfg] = []
        super().__init__(cfg, env)
        self._episode_sums = {name: torch.zeros(self.num_envs, device=self.device) for name in self._term_names}
        self._reward_buf = torch.zeros(self.num_envs, device=self.device)
        self._step_reward = torch.zeros(self.num_envs, len(self._term_names), device=self.device)

    @property
    def active_terms(self) -> list[str]:
        return self._term_names

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        """Mean sums of the episodes that ended, a second of the longest episode: tensors, not numbers."""
        rows = slice(None) if env_ids is None else env_ids
        extras = {}
        for name, sums in self._episode_sums.items():
            extras[f"Episode_Reward/{name}"] = sums[rows].mean() / self._env.max_episode_length_s
            sums[rows] = 0.0
        for cfg in self._class_term_cfgs:
            cfg.func.reset(env_ids=rows)
        return extras

    def compute(self, dt: float) -> Tensor:
        """The buffer itself: the next `compute` overwrites it (envs,)."""
        self._reward_buf[:] = 0.0
        for i, (name, cfg) in enumerate(zip(self._term_names, self._term_cfgs, strict=True)):
            if cfg.weight == 0.0:
                self._step_reward[:, i] = 0.0
                continue
            value = cfg.func(self._env, **cfg.params) * cfg.weight * dt
            self._reward_buf += value
            self._episode_sums[name] += value
            self._step_reward[:, i] = value / dt
        return self._reward_buf

    def get_term_cfg(self, term_name: str) -> RewardTermCfg:
        return self._term_cfgs[self._term_names.index(term_name)]

    def set_term_cfg(self, term_name: str, cfg: RewardTermCfg) -> None:
        self._term_cfgs[self._term_names.index(term_name)] = cfg

    def get_active_iterable_terms(self, env_idx: int) -> Sequence[tuple[str, Sequence[float]]]:
        return [(name, [float(self._step_reward[env_idx, i])]) for i, name in enumerate(self._term_names)]

    def _prepare_terms(self) -> None:
        for name, cfg in self._term_items(self.cfg, RewardTermCfg):
            self._resolve_common_term_cfg(name, cfg, min_argc=1)
            self._term_names.append(name)
            self._term_cfgs.append(cfg)
            if isinstance(cfg.func, ManagerTermBase):
                self._class_term_cfgs.append(cfg)
