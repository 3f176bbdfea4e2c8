"""Robot files that a simulator writes of its own robot: against its model by name, its motors, and what its policy sees."""

from dataclasses import dataclass
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import torch
from mjlab import actuator as mj_actuators
from mjlab.actuator import BuiltinPositionActuator
from mjlab.entity import EntityArticulationInfoCfg, EntityCfg
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg, mdp
from mjlab.envs.mdp import actions as mj_actions
from mjlab.managers.observation_manager import ObservationGroupCfg, ObservationTermCfg
from mjlab.managers.scene_entity_config import SceneEntityCfg
from mjlab.scene import SceneCfg
from mjlab.tasks.registry import load_env_cfg
from scipy.spatial.transform import Rotation
from simulated_robots import Deployed, described, quietly, read_back

from trudi.train.envs.robot_description import describe_robot, robot_yaml

GO1, G1 = "Mjlab-Velocity-Flat-Unitree-Go1", "Mjlab-Velocity-Flat-Unitree-G1"
CARTPOLE, YAM = "Mjlab-Cartpole-Balance", "Mjlab-Lift-Cube-Yam"


@dataclass
class Simulated:
    """An mjlab environment and the file that it wrote."""

    env: ManagerBasedRlEnv
    entity: str
    low: np.ndarray
    high: np.ndarray
    file: object
    text: str
    contract: object

    @property
    def model(self):
        return self.env.sim.mj_model

    def joint(self, name):
        return self.model.joint(f"{self.entity}/{name}")

    def actuator(self, name):
        """The model's only actuator of a joint, found by its transmission."""
        (found,) = [
            index
            for index in range(self.model.nu)
            if self.model.actuator_trntype[index] == mujoco.mjtTrn.mjTRN_JOINT
            and self.model.actuator_trnid[index, 0] == self.joint(name).id
        ]
        return self.model.actuator(found)

    def raw(self, action):
        """The raw actions of the policy's (m,), for every environment."""
        raw = self.low + (np.asarray(action) + 1.0) / 2.0 * (self.high - self.low)
        return torch.tensor(np.tile(raw, (self.env.num_envs, 1)), dtype=torch.float32)


def simulated(task, folder, *, entity="robot", low=-1.0, high=1.0, change=lambda _: None):
    cfg = load_env_cfg(task)
    cfg.scene.num_envs, cfg.seed = 2, 0
    cfg.observations["actor"].enable_corruption = False
    change(cfg)
    return made(cfg, f"mjlab:{task}", folder, entity, low, high)


def made(cfg, task, folder, entity="robot", low=-1.0, high=1.0):
    env = quietly(ManagerBasedRlEnv, cfg, device="cpu")
    file, text, contract = described(env, task, folder, low=low, high=high)
    size = file.action.size
    ends = [np.broadcast_to(np.asarray(end, float), size) for end in (low, high)]
    return Simulated(env, entity, *ends, file, text, contract)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("robots")


@pytest.fixture(scope="module")
def go1(folder):
    return simulated(GO1, folder)


@pytest.fixture(scope="module")
def g1(folder):
    return simulated(G1, folder)


@pytest.fixture(scope="module")
def cartpole(folder):
    return simulated(CARTPOLE, folder, entity="cartpole")


@pytest.fixture(scope="module")
def yam(folder):
    return simulated(YAM, folder)


ROBOTS = pytest.mark.parametrize("name", ["go1", "g1", "yam"])


