"""From actions to commands, by hand: scale, clip, rate and limits, each kind of action, damping, the ramp, fading in."""

import math

import numpy as np
import pytest
from bundles import cheetah_values, contract
from control import Bench, arm_file, arm_robot, arm_values
from hypothesis import given, settings
from hypothesis import strategies as st

from trudi.runtime.actions import ActionMap, CommandWriter
from trudi.runtime.controller import Outcome
from trudi.runtime.limits import combine
from trudi.runtime.robots.base import RobotDescription, RobotError, RobotJoint
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.site_file import JointLimits
from trudi.runtime.supervisor import Event


def mapping(robot=None, file=None, robot_limits=True, **action):
    """The map of the arm's actions; scale 0.5, 0.25 and offset 0.1, -0.5 of hip, knee unless stated otherwise."""
    values = arm_values(**action)
    if not robot_limits:
        for joint in values["robot"]["joints"]:
            joint |= {"position_limit": None, "velocity_limit": None, "effort_limit": None}
    made, robot = contract(values), robot or arm_robot()
    return ActionMap(made, robot, combine(made, robot, file or arm_file()))


def target(actions, action, last=(0.1, -0.5)):
    out = np.zeros(2)
    actions.target(np.array(action, float), np.array(last, float), out)
    return out.tolist()


def unscaled(actions, output):
    out = np.zeros(2)
    actions.unscaled(np.array([output], np.float32), out)
    return out.tolist()


def test_scale_and_offset_are_applied_once_by_whoever_applies_them():
    # 0.1 + 0.5 * 0.5 = 0.35; -0.5 + 0.25 * -1 = -0.75
    runtime = mapping()
    assert unscaled(runtime, [0.5, -1.0]) == [0.5, -1.0]
    assert target(runtime, [0.5, -1.0]) == [0.35, -0.75]
    # The graph gives 0.375 and -0.75 already: what it gives is what is commanded, and the action is worked back.
    # (0.375 - 0.125) / 0.5 = 0.5; (-0.75 + 0.5) / 0.25 = -1
    graph = mapping(scale_offset_applied_by="graph", offset=[0.125, -0.5])
    assert unscaled(graph, [0.375, -0.75]) == [0.5, -1.0]
    assert target(graph, [0.5, -1.0]) == [0.375, -0.75]


def test_clip_and_limits_the_strictest_of_all_counts():
    # Bundle's limits: hip [-1, 1], knee [-2, 0]
    assert target(mapping(), [9.0, 9.0]) == [1.0, 0.0] and target(mapping(), [-9.0, -9.0]) == [-1.0, -2.0]
    assert target(mapping(clip=[[-0.5, 0.25], [-9.0, 9.0]]), [9.0, 9.0]) == [0.25, 0.0]
    assert target(mapping(clip=[[-0.5, 0.25], [-9.0, 9.0]]), [-9.0, -9.0]) == [-0.5, -2.0]
    narrow = arm_robot(
        joints=(RobotJoint(name="knee", position_limit=(-1.0, -0.25)), RobotJoint(name="hip", position_limit=(-3, 3)))
    )
    assert target(mapping(narrow), [9.0, 9.0]) == [1.0, -0.25] and target(mapping(narrow), [-9.0, -9.0]) == [-1.0, -1.0]
    file = arm_file(joints={"hip": JointLimits(position_limit=(-0.75, 0.5)), "knee": JointLimits(position_limit=(-5, 5))})
    assert target(mapping(file=file), [9.0, 9.0]) == [0.5, 0.0] and target(mapping(file=file), [-9.0, -9.0]) == [-0.75, -2.0]
    bare = arm_robot(joints=(RobotJoint(name="knee"), RobotJoint(name="hip")))
    with pytest.raises(RobotError, match=r"nothing bounds the targets of hip \(joint_position\): give it a limit"):
        mapping(bare, robot_limits=False)
    clipped = mapping(bare, robot_limits=False, clip=[[-9.0, 9.0], [-9.0, 9.0]])
    assert target(clipped, [100.0, 100.0]) == [9.0, 9.0], "a clip is enough"


