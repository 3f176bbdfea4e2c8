"""Observation terms: each kind by hand, frames and rotations, delays, history, and that joints are found by name alone."""

import math

import numpy as np
import pytest
from bundles import contract, go1_values, term
from control import ARM_JOINTS, MS, START_NS, Bench, arm_robot, arm_values, go1_robot, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from trudi.runtime.history import StateHistory
from trudi.runtime.robots.base import CustomSensor, RobotError, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event
from trudi.runtime.terms import Observer, gait_phase, projected_gravity, tilt

HALF = math.sqrt(0.5)
unit = st.floats(-1, 1)
quaternions = st.tuples(unit, unit, unit, unit).filter(lambda q: math.hypot(*q) > 0.1)


def gravity_of(quaternion):
    out = np.zeros(3)
    projected_gravity(np.array(quaternion, float), out)
    return out


@pytest.mark.parametrize(
    ("degrees", "axis", "gravity", "angle"),
    [
        (0, "z", [0, 0, -1], 0),
        (90, "z", [0, 0, -1], 0),  # turning left on the spot: nothing is felt
        (30, "x", [0, -0.5, -math.sqrt(0.75)], 30),  # rolled to its right, its right side (-y) is down
        (30, "y", [0.5, 0, -math.sqrt(0.75)], 30),  # nose down: gravity points to its front
        (-90, "y", [-1, 0, 0], 90),  # nose straight up
        (180, "x", [0, 0, 1], 180),  # on its back
    ],
)
def test_gravity_and_tilt_of_rotations_about_one_axis(degrees, axis, gravity, angle):
    half = math.radians(degrees) / 2
    quaternion = [0.0, 0.0, 0.0, math.cos(half)]  # x, y, z, w
    quaternion["xyz".index(axis)] = math.sin(half)
    assert gravity_of(quaternion) == pytest.approx(gravity, abs=1e-15)
    assert tilt(np.array(quaternion)) == pytest.approx(math.radians(angle), abs=1e-15)


def test_the_quaternion_is_x_y_z_w_and_turns_the_sensor_into_the_world():
    """Yaw of +90 degrees: the robot's front (x) is the world's left (y)."""
    yaw = Rotation.from_quat([0, 0, HALF, HALF])
    assert yaw.apply([1, 0, 0]) == pytest.approx([0, 1, 0])
    # Then a roll of 30 degrees about its own x: gravity in its frame does not know the yaw.
    both = yaw * Rotation.from_euler("x", 30, degrees=True)
    assert gravity_of(both.as_quat()) == pytest.approx([0, -0.5, -math.sqrt(0.75)])
    # And a roll about the world's x is a pitch to a robot that faces y.
    other = Rotation.from_euler("x", 30, degrees=True) * yaw
    assert gravity_of(other.as_quat()) == pytest.approx([-0.5, 0, -math.sqrt(0.75)])


@given(quaternions)
def test_gravity_and_tilt_agree_with_scipy(quaternion):
    rotation = Rotation.from_quat(quaternion)
    normal = rotation.as_quat()
    assert gravity_of(normal) == pytest.approx(rotation.inv().apply([0, 0, -1]), abs=1e-12)
    assert gravity_of(-normal).tolist() == gravity_of(normal).tolist(), "q and -q are one rotation"
    up = rotation.apply([0, 0, 1])
    assert tilt(normal) == pytest.approx(math.atan2(math.hypot(up[0], up[1]), up[2]), abs=1e-9)
    assert tilt(1.04 * normal) == pytest.approx(tilt(normal), abs=1e-9), "whatever its length"


def test_the_gaits_phase():
    out = np.zeros(3)
    # 2 Hz after 0.125 s is a quarter of a turn: cos(pi/2) = 0, cos(pi/2 - pi/2) = 1, cos(pi/2 + pi) = 0
    gait_phase(0.125, 2.0, np.array([0.0, -math.pi / 2, math.pi]), out)
    assert out == pytest.approx([0, 1, 0], abs=1e-15)
    # After a million turns, and a sixth: cos(pi / 3)
    gait_phase((1e6 + 1 / 6) / 2.0, 2.0, np.zeros(3), out)
    assert out == pytest.approx([0.5] * 3, abs=1e-8)


# The assembled observation.


def observe(terms, *, robot=None, commands=None, **parts):
    """One observation of these terms by the arm, whose arrays are in the order knee, wheel, hip."""
    values = arm_values(terms)
    values["commands"] = commands or []
    robot = robot or arm_robot()
    observer = Observer(contract(values), robot)
    states = StateHistory(robot, observer.longest_delay_s)
    states.push(state_of(robot, START_NS, **parts))
    return observer, states, observer.observe(states)[0].tolist()


