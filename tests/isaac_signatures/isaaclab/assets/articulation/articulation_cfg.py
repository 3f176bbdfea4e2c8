"""Configuration of a robot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, Protocol

from torch import Tensor

from isaaclab.actuators import ActuatorBaseCfg
from isaaclab.utils import configclass


class Dynamics(Protocol):
    """Stands where the real package has a USD file and PhysX."""

    @property
    def joint_names(self) -> tuple[str, ...]: ...

    @property
    def joint_pos_limits(self) -> tuple[tuple[float, float], ...]: ...

    def acceleration(self, position: Tensor, velocity: Tensor, effort: Tensor) -> Tensor:
        """Joint accelerations (envs, joints)."""
        ...

    def base_acceleration(self, base_vel: Tensor, position: Tensor, velocity: Tensor) -> Tensor:
        """Accelerations of the base, linear then angular, in its own frame (envs, 6)."""
        ...


@configclass
class InitialStateCfg:
    """The default state; joints by regular expression."""

    pos: tuple[float, float, float] = (0.0, 0.0, 0.0)
    joint_pos: dict[str, float] = {".*": 0.0}  # noqa: RUF012 - configclass copies it
    joint_vel: dict[str, float] = {".*": 0.0}  # noqa: RUF012 - configclass copies it


@configclass
class ArticulationCfg:
    """A robot: what it is made of (`spawn`), its default state, its actuators."""

    InitialStateCfg = InitialStateCfg

    class_type: Any = None
    prim_path: str = "{ENV_REGEX_NS}/Robot"
    spawn: Callable[[], Dynamics] = MISSING  # type: ignore[assignment]
    init_state: InitialStateCfg = InitialStateCfg()
    soft_joint_pos_limit_factor: float = 1.0
    actuators: dict[str, ActuatorBaseCfg] = MISSING  # type: ignore[assignment]