def test_a_clip_that_no_target_within_the_limits_satisfies_is_refused():
    with pytest.raises(RobotError, match="joint hip: no target is within both its action's clip and its limits"):
        mapping(clip=[[-0.9, -0.8], [-2.0, 0.0]], file=arm_file(joints={"hip": JointLimits(position_limit=(-0.7, 0.5))}))


def test_the_rate_limit_is_per_second_and_from_the_last_target():
    limited = mapping(rate_limit=[10.0, 5.0])  # a step of 20 ms: at most 0.2 and 0.1
    assert target(limited, [1.0, -2.0]) == pytest.approx([0.3, -0.6]), "0.6 and -1 are too far from 0.1 and -0.5"
    assert target(limited, [0.25, 0.25]) == pytest.approx([0.225, -0.4375]), "within"
    assert target(limited, [9.0, 9.0], last=(0.9, -0.05)) == [1.0, 0.0], "limits still count"
    # A target that the robot was beyond its limits with comes back at once: limits are stricter than the rate.
    assert target(limited, [0.0, 0.0], last=(1.5, -0.5)) == [1.0, -0.5]


def test_increments_add_to_the_last_target():
    increments = mapping(kind="joint_position_increment", offset=[0.0, 0.0])
    assert target(increments, [0.5, -1.0], last=(0.25, -0.5)) == [0.5, -0.75]
    assert target(increments, [9.0, 9.0], last=(0.25, -0.5)) == [1.0, 0.0], "kept within the limits"
    bench = Bench(
        arm_values(kind="joint_position_increment", offset=[0.0, 0.0], scale=[0.125, 0.125]),
        arm_robot(),
        arm_file(fade_in_s=0.0, stand_s=0.02, stand_speed=100.0),
        rate_hz=50.0,
    ).to(State.STAND)
    # From the default pose 0.1, -0.5: three times + 0.125 and - 0.125, a late one between. Drives are knee, hip.
    assert bench.activate(output=[1, -1]).position.tolist() == pytest.approx([-0.625, 0.225])
    assert bench.tick([1, -1]).position.tolist() == pytest.approx([-0.75, 0.35])
    assert bench.tick([0, 0]).position.tolist() == pytest.approx([-0.75, 0.35])
    assert bench.tick([1, -1]).position.tolist() == pytest.approx([-0.875, 0.475])


@pytest.mark.parametrize(
    ("kind", "most"),
    [("joint_velocity", [10.0, 12.0]), ("joint_effort", [5.0, 6.0])],
)
def test_velocities_and_efforts_are_kept_within_their_own_limits(kind, most):
    actions = mapping(kind=kind, offset=[0.0, 0.0], scale=[1.0, 1.0])
    assert target(actions, [2.0, -3.0]) == [2.0, -3.0]
    assert target(actions, [99.0, 99.0]) == most and target(actions, [-99.0, -99.0]) == [-value for value in most]
    file = arm_file(joints={"knee": JointLimits(velocity_limit=1.5, effort_limit=1.5)})
    strict = mapping(kind=kind, offset=[0.0, 0.0], scale=[1.0, 1.0], file=file)
    assert target(strict, [99.0, 99.0]) == [most[0], 1.5]


finite = st.floats(-1e6, 1e6)


@given(finite, finite, st.floats(-1, 1), st.floats(-2, 0))
def test_targets_are_within_limits_and_rate(hip, knee, last_hip, last_knee):
    made = target(mapping(rate_limit=[10.0, 5.0]), [hip, knee], last=(last_hip, last_knee))
    assert -1 <= made[0] <= 1 and -2 <= made[1] <= 0
    assert abs(made[0] - last_hip) <= 0.2 + 1e-12 and abs(made[1] - last_knee) <= 0.1 + 1e-12


