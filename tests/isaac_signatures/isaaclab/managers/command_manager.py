"""Commands: what an episode is asked for, drawn anew now and then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import CommandTermCfg


class CommandTerm(ManagerTermBase):
    """One command."""

    def __init__(self, cfg: CommandTermCfg, env: Any) -> None:
        super().__init__(cfg, env)
        self.metrics: dict[str, Tensor] = {}
        self.time_left = torch.zeros(self.num_envs, device=self.device)
        self.command_counter = torch.zeros(self.num_envs, device=self.device, dtype=torch.long)

    @property
    @abstractmethod
    def command(self) -> Tensor:
        """The buffer itself (envs, ...)."""

    def reset(self, env_ids: EnvIds = None) -> dict[str, float]:
        rows: Any = slice(None) if env_ids is None else env_ids
        extras = {}
        for name, value in self.metrics.items():
            extras[name] = float(value[rows].mean())
            value[rows] = 0.0
        self.command_counter[rows] = 0
        self._resample(rows)
        return extras

    def compute(self, dt: float) -> None:
        self._update_metrics()
        self.time_left -= dt
        self._resample((self.time_left <= 0.0).nonzero().flatten())
        self._update_command()

    def _resample(self, env_ids: Any) -> None:
        if isinstance(env_ids, Tensor) and len(env_ids) == 0:
            return
        self.time_left[env_ids] = self.time_left[env_ids].uniform_(*self.cfg.resampling_time_range)
        self._resample_command(env_ids)
        self.command_counter[env_ids] += 1

    @abstractmethod
    def _update_metrics(self) -> None: ...

    @abstractmethod
    def _resample_command(self, env_ids: Any) -> None: ...

    @abstractmethod
    def _update_command(self) -> None: ...


class CommandManager(ManagerBase):
    """The commands by name."""

    def __init__(self, cfg: object, env: Any) -> None:
        self._terms: dict[str, CommandTerm] = {}
        super().__init__(cfg, env)

    @property
    def active_terms(self) -> list[str]:
        return list(self._terms)

    def get_active_iterable_terms(self, env_idx: int) -> Sequence[tuple[str, Sequence[float]]]:
        return [(name, term.command[env_idx].cpu().tolist()) for name, term in self._terms.items()]

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        rows = slice(None) if env_ids is None else env_ids
        logs = {name: term.reset(env_ids=rows) for name, term in self._terms.items()}
        return {f"Metrics/{name}/{metric}": value for name, log in logs.items() for metric, value in log.items()}

    def compute(self, dt: float) -> None:
        for term in self._terms.values():
            term.compute(dt)

    def get_command(self, name: str) -> Tensor:
        return self._terms[name].command

    def get_term(self, name: str) -> CommandTerm:
        return self._terms[name]

    def _prepare_terms(self) -> None:
        for name, cfg in self._term_items(self.cfg, CommandTermCfg):
            self._terms[name] = cfg.class_type(cfg, self._env)
