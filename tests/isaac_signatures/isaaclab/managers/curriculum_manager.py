"""Curricula: they change the environment as training goes on, at resets only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .manager_base import EnvIds, ManagerBase, ManagerTermBase
from .manager_term_cfg import CurriculumTermCfg


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


class CurriculumManager(ManagerBase):
    """Calls every term with the environments that are about to be reset."""

    def __init__(self, cfg: object, env: Any) -> None:
        self._term_names: list[str] = []
        self._term_cfgs: list[CurriculumTermCfg] = []
        self._class_term_cfgs: list[CurriculumTermCfg] = []
        super().__init__(cfg, env)
        self._curriculum_state: dict[str, Any] = dict.fromkeys(self._term_names)

    @property
    def active_terms(self) -> list[str]:
        return self._term_names

    def reset(self, env_ids: EnvIds = None) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        for name, state in self._curriculum_state.items():
            if isinstance(state, dict):
                extras |= {f"Curriculum/{name}/{key}": _number(value) for key, value in state.items()}
            elif state is not None:
                extras[f"Curriculum/{name}"] = _number(state)
        for cfg in self._class_term_cfgs:
            cfg.func.reset(env_ids=env_ids)
        return extras

    def compute(self, env_ids: EnvIds = None) -> None:
        rows = slice(None) if env_ids is None else env_ids
        for name, cfg in zip(self._term_names, self._term_cfgs, strict=True):
            self._curriculum_state[name] = cfg.func(self._env, rows, **cfg.params)

    def get_active_iterable_terms(self, env_idx: int) -> Sequence[tuple[str, Sequence[float]]]:
        return [(name, [_number(state)]) for name, state in self._curriculum_state.items() if state is not None]

    def _prepare_terms(self) -> None:
        for name, cfg in self._term_items(self.cfg, CurriculumTermCfg):
            self._resolve_common_term_cfg(name, cfg, min_argc=2)
            self._term_names.append(name)
            self._term_cfgs.append(cfg)
            if isinstance(cfg.func, ManagerTermBase):
                self._class_term_cfgs.append(cfg)
