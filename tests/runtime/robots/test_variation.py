"""A varied robot: each variation changes what it says, by numbers computed by hand."""

import math

import numpy as np
import pytest

pytest.importorskip("mujoco")

from trudi.runtime.robots.base import JointCommand, RobotError
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.mujoco import MujocoCfg
from trudi.runtime.robots.simulated import SimulatedRobot
from trudi.runtime.robots.simulation import GO1_TASK, load_mujoco, make_simulation
from trudi.runtime.robots.variation import Variation, Varied, base_body

G = 9.81
mujoco = load_mujoco()
STANDING = (0.1, 0.9, -1.8, -0.1, 0.9, -1.8) * 2  # FR, FL, RR, RL: hips of the left side turn the other way


def varied(variation, seed=0):
    simulation = make_simulation(GO1_TASK)
    found = Varied(simulation, variation, seed)
    simulation.reset(0)
    return simulation, found


def hold(position=STANDING, stiffness=35.0, damping=0.5):
    command = JointCommand.zeros(12)
    command.position[:], command.stiffness[:], command.damping[:] = position, stiffness, damping
    return command


def run(simulation, found, seconds, command):
    for _ in range(round(seconds / simulation.physics_step_s)):
        simulation.step(found.command(command))


def floor_force(simulation):
    """Sum of the contacts' forces along the world's z; N."""
    total, force = 0.0, np.zeros(6)
    for index in range(simulation.data.ncon):
        mujoco.mj_contactForce(simulation.model, simulation.data, index, force)
        total += abs(simulation.data.contact[index].frame[2]) * force[0]
    return total


@pytest.mark.parametrize("extra", [0.0, 3.0, -1.0])
def test_the_feet_carry_the_weight_with_what_is_added(extra):
    plain = float(make_simulation(GO1_TASK).model.body_mass.sum())
    simulation, found = varied(Variation(base_mass_kg=extra, base_mass_at_m=(0.0, 0.0, 0.05)))
    run(simulation, found, 2.0, hold())
    mujoco.mj_forward(simulation.model, simulation.data)
    assert floor_force(simulation) == pytest.approx(G * (plain + extra), rel=0.02)


def test_a_point_of_mass_moves_centre_and_inertia_as_steiner_says():
    """M = 4 kg with I = diag(0.1, 0.2, 0.25) about its centre, and m = 1 kg at x = 0.5 m from it.

    The centre moves by 0.5 / 5 = 0.1 m. About it I_yy and I_zz grow by M 0.1^2 + m 0.4^2 = 0.04 + 0.16 = 0.2 kg m^2.
    """
    plain = make_simulation(GO1_TASK)
    body = base_body(plain.model)
    plain.model.body_mass[body], plain.model.body_inertia[body] = 4.0, (0.1, 0.2, 0.25)
    plain.model.body_iquat[body], centre = (1.0, 0.0, 0.0, 0.0), plain.model.body_ipos[body].copy()
    Varied(plain, Variation(base_mass_kg=1.0, base_mass_at_m=(0.5, 0.0, 0.0)), 0)
    assert plain.model.body_mass[body] == 5.0
    assert plain.model.body_ipos[body] - centre == pytest.approx([0.1, 0.0, 0.0])
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, plain.model.body_iquat[body])
    turn = rotation.reshape(3, 3)
    assert turn @ np.diag(plain.model.body_inertia[body]) @ turn.T == pytest.approx(np.diag([0.1, 0.4, 0.45]), abs=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1.0)


def test_a_load_in_front_moves_the_whole_robots_centre_to_the_front():
    """2 kg at 0.1 m before the base's centre: the robot's own moves by 2 (r - c) / (M + 2), where c is where it was."""
    plain, (simulation, _) = make_simulation(GO1_TASK), varied(Variation(base_mass_kg=2.0, base_mass_at_m=(0.1, 0.0, 0.0)))
    body, mass = base_body(plain.model), float(plain.model.body_mass.sum())
    centre, load = plain.data.subtree_com[body], plain.data.xipos[body] + (0.1, 0.0, 0.0)  # at home the base is level
    assert simulation.data.subtree_com[body] == pytest.approx((mass * centre + 2.0 * load) / (mass + 2.0), abs=1e-9)


