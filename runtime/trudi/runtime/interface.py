"""The robot's side of the contract: joints, actions, observation terms, commands."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trudi.runtime.model import (
    MAX_ITEMS,
    Elements,
    Float,
    Floats,
    Int,
    Model,
    Name,
    Names,
    NonNegative,
    Positive,
    Range,
    Ranges,
    Size,
    Units,
    distinct,
    ordered,
    same_length,
)


class Joint(Model):
    """One driven joint. A null limit means that none is known, so none is watched."""

    name: Name
    """Name on the robot; the runtime finds the joint by it."""
    type: Literal["revolute", "prismatic"] = "revolute"
    """Decides the units below: revolute in rad and N m, prismatic in m and N."""
    default_position: Float
    """Position of the default (home) pose; rad or m."""
    stiffness: NonNegative
    """Proportional gain of the joint's position controller; N m/rad or N/m."""
    damping: NonNegative
    """Derivative gain of the joint's position controller; N m s/rad or N s/m."""
    position_limit: Range | None
    """Lower and upper position; rad or m."""
    velocity_limit: Positive | None
    """Largest speed in either direction; rad/s or m/s."""
    effort_limit: Positive | None
    """Largest torque or force in either direction; N m or N."""

    @model_validator(mode="after")
    def _default_within_limits(self) -> Joint:
        if self.position_limit is not None:
            ordered(f"joint {self.name}: position_limit", self.position_limit)
            low, high = self.position_limit
            if not low <= self.default_position <= high:
                raise ValueError(f"joint {self.name}: default_position {self.default_position} is outside [{low}, {high}]")
        return self


