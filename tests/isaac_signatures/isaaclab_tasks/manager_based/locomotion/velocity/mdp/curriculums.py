"""Curricula of the velocity tasks."""

from __future__ import annotations

from typing import Any

__all__ = ["widen_command"]


def widen_command(env: Any, env_ids: Any, command_name: str, widest: float, num_steps: int) -> float:
    """The forward range grows with the common count of steps, up to +-widest after `num_steps`."""
    term = env.command_manager.get_term(command_name)
    reach = widest * min(1.0, 0.25 + 0.75 * env.common_step_counter / num_steps)
    term.cfg.ranges.lin_vel_x = (-reach, reach)
    return reach
