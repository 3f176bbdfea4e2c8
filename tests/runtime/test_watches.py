"""Each watch just within and just beyond its threshold; what is counted in a row; what is not finite is named."""

import dataclasses
import math

import numpy as np
import pytest
from bundles import contract
from control import MS, START_NS, arm_file, arm_robot, arm_values, state_of

from trudi.runtime.limits import combine
from trudi.runtime.robots.base import CustomSensor
from trudi.runtime.supervisor import FaultCode
from trudi.runtime.watches import Watches

# The arm measures knee, wheel, hip; bundle and robot: knee [-2, 0], hip [-1, 1]; 12 and 10 rad/s; 6 and 5 N m.
MARGIN = 0.1
ROBOT = arm_robot(
    has_linear_velocity=True, has_height=True, custom=(CustomSensor(name="feet", size=2), CustomSensor(name="fan", size=1))
)
NAMES = ("q.hip", "q.knee")


def watches(robot=ROBOT, **thresholds):
    limits = combine(contract(arm_values()), robot, arm_file())
    thresholds = {"observation_low": np.array([-1.0, -2.0]), "observation_high": np.array([1.0, 2.0])} | thresholds
    return Watches(robot, dataclasses.replace(limits, **thresholds), NAMES)


def state(robot=ROBOT, stamp_ns=START_NS, **parts):
    return state_of(robot, stamp_ns, **{"joint_position": [-0.5, 0.0, 0.1]} | parts)


def above(value):
    return math.nextafter(value, math.inf)


def roll(angle):
    return [math.sin(angle / 2), 0.0, 0.0, math.cos(angle / 2)]


def test_a_state_at_rest_is_well():
    assert watches().state(state()) is None


@pytest.mark.parametrize(
    ("part", "within", "beyond", "code", "words", "threshold"),
    [
        # A joint may be measured 0.1 beyond its limit.
        ("joint_position", [0.1, 0, 0], [above(0.1), 0, 0], "JOINT_POSITION", "knee is at 0.1000", 0.1),
        (
            "joint_position",
            [-2.1, 0, 0],
            [-2.1001, 0, 0],
            "JOINT_POSITION",
            "knee is at -2.1001, beyond its limit -2.1",
            -2.1,
        ),
        ("joint_position", [0, 0, 1.1], [0, 0, 1.1001], "JOINT_POSITION", "hip is at 1.1001, beyond its limit 1.1", 1.1),
        ("joint_position", [0, 0, -1.1], [0, 0, -1.1001], "JOINT_POSITION", "hip is at -1.1001", -1.1),
        # Of two the one that is farther beyond.
        ("joint_position", [0, 1e9, 0], [0.2, 0, 1.5], "JOINT_POSITION", "hip is at 1.5", 1.1),
        ("joint_velocity", [12, 1e9, 10], [above(12), 0, 0], "JOINT_VELOCITY", "knee moves at 12, limit 12 rad/s", 12),
        ("joint_velocity", [-12, -1e9, -10], [0, 0, -10.01], "JOINT_VELOCITY", "hip moves at -10.01, limit 10", 10),
        # Efforts may be measured 5 % above what the motor gives: 6.3 and 5.25.
        ("joint_effort", [6.3, 1e9, -5.25], [6.31, 0, 0], "JOINT_EFFORT", "knee pulls with 6.31, limit 6.3 N m", 6.3),
        ("joint_effort", [-6.3, 0, 5.25], [0, 0, -5.26], "JOINT_EFFORT", "hip pulls with -5.26, limit 5.25", 5.25),
        ("quaternion_xyzw", roll(0.999), roll(1.001), "TILT", "tilted by 1.001 rad", 1.0),
        ("quaternion_xyzw", roll(-0.999), roll(-1.001), "TILT", "tilted by 1.001 rad", 1.0),
        ("quaternion_xyzw", roll(0.1), roll(math.pi), "TILT", "tilted by 3.142 rad", 1.0),
        ("quaternion_xyzw", [0, 0, 0, 0.951], [0, 0, 0, 0.949], "ORIENTATION", "length 0.949: it is no rotation", 1.05),
        ("quaternion_xyzw", [0, 0, 0, 1.049], [0, 0, 0, 1.051], "ORIENTATION", "length 1.051", 1.05),
        ("quaternion_xyzw", [0, 0, 1, 0], [0, 0, 0, 0], "ORIENTATION", "length 0", 1.05),
    ],
)
def test_states_just_within_and_just_beyond(part, within, beyond, code, words, threshold):
    look = watches()
    assert look.state(state(**{part: within})) is None
    violation = look.state(state(**{part: beyond}))
    assert violation.code is FaultCode[code] and words in violation.sentence
    assert violation.threshold == pytest.approx(threshold)


