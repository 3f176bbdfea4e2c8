"""The site file: what a robot's owner adds to what the robot says and the bundle asks for. The stricter always counts.

```yaml
joints:
  FR_calf_joint: {velocity_limit: 20.0}
safety: {max_tilt_rad: 0.8, state_age_lost_s: 0.1}
fade_in_s: 2.0
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict, ValidationError

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.model import Float, Int, Model, Name, NonNegative, Positive, Range
from trudi.runtime.reading import explain, split_unknown
from trudi.runtime.yaml_file import read_yaml


class JointLimits(Model):
    """Limits of one joint; what is absent adds nothing to the robot's and the bundle's."""

    position_limit: Range | None = None
    """Lower and upper position; rad or m."""
    velocity_limit: Positive | None = None
    """Largest speed in either direction; rad/s or m/s."""
    effort_limit: Positive | None = None
    """Largest torque or force in either direction; N m or N."""
    damping: NonNegative | None = None
    """Derivative gain that brings the joint to rest safely; N m s/rad or N s/m. Overrides the robot's own."""


class SiteSafety(Model):
    """Thresholds beside the bundle's; of two the stricter counts."""

    state_age_warn_s: Positive | None = None
    """Age of the robot's state that warns; s."""
    state_age_lost_s: Positive | None = None
    """Age of the robot's state that is a fault; s."""
    command_lost_s: Positive | None = None
    """Age of a command after which the robot stands; s."""
    command_slew_s: Positive | None = None
    """Shortest time in which a command crosses its whole range; the longer counts; s."""
    max_overruns_in_row: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """Control periods missed one after the other that are a fault."""
    max_tilt_rad: Annotated[Float, Field(gt=0, le=3.1416)] | None = None
    """Angle between the base's up axis and the world's that is a fault; rad."""
    max_action_rate_per_s: Positive | None = None
    """Fastest change of any element of the policy's action that is no fault; 1/s."""
    max_latent_spread: Positive | None = None
    """Standard deviation of an action over a few latents that is out of distribution; action unit. Null: not watched."""


class SiteFile(Model):
    """The whole file; every field may be absent."""

    joints: Annotated[dict[Name, JointLimits], Field(max_length=256, default_factory=dict[str, JointLimits])]
    """Limits by joint name."""
    safety: SiteSafety = SiteSafety()
    """Thresholds of the supervisor."""
    position_margin: NonNegative = 0.1
    """How far beyond a position limit a joint is measured before that is a fault (targets never go beyond); rad or m."""
    out_of_range_steps: Annotated[Int, Field(ge=1, le=100_000)] = 25
    """Control steps in a row with an observation (or spread) out of range that are a fault; fewer are a warning."""
    stand_s: Positive = 2.0
    """Time of the way to the default pose, longer where `stand_speed` asks for it; s."""
    stand_speed: Positive = 1.5
    """Fastest motion of any target on that way; rad/s or m/s."""
    fade_in_s: NonNegative = 1.0
    """Time over which the policy's targets are blended in, and it is shown neutral commands; s. Tasks without a robot have
    none."""
    halt_s: NonNegative = 2.0
    """How long the policy is shown neutral commands before STOP (or lost commands) makes the robot stand; s. With feet in
    the air, the way to the default pose would let it fall over. Time for which they were neutral before counts."""
    fade_out_s: NonNegative = 1.0
    """Time over which a policy that has halted so is blended out, into the default pose; s, longer where `stand_speed` asks
    for it. It keeps its balance meanwhile. 0, and policies of efforts or speeds or without commands: none."""
    on_fault: Literal["damp", "freeze"] = "damp"
    """What the motors are sent in FAULT: damping, or the last target (never after a fall or an overload)."""
    accept_wider_limits: Annotated[bool, Strict()] = False
    """Whether a bundle whose position limits are wider than the robot's is taken, its targets kept within the robot's."""


def read_site_file(path: Path) -> SiteFile:
    """The file at `path`, YAML or JSON; TrudiRuntimeError says in one line what is wrong with it."""
    values = read_yaml(path)
    known, unknown = split_unknown(SiteFile, {name: value for name, value in values.items() if name != "joints"}, "")
    if unknown:
        raise TrudiRuntimeError(f"{path}: {unknown[0].explain()}")
    if "joints" in values:
        known["joints"] = values["joints"]  # a mapping by names of joints, which are nobody's fields
    try:
        return SiteFile.model_validate(known)
    except ValidationError as error:
        raise TrudiRuntimeError(f"{path}: {explain(error)}") from None