# What the drives are sent; their order is knee, hip.


def rows(command):
    return {name: getattr(command, name).tolist() for name in ("position", "velocity", "effort", "stiffness", "damping")}


def writer(robot=None, file=None, **action):
    return CommandWriter(contract(arm_values(**action)), robot or arm_robot(), file or arm_file())


NONE = [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("joint_position", {"position": [-0.5, 0.25], "velocity": NONE, "effort": NONE, "stiffness": [30.0, 20.0]}),
        (
            "joint_position_increment",
            {"position": [-0.5, 0.25], "velocity": NONE, "effort": NONE, "stiffness": [30.0, 20.0]},
        ),
        ("joint_velocity", {"position": NONE, "velocity": [-0.5, 0.25], "effort": NONE, "stiffness": NONE}),
        ("joint_effort", {"position": NONE, "velocity": NONE, "effort": [-0.5, 0.25], "stiffness": NONE}),
    ],
)
def test_each_kind_of_action_has_its_own_command(kind, expected):
    made = writer(kind=kind, offset=[0.0, 0.0])
    made.hold(np.array([9.0, 9.0]))  # what was sent before leaves nothing behind
    assert rows(made.act(np.array([0.25, -0.5]))) == expected | {"damping": [0.6, 0.5]}
    assert rows(made.hold(np.array([0.25, -0.5]))) == {
        "position": [-0.5, 0.25],
        "velocity": NONE,
        "effort": NONE,
        "stiffness": [30.0, 20.0],
        "damping": [0.6, 0.5],
    }
    made.act(np.array([0.25, -0.5]))
    assert rows(made.damp()) == {
        "position": NONE,
        "velocity": NONE,
        "effort": NONE,
        "stiffness": NONE,
        "damping": [0.6, 0.5],
    }


def test_an_actuators_control_is_its_effort():
    values = cheetah_values()
    names = values["action"]["names"]
    robot = RobotDescription(
        name="cheetah", joints=(), drives=tuple(reversed(names)), pd=False, state_period_s=0.01, command_timeout_s=0.1
    )
    made = CommandWriter(contract(values), robot, arm_file())
    command = made.act(np.arange(6.0))
    assert command.effort.tolist() == [5, 4, 3, 2, 1, 0] and not np.delete(command.values, 2, 0).any()
    assert not made.damp().values.any()


def test_damping_is_the_site_files_else_the_robots_else_the_policys():
    file = arm_file(joints={"hip": JointLimits(damping=4.0)})
    assert writer().damp().damping.tolist() == [0.6, 0.5]
    assert writer(arm_robot(damping=(2.0, 3.0))).damp().damping.tolist() == [2.0, 3.0]
    assert writer(arm_robot(damping=(2.0, 3.0)), file).damp().damping.tolist() == [2.0, 4.0]
    assert writer(file=file).damp().damping.tolist() == [0.6, 4.0]
    zero = arm_file(joints={"hip": JointLimits(damping=0.0)})
    assert writer(arm_robot(damping=(2.0, 3.0)), zero).damp().damping.tolist() == [2.0, 0.0], "none is a gain too"
    assert writer(arm_robot(damping=(2.0, 3.0)), file).hold(np.zeros(2)).damping.tolist() == [0.6, 0.5], "only to rest"


# Standing up: from where the joints are to the default pose (hip 0.1, knee -0.5).


def standing(**file):
    file = {"stand_s": 1.0, "stand_speed": 10.0, "fade_in_s": 0.0} | file
    return Bench(arm_values(), arm_robot(), arm_file(**file), rate_hz=50.0).to(State.STANDBY)


def stand_up(bench, ticks, where):
    """Positions of knee and hip that are commanded, tick by tick, and the ticks' times in seconds."""
    bench.tick(joint_position=where)
    sent = [bench.tick(ask=Event.STAND, joint_position=where).position.copy()]
    sent += [bench.tick(joint_position=where).position.copy() for _ in range(ticks)]
    return np.array(sent), np.arange(ticks + 1) * 0.02


