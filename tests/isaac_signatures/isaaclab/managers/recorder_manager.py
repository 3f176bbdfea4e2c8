"""Recording. Only that there is nothing to record is implemented."""

from __future__ import annotations

from typing import Any

from isaaclab.utils import configclass

from .manager_base import EnvIds, ManagerBase


@configclass
class RecorderManagerBaseCfg:
    """Nothing to record."""


class RecorderManager(ManagerBase):
    """Hooks of the environment that do nothing without terms."""

    @property
    def active_terms(self) -> list[str]:
        return []

    def record_pre_step(self) -> None: ...

    def record_post_physics_decimation_step(self) -> None: ...

    def record_post_step(self) -> None: ...

    def record_pre_reset(self, env_ids: EnvIds, force_export_or_skip: Any = None) -> None: ...

    def record_post_reset(self, env_ids: EnvIds) -> None: ...

    def _prepare_terms(self) -> None: ...