@ROBOTS
def test_joints_are_the_models_by_name(name, request):
    robot = request.getfixturevalue(name)
    model = robot.model
    key = model.key("init_state" if model.nkey == 1 else f"{robot.entity}/init_state")
    for joint, scale in zip(robot.file.robot.joints, robot.file.action.scale, strict=True):
        own, motor = robot.joint(joint.name), robot.actuator(joint.name)
        assert joint.type == {2: "prismatic", 3: "revolute"}[int(own.type[0])]
        assert joint.position_limit == tuple(own.range) and bool(model.jnt_limited[own.id])
        assert joint.default_position == pytest.approx(key.qpos[own.qposadr[0]], abs=1e-7)
        assert joint.stiffness == motor.gainprm[0] == -motor.biasprm[1]
        assert joint.damping == -motor.biasprm[2] + model.dof_damping[own.dofadr[0]]
        assert (-joint.effort_limit, joint.effort_limit) == tuple(motor.forcerange) and motor.forcelimited[0]
        assert joint.velocity_limit is None
        # These tasks' scale: a quarter of the motor's effort, as a displacement.
        assert scale == pytest.approx(0.25 * joint.effort_limit / joint.stiffness, rel=1e-6)
        assert not motor.ctrllimited[0]
    assert robot.file.action.clip is None, "their targets are free"
    assert robot.file.action.offset == tuple(joint.default_position for joint in robot.file.robot.joints)


@pytest.mark.parametrize("name", ["go1", "g1"])
def test_actuators_and_joints_have_orders_of_their_own(name, request):
    """Whoever takes the model's actuators for the policy's joints is wrong here."""
    robot = request.getfixturevalue(name)
    model = robot.model
    driven = [model.joint(model.actuator_trnid[index, 0]).name.partition("/")[2] for index in range(model.nu)]
    assert sorted(driven) == sorted(robot.file.robot.joint_names) and driven != list(robot.file.robot.joint_names)


def test_what_go1_sees(go1):
    terms = {term.name: term for term in go1.file.observation}
    assert [term.kind for term in terms.values()] == [
        "base_linear_velocity",
        "base_angular_velocity",
        "projected_gravity",
        "joint_position",
        "joint_velocity",
        "last_action",
        "command",
    ]
    assert {terms[name].frame for name in ("base_lin_vel", "base_ang_vel", "projected_gravity")} == {"imu"}
    assert terms["joint_pos"].joints == go1.file.robot.joint_names
    assert all(term.delay_steps == 0 and term.history == 1 for term in terms.values())
    assert go1.file.robot.name == "go1" and go1.file.tasks == (f"mjlab:{GO1}",)
    assert go1.file.control_period_s == pytest.approx(0.02)
    for said in ("site of that name on trunk", "joint_vel uniform (n_min -1.5, n_max 1.5)") if False else ():
        assert said in go1.text


@pytest.mark.parametrize(
    ("steps", "forward", "turn"),
    [(None, (-1.0, 1.0), (-0.5, 0.5)), (120_000, (-1.5, 2.0), (-0.7, 0.7)), (10**9, (-2.0, 3.0), (-0.7, 0.7))],
)
def test_commands_have_the_range_that_is_trained_on(go1, tmp_path, steps, forward, turn):
    file, text, _ = described(go1.env, f"mjlab:{GO1}", tmp_path, control_steps=steps)
    (command,) = file.commands
    assert (command.name, command.frame, command.units) == ("velocity", "base", ("m/s", "m/s", "rad/s"))
    assert command.element_names == ("vx", "vy", "wz"), "as a Twist gives them"
    assert command.range == (forward, (-1.0, 1.0), turn) and command.neutral == (0.0, 0.0, 0.0)
    assert "[-1.5, 2.0] from control step 120000" in text


# --- Closed loop: the runtime sees what the simulated policy sees, and commands what its motors get ---


def sensors_of(robot, env_index, site=None):
    """Orientation and velocities of the base, at a site that is fixed to it, out of the free joint's coordinates."""
    env, model = robot.env, robot.model
    if not env.scene[robot.entity].is_fixed_base:
        free = robot.joint("floating_base_joint")
        q = env.sim.data.qpos[env_index, free.qposadr[0] : free.qposadr[0] + 7].numpy().astype(float)
        v = env.sim.data.qvel[env_index, free.dofadr[0] : free.dofadr[0] + 6].numpy().astype(float)
        turn = Rotation.from_quat(q[3:], scalar_first=True)
        place = np.zeros(3) if site is None else model.site(f"{robot.entity}/{site}").pos
        linear = turn.inv().apply(v[:3]) + np.cross(v[3:], place)
        return {"quaternion_xyzw": turn.as_quat(), "angular_velocity": v[3:], "linear_velocity": linear}
    return {"quaternion_xyzw": [0, 0, 0, 1], "angular_velocity": np.zeros(3), "linear_velocity": np.zeros(3)}