def test_the_ramp_is_half_a_cosine_from_the_measured_pose_to_the_default_one():
    where = [-1.5, 7.0, 0.6]  # knee, wheel, hip: 1.0 and 0.5 from the pose
    sent, time_s = stand_up(standing(), 55, where)
    assert sent[0].tolist() == [-1.5, 0.6], "it begins where the joints are"
    # After 0.5 s of 1 s: half of the way. After 0.25 s: (1 - cos(pi/4)) / 2 = 0.14645 of it (0.26 s is the nearest tick).
    assert sent[25] == pytest.approx([-1.0, 0.35])
    part = (1 - math.cos(math.pi * 0.26)) / 2
    assert sent[13] == pytest.approx([-1.5 + part, 0.6 - 0.5 * part])
    assert (sent[50:] == [-0.5, 0.1]).all(), "and ends exactly at the pose"
    assert (np.diff(sent[:, 0]) >= 0).all() and (np.diff(sent[:, 1]) <= 0).all()
    assert time_s[50] == 1.0


def test_a_long_way_takes_as_long_as_stand_speed_asks_for():
    # 1.5 rad at most 0.75 rad/s: a cosine's peak is pi/2 of its mean, so pi/2 * 1.5 / 0.75 = pi seconds, not stand_s.
    bench = standing(stand_speed=0.75)
    sent, _ = stand_up(bench, 160, [-2.0, 0.0, 0.1])
    speed = np.abs(np.diff(sent, axis=0)).max() / 0.02
    assert 0.749 < speed <= 0.75
    assert sent[157, 0] < -0.5 and sent[158].tolist() == [-0.5, 0.1], "3.14 s and 3.16 s"


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 1), st.floats(-2, 0), st.floats(0.02, 0.5), st.floats(0.5, 20.0))
def test_ramps_are_slow_monotone_and_arrive(hip, knee, stand_s, stand_speed):
    bench = standing(stand_s=stand_s, stand_speed=stand_speed)
    bench.tick(joint_position=[knee, 0.0, hip])
    before = bench.tick(ask=Event.STAND, joint_position=[knee, 0.0, hip]).position.copy()
    assert before.tolist() == [knee, hip]
    way = np.sign([-0.5 - knee, 0.1 - hip])
    left_s = bench.controller.ramp_left_s(bench.now_ns)
    assert left_s == pytest.approx(max(stand_s, math.pi / 2 * max(abs(-0.5 - knee), abs(0.1 - hip)) / stand_speed))
    while bench.controller.ramp_left_s(bench.now_ns) > 0:
        sent = bench.tick().position.copy()
        assert np.abs(sent - before).max() <= stand_speed * 0.02 * (1 + 1e-9)
        assert ((sent - before) * way >= -1e-15).all()
        before = sent
    assert before.tolist() == [-0.5, 0.1]


def test_a_robot_measured_beyond_its_limits_is_taken_back_within_them():
    sent, _ = stand_up(standing(), 50, [0.05, 0.0, 1.05])  # up to 0.1 beyond is no fault
    assert sent[0].tolist() == [0.0, 1.0] and sent[-1].tolist() == [-0.5, 0.1]


def test_from_a_stiff_state_the_ramp_begins_at_the_last_target_and_not_at_the_joints():
    bench = standing()
    stand_up(bench, 50, [-0.5, 0.0, 0.1])
    bench.activate(output=[1.0, 1.0])  # hip 0.6, knee -0.25
    sent = bench.tick(ask=Event.STOP, joint_position=[-0.75, 0.0, 0.25])
    assert sent.position.tolist() == [-0.25, 0.6] and bench.at is State.STAND
    # But after damping, at the joints.
    bench.tick(ask=Event.STOP)
    assert bench.tick(ask=Event.STAND, joint_position=[-0.75, 0.0, 0.25]).position.tolist() == [-0.75, 0.25]


