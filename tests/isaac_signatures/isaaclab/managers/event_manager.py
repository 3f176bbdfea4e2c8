"""Events: randomisation at startup, at resets, at intervals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import EventTermCfg


class EventManager(ManagerBase):
    """Calls the terms of a mode."""

    def __init__(self, cfg: object, env: Any) -> None:
        self._mode_term_names: dict[str, list[str]] = {}
        self._mode_term_cfgs: dict[str, list[EventTermCfg]] = {}
        self._interval_term_time_left: list[Tensor] = []
        self._reset_term_last_triggered_step_id: list[Tensor] = []
        self._reset_term_last_triggered_once: list[Tensor] = []
        super().__init__(cfg, env)

    @property
    def active_terms(self) -> dict[str, list[str]]:
        return self._mode_term_names

    @property
    def available_modes(self) -> list[str]:
        return list(self._mode_term_names)

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        rows: Any = slice(None) if env_ids is None else env_ids
        for cfgs in self._mode_term_cfgs.values():
            for cfg in cfgs:
                if isinstance(cfg.func, ManagerTermBase):
                    cfg.func.reset(env_ids=env_ids)
        for time_left, cfg in zip(self._interval_term_time_left, self._mode_term_cfgs.get("interval", []), strict=True):
            if not cfg.is_global_time:
                time_left[rows] = self._interval(cfg, time_left[rows])
        return {}

    def apply(
        self, mode: str, env_ids: EnvIds = None, dt: float | None = None, global_env_step_count: int | None = None
    ) -> None:
        for index, cfg in enumerate(self._mode_term_cfgs.get(mode, [])):
            if mode == "interval":
                self._apply_interval(index, cfg, dt)
            elif mode == "reset":
                self._apply_reset(index, cfg, env_ids, global_env_step_count)
            else:
                cfg.func(self._env, env_ids, **cfg.params)

    def get_term_cfg(self, term_name: str) -> EventTermCfg:
        for mode, names in self._mode_term_names.items():
            if term_name in names:
                return self._mode_term_cfgs[mode][names.index(term_name)]
        raise ValueError(f"no event term {term_name!r}")

    def set_term_cfg(self, term_name: str, cfg: EventTermCfg) -> None:
        mode = self.get_term_cfg(term_name).mode
        self._mode_term_cfgs[mode][self._mode_term_names[mode].index(term_name)] = cfg

    def _apply_interval(self, index: int, cfg: EventTermCfg, dt: float | None) -> None:
        if dt is None:
            raise ValueError("interval events need dt")
        time_left = self._interval_term_time_left[index]
        time_left -= dt
        due = (time_left < 1e-6).nonzero().flatten()
        if len(due) == 0:
            return
        time_left[due] = self._interval(cfg, time_left[due])
        cfg.func(self._env, None if cfg.is_global_time else due, **cfg.params)

    def _apply_reset(self, index: int, cfg: EventTermCfg, env_ids: EnvIds, step: int | None) -> None:
        if step is None:
            raise ValueError("reset events need the count of steps")
        rows: Any = slice(None) if env_ids is None else env_ids
        last, once = self._reset_term_last_triggered_step_id[index], self._reset_term_last_triggered_once[index]
        if cfg.min_step_count_between_reset > 0:
            due = step - last[rows] >= cfg.min_step_count_between_reset
            due |= (last[rows] == 0) & ~once[rows]
            rows = torch.arange(self.num_envs, device=self.device)[rows][due]
            if len(rows) == 0:
                return
        last[rows] = step
        once[rows] = True
        cfg.func(self._env, rows, **cfg.params)

    @staticmethod
    def _interval(cfg: EventTermCfg, like: Tensor) -> Tensor:
        assert cfg.interval_range_s is not None
        lower, upper = cfg.interval_range_s
        return torch.rand_like(like) * (upper - lower) + lower

    def _prepare_terms(self) -> None:
        for name, cfg in self._term_items(self.cfg, EventTermCfg):
            # The event manager exists before the simulation plays: its robots are looked up when it does.
            self._env.sim.on_play(lambda name=name, cfg=cfg: self._resolve_common_term_cfg(name, cfg, min_argc=2))
            self._mode_term_names.setdefault(cfg.mode, []).append(name)
            self._mode_term_cfgs.setdefault(cfg.mode, []).append(cfg)
            if cfg.mode == "interval":
                count = 1 if cfg.is_global_time else self.num_envs
                self._interval_term_time_left.append(self._interval(cfg, torch.zeros(count, device=self.device)))
            elif cfg.mode == "reset":
                zeros = torch.zeros(self.num_envs, device=self.device, dtype=torch.int32)
                self._reset_term_last_triggered_step_id.append(zeros)
                self._reset_term_last_triggered_once.append(zeros.bool())
