"""Whether a bundle fits a robot, and the limits and thresholds that hold for the two together: of several the strictest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from trudi.runtime.contract import Contract
from trudi.runtime.errors import near_matches
from trudi.runtime.interface import Joint
from trudi.runtime.robots.base import Float64, RobotDescription, RobotError, RobotJoint
from trudi.runtime.site_file import JointLimits, SiteFile

LIMIT_TOLERANCE = 1e-6
"""By which a bundle's position limit may be the wider one: what rounding to single precision costs; rad or m."""


@dataclass(frozen=True)
class Thresholds:
    """What the watches hold the robot against. A limit of infinity is none."""

    state_age_warn_s: float
    state_age_lost_s: float
    command_lost_s: float
    command_slew_s: float
    """0: commands may jump."""
    max_overruns_in_row: int
    max_tilt_rad: float | None
    max_action_rate_per_s: float | None
    max_latent_spread: float | None
    out_of_range_steps: int
    position_low: Float64 = field(repr=False)
    """(joints,) in the robot's order; rad or m."""
    position_high: Float64 = field(repr=False)
    velocity: Float64 = field(repr=False)
    """(joints,); rad/s or m/s."""
    effort: Float64 = field(repr=False)
    """(joints,); N m or N."""
    position_margin: float
    observation_low: Float64 | None = field(repr=False)
    """(n,), of the graph's input."""
    observation_high: Float64 | None = field(repr=False)


def check_fit(contract: Contract, robot: RobotDescription, file: SiteFile, command_period_s: float) -> None:
    """RobotError where the bundle cannot drive this robot: missing joints, wider limits, periods that do not fit.

    `Observer` refuses what the robot does not measure.
    """
    _check_drives(contract, robot)
    known = {*robot.joint_names, *robot.drives}
    for name in file.joints:
        if name not in known:
            raise RobotError(f"the site file names the joint {name}, which {robot.name} lacks; {near_matches(name, known)}")
    if robot.state_period_s > contract.control_period_s * 1.001:
        raise RobotError(
            f"{robot.name} gives a state every {robot.state_period_s:g} s; the policy needs one at least every "
            f"{contract.control_period_s:g} s: raise the robot's rate"
        )
    if command_period_s >= robot.command_timeout_s:
        raise RobotError(
            f"a command every {command_period_s:g} s, but {robot.name} damps by itself after {robot.command_timeout_s:g} s "
            "without one: raise --rate"
        )
    safety = contract.safety
    if (safety.max_tilt_rad is not None or file.safety.max_tilt_rad is not None) and not robot.has_imu:
        raise RobotError(
            f"tilt is to be watched (max_tilt_rad), and {robot.name} has no imu: set safety.max_tilt_rad to null in the "
            "robot file that the bundle was exported with, if this machine cannot fall"
        )
    for joint in contract.robot.joints if contract.robot is not None else ():
        if robot.max_stiffness is not None and joint.stiffness > robot.max_stiffness:
            raise RobotError(
                f"joint {joint.name}: the bundle's stiffness {joint.stiffness:g} is above {robot.max_stiffness:g}, the most "
                f"that {robot.name} takes: train with a softer joint"
            )
        if not file.accept_wider_limits:
            _check_no_wider(joint, robot, file.joints.get(joint.name))


def _check_drives(contract: Contract, robot: RobotDescription) -> None:
    names = contract.action.names
    if robot.pd != (contract.robot is not None):
        kinds = ("actuators without joints", "joints")
        raise RobotError(
            f"the bundle commands {kinds[contract.robot is not None]}, {robot.name} is driven by {kinds[robot.pd]}: "
            "this bundle is for another robot"
        )
    for name in names:
        if name not in robot.drives:
            raise RobotError(f"the bundle drives {name}, which {robot.name} lacks; {near_matches(name, robot.drives)}")
    if extra := [name for name in robot.drives if name not in names]:
        raise RobotError(f"{robot.name} drives {extra[0]}, of which the bundle says nothing; it drives {', '.join(names)}")


def _check_no_wider(joint: Joint, robot: RobotDescription, site: JointLimits | None) -> None:
    """A policy trained with wider limits than the machine's asks for what the machine must not do."""
    own = robot.joints[robot.joint_names.index(joint.name)].position_limit
    if own is None:
        return
    low, high = joint.position_limit or (-math.inf, math.inf)
    if site is not None and site.position_limit is not None:
        low, high = max(low, site.position_limit[0]), min(high, site.position_limit[1])
    if low < own[0] - LIMIT_TOLERANCE or high > own[1] + LIMIT_TOLERANCE:
        raise RobotError(
            f"joint {joint.name}: the bundle's position limit [{low:g}, {high:g}] is wider than {robot.name}'s "
            f"[{own[0]:g}, {own[1]:g}]: train with the robot's limits, or set accept_wider_limits in the site file to have "
            "targets kept within the robot's"
        )


def combine(contract: Contract, robot: RobotDescription, file: SiteFile) -> Thresholds:
    """The strictest of what bundle, robot and site file say."""
    safety, site = contract.safety, file.safety
    bundle = {joint.name: joint for joint in contract.robot.joints} if contract.robot is not None else {}
    joints = [_strictest(own, bundle.get(own.name), file.joints.get(own.name)) for own in robot.joints]
    bounds = safety.observation_range
    return Thresholds(
        state_age_warn_s=_lowest(safety.state_age_warn_s, site.state_age_warn_s),
        state_age_lost_s=_lowest(safety.state_age_lost_s, site.state_age_lost_s),
        command_lost_s=_lowest(safety.command_lost_s, site.command_lost_s),
        command_slew_s=max(safety.command_slew_s or 0.0, site.command_slew_s or 0.0),
        max_overruns_in_row=min(safety.max_overruns_in_row, site.max_overruns_in_row or safety.max_overruns_in_row),
        max_tilt_rad=_finite(_lowest(safety.max_tilt_rad, site.max_tilt_rad)),
        max_action_rate_per_s=_finite(_lowest(safety.max_action_rate_per_s, site.max_action_rate_per_s)),
        max_latent_spread=site.max_latent_spread,
        out_of_range_steps=file.out_of_range_steps,
        position_low=np.array([low for low, _, _, _ in joints], float),
        position_high=np.array([high for _, high, _, _ in joints], float),
        velocity=np.array([velocity for _, _, velocity, _ in joints], float),
        effort=np.array([effort for _, _, _, effort in joints], float),
        position_margin=file.position_margin,
        observation_low=None if bounds is None else np.array(bounds.low),
        observation_high=None if bounds is None else np.array(bounds.high),
    )


def _strictest(own: RobotJoint, bundle: Joint | None, site: JointLimits | None) -> tuple[float, float, float, float]:
    """Low, high, velocity and effort limit of one joint."""
    sources = [source for source in (own, bundle, site) if source is not None]
    ranges = [source.position_limit for source in sources if source.position_limit is not None]
    low = max((limits[0] for limits in ranges), default=-math.inf)
    high = min((limits[1] for limits in ranges), default=math.inf)
    if low > high:
        raise RobotError(f"joint {own.name}: no position is within all of its limits (robot, bundle and site file)")
    velocity = _lowest(*(source.velocity_limit for source in sources))
    return low, high, velocity, _lowest(*(source.effort_limit for source in sources))


def _lowest(*values: float | None) -> float:
    return min((value for value in values if value is not None), default=math.inf)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
