"""Ends of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import TerminationTermCfg


class TerminationManager(ManagerBase):
    """Time-outs and all other ends. One environment may have both in one step."""

    def __init__(self, cfg: object, env: Any) -> None:
        self._term_names: list[str] = []
        self._term_cfgs: list[TerminationTermCfg] = []
        self._class_term_cfgs: list[TerminationTermCfg] = []
        super().__init__(cfg, env)
        self._term_dones = torch.zeros(self.num_envs, len(self._term_names), device=self.device, dtype=torch.bool)
        self._last_episode_dones = torch.zeros_like(self._term_dones)
        self._truncated_buf = torch.zeros(self.num_envs, device=self.device, dtype=torch.bool)
        self._terminated_buf = torch.zeros_like(self._truncated_buf)

    @property
    def active_terms(self) -> list[str]:
        return self._term_names

    @property
    def dones(self) -> Tensor:
        return self._truncated_buf | self._terminated_buf

    @property
    def time_outs(self) -> Tensor:
        """The buffer itself: the next `compute` overwrites it."""
        return self._truncated_buf

    @property
    def terminated(self) -> Tensor:
        """The buffer itself: the next `compute` overwrites it."""
        return self._terminated_buf

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        share = self._last_episode_dones.float().mean(dim=0)
        for cfg in self._class_term_cfgs:
            cfg.func.reset(env_ids=slice(None) if env_ids is None else env_ids)
        return {f"Episode_Termination/{name}": share[i].item() for i, name in enumerate(self._term_names)}

    def compute(self) -> Tensor:
        self._truncated_buf[:] = False
        self._terminated_buf[:] = False
        for i, cfg in enumerate(self._term_cfgs):
            value = cfg.func(self._env, **cfg.params)
            buffer = self._truncated_buf if cfg.time_out else self._terminated_buf
            buffer |= value
            self._term_dones[:, i] = value
        rows = self._term_dones.any(dim=1)
        self._last_episode_dones[rows] = self._term_dones[rows]
        return self._truncated_buf | self._terminated_buf

    def get_term(self, name: str) -> Tensor:
        return self._term_dones[:, self._term_names.index(name)]

    def get_active_iterable_terms(self, env_idx: int) -> Sequence[tuple[str, Sequence[float]]]:
        return [(name, [float(self._term_dones[env_idx, i])]) for i, name in enumerate(self._term_names)]

    def get_term_cfg(self, term_name: str) -> TerminationTermCfg:
        return self._term_cfgs[self._term_names.index(term_name)]

    def set_term_cfg(self, term_name: str, cfg: TerminationTermCfg) -> None:
        self._term_cfgs[self._term_names.index(term_name)] = cfg

    def _prepare_terms(self) -> None:
        for name, cfg in self._term_items(self.cfg, TerminationTermCfg):
            self._resolve_common_term_cfg(name, cfg, min_argc=1)
            self._term_names.append(name)
            self._term_cfgs.append(cfg)
            if isinstance(cfg.func, ManagerTermBase):
                self._class_term_cfgs.append(cfg)