def joints_of(robot, env_index):
    """{name: (position as its encoder shows it, velocity)}, each at its own address in the simulator."""
    data, entity = robot.env.sim.data, robot.env.scene[robot.entity]
    bias = dict(zip(entity.joint_names, entity.data.encoder_bias[env_index].tolist(), strict=True))
    found = {}
    for name, error in bias.items():
        own = robot.joint(name)
        place, speed = data.qpos[env_index, own.qposadr[0]], data.qvel[env_index, own.dofadr[0]]
        found[name] = (float(place) + error, float(speed))
    return found, bias


def custom_of(robot, env_index):
    manager = robot.env.observation_manager
    found = {}
    for term in robot.file.observation:
        if term.kind == "custom":
            cfg = manager.get_term_cfg("actor", term.name)
            found[term.name] = cfg.func(robot.env, **cfg.params)[env_index].numpy()
    return found


def closed_loop(robot, *, steps, site=None, amplitude=1.0, env_index=1, seed=3, control="ctrl"):
    """Drives the simulator with random actions; both sides' observations and commands, step by step."""
    env, deployed = robot.env, Deployed(robot.contract, seed=seed)
    groups, _ = quietly(env.reset)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        joints, bias = joints_of(robot, env_index)
        commands = {one.name: env.command_manager.get_command("twist")[env_index].numpy() for one in robot.file.commands}
        seen = deployed.observe(joints, sensors_of(robot, env_index, site), custom_of(robot, env_index), commands)
        np.testing.assert_allclose(
            seen, groups["actor"][env_index].numpy(), atol=1e-5, err_msg=f"observation of step {step}"
        )
        action = amplitude * rng.uniform(-1.0, 1.0, robot.file.action.size)
        targets = deployed.act(action)
        groups, _, terminated, truncated, _ = env.step(robot.raw(action))
        assert not bool((terminated | truncated)[env_index]), "the loop is to end before the episode"
        for name, target in targets.items():
            motor = robot.actuator(name)
            sent = float(env.sim.data.ctrl[env_index, motor.id]) + (bias[name] if control == "ctrl" else 0.0)
            expected = target if control == "ctrl" else target / float(motor.gear[0])
            assert sent == pytest.approx(expected, abs=1e-6), f"{name} in step {step}"


def test_go1_in_a_loop(go1):
    closed_loop(go1, steps=8, site="imu")


def test_g1_in_a_loop(g1):
    """Within the ankles' limits, where a runtime holds targets and the simulator does not."""
    assert "left_ankle_roll_joint [-0.4386, 0.4386]" in g1.text
    closed_loop(g1, steps=4, site="imu_in_pelvis", amplitude=0.5)


def test_a_hand_that_is_coupled_and_a_cube_that_only_the_simulator_sees(yam):
    assert yam.file.robot.passive_joints == ("right_finger",) and yam.file.safety.max_tilt_rad is None
    assert [term.name for term in yam.file.observation if term.kind == "custom"] == ["ee_to_cube", "cube_to_goal"]
    assert "left_finger and right_finger move together" in yam.text
    closed_loop(yam, steps=4, amplitude=0.02)


def test_a_cart_that_is_pushed(cartpole):
    """The motor has a gear of 10: an action of 1 is a force of 10 N, whatever the simulator calls it."""
    (joint,) = cartpole.file.robot.joints
    assert (joint.type, joint.effort_limit, joint.stiffness, joint.damping) == ("prismatic", 10.0, 0.0, 5e-4)
    action = cartpole.file.action
    assert (action.kind, action.units, action.scale, action.clip) == ("joint_effort", ("N",), (10.0,), ((-10.0, 10.0),))
    assert cartpole.file.robot.passive_joints == ("hinge_1",)
    closed_loop(cartpole, steps=6, control="effort")
    force = cartpole.env.sim.data.qfrc_actuator[1, cartpole.joint("slider").dofadr[0]]
    sent = cartpole.env.sim.data.ctrl[1, cartpole.actuator("slider").id]
    assert float(force) == pytest.approx(10.0 * float(sent), rel=1e-6) and float(force) != 0.0