class Robot(Model):
    """The machine the policy drives."""

    name: Name
    """What the robot is called: `unitree_go1`."""
    joints: Annotated[tuple[Joint, ...], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    """The driven joints in policy order: the order of the action's elements."""
    passive_joints: Annotated[tuple[Name, ...], Field(max_length=MAX_ITEMS, fail_fast=True)] = ()
    """Joints that are observed but not driven."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the driven joints in policy order."""
        return tuple(joint.name for joint in self.joints)

    @model_validator(mode="after")
    def _names_differ(self) -> Robot:
        distinct("robot.joints and robot.passive_joints", (*self.joint_names, *self.passive_joints))
        return self


class Action(Model):
    """What the graph's output means and what becomes of it; every list has one entry an action, in policy order."""

    kind: Literal["joint_position", "joint_position_increment", "joint_velocity", "joint_effort", "actuator"]
    """What is commanded. `joint_position_increment` adds scale * a to the last commanded position (its offset is 0);
    `actuator` is a simulator's own control, of tasks without a robot."""
    names: Names
    """Names of the driven joints (the same as robot.joints), or of the actuators where there is no robot."""
    units: Units
    """Unit of the command: rad, m, rad/s, N m, ...; `1` for a number without one."""
    scale: Floats
    """Factor from the policy's action to the command; command unit."""
    offset: Floats
    """Command of a zero action; command unit. For joint positions usually the default pose."""
    scale_offset_applied_by: Literal["runtime", "graph"]
    """Who computes offset + scale * a. `runtime`: the graph gives a in [-1, 1] and the runtime must apply both.
    `graph`: the graph's output is the command already, and applying them again is an error."""
    clip: Ranges | None = None
    """Lowest and highest command, applied by the runtime after scale and offset; command unit."""
    rate_limit: Annotated[tuple[Positive, ...], Elements] | None = None
    """Fastest change of the command, applied by the runtime after the clip; command unit per second."""

    @property
    def size(self) -> int:
        """Number of actions m."""
        return len(self.names)

    @model_validator(mode="after")
    def _sizes_agree(self) -> Action:
        distinct("action.names", self.names)
        for field in ("units", "scale", "offset", "clip", "rate_limit"):
            same_length("action.names", self.names, f"action.{field}", getattr(self, field))
        for limits in self.clip or ():
            ordered("action.clip", limits)
        if 0.0 in self.scale:
            raise ValueError(f"action.scale of {self.names[self.scale.index(0.0)]} is 0, so that action would do nothing")
        if self.kind == "joint_position_increment" and (any(self.offset) or self.scale_offset_applied_by == "graph"):
            raise ValueError(
                "action.kind is joint_position_increment: its offset must be 0 and its scale applied by the runtime"
            )
        return self


class Term(Model):
    """One term of the observation; the graph's observation is all terms one after the other, in this order."""

    name: Name
    """Name of the term, unique."""
    kind: Literal[
        "joint_position",
        "joint_velocity",
        "joint_effort",
        "base_linear_velocity",
        "base_angular_velocity",
        "projected_gravity",
        "base_quaternion",
        "base_height",
        "command",
        "last_action",
        "phase",
        "custom",
    ]
    """What is measured, so that a runtime can fill it. `projected_gravity` is the unit vector of gravity, `last_action`
    the policy's action before scale and offset, `phase` the gait's clock; `custom` must be given by the caller."""
    phase_frequency_hz: Positive | None = None
    """Of a `phase` term: element i is cos(2 pi f t + phase_offsets_rad[i]), t from the policy's first step; Hz."""
    phase_offsets_rad: Floats | None = None
    """Of a `phase` term, one an element: 0 for a leg's cosine, -pi/2 for its sine; rad."""
    size: Size
    """Elements of one frame."""
    element_names: Names
    """Name of each element of a frame: joints, or x, y, z; a quaternion's are x, y, z, w."""
    units: Units
    """Unit of each element before `scale`: rad, rad/s, m/s, ...; `1` for a number without one."""
    frame: Name
    """Frame the elements are expressed in: `base`, `imu`, `world`, a link's name, `joint` for joint coordinates, `none`."""
    offset: Floats | None = None
    """Subtracted from the raw value before anything else, one an element (for joint positions the default pose); `units`."""
    clip: Range | None = None
    """Lowest and highest value after `offset` and before `scale`; `units`."""
    scale: Floats | None = None
    """Factor on each element after `clip`; 1/`units`. Null means 1."""
    history: Annotated[Int, Field(ge=1, le=256)] = 1
    """Frames stacked, one control step apart, oldest first; the term takes size * history elements."""
    delay_steps: Annotated[Float, Field(ge=0, le=256)] = 0.0
    """Age of the value when the policy saw it in training; control steps (0.2 is a fifth of the control period). For
    `last_action` 0 is the action of the control step before, 1 the one before that."""
    joints: Names | None = None
    """The joint of each element, for joint terms of a robot; null otherwise."""
    command: Name | None = None
    """The command this term shows, for `command` terms; null otherwise."""

    @property
    def total_size(self) -> int:
        """Elements of the graph's observation that this term takes."""
        return self.size * self.history

    @model_validator(mode="after")
    def _sizes_agree(self) -> Term:
        where = f"observation term {self.name}"
        distinct(f"{where}: element_names", self.element_names)
        for field in ("element_names", "units", "offset", "scale", "joints", "phase_offsets_rad"):
            value = getattr(self, field)
            if value is not None and len(value) != self.size:
                raise ValueError(f"{where}: size is {self.size}, {field} has {len(value)}")
        if self.clip is not None:
            ordered(f"{where}: clip", self.clip)
        if self.kind == "base_quaternion" and self.element_names != ("x", "y", "z", "w"):
            raise ValueError(f"{where}: a quaternion's element_names are x, y, z, w, not {', '.join(self.element_names)}")
        if (self.phase_frequency_hz is None) != (self.phase_offsets_rad is None):
            raise ValueError(f"{where}: phase_frequency_hz and phase_offsets_rad belong together")
        if self.phase_frequency_hz is not None and self.kind != "phase":
            raise ValueError(f"{where}: kind is {self.kind}; a phase's frequency is for phase terms")
        if (self.kind == "command") != (self.command is not None):
            raise ValueError(f"{where}: kind is {self.kind} and command is {self.command}; one needs the other")
        return self


class Command(Model):
    """What an operator or planner asks of the policy; every list has one entry an element."""

    name: Name
    """Name of the command: `velocity`."""
    element_names: Names
    """Name of each element: vx, vy, wz."""
    units: Units
    """Unit of each element: m/s, m/s, rad/s."""
    frame: Name
    """Frame the command is expressed in: `base`, `world`, `none`."""
    range: Ranges
    """Lowest and highest value the policy was trained on; commands are clipped to it; `units`."""
    neutral: Floats
    """The value that stands for a stale command, within `range` (zero velocity); `units`."""
    timeout_s: Positive
    """Age after which a command counts as stale; s."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> Command:
        where = f"command {self.name}"
        for field in ("units", "range", "neutral"):
            same_length(f"{where}: element_names", self.element_names, f"{where}: {field}", getattr(self, field))
        for element, limits, neutral in zip(self.element_names, self.range, self.neutral, strict=True):
            ordered(f"{where}: range", limits)
            if not limits[0] <= neutral <= limits[1]:
                raise ValueError(f"{where}: neutral {element} {neutral} is outside its range [{limits[0]}, {limits[1]}]")
        return self