# Fading in.


def test_the_policy_is_blended_in_over_fade_in_s():
    bench = standing(fade_in_s=0.08, stand_s=0.02)
    stand_up(bench, 1, [-0.5, 0.0, 0.1])
    seen = [bench.activate(output=[1.0, 1.0]).position.tolist()]
    seen += [bench.tick([1.0, 1.0]).position.tolist() for _ in range(5)]
    # Target: hip 0.6, knee -0.25; the pose and 0.5, 0.25 of the way times 0, 1/4, 2/4, 3/4, 1, 1. Drives are knee, hip.
    weights = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert seen == [pytest.approx([-0.5 + 0.25 * weight, 0.1 + 0.5 * weight]) for weight in weights]
    assert seen[0] == [-0.5, 0.1] and seen[-1] == [-0.25, 0.6]


@pytest.mark.parametrize(("kind", "row"), [("joint_velocity", "velocity"), ("joint_effort", "effort")])
def test_standing_gives_way_as_a_policy_without_positions_comes_in(kind, row):
    values = arm_values(kind=kind, offset=[0.0, 0.0], scale=[4.0, 2.0])
    bench = Bench(values, arm_robot(), arm_file(fade_in_s=0.08, stand_s=0.02, stand_speed=100.0), rate_hz=50.0).to(
        State.STAND
    )
    commands = [rows(bench.activate(output=[1.0, 1.0]))] + [rows(bench.tick([1.0, 1.0])) for _ in range(4)]
    for step, command in enumerate(commands):
        weight = step / 4
        assert command[row] == pytest.approx([2.0 * weight, 4.0 * weight])
        assert command["stiffness"] == pytest.approx([30.0 * (1 - weight), 20.0 * (1 - weight)])
        assert command["position"] == ([-0.5, 0.1] if weight < 1 else NONE)
        assert command["damping"] == [0.6, 0.5]


def test_a_line_between_actions():
    options = {"rate_hz": 200.0, "between": "linear"}
    bench = Bench(arm_values(), arm_robot(), arm_file(fade_in_s=0.0, stand_s=0.02, stand_speed=100.0), **options)
    bench.to(State.STAND)
    hips = [bench.activate(output=[1.0, 0.0]).position[1]] + [bench.tick([-1.0, 0.0]).position[1] for _ in range(8)]
    # From the pose 0.1 to 0.6 in four commands; then to -0.4 in four: -0.25 each.
    assert hips == pytest.approx([0.225, 0.35, 0.475, 0.6, 0.35, 0.1, -0.15, -0.4, -0.4])


def test_a_line_whose_next_action_is_late_waits_at_its_end():
    options = {"rate_hz": 100.0, "between": "linear"}
    bench = Bench(arm_values(), arm_robot(), arm_file(fade_in_s=0.0, stand_s=0.02, stand_speed=100.0), **options)
    bench.to(State.STAND)
    hips = [bench.activate(output=[1.0, 0.0]).position[1], bench.tick().position[1]]
    hips += [bench.tick(outcome=Outcome.LATE).position[1], bench.tick(outcome=Outcome.NONE).position[1]]
    assert hips == pytest.approx([0.35, 0.6, 0.6, 0.6])


def test_actuators_have_no_fade_and_no_ramp():
    values = cheetah_values()
    robot = RobotDescription(
        name="cheetah",
        joints=(),
        drives=tuple(values["action"]["names"]),
        pd=False,
        has_imu=False,
        state_period_s=0.01,
        command_timeout_s=0.1,
        custom=({"name": "position", "size": 8}, {"name": "velocity", "size": 9}),
    )
    bench = Bench(values, robot, rate_hz=100.0).to(State.STAND)
    assert not bench.tick().values.any(), "standing, an actuator does nothing"
    assert bench.activate(output=[0.5, -1, 2, 0, 0, 1]).effort.tolist() == [0.5, -1, 1, 0, 0, 1], "clipped to [-1, 1]"