def test_bounds_history_delay_clip_and_scale(folder):
    """The whole way of a term, in a loop with raw actions from -2 to 2."""

    def change(cfg):
        terms = cfg.observations["actor"].terms
        terms["base_ang_vel"].scale, terms["base_ang_vel"].history_length = 0.25, 2
        terms["joint_vel"].clip, terms["joint_vel"].scale, terms["joint_vel"].history_length = (-2.0, 2.0), 0.05, 3
        terms["joint_pos"].delay_min_lag = terms["joint_pos"].delay_max_lag = 2
        terms["actions"].clip, terms["actions"].scale, terms["actions"].history_length = (-1.5, 1.5), 0.25, 2
        terms["command"].scale = (2.0, 2.0, 0.25)

    robot = simulated(GO1, folder, low=-2.0, high=2.0, change=change)
    terms = {term.name: term for term in robot.file.observation}
    assert terms["joint_pos"].delay_steps == 2 and terms["joint_vel"].history == 3
    # clip(2 a, +-1.5) / 4 = 0.5 clip(a, +-0.75)
    assert terms["actions"].scale == (0.5,) * 12 and terms["actions"].clip == (-0.75, 0.75)
    assert robot.file.action.scale[0] == pytest.approx(2.0 * 0.25 * 23.7 / robot.file.robot.joints[0].stiffness, rel=1e-6)
    closed_loop(robot, steps=8, site="imu", amplitude=0.5)


def test_bounds_that_are_not_symmetric(go1, tmp_path):
    """Raw from -1 to 3 is 1 + 2 a: the target is default + scale (1 + 2 a), the last action shown 2 (a - (-1 / 2))."""
    low, high = [-1.0] * 12, [3.0, *[1.0] * 11]
    file, text, _ = described(go1.env, f"mjlab:{GO1}", tmp_path, low=low, high=high)
    scale = 0.37275302  # of a hip, as the simulator has it in single precision
    joint, terms = file.robot.joints[0], {term.name: term for term in file.observation}
    assert file.action.offset[:2] == pytest.approx((joint.default_position + scale, 0.9), rel=1e-12)
    assert file.action.scale[:2] == pytest.approx((2 * scale, scale), rel=1e-12)
    assert terms["actions"].offset[:2] == (-0.5, 0.0) and terms["actions"].scale[:2] == (2.0, 1.0)
    assert "not symmetric" in text


def test_joints_out_of_place_are_noticed(go1):
    """The loops above would fail if values came by place: here they do."""
    deployed = Deployed(go1.contract, seed=3)
    quietly(go1.env.reset)
    quietly(go1.env.step, go1.raw(np.linspace(-1.0, 1.0, 12)))
    joints, _ = joints_of(go1, 1)
    shifted = dict(zip(joints, [*list(joints.values())[1:], joints[next(iter(joints))]], strict=True))
    commands = {"velocity": np.zeros(3)}
    right, wrong = (deployed.observe(each, sensors_of(go1, 1, "imu"), {}, commands) for each in (joints, shifted))
    assert np.abs(right - wrong).max() > 0.1


# --- Motors of every kind, on a machine of two joints ---

