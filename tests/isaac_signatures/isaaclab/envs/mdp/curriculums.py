"""Curriculum terms."""

from __future__ import annotations

from typing import Any

from isaaclab.managers import ManagerTermBase

__all__ = ["modify_reward_weight"]


class modify_reward_weight(ManagerTermBase):
    """Sets a reward's weight once the count of steps is passed."""

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        self._term_cfg = env.reward_manager.get_term_cfg(cfg.params["term_name"])

    def __call__(self, env: Any, env_ids: Any, term_name: str, weight: float, num_steps: int) -> float:  # type: ignore[override]
        if env.common_step_counter > num_steps:
            self._term_cfg.weight = weight
            env.reward_manager.set_term_cfg(term_name, self._term_cfg)
        return self._term_cfg.weight
