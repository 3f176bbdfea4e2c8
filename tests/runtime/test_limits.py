"""Whether a bundle fits a robot: every refusal with the words its reader needs; and of several thresholds the strictest."""

import math

import pytest
from bundles import cheetah_values, contract, go1_values
from control import arm_file, arm_robot, arm_values, go1_robot

from trudi.runtime.limits import check_fit, combine
from trudi.runtime.robots.base import RobotDescription, RobotError, RobotJoint
from trudi.runtime.site_file import JointLimits, SiteSafety


def fit(values=None, robot=None, file=None, command_period_s=0.005):
    check_fit(contract(values or arm_values()), robot or arm_robot(), file or arm_file(), command_period_s)


def refused(words, *arguments, **options):
    with pytest.raises(RobotError, match=words) as caught:
        fit(*arguments, **options)
    assert "\n" not in str(caught.value)


def joint(name, low=None, high=None, **more):
    return RobotJoint(name=name, position_limit=None if low is None else (low, high), **more)


def actuators(*names):
    return RobotDescription(
        name="cheetah", joints=(), drives=names, pd=False, has_imu=False, state_period_s=0.01, command_timeout_s=0.1
    )


def test_what_fits_is_taken():
    fit()
    fit(go1_values(), go1_robot())
    fit(go1_values(), go1_robot(drives=[5, 3, 1, 0, 2, 4, 6, 7, 8, 11, 10, 9]))
    fit(cheetah_values(), actuators(*cheetah_values()["action"]["names"]))


def test_joints_against_actuators():
    refused(
        "commands joints, cheetah is driven by actuators without joints: this bundle is for another robot",
        None,
        actuators("a"),
    )
    refused("commands actuators without joints, arm is driven by joints", cheetah_values(), arm_robot())


def test_a_joint_that_the_robot_lacks():
    robot = arm_robot(joints=(joint("knee"), joint("hip_x")), drives=("knee", "hip_x"))
    refused(r"the bundle drives hip, which arm lacks; did you mean hip_x\?", None, robot)


def test_a_drive_of_which_the_bundle_knows_nothing_would_be_left_limp():
    robot = arm_robot(joints=(joint("knee", -2, 0), joint("wheel"), joint("hip", -1, 1)), drives=("knee", "hip", "wheel"))
    refused("arm drives wheel, of which the bundle says nothing; it drives hip, knee", None, robot)


def test_a_joint_in_the_site_file_that_the_robot_lacks():
    file = arm_file(joints={"hop": JointLimits(velocity_limit=1.0)})
    refused(r"the site file names the joint hop, which arm lacks; did you mean hip\?", file=file)
    fit(file=arm_file(joints={"wheel": JointLimits(velocity_limit=1.0)}))


def test_periods():
    fit(robot=arm_robot(state_period_s=0.02))
    refused("gives a state every 0.03 s; the policy needs one at least every 0.02 s", robot=arm_robot(state_period_s=0.03))
    fit(command_period_s=0.099)
    refused("a command every 0.1 s, but arm damps by itself after 0.1 s without one: raise --rate", command_period_s=0.1)


def test_tilt_without_an_imu():
    blind = arm_robot(has_imu=False)
    refused(r"tilt is to be watched \(max_tilt_rad\), and arm has no imu: set safety.max_tilt_rad to null", robot=blind)
    values = arm_values()
    values["safety"]["max_tilt_rad"] = None
    fit(values, blind)
    refused("tilt is to be watched", values, blind, arm_file(safety=SiteSafety(max_tilt_rad=1.0)))


@pytest.mark.parametrize(("low", "high"), [(-0.999, 1.0), (-1.0, 0.999), (-0.5, 0.5)])
def test_limits_wider_than_the_robots(low, high):
    robot = arm_robot(joints=(joint("knee", -2, 0), joint("hip", low, high)))
    words = rf"joint hip: the bundle's position limit \[-1, 1\] is wider than arm's \[{low:g}, {high:g}\]: train with"
    refused(words, None, robot)
    fit(None, robot, arm_file(accept_wider_limits=True))
    # The site file's own limit is a way to make it fit.
    fit(None, robot, arm_file(joints={"hip": JointLimits(position_limit=(low, high))}))
    refused("wider", None, robot, arm_file(joints={"hip": JointLimits(position_limit=(low - 0.01, high + 0.01))}))