def joints(name, kind, names=ARM_JOINTS, **more):
    return term(name, kind, len(names), "rad", "joint", element_names=names, joints=names, **more)


def test_joint_terms_take_their_joints_by_name():
    values = arm_values()
    values["robot"]["passive_joints"] = ["wheel"]
    names = ["hip", "wheel", "knee"]
    values["observation"] = [
        joints("q", "joint_position", names),
        joints("dq", "joint_velocity"),
        joints("t", "joint_effort"),
    ]
    values["graph"]["inputs"][0]["shape"][1] = 7
    observer = Observer(contract(values), arm_robot())
    states = StateHistory(arm_robot(), 0.0)
    parts = {"joint_position": [1, 2, 3], "joint_velocity": [4, 5, 6], "joint_effort": [7, 8, 9]}
    states.push(state_of(arm_robot(), START_NS, **parts))
    assert observer.observe(states)[0].tolist() == [3, 2, 1, 6, 4, 9, 7]


def test_sensors_custom_and_height():
    robot = arm_robot(
        has_linear_velocity=True,
        has_height=True,
        custom=(CustomSensor(name="feet", size=2), CustomSensor(name="fan", size=1)),
    )
    terms = [
        term("v", "base_linear_velocity", 3, "m/s", "imu"),
        term("w", "base_angular_velocity", 3, "rad/s", "imu"),
        term("g", "projected_gravity", 3, "1", "imu"),
        term("q", "base_quaternion", 4, "1", "imu", element_names=["x", "y", "z", "w"]),
        term("h", "base_height", 1, "m", "world", element_names=["z"]),
        term("fan", "custom", 1, "1/s", "none", element_names=["speed"]),
        term("feet", "custom", 2, "N", "none", element_names=["left", "right"]),
    ]
    parts = {"linear_velocity": [1, 2, 3], "angular_velocity": [4, 5, 6], "height": 0.25, "custom": [7, 8, 9]}
    _, _, seen = observe(terms, robot=robot, quaternion_xyzw=[0.5, 0.5, 0.5, 0.5], **parts)
    # That quaternion turns x to y to z to x: the world's z is the robot's y, so gravity is -y.
    assert seen == [1, 2, 3, 4, 5, 6, 0, -1, 0, 0.5, 0.5, 0.5, 0.5, 0.25, 9, 7, 8]


def test_commands_are_shown_by_name():
    one = {"element_names": ["a"], "units": ["1"], "frame": "none", "range": [[-9, 9]], "neutral": [0.5], "timeout_s": 0.5}
    commands = [{"name": "first"} | one, {"name": "second"} | one | {"neutral": [-0.25]}]
    terms = [
        term("s", "command", 1, "1", "none", element_names=["a"], command="second"),
        term("f", "command", 1, "1", "none", element_names=["a"], command="first", scale=[2.0]),
    ]
    observer, states, seen = observe(terms, commands=commands)
    assert seen == [-0.25, 1.0]
    observer.commands[0][:], observer.commands[1][:] = 3.0, 4.0
    assert observer.observe(states)[0].tolist() == [4.0, 6.0]


def test_offset_then_clip_then_scale():
    terms = [joints("q", "joint_position", offset=[1.0, -1.0], clip=[-0.5, 2.0], scale=[10.0, 100.0])]
    # hip: 4 - 1 = 3, clipped to 2, * 10 = 20; knee: -2 + 1 = -1, clipped to -0.5, * 100 = -50
    assert observe(terms, joint_position=[-2.0, 0.0, 4.0])[2] == [20.0, -50.0]
    # hip: 1.25 - 1 = 0.25, * 10; knee: 0.5 + 1 = 1.5, * 100
    assert observe(terms, joint_position=[0.5, 0.0, 1.25])[2] == [2.5, 150.0]


def test_history_is_oldest_first_and_begins_with_the_first_frame_repeated():
    terms = [joints("q", "joint_position", history=3, scale=[2.0, 1.0]), joints("dq", "joint_velocity")]
    observer, states, seen = observe(terms, joint_position=[10, 0, 1], joint_velocity=[7, 0, 8])
    assert seen == [2, 10, 2, 10, 2, 10, 8, 7]

    def step(hip, knee):
        states.push(state_of(arm_robot(), START_NS, joint_position=[knee, 0, hip], joint_velocity=[7, 0, 8]))
        return observer.observe(states)[0].tolist()[:6]

    assert step(2, 20) == [2, 10, 2, 10, 4, 20]
    assert step(3, 30) == [2, 10, 4, 20, 6, 30]
    assert step(4, 40) == [4, 20, 6, 30, 8, 40]
    observer.reset()
    assert step(5, 50) == [10, 50, 10, 50, 10, 50], "a policy that starts anew has no past"