JOINTS = ("hip", "slide")
XML = """
<mujoco model="twolink">
  <compiler angle="radian"/>
  <worldbody>
    <body name="torso" pos="0 0 1">
      <freejoint name="floating_base_joint"/>
      <geom size="0.1" mass="1"/>
      <site name="flat_imu" pos="0.1 0 0.2"/>
      <site name="turned_imu" pos="0 0 0.1" euler="0 1.57 0"/>
      <body name="upper" pos="0 0 -0.2">
        <joint name="hip" axis="0 1 0" range="-1 1" damping="0.3"/>
        <geom size="0.05" mass="0.5"/>
        <site name="leg_imu"/>
        <body name="lower" pos="0 0 -0.2">
          <joint name="slide" type="slide" axis="0 0 1" range="-0.2 0.2" limited="true"/>
          <geom size="0.05" mass="0.5"/>
        </body>
      </body>
    </body>
  </worldbody>
  {motors}
  <sensor>
    <gyro name="flat_gyro" site="flat_imu"/> <velocimeter name="flat_velocity" site="flat_imu"/>
    <gyro name="turned_gyro" site="turned_imu"/> <gyro name="leg_gyro" site="leg_imu"/>
    <framequat name="orientation" objtype="site" objname="flat_imu"/>
    <framezaxis name="up" objtype="body" objname="world" reftype="site" refname="flat_imu"/>
    <framezaxis name="leg_axis" objtype="body" objname="lower" reftype="site" refname="flat_imu"/>
    <framexaxis name="ahead" objtype="body" objname="world" reftype="site" refname="flat_imu"/>
    <framezaxis name="turned_up" objtype="body" objname="world" reftype="site" refname="turned_imu"/>
  </sensor>
</mujoco>
"""
POSITIONS = """<actuator>
  <position name="one" joint="hip" kp="20" kv="1.5" ctrllimited="true" ctrlrange="-0.4 0.4" forcerange="-6 6"/>
  <position name="two" joint="slide" kp="30" kv="2" inheritrange="1" forcerange="-9 9"/>
</actuator>"""


def two_links(folder, actuators, action, *, motors="", terms=None, factor=1.0):
    """An environment of two joints with the actuators and the action given."""
    xml = XML.replace("{motors}", motors)
    articulation = EntityArticulationInfoCfg(actuators=actuators, soft_joint_pos_limit_factor=factor)
    initial = EntityCfg.InitialStateCfg(pos=(0.0, 0.0, 1.0), joint_pos={"hip": 0.2, "slide": 0.05})
    shown = terms or {"joint_pos": ObservationTermCfg(func=mdp.joint_pos_rel)}
    cfg = ManagerBasedRlEnvCfg(
        decimation=2,
        scene=SceneCfg(
            entities={
                "robot": EntityCfg(
                    spec_fn=lambda: mujoco.MjSpec.from_string(xml), articulation=articulation, init_state=initial
                )
            },
            num_envs=2,
        ),
        observations={"actor": ObservationGroupCfg(terms=shown)},
        actions={"move": action},
        episode_length_s=10.0,
        seed=0,
    )
    return made(cfg, "mjlab:TwoLinks", folder)


def position(**options):
    return mj_actions.JointPositionActionCfg(entity_name="robot", actuator_names=(".*",), **options)


def of_both(kind, **options):
    return (getattr(mj_actuators, kind)(target_names_expr=JOINTS, **options),)


EFFORT = mj_actions.JointEffortActionCfg(entity_name="robot", actuator_names=(".*",), scale=6.0)
VELOCITY = mj_actions.JointVelocityActionCfg(entity_name="robot", actuator_names=(".*",), scale=2.0)
SCALE = {"hip": 0.3, "slide": 0.1}
GAINS = {"stiffness": 25.0, "damping": 1.2, "effort_limit": 5.0}
MOTORS = {
    "xml": ((mj_actuators.XmlActuatorCfg(target_names_expr=JOINTS),), position(scale=SCALE), POSITIONS),
    "ideal_pd": (of_both("IdealPdActuatorCfg", **GAINS), position(scale=SCALE), ""),
    "builtin_pd": (of_both("BuiltinPdActuatorCfg", **GAINS), position(scale=SCALE, clip={"hip": (-0.1, 0.3)}), ""),
    "dc_motor": (
        of_both("DcMotorActuatorCfg", saturation_effort=50.0, velocity_limit=30.0, **GAINS),
        position(scale=SCALE),
        "",
    ),
    "velocity": (of_both("BuiltinVelocityActuatorCfg", damping=4.0, effort_limit=5.0), VELOCITY, ""),
    "motor": (of_both("BuiltinMotorActuatorCfg", effort_limit=5.0, gear=2.0), EFFORT, ""),
}


