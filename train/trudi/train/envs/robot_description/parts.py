"""What the parts of a description share: numbers out of tensors, names of the simulators' own code, a machine by names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.interface import Joint
from trudi.runtime.model import NAME

Float64 = NDArray[np.float64]
Kind = Literal["joint_position", "joint_velocity", "joint_effort"]
JointType = Literal["revolute", "prismatic"]
XYZ = ("x", "y", "z")

# Packages whose functions and classes do what their names say. Anybody else's of the same name may do something else.
SIMULATORS = ("mjlab", "isaaclab")
MDP = ".envs.mdp."
NO_LIMIT = 1e6
"""From here on a simulator's limit means none: PhysX says 1e9 or the largest float."""


class Undescribed(Exception):
    """Something that a robot file has no words for; the text says what, and goes into the file's header."""


@dataclass(frozen=True)
class RawAction:
    """The simulator's raw action r that the policy's action a stands for: r = middle + half * a."""

    middle: Float64
    """(actions,)."""
    half: Float64
    """(actions,)."""

    @classmethod
    def between(cls, low: Any, high: Any) -> RawAction:
        """For a of -1 and 1, the raw actions `low` and `high` (actions,)."""
        bottom, top = numbers(low), numbers(high)
        return cls((bottom + top) / 2.0, (top - bottom) / 2.0)


@dataclass(frozen=True)
class Frame:
    """Where a sensor sits. Two frames that are fixed to the root and not turned against each other see the same vectors."""

    name: str
    rotation: Float64 | None = None
    """(3, 3), into the root body's frame; None where the frame moves against the root."""
    place: Float64 | None = None
    """(3,), in the root body's frame; m. None where what is measured does not depend on it."""
    about: str = ""
    """What a deployer must know to find it."""

    def turned_only(self) -> Frame:
        """The frame of a vector that is the same all over a rigid body."""
        return replace(self, place=None)

    def sees_the_same(self, other: Frame) -> bool:
        """Whether vectors have the same elements in both; False where that is not known."""
        if self.rotation is None or other.rotation is None or not np.allclose(self.rotation, other.rotation, atol=1e-9):
            return False
        return self.place is None or other.place is None or np.allclose(self.place, other.place, atol=1e-9)


@dataclass(frozen=True)
class Reading:
    """What an observation function returns, before the simulator's clip and scale."""

    kind: str
    names: tuple[str, ...]
    units: tuple[str, ...] | str
    frame: Frame
    offset: Float64 | None = None
    """Subtracted by the function (elements,)."""
    scale: Float64 | None = None
    """Multiplied by the function afterwards (elements,)."""
    command: str | None = None


class Machine(Protocol):
    """One articulation of a simulator, everything by the joint's name."""

    entity: str
    """Its name in the scene."""
    name: str
    """What the robot is called."""
    joint_names: tuple[str, ...]
    """In the order of the simulator's joint arrays."""
    default_position: dict[str, float]
    """Of the initial state; rad or m."""
    default_velocity: dict[str, float]
    """Of the initial state; rad/s or m/s."""
    soft_limits: dict[str, tuple[float, float]]
    """The simulator's own narrower limits, which rewards and some actions use; rad or m."""
    is_fixed_base: bool
    base: Frame
    """Of what the simulator calls the base's velocity and gravity; its place is that of the velocity."""
    doubts: tuple[str, ...]
    """What had to be assumed."""

    def joint_type(self, name: str) -> JointType:
        """Whether the joint turns or slides."""
        ...

    def joint(self, name: str, kind: Kind) -> Joint:
        """The joint as a command of that kind drives it; Undescribed where its motor follows no PD law."""
        ...

    def command_factor(self, name: str, kind: Kind) -> float:
        """The joint's command in its own unit for an action term's 1: not 1 where that is a motor's control."""
        ...

    def command_range(self, name: str, kind: Kind) -> tuple[float, float]:
        """Where the simulator itself clips the joint's command, in its unit; infinite where it does not."""
        ...

    def sensor(self, name: str, function: str) -> Reading:
        """What the observation function shows of a sensor; Undescribed where the contract has no kind for it."""
        ...

    def notes(self, commanded: tuple[str, ...]) -> list[str]:
        """What a deployer must know of this machine and the contract has no place for."""
        ...


def plain(value: Any) -> NDArray[Any]:
    """A tensor, array or number as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def numbers(value: Any) -> Float64:
    """The same in double precision; of single precision the shortest decimals that mean the same."""
    array = plain(value)
    if array.dtype == np.float32:
        return np.array([float(str(x)) for x in array.reshape(-1)], np.float64).reshape(array.shape)
    return array.astype(np.float64)


def row(value: Any, count: int, what: str) -> Float64:
    """(count, ...) of one number, of (count, ...) or of (envs, count, ...); Undescribed where environments differ."""
    array = plain(value)
    if array.ndim > 1 and array.shape[1] == count:
        if not np.allclose(array, array[:1], rtol=1e-6, atol=1e-9):
            raise Undescribed(f"{what} differs between environments")
        array = array[0]
    return np.broadcast_to(numbers(array), (count, *array.shape[1:])).copy()


def first(value: Any, place: int) -> float:
    """An element of the first environment's row."""
    return float(numbers(plain(value)[0, place]))


def own_name(code: Any, folder: str = MDP) -> str:
    """The qualified name of a function or class that a simulator has in `folder`; empty for anybody else's."""
    module = str(getattr(code, "__module__", ""))
    is_own = module.partition(".")[0] in SIMULATORS and folder in f"{module}."
    return str(getattr(code, "__qualname__", "")) if is_own else ""


def label(code: Any) -> str:
    """How to find a function, or an object's class, in its sources."""
    found = code if hasattr(code, "__qualname__") else type(code)
    return f"{found.__module__}.{found.__qualname__}"


def robot_name(wanted: str, entity: str) -> str:
    """A name that the contract takes; the scene's where a model has none, or its editor's."""
    return wanted if NAME.fullmatch(wanted) else entity


def by_name(names: tuple[str, ...], values: Any, what: str) -> dict[str, float]:
    """Numbers by name; `what` is named where they differ between environments."""
    return dict(zip(names, row(values, len(names), what).tolist(), strict=True))


def limit(value: float) -> float | None:
    """A limit, or None where the number means that there is none."""
    return float(value) if 0.0 < abs(value) < NO_LIMIT else None