@pytest.mark.parametrize("strength", [0.5, 1.2])
def test_motor_strength_is_a_factor_on_the_torque_and_on_its_limit(strength):
    """At rest, 0.2 rad from the target: 0.2 * 35 = 7 N m, times the strength. 10 rad away: the limit, times the strength."""
    plain, none = varied(Variation())
    weak, found = varied(Variation(motor_strength=strength))
    torques = []
    for offset in (0.2, 10.0):
        for simulation, owner in ((plain, none), (weak, found)):
            simulation.reset(0)
            start = simulation.data.qpos[7:].copy()
            simulation.step(owner.command(hold(position=start - np.eye(12)[2] * offset)))  # the calf's way is free
            torques.append(float(simulation.data.qfrc_actuator[6 + 2]))
    assert torques[0] == pytest.approx(-7.0) and torques[1] == pytest.approx(-7.0 * strength)
    assert torques[3] == pytest.approx(torques[2] * strength) and abs(torques[2]) > 7.0


def test_motor_strength_is_a_factor_on_damping_and_effort_too_and_targets_stay():
    """A motor of half its strength brakes 0.5 N m s/rad with half of it, and gives 1.5 of the 3 N m that are asked for."""
    simulation, found = varied(Variation(motor_strength=0.5))
    command = hold(position=simulation.data.qpos[7:], stiffness=0.0, damping=0.5)
    command.effort[:] = 3.0
    simulation.step(found.command(command))
    assert simulation.model.dof_damping[6:] == pytest.approx(np.full(12, 0.25))
    assert simulation.data.qfrc_applied[6:] == pytest.approx(np.full(12, 1.5))
    assert found.command(hold()).position == pytest.approx(STANDING) and found.command(None) is None


def test_a_motor_of_another_strength_tells_the_torque_it_was_built_for():
    robots = [SimulatedRobot(MujocoCfg(variation=Variation(motor_strength=strength))) for strength in (1.0, 0.5)]
    assert robots[0].description == robots[1].description
    told = []
    for robot in robots:
        robot.streaming = True
        command = hold(position=robot.simulation.data.qpos[7:] + 0.1)
        command.state, command.stamp_ns, command.valid_ns, command.sequence = State.STAND, 1, 10**8, 1
        robot.take(command, 1)
        told.append((robot.tick(2).joint_effort.copy(), robot.simulation.data.qfrc_actuator[6:].copy()))
    (plain, _), (weak, torque) = told
    assert plain == pytest.approx(np.full(12, 3.5)) and weak == pytest.approx(plain)
    assert torque == pytest.approx(np.full(12, 1.75))


BOX = """
<mujoco>
  <option cone="elliptic" impratio="100"/>
  <worldbody>
    <geom type="plane" size="5 5 1" friction="0.6 0.005 0.0001"/>
    <body name="box" pos="0 0 0.05">
      <freejoint/>
      <geom type="box" size="0.2 0.2 0.05" mass="5" friction="0.4 0.005 0.0001"/>
      <site name="imu"/>
      <body pos="0 0 0.05">
        <joint name="arm" axis="0 0 1"/>
        <geom type="sphere" size="0.02" mass="0.01" contype="0" conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <actuator><position joint="arm" kp="1"/></actuator>
  <sensor><gyro site="imu"/><velocimeter site="imu"/></sensor>
</mujoco>
"""


@pytest.mark.parametrize("friction", [0.5, 1.0, 1.5])
def test_friction_decides_how_far_a_pushed_robot_slides(friction, tmp_path):
    """A flat robot at 1 m/s slides v^2 / (2 mu g), where mu is the larger of floor and robot, 0.6, times the factor."""
    (tmp_path / "box.xml").write_text(BOX)
    simulation = make_simulation(GO1_TASK, str(tmp_path / "box.xml"))
    Varied(simulation, Variation(friction=friction), 0)
    simulation.reset(0)
    for _ in range(100):
        simulation.step(None)
    begin = float(simulation.data.qpos[0])
    simulation.data.qvel[0] += 1.0
    simulation.refresh()
    for _ in range(250):
        simulation.step(None)
    assert simulation.data.qpos[0] - begin == pytest.approx(1.0 / (2 * 0.6 * friction * G), rel=0.05)


def test_armature_is_the_rotors_alone():
    plain, (more, _) = make_simulation(GO1_TASK).model, varied(Variation(armature=3.0))
    assert more.model.dof_armature[6:] == pytest.approx(3.0 * plain.dof_armature[6:])
    assert (more.model.dof_armature[:6] == plain.dof_armature[:6]).all() and (plain.dof_armature[6:] > 0).all()