@pytest.mark.parametrize("kind", MOTORS)
def test_motors_do_what_the_file_says(kind, folder):
    """The simulator's force is stiffness (u - q) + damping (v - dq) + f within the effort limit, for the runtime's command.

    The damping includes what the joint itself brakes, which the model counts among the passive forces.
    """
    actuators, action, motors = MOTORS[kind]
    robot = two_links(folder, actuators, action, motors=motors)
    env, entity = robot.env, robot.env.scene["robot"]
    assert robot.file.robot is not None, robot.text
    deployed, rng = Deployed(robot.contract), np.random.default_rng(1)
    quietly(env.reset)
    saturated = 0
    for _ in range(6):
        q, dq = rng.uniform(-1.0, 1.0, 2) * [0.6, 0.15], rng.normal(0.0, 0.5, 2)
        entity.write_joint_state_to_sim(*(torch.tensor(np.tile(x, (2, 1)), dtype=torch.float32) for x in (q, dq)))
        chosen = rng.uniform(-1.0, 1.0, 2)
        targets = deployed.act(chosen)
        env.action_manager.process_action(robot.raw(chosen))
        env.action_manager.apply_action()
        env.scene.write_data_to_sim()
        env.sim.forward()
        for joint, position, velocity in zip(robot.file.robot.joints, q, dq, strict=True):
            place = robot.joint(joint.name).dofadr[0]
            kind_of = robot.file.action.kind
            wanted = {name: targets[joint.name] if kind_of == name else 0.0 for name in ("joint_position", "joint_velocity")}
            spring = joint.stiffness * ((wanted["joint_position"] if kind_of == "joint_position" else position) - position)
            passive = robot.model.dof_damping[place] if kind_of != "joint_velocity" else 0.0
            force = spring + (joint.damping - passive) * (wanted["joint_velocity"] - velocity)
            force += targets[joint.name] if kind_of == "joint_effort" else 0.0
            saturated += abs(force) >= joint.effort_limit
            bounded = np.clip(force, -joint.effort_limit, joint.effort_limit)
            assert float(env.sim.data.qfrc_actuator[0, place]) == pytest.approx(bounded, abs=2e-5), joint.name
    assert robot.file.robot.joints[1].type == "prismatic" and robot.file.action.units[1] in ("m", "m/s", "N")
    assert saturated > 0, "the effort limit is to be met"
    speeds = {joint.velocity_limit for joint in robot.file.robot.joints}
    assert speeds == ({30.0} if kind == "dc_motor" else {None})


def test_what_the_simulator_clips_is_in_the_clip(folder):
    actuators, action, motors = MOTORS["xml"]
    robot = two_links(folder, actuators, action, motors=motors)
    # One actuator's own control range; the other inherits its joint's.
    assert robot.file.action.clip == ((-0.4, 0.4), (-0.2, 0.2))
    actuators, action, motors = MOTORS["builtin_pd"]
    robot = two_links(folder, actuators, action, motors=motors)
    # The term's clip of the hip; the slide is free, so its range is closed where its action ends: 0.05 +- 0.1.
    assert robot.file.action.clip == ((-0.1, 0.3), (pytest.approx(-0.05), pytest.approx(0.15)))


def sensor(name, function=mdp.builtin_sensor):
    return ObservationTermCfg(func=function, params={"sensor_name": f"robot/{name}"})


def frames_of(folder, **terms):
    robot = two_links(folder, of_both("BuiltinPositionActuatorCfg", **GAINS), position(), terms=terms)
    return {term.name: (term.kind, term.frame) for term in robot.file.observation}, robot