def test_limits_may_differ_by_rounding():
    fit(None, arm_robot(joints=(joint("knee", -2, 0), joint("hip", -1 + 9e-7, 1 - 9e-7))))
    refused("wider", None, arm_robot(joints=(joint("knee", -2, 0), joint("hip", -1 + 2e-6, 1))))


def test_a_bundle_without_limits_is_wider_than_any():
    values = arm_values()
    values["robot"]["joints"][0]["position_limit"] = None
    refused(r"joint hip: the bundle's position limit \[-inf, inf\] is wider than arm's \[-1, 1\]", values)
    fit(values, arm_robot(joints=(joint("knee", -2, 0), joint("hip"))))


def test_stiffness_above_what_the_drives_take():
    fit(robot=arm_robot(max_stiffness=30.0))
    refused(
        "joint knee: the bundle's stiffness 30 is above 29, the most that arm takes", robot=arm_robot(max_stiffness=29.0)
    )
    refused("joint knee: the bundle's stiffness", None, arm_robot(max_stiffness=29.0), arm_file(accept_wider_limits=True))


# The strictest.


def thresholds(safety=None, file=None, robot=None):
    values = arm_values()
    values["safety"] |= safety or {}
    return combine(contract(values), robot or arm_robot(), file or arm_file())


NUMBERS = [
    ("state_age_warn_s", 0.05, 0.08),
    ("state_age_lost_s", 0.3, 0.4),
    ("command_lost_s", 1.0, 1.5),
    ("command_slew_s", 2.0, 1.0),
    ("max_overruns_in_row", 2, 3),
    ("max_tilt_rad", 0.5, 0.6),
    ("max_action_rate_per_s", 10.0, 20.0),
]


@pytest.mark.parametrize(("name", "strict", "loose"), NUMBERS)
def test_the_stricter_of_bundle_and_site_file(name, strict, loose):
    for bundle, site in ((strict, loose), (loose, strict), (strict, None)):
        file = arm_file(safety=SiteSafety(**{} if site is None else {name: site}))
        assert getattr(thresholds({name: bundle}, file), name) == strict


def test_what_neither_says_is_not_watched():
    limits = thresholds({"max_tilt_rad": None})
    assert (limits.max_tilt_rad, limits.max_action_rate_per_s, limits.max_latent_spread) == (None, None, None)
    limits = thresholds({"max_tilt_rad": None}, arm_file(safety=SiteSafety(max_tilt_rad=0.5, max_latent_spread=2.0)))
    assert (limits.max_tilt_rad, limits.max_latent_spread) == (0.5, 2.0)
    assert limits.observation_low is None


def test_each_joint_has_the_narrowest_limits_of_the_three_in_the_robots_order():
    robot = arm_robot(
        joints=(
            joint("knee", -1.5, 0.5, velocity_limit=20.0, effort_limit=1.0),
            joint("wheel", velocity_limit=9.0),
            joint("hip", -3, 3),
        )
    )
    file = arm_file(
        joints={"knee": JointLimits(position_limit=(-9, -0.25), velocity_limit=3.0), "wheel": JointLimits(effort_limit=7.0)},
        position_margin=0.02,
        out_of_range_steps=4,
    )
    limits = thresholds(robot=robot, file=file)
    # Bundle: knee [-2, 0], 12, 6; hip [-1, 1], 10, 5; it knows no wheel.
    assert limits.position_low.tolist() == [-1.5, -math.inf, -1.0]
    assert limits.position_high.tolist() == [-0.25, math.inf, 1.0]
    assert limits.velocity.tolist() == [3.0, 9.0, 10.0]
    assert limits.effort.tolist() == [1.0, 7.0, 5.0]
    assert (limits.position_margin, limits.out_of_range_steps) == (0.02, 4)


def test_limits_that_leave_no_position():
    file = arm_file(joints={"hip": JointLimits(position_limit=(2.0, 3.0))})
    with pytest.raises(RobotError, match="joint hip: no position is within all of its limits"):
        thresholds(file=file)
    with pytest.raises(RobotError, match="joint hip: no position is within all of its limits"):
        thresholds(file=arm_file(joints={"hip": JointLimits(position_limit=(0.5, -0.5))}))


def test_the_observations_range_is_the_bundles():
    limits = thresholds({"observation_range": {"low": [-1.0, -2.0], "high": [1.0, 2.0]}})
    assert limits.observation_low.tolist() == [-1.0, -2.0] and limits.observation_high.tolist() == [1.0, 2.0]