def test_pushes_come_in_time_and_size_while_the_policy_drives():
    simulation, found = varied(Variation(push_speed=0.5, push_every_s=0.1), seed=4)
    assert simulation.physics_step_s == 0.004  # so a push every 25 steps
    pushes, angles = [], []
    for step in range(200):
        before = simulation.data.qvel.copy()
        found.push(State.ACTIVE if step >= 50 else State.STAND)
        change = simulation.data.qvel - before
        if change.any():
            pushes.append(step)
            angles.append(math.atan2(change[1], change[0]))
            assert np.hypot(*change[:2]) == pytest.approx(0.5) and not change[2:].any()
    assert pushes == [50 + 24 + 25 * count for count in range(6)]
    assert len({round(angle, 6) for angle in angles}) == 6 and min(angles) < 0.0 < max(angles)


def test_the_same_seed_pushes_the_same_way():
    def pushed(seed):
        simulation, found = varied(Variation(push_speed=1.0, push_every_s=0.004), seed)
        found.push(State.ACTIVE)
        return simulation.data.qvel[:2].tolist()

    assert pushed(1) == pushed(1) != pushed(2)


def test_a_robot_that_differs_in_nothing_is_the_same_to_the_last_bit():
    simulation, found = varied(Variation())
    plain = make_simulation(GO1_TASK)
    command = hold()
    for _ in range(50):
        simulation.step(found.command(command))
        plain.step(command)
    assert (simulation.data.qpos == plain.data.qpos).all()


def test_a_variation_goes_to_the_robots_process_and_back():
    cfg = MujocoCfg(variation=Variation(friction=0.5, base_mass_at_m=(0.1, 0.0, 0.2), push_speed=1.0))
    assert MujocoCfg.from_json(cfg.to_json()) == cfg
    assert MujocoCfg.from_json('{"variation": {"motor_strength": 0.8}}').variation == Variation(motor_strength=0.8)


def test_a_variation_on_the_command_line():
    given = ["friction=0.5", "base_mass_at_m=[0.1, 0, 0]", "base_mass_kg=2"]
    assert Variation.parse(given, "--vary") == Variation(friction=0.5, base_mass_kg=2, base_mass_at_m=(0.1, 0.0, 0.0))
    assert Variation.parse([], "--vary") == Variation()
    for text, sentence in (
        ("friction", "--vary friction: give it as FIELD=NUMBER"),
        ("friction=low", "--vary friction=low: give it as FIELD=NUMBER"),
        ("frction=1", "--vary: variation has no field 'frction'; did you mean friction"),
    ):
        with pytest.raises(RobotError, match=sentence):
            Variation.parse([text], "--vary")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"variation": {"fricton": 1}}', "variation has no field 'fricton'; did you mean friction"),
        ('{"variation": 3}', "variation must be an object"),
        ('{"variation": {"friction": "high"}}', "friction is 'high': must be a number above 0"),
        ('{"variation": {"base_mass_at_m": [1, 2]}}', r"base_mass_at_m is \[1, 2\]: must be three numbers"),
    ],
)
def test_a_wrong_variation_is_refused_by_name(text, sentence):
    with pytest.raises(RobotError, match=sentence):
        MujocoCfg.from_json(text)


@pytest.mark.parametrize(
    "values",
    [
        {"friction": 0.0},
        {"motor_strength": -1.0},
        {"armature": math.nan},
        {"push_speed": -0.1},
        {"push_every_s": 0.0},
        {"base_mass_kg": math.inf},
        {"base_mass_at_m": (0.0, math.nan, 0.0)},
    ],
)
def test_numbers_that_mean_nothing_are_refused(values):
    with pytest.raises(RobotError, match=f"variation: {next(iter(values))} is"):
        Variation(**values)


def test_what_does_not_fit_the_robot_is_refused():
    with pytest.raises(RobotError, match="no free base"):
        Varied(make_simulation("CheetahRun-v1"), Variation(friction=0.5), 0)
    with pytest.raises(RobotError, match="base_mass_kg is -50, and the base has"):
        varied(Variation(base_mass_kg=-50.0))
    with pytest.raises(RobotError, match="no rigid body is left after -1 kg"):
        varied(Variation(base_mass_kg=-1.0, base_mass_at_m=(0.4, 0.0, 0.0)))
