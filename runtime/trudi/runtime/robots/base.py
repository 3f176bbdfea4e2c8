"""A robot as the runtime sees it: what it is, the state it measures, the command it obeys.

| when                     | what                                                                                         |
|--------------------------|----------------------------------------------------------------------------------------------|
| `RobotState.stamp_ns`    | the sensors were read; CLOCK_MONOTONIC of the robot's machine, strictly rising                |
| `RobotState.received_ns` | the state reached this process; CLOCK_MONOTONIC of this machine                               |
| `JointCommand.stamp_ns`  | the command was made; CLOCK_MONOTONIC of this machine                                         |
| `JointCommand.valid_ns`  | how long it may be obeyed; a robot that hears nothing newer then damps by itself              |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.model import MAX_ITEMS, Model, Name, Names, NonNegative, Positive, Range, Size, distinct, ordered

if TYPE_CHECKING:
    from typing_extensions import Self

Float64 = NDArray[np.float64]


class RobotError(TrudiRuntimeError):
    """A robot that cannot be reached, does not fit the bundle, or cannot do what was asked."""


class StateRejected(RobotError):
    """A message from the robot that is not a state of the robot described: damaged, of another size or of other joints."""

    def __init__(self, kind: Literal["malformed", "layout"], message: str) -> None:
        super().__init__(message)
        self.kind: Literal["malformed", "layout"] = kind


class SupervisorState(IntEnum):
    """Where the supervisor stands; every command says it, so that a robot can judge what it is sent."""

    UNCONFIGURED = 0
    INACTIVE = 1
    STANDBY = 2
    STAND = 3
    ACTIVE = 4
    FAULT = 5


class RobotJoint(Model):
    """A joint that the robot measures. A null limit is not known to the robot."""

    name: Name
    """Its name, by which the policy's joint is found."""
    position_limit: Range | None = None
    """Lower and upper position; rad or m."""
    velocity_limit: Positive | None = None
    """Largest speed in either direction; rad/s or m/s."""
    effort_limit: Positive | None = None
    """Largest torque or force in either direction; N m or N."""

    @model_validator(mode="after")
    def _limits_ordered(self) -> RobotJoint:
        if self.position_limit is not None:
            ordered(f"joint {self.name}: position_limit", self.position_limit)
        return self


class CustomSensor(Model):
    """Something that only this robot measures, for a term of kind `custom` of the same name."""

    name: Name
    size: Size


class RobotDescription(Model):
    """What a robot says of itself before anything moves."""

    name: Name
    """What the robot is called: `unitree_go1`."""
    joints: Annotated[tuple[RobotJoint, ...], Field(max_length=MAX_ITEMS)]
    """Every joint it measures, in the order of `RobotState`'s arrays."""
    drives: Names
    """What it drives, in the order of `JointCommand`'s arrays: names of joints, or of actuators where `pd` is false."""
    pd: Annotated[bool, Strict()] = True
    """Whether drives are joints with a PD controller; otherwise each takes one control, given as `effort`."""
    damping: tuple[NonNegative, ...] = ()
    """Derivative gain of each drive that brings the robot to rest safely; N m s/rad or N s/m. Empty: the policy's own."""
    max_stiffness: Positive | None = None
    """Largest proportional gain that any drive accepts; N m/rad or N/m."""
    state_period_s: Positive
    """Time between two states; s."""
    command_timeout_s: Positive
    """Time without a command after which the robot damps by itself; s."""
    shared_clock: Annotated[bool, Strict()] = False
    """Whether states are stamped by this machine's CLOCK_MONOTONIC, so that their age can be read off the stamp."""
    sensor_frame: Name = "imu"
    """Frame of orientation, angular and linear velocity."""
    has_imu: Annotated[bool, Strict()] = True
    """Whether orientation and angular velocity are measured."""
    has_linear_velocity: Annotated[bool, Strict()] = False
    """Whether linear velocity is measured or estimated."""
    has_height: Annotated[bool, Strict()] = False
    """Whether the base's height above the ground is measured or estimated."""
    custom: Annotated[tuple[CustomSensor, ...], Field(max_length=MAX_ITEMS)] = ()
    """Further measurements, in the order of `RobotState.custom`."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the measured joints, in the order of the state's arrays."""
        return tuple(joint.name for joint in self.joints)

    @property
    def value_count(self) -> int:
        """Numbers in a state."""
        return 3 * len(self.joints) + 4 + 3 + 3 + 1 + sum(sensor.size for sensor in self.custom)

    @model_validator(mode="after")
    def _names_differ(self) -> RobotDescription:
        distinct("joints", self.joint_names)
        distinct("drives", self.drives)
        distinct("custom", tuple(sensor.name for sensor in self.custom))
        if self.damping and len(self.damping) != len(self.drives):
            raise ValueError(f"drives has {len(self.drives)}, damping has {len(self.damping)}")
        if self.pd and (unmeasured := [name for name in self.drives if name not in self.joint_names]):
            raise ValueError(f"drives names {unmeasured[0]}, which is not among joints: every driven joint must be measured")
        return self


