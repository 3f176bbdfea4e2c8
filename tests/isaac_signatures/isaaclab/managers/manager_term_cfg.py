"""Configuration of the managers' terms."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from isaaclab.utils import configclass
from isaaclab.utils.noise import NoiseCfg, NoiseModelCfg

# Every field has a default here; a field without one is MISSING until `validate` of the environment's configuration.


@configclass
class ManagerTermBaseCfg:
    """A function, or a class to be called like one, and its keyword arguments."""

    func: Any = MISSING
    params: dict[str, Any] = {}  # noqa: RUF012 - configclass copies it


@configclass
class RecorderTermCfg:
    """Something that records."""

    class_type: Any = MISSING


@configclass
class ActionTermCfg:
    """A part of the action, for one entity."""

    class_type: Any = MISSING
    asset_name: str = MISSING  # type: ignore[assignment]
    debug_vis: bool = False
    clip: dict[str, tuple[float, float]] | None = None


@configclass
class CommandTermCfg:
    """A command and how long it lasts."""

    class_type: Any = MISSING
    resampling_time_range: tuple[float, float] = MISSING  # type: ignore[assignment]
    debug_vis: bool = False


@configclass
class CurriculumTermCfg(ManagerTermBaseCfg):
    """func(env, env_ids, **params) -> what to log."""


@configclass
class ObservationTermCfg(ManagerTermBaseCfg):
    """func(env, **params) -> (envs, ...); then noise, clip, scale and history, in this order."""

    modifiers: list[Any] | None = None
    noise: NoiseCfg | NoiseModelCfg | None = None
    clip: tuple[float, float] | None = None
    scale: tuple[float, ...] | float | None = None
    history_length: int = 0
    flatten_history_dim: bool = True


@configclass
class ObservationGroupCfg:
    """Terms that one network reads."""

    concatenate_terms: bool = True
    concatenate_dim: int = -1
    enable_corruption: bool = False
    history_length: int | None = None
    flatten_history_dim: bool = True


@configclass
class EventTermCfg(ManagerTermBaseCfg):
    """func(env, env_ids, **params), at startup, at resets or at intervals."""

    mode: str = MISSING  # type: ignore[assignment]
    interval_range_s: tuple[float, float] | None = None
    is_global_time: bool = False
    min_step_count_between_reset: int = 0


@configclass
class RewardTermCfg(ManagerTermBaseCfg):
    """func(env, **params) -> (envs,), times weight times the step's seconds."""

    weight: float = MISSING  # type: ignore[assignment]


@configclass
class TerminationTermCfg(ManagerTermBaseCfg):
    """func(env, **params) -> (envs,) bool."""

    time_out: bool = False