def test_past_actions():
    terms = [
        term(f"a{delay}", "last_action", 2, "1", "none", element_names=ARM_JOINTS, delay_steps=float(delay))
        for delay in (2, 0, 1)
    ]
    observer, states, seen = observe(terms)
    assert seen == [0] * 6
    observer.remember(np.array([1.0, 2.0]))
    assert observer.observe(states)[0].tolist() == [0, 0, 1, 2, 0, 0]
    observer.remember(np.array([3.0, 4.0]))
    assert observer.observe(states)[0].tolist() == [0, 0, 3, 4, 1, 2]
    observer.remember(np.array([5.0, 6.0]))
    assert observer.observe(states)[0].tolist() == [1, 2, 5, 6, 3, 4]
    observer.reset()
    assert observer.observe(states)[0].tolist() == [0] * 6


@pytest.mark.parametrize(
    ("delay_steps", "stamps_ms", "taken"),
    [
        (0.0, [0, 5, 10, 15, 20], 4),
        (0.2, [0, 4, 8, 12, 16], 3),  # 4 ms before 16
        (0.5, [0, 5, 10, 15, 20], 2),  # 10 ms before 20
        (1.0, [0, 5, 10, 15, 20], 0),  # 20 ms
        (0.2, [0, 5, 10, 15, 20], 3),  # 16: 15 is nearer than 20
        (0.2, [0, 7, 9, 11, 17], 3),  # 13: 11 is 2 away, 17 is 4
        (0.5, [0, 1, 12, 18, 20], 2),  # 10: 12 is 2 away, 1 is 9
        (0.5, [0, 8, 12, 19, 20], 1),  # 10: 8 and 12 are as near; the older
        (0.5, [18, 20], 0),  # none is that old: the oldest
        (2.0, [20], 0),
        (0.5, [1000, 1010, 1015, 0, 5], 3),  # the robot was restarted: 15 ms before its beginning there was nothing
        (0.5, [0, 10, 20, 20, 20], 1),  # frozen stamps
    ],
)
def test_a_delayed_term_is_of_the_state_nearest_to_its_time(delay_steps, stamps_ms, taken):
    robot = arm_robot()
    observer = Observer(contract(arm_values([joints("q", "joint_position", delay_steps=delay_steps)])), robot)
    states = StateHistory(robot, observer.longest_delay_s)
    for index, stamp_ms in enumerate(stamps_ms):
        states.push(state_of(robot, START_NS + stamp_ms * MS, joint_position=[index, 0, index]))
    assert observer.observe(states)[0].tolist() == [taken, taken]


def test_a_clock_that_starts_at_zero_has_no_states_before_its_first():
    robot = arm_robot()
    states = StateHistory(robot, 0.02)
    states.push(state_of(robot, 5 * MS, joint_position=[1, 1, 1]))
    assert states.at(5 * MS).joint_position.tolist() == [1, 1, 1]


def test_terms_of_different_delays_stand_side_by_side():
    robot = arm_robot()
    terms = [joints(f"q{delay}", "joint_position", delay_steps=delay / 4) for delay in range(5)]
    observer = Observer(contract(arm_values(terms)), robot)
    states = StateHistory(robot, observer.longest_delay_s)
    assert observer.longest_delay_s == 0.02 and states.depth == 6  # 20 ms at 5 ms each, and two more
    for index in range(20):
        states.push(state_of(robot, START_NS + index * 5 * MS, joint_position=[index, 0, index]))
    assert observer.observe(states)[0].tolist()[::2] == [19, 18, 17, 16, 15]


def test_a_state_that_is_pushed_is_copied():
    robot = arm_robot()
    states, state = StateHistory(robot, 0.0), RobotState.zeros(robot)
    state.joint_position[:] = 1.0
    states.push(state)
    state.joint_position[:] = 2.0
    assert states.latest.joint_position.tolist() == [1.0] * 3


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.0, 0.1))
def test_a_histories_memory_goes_on_as_the_first(before, after, delay_s):
    robot = arm_robot()
    first = StateHistory(robot, 0.1)

    def push(history, index):
        history.push(state_of(robot, START_NS + index * 5 * MS, joint_position=[index, 0, index]))

    for index in range(before):
        push(first, index)
    second = StateHistory(robot, 0.1)
    second.restore(first.memory())
    for index in range(before, before + after):
        push(first, index)
        push(second, index)
    assert first.at(round(delay_s * 1e9)).values.tolist() == second.at(round(delay_s * 1e9)).values.tolist()
    assert first.latest.stamp_ns == second.latest.stamp_ns and first.count == second.count


# What the robot cannot give is refused.

PHASE = term("gait", "phase", 2, "1", "none", element_names=["cos", "sin"])