def test_frames_that_are_not_turned_are_one(folder):
    gravity, turning = ObservationTermCfg(func=mdp.projected_gravity), ObservationTermCfg(func=mdp.base_ang_vel)
    found, _ = frames_of(folder, gyro=sensor("flat_gyro"), gravity=gravity)
    assert found == {"gyro": ("base_angular_velocity", "flat_imu"), "gravity": ("projected_gravity", "flat_imu")}
    found, _ = frames_of(folder, turning=turning, gravity=gravity)
    assert {frame for _, frame in found.values()} == {"base"}
    # The velocity of the link's origin and that of the site are two: what turns only follows the velocity.
    speed = ObservationTermCfg(func=mdp.base_lin_vel)
    found, _ = frames_of(folder, speed=speed, gyro=sensor("flat_gyro"))
    assert {frame for _, frame in found.values()} == {"base"}
    found, _ = frames_of(folder, up=sensor("up", mdp.projected_gravity_from_sensor), speed=sensor("flat_velocity"))
    assert found == {"up": ("projected_gravity", "flat_imu"), "speed": ("base_linear_velocity", "flat_imu")}


def test_frames_that_are_turned_or_move_stay_apart(folder):
    gravity = ObservationTermCfg(func=mdp.projected_gravity)
    found, robot = frames_of(folder, gyro=sensor("turned_gyro"), leg=sensor("leg_gyro"), gravity=gravity)
    assert [frame for _, frame in found.values()] == ["turned_imu", "leg_imu", "base"]
    assert "leg_imu is the site of that name on upper" in robot.text and "moves against the base" in robot.text
    found, _ = frames_of(folder, up=sensor("turned_up", mdp.projected_gravity_from_sensor), gravity=gravity)
    assert [frame for _, frame in found.values()] == ["turned_imu", "base"]


def test_velocities_of_two_places_stay_apart(folder):
    found, _ = frames_of(folder, speed=ObservationTermCfg(func=mdp.base_lin_vel), there=sensor("flat_velocity"))
    assert [frame for _, frame in found.values()] == ["base", "flat_imu"]


def test_quaternions_of_another_order_are_not_said_to_be_ours(folder):
    axis, ahead = (sensor(name, mdp.projected_gravity_from_sensor) for name in ("leg_axis", "ahead"))
    found, robot = frames_of(folder, turn=sensor("orientation"), up=sensor("up"), axis=axis, ahead=ahead)
    # w, x, y, z; up, which is not down; the leg's axis, and the world's x, which are not its z
    assert {kind for kind, _ in found.values()} == {"custom"}
    assert "framequat" in robot.text and "builtin_sensor(sensor_name=robot/up)" in robot.text


def test_terms_of_some_joints_in_an_order_of_their_own(folder):
    some = SceneEntityCfg("robot", joint_names=("slide",))
    turned = SceneEntityCfg("robot", joint_names=("slide", "hip"), preserve_order=True)
    terms = {
        "some": ObservationTermCfg(func=mdp.joint_pos_rel, params={"asset_cfg": some}),
        "turned": ObservationTermCfg(func=mdp.joint_pos_rel, params={"asset_cfg": turned}),
    }
    _, robot = frames_of(folder, **terms)
    terms = {term.name: term for term in robot.file.observation}
    assert (terms["some"].joints, terms["some"].offset, terms["some"].units) == (("slide",), (0.05,), ("m",))
    assert (terms["turned"].joints, terms["turned"].offset) == (("slide", "hip"), (0.05, 0.2))
    closed_loop(robot, steps=2, amplitude=0.1)


# --- What cannot be said ---


def joint_pos_rel(env):
    """Of the same name as the simulator's own, and something else."""
    return env.scene["robot"].data.joint_pos * 2.0


def test_a_function_of_the_same_name_is_not_taken_for_the_simulators(folder):
    found, robot = frames_of(folder, joint_pos=ObservationTermCfg(func=joint_pos_rel))
    assert found["joint_pos"][0] == "custom" and "test_simulator_robots.joint_pos_rel" in robot.text


def test_motors_of_no_known_law_leave_actuators(folder, monkeypatch):
    class Learned(BuiltinPositionActuator):
        pass

    robot = two_links(folder, of_both("BuiltinPositionActuatorCfg", **GAINS), position(scale=SCALE))
    assert robot.file.robot is not None
    for each in robot.env.scene["robot"].actuators:
        monkeypatch.setattr(each, "__class__", Learned)
    file, text, _ = described(robot.env, "mjlab:TwoLinks", folder, low=-2.0, high=2.0)
    assert file.robot is None and "the motor of hip (Learned) follows no PD law that is known" in text
    assert (file.action.kind, file.action.names) == ("actuator", ("move_0", "move_1"))
    assert (file.action.scale, file.action.clip) == ((2.0, 2.0), ((-2.0, 2.0), (-2.0, 2.0)))
    assert file.observation[0].kind == "joint_position" and file.observation[0].element_names == JOINTS