def test_without_an_imu_nobody_tilts():
    robot = arm_robot(has_imu=False)
    assert watches(robot).state(state(robot, quaternion_xyzw=[0, 0, 0, 0])) is None
    assert watches(max_tilt_rad=None).state(state(quaternion_xyzw=roll(3.0))) is None


def test_a_fall_is_named_before_the_joints_that_it_bends():
    """What must never be held stiff comes first: it decides between freezing and damping."""
    bent = {"joint_position": [-3, 0, 0], "joint_velocity": [99, 0, 0]}
    assert watches().state(state(quaternion_xyzw=roll(1.2), **bent)).code is FaultCode.TILT
    assert watches().state(state(joint_effort=[9, 0, 0], **bent)).code is FaultCode.JOINT_EFFORT
    assert watches().state(state(**bent)).code is FaultCode.JOINT_POSITION


JOINTS = ("knee", "wheel", "hip")
FIELDS = [f"{what} of {name}" for what in ("position", "velocity", "effort") for name in JOINTS]
FIELDS += [f"quaternion {axis}" for axis in "xyzw"] + [f"angular velocity {axis}" for axis in "xyz"]
FIELDS += [f"linear velocity {axis}" for axis in "xyz"] + ["height", "feet[0]", "feet[1]", "fan[0]"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(len(FIELDS)), ids=FIELDS)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_is_named(index, value):
    bad = state()
    bad.values[index] = value
    violation = watches().state(bad)
    assert violation.code is FaultCode.STATE_NOT_FINITE
    assert violation.sentence == f"the state's {FIELDS[index]} is {value}"
    bad.values[-1] = -value  # +inf and -inf together still count
    assert watches().state(bad).code is FaultCode.STATE_NOT_FINITE


@pytest.mark.filterwarnings("ignore:overflow")
def test_finite_numbers_whose_sum_is_not_are_no_states():
    bad = state(linear_velocity=[1e308, 1.5e308, 1e308])
    violation = watches().state(bad)
    assert violation.code is FaultCode.STATE_NOT_FINITE and "linear velocity y is 1.5e+308" in violation.sentence


def test_ages():
    look = watches()
    assert look.age(0.5) is None and look.age(-0.004) is None
    violation = look.age(above(0.5))
    assert violation.code is FaultCode.STATE_LOST and "the robot's state is 0.500 s old" in violation.sentence
    assert (look.age(math.inf).value, look.age(1.0).threshold) == (math.inf, 0.5)


def test_stamps():
    look = watches()
    assert look.stamp(state(), START_NS) is None, "the same again"
    back = look.stamp(state(stamp_ns=START_NS - 1), START_NS)
    assert back.code is FaultCode.STATE_BACKWARDS and back.value == pytest.approx(1e-9)
    assert "stamped 1e-09 s before" in back.sentence
    # Ahead of the clock: only where it is one clock.
    early = state(stamp_ns=START_NS + 5 * MS)
    early.received_ns = START_NS
    late = state(stamp_ns=START_NS + 5 * MS + 1)
    late.received_ns = START_NS
    assert look.stamp(late, START_NS) is None
    shared = watches(arm_robot(shared_clock=True))
    assert shared.stamp(early, START_NS) is None
    found = shared.stamp(late, START_NS)
    assert found.code is FaultCode.STATE_FUTURE and "0.005 s ahead" in found.sentence


def row(*values):
    return np.array([values], np.float32)