@pytest.mark.parametrize(
    ("one", "robot", "words"),
    [
        (term("g", "projected_gravity", 3, "1", "trunk"), {}, "g is in the frame trunk, arm measures in imu"),
        (term("w", "base_angular_velocity", 3, "rad/s", "base"), {}, "w is in the frame base, arm measures in imu"),
        (term("v", "base_linear_velocity", 3, "m/s", "imu"), {}, "v needs linear velocity .* arm does not measure"),
        (
            term("w", "base_angular_velocity", 3, "rad/s", "imu"),
            {"has_imu": False},
            "w needs orientation and angular velocity",
        ),
        (term("h", "base_height", 1, "m", "world", element_names=["z"]), {}, "h needs the base's height"),
        (term("feet", "custom", 2, "N", "none", element_names=["l", "r"]), {}, "no sensor feet; none are available"),
        (
            term("foot", "custom", 2, "N", "none", element_names=["l", "r"]),
            {"custom": (CustomSensor(name="feet", size=2), CustomSensor(name="fan", size=1))},
            r"no sensor foot; did you mean feet\?",
        ),
        (
            term("feet", "custom", 2, "N", "none", element_names=["l", "r"]),
            {"custom": (CustomSensor(name="feet", size=4),)},
            "feet has 2 elements, the robot's sensor of that name 4",
        ),
        (PHASE, {}, "does not say the gait's clock"),
        (
            term("a", "last_action", 2, "1", "none", element_names=ARM_JOINTS, delay_steps=0.5),
            {},
            "delay_steps 0.5; an action's age is a whole number of control steps",
        ),
    ],
)
def test_refused_terms(one, robot, words):
    with pytest.raises(RobotError, match=words):
        Observer(contract(arm_values([one])), arm_robot(**robot))


def test_a_missing_joint_is_refused_with_its_near_matches():
    values = arm_values([joints("q", "joint_position", ["hip", "Wheel"])])
    values["robot"]["passive_joints"] = ["Wheel"]
    with pytest.raises(RobotError, match=r"term q needs the joint Wheel, which arm does not have; did you mean wheel\?"):
        Observer(contract(values), arm_robot())


def test_the_policys_frame_may_have_any_name():
    robot = arm_robot(sensor_frame="trunk")
    assert observe([term("w", "base_angular_velocity", 3, "rad/s", "trunk")], robot=robot, angular_velocity=[1, 2, 3])[
        2
    ] == [
        1,
        2,
        3,
    ]


# The robot's order of joints does not matter.


def flight(order, drives, seed, fade_in_s):
    """Observations, and commands by the joint's name, of some ticks of a Go1 whose arrays are in these orders."""
    robot = go1_robot(order, drives)
    file = SiteFile(joints={}, stand_s=0.05, stand_speed=50.0, fade_in_s=fade_in_s, on_fault="freeze")
    bench = Bench(go1_values(), robot, file)
    random = np.random.default_rng(seed)
    position, velocity, effort = random.uniform(-0.05, 0.05, (3, 200, 12))
    motion, output = random.uniform(-0.3, 0.3, (200, 6)), random.uniform(-1, 1, (200, 12))
    place = [drives.index(index) for index in range(12)]
    seen, sent = [], []
    events = {1: Event.ACTIVATE, 3: Event.STAND, 25: Event.START, 60: Event.STOP}
    assert bench.ask(Event.CONFIGURE) is None
    bench.tick()
    for tick in range(75):
        if tick == 25:
            bench.command(0.5, -0.25, 0.125)
        command = bench.tick(
            output[tick],
            ask=events.get(tick),
            missed=tick % 9 == 8,
            joint_position=bench.pose + position[tick][order],
            joint_velocity=velocity[tick][order] if tick < 70 else np.where(np.array(order) == 3, 31.0, 0.0),
            joint_effort=effort[tick][order],
            angular_velocity=motion[tick, :3],
            linear_velocity=motion[tick, 3:],
            quaternion_xyzw=[0.1, 0.0, 0.0, math.sqrt(0.99)],
        )
        sent.append((bench.at, command.values[:, place].tobytes(), bench.controller.target.tobytes()))
        seen.append(bench.controller.observer.observation.tobytes())
    return seen, sent, str(bench.controller.supervisor.fault)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(0, 99), st.sampled_from([0.0, 0.1]))
def test_permuting_the_robots_joints_changes_nothing(order, drives, seed, fade_in_s):
    plain = flight(list(range(12)), list(range(12)), seed, fade_in_s)
    assert {State.STAND, State.ACTIVE, State.STANDBY, State.FAULT} <= {state for state, *_ in plain[1]}
    assert len(set(plain[0])) > 5
    assert flight(order, drives, seed, fade_in_s) == plain
    assert "JOINT_VELOCITY: joint FL_hip_joint moves at 31" in plain[2]