def test_motors_that_pull_elsewhere_too_leave_actuators(folder):
    """An effort on top of a spring towards 0 is no effort."""
    robot = two_links(folder, of_both("IdealPdActuatorCfg", **GAINS), EFFORT)
    assert robot.file.robot is None and "pulls towards the position 0" in robot.text
    robot = two_links(folder, of_both("BuiltinPositionActuatorCfg", **GAINS), EFFORT)
    assert robot.file.robot is None and "takes a joint_position, the action gives a joint_effort" in robot.text


def test_actions_from_where_the_joints_are_leave_actuators(folder):
    action = mj_actions.RelativeJointPositionActionCfg(entity_name="robot", actuator_names=(".*",), scale=0.1)
    robot = two_links(folder, of_both("BuiltinPositionActuatorCfg", **GAINS), action)
    assert robot.file.robot is None and "RelativeJointPositionAction) is no fixed map" in robot.text


def test_what_breaks_inside_is_said_and_stops_nobody(go1, tmp_path, monkeypatch):
    """A simulator of another version, which lacks what is read here."""
    monkeypatch.setattr(go1.env, "action_manager", SimpleNamespace(active_terms=["joint_pos"], get_term=lambda _: object()))
    values = describe_robot(go1.env, f"mjlab:{GO1}", ["actor"], [-1.0] * 12, [1.0] * 12)
    file, text, _ = read_back(robot_yaml(values), tmp_path)
    assert file.robot is None and file.observation[0].name == "unnamed_observation" and file.observation_size == 48
    assert "No robot is described, since AttributeError" in text


def test_images_and_unknown_layouts_are_not_described(go1, monkeypatch):
    monkeypatch.setitem(go1.env.observation_manager.group_obs_term_dim, "actor", [(3, 32, 32)] * 7)
    assert describe_robot(go1.env, f"mjlab:{GO1}", ["actor"], [-1.0] * 12, [1.0] * 12) is None
    # Frames of all terms side by side: (history, terms) is another order than the contract's.
    monkeypatch.setitem(go1.env.observation_manager.group_obs_term_dim, "actor", [(3, 2)] * 7)
    assert describe_robot(go1.env, f"mjlab:{GO1}", ["actor"], [-1.0] * 12, [1.0] * 12) is None


def test_motion_tracking_shows_the_motion_as_what_only_its_player_knows(folder, tmp_path):
    motion = tmp_path / "motion.npz"
    frames, joints, bodies = 100, 29, 30
    still = {"joint_pos": np.zeros((frames, joints)), "joint_vel": np.zeros((frames, joints))}
    still |= {f"body_{name}_w": np.zeros((frames, bodies, 3)) for name in ("pos", "lin_vel", "ang_vel")}
    np.savez(motion, body_quat_w=np.tile([1.0, 0.0, 0.0, 0.0], (frames, bodies, 1)), **still)

    def change(cfg):
        cfg.commands["motion"].motion_file = str(motion)

    robot = simulated("Mjlab-Tracking-Flat-Unitree-G1", folder, change=change)
    kinds = {term.name: (term.kind, term.size) for term in robot.file.observation}
    assert kinds["command"] == ("custom", 58) and not robot.file.commands
    assert kinds["motion_anchor_pos_b"] == ("custom", 3) and kinds["motion_anchor_ori_b"] == ("custom", 6)
    assert kinds["joint_pos"] == ("joint_position", 29) and kinds["base_ang_vel"] == ("base_angular_velocity", 3)
    assert "the command motion (MotionCommand) is no velocity" in robot.text
    assert robot.file.observation_size == robot.env.observation_manager.group_obs_dim["actor"][0]