def test_observations_out_of_the_training_range_in_a_row():
    look = watches(out_of_range_steps=3)
    inside, outside = row(1.0, -2.0), row(1.0, 2.0625)
    for _ in range(2):
        assert look.observation(outside) is None
    assert look.observation(inside) is None, "at the bounds is within, and ends the row"
    for _ in range(2):
        assert look.observation(outside) is None
    found = look.observation(outside)
    assert found.code is FaultCode.OBSERVATION_RANGE and (found.value, found.threshold) == (2.0625, 2.0)
    assert found.sentence == (
        "the observation's q.knee is 2.062, outside of training's [-2, 2], for 3 control steps in a row"
    )
    assert look.out_of_range_total == 5
    look.reset()
    assert look.observation(row(-1.25, 0.0)) is None
    low = watches(out_of_range_steps=1).observation(row(-1.25, 0.0))
    assert (low.value, low.threshold) == (-1.25, -1.0) and "q.hip" in low.sentence
    assert watches(observation_low=None, observation_high=None, out_of_range_steps=1).observation(row(9e9, 0)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_observations_that_are_not_finite(value):
    for limits in ({}, {"observation_low": None, "observation_high": None}):
        found = watches(**limits).observation(row(0.0, value))
        assert found.code is FaultCode.OBSERVATION_NOT_FINITE and f"q.knee is {value}" in found.sentence


def test_spread_over_latents_in_a_row():
    look = watches(max_latent_spread=0.5, out_of_range_steps=2)
    assert [look.spread(value) for value in (0.6, 0.5, 0.6, math.nan, 0.6)] == [None] * 5
    found = look.spread(0.75)
    assert found.code is FaultCode.LATENT_SPREAD and (found.value, found.threshold) == (0.75, 0.5)
    assert "0.75 between latents, for 2 control steps" in found.sentence
    look.reset()
    assert look.spread(0.75) is None
    assert watches(out_of_range_steps=1).spread(9.0) is None, "not watched"


def test_the_actions_rate():
    look = watches(max_action_rate_per_s=10.0)  # 0.25 in 0.025 s
    period_s = 0.025
    assert look.action(np.array([5.0, -5.0]), period_s) is None, "the first comes from nowhere"
    assert look.action(np.array([5.25, -5.25]), period_s) is None
    found = look.action(np.array([5.25, -5.515625]), period_s)  # 0.265625 / 0.025 = 10.625
    assert found.code is FaultCode.ACTION_RATE and (found.value, found.threshold) == (pytest.approx(10.625), 10.0)
    assert found.sentence == "the policy's action 1 changes by 10.62 a second"
    look.reset()
    assert look.action(np.array([-9.0, 9.0]), period_s) is None
    one = np.array([-9.0, 9.0])  # the caller's array is not kept
    look.action(one, period_s)
    one += 9.0
    assert look.action(one, period_s).code is FaultCode.ACTION_RATE
    free = watches()
    assert free.action(np.zeros(2), period_s) is None and free.action(np.full(2, 1e6), period_s) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_actions_that_are_not_finite(value):
    look = watches(max_action_rate_per_s=10.0)
    look.action(np.zeros(2), 0.02)
    found = look.action(np.array([0.0, value]), 0.02)
    assert found.code is FaultCode.ACTION_NOT_FINITE and found.sentence == f"the policy's action 1 is {value}"
    assert look.action(np.zeros(2), 0.02) is None, "and is forgotten"


def test_overruns_in_a_row():
    look = watches(max_overruns_in_row=3)
    assert [look.overrun(1), look.overrun(1), look.overrun(0), look.overrun(2), look.overrun(0)] == [None] * 5
    look.overrun(2)
    found = look.overrun(1)
    assert found.code is FaultCode.OVERRUN and (found.value, found.threshold) == (3.0, 3.0)
    assert watches(max_overruns_in_row=3).overrun(7).value == 7.0
    look.reset()
    assert look.overrun(2) is None


def test_memory_goes_on_with_the_same_counters():
    def thresholds():
        return watches(max_action_rate_per_s=10.0, max_latent_spread=0.5, out_of_range_steps=3, max_overruns_in_row=3)

    first = thresholds()
    first.observation(row(9.0, 0.0))
    first.spread(1.0)
    first.overrun(2)
    first.action(np.array([0.5, 0.5]), 0.02)
    for use in (
        lambda look: [look.observation(row(9.0, 0.0)) for _ in range(2)],
        lambda look: [look.spread(1.0) for _ in range(2)],
        lambda look: look.overrun(1),
        lambda look: look.action(np.array([1.5, 0.5]), 0.02),
    ):
        second = thresholds()
        second.restore(first.memory())
        found = use(second)
        assert found == use(first) and found != use(thresholds())


def test_memory_of_watches_that_saw_no_action():
    second = watches(max_action_rate_per_s=10.0)
    second.restore(watches().memory())
    assert second.action(np.array([9.0, 9.0]), 0.02) is None