@dataclass
class RobotState:
    """One reading of all sensors; the arrays are views of `values`, in this order, so that one copy takes them all."""

    values: Float64
    """(value_count,); what follows are its parts."""
    joint_position: Float64
    """(joints,); rad or m."""
    joint_velocity: Float64
    """(joints,); rad/s or m/s."""
    joint_effort: Float64
    """(joints,); N m or N."""
    quaternion_xyzw: Float64
    """(4,); rotation of the sensor frame into the world."""
    angular_velocity: Float64
    """(3,), in the sensor frame; rad/s."""
    linear_velocity: Float64
    """(3,), in the sensor frame; m/s."""
    height: Float64
    """(1,), of the base above the ground; m."""
    custom: Float64
    """The custom sensors one after the other."""
    stamp_ns: int = 0
    received_ns: int = 0
    sequence: int = 0
    """Counts the robot's messages."""

    @classmethod
    def zeros(cls, description: RobotDescription) -> Self:
        """A state to be filled, at rest and upright."""
        joints = len(description.joints)
        values = np.zeros(description.value_count)
        cuts = np.cumsum([joints, joints, joints, 4, 3, 3, 1])
        state = cls(values, *cast("list[Any]", np.split(values, cuts)))
        state.quaternion_xyzw[3] = 1.0
        return state


@dataclass
class JointCommand:
    """What the motors are to do; the arrays are rows of `values`, in the order of the robot's drives.

    A drive of a PD joint gives stiffness (position - q) + damping (velocity - dq) + effort, within its effort limit. Where
    `RobotDescription.pd` is false, a drive's control is `effort`, and the other rows are 0.
    """

    values: Float64
    """(5, drives); what follows are its rows."""
    position: Float64
    """(drives,); rad or m."""
    velocity: Float64
    """(drives,); rad/s or m/s."""
    effort: Float64
    """(drives,); N m or N; or an actuator's control."""
    stiffness: Float64
    """(drives,); N m/rad or N/m."""
    damping: Float64
    """(drives,); N m s/rad or N s/m."""
    state: SupervisorState = SupervisorState.INACTIVE
    """Where the supervisor stood when the command was made."""
    stamp_ns: int = 0
    valid_ns: int = 0
    sequence: int = 0
    """Rises with every command."""

    @classmethod
    def zeros(cls, drives: int) -> Self:
        """A command that drives nothing."""
        values = np.zeros((5, drives))
        return cls(values, *cast("list[Any]", list(values)))


class Robot(ABC):
    """A machine, or a simulated one in a process of its own. A context manager that closes it."""

    @abstractmethod
    def describe(self) -> RobotDescription:
        """What it is. RobotError where it cannot be reached."""

    @abstractmethod
    def read(self) -> RobotState | None:
        """The next state that was not read yet, oldest first, or None; never waits.

        The object is the robot's own: the next call overwrites it. StateRejected says that a message was no state.
        """

    @abstractmethod
    def write(self, command: JointCommand) -> None:
        """Sends a command; never waits. RobotError where it cannot be sent."""

    @property
    def arrived_ns(self) -> int | None:
        """When the latest state reached this process, read or not; 0 before the first. None: states are not waited for."""
        return None

    def wait(self, after_ns: int, until_ns: int) -> None:  # noqa: B027 (only where `arrived_ns` is not None)
        """Returns once a state has arrived after `after_ns`, and no later than `until_ns`; both CLOCK_MONOTONIC."""

    def close(self) -> None:  # noqa: B027 (most robots have nothing to let go of)
        """Lets go of the robot; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class RobotReport:
    """What a simulated robot saw of a run; None or empty where it does not watch that."""

    violations: tuple[str, ...] = ()
    """Commands that its own checker found unsafe: a sentence each (the first hundred)."""
    violation_count: int = 0
    commands: int = 0
    """Commands received."""
    stiffness: float = 0.0
    """Largest stiffness of any drive in force now; N m/rad or N/m. 0: it damps, on command or by itself."""
    returns: tuple[float, ...] = ()
    """Undiscounted return of each finished episode, where its task has a reward."""
    injected: tuple[dict[str, float | str | None], ...] = ()
    """For each injected fault: kind, the time it began and the time of the first safe command after it."""
    notes: tuple[str, ...] = field(default=())
    """What it could not do (a real-time priority, say)."""
