"""Robot files of Isaac Lab's tasks, by its signatures (tests/isaac_signatures) and by parts; which file an export takes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from simulated_robots import Deployed, read_back

from trudi.export.bundling import choose_robot
from trudi.export.errors import ExportError
from trudi.export.robot_file import load_robot_file
from trudi.train.envs.robot_description import ROBOT_FILE, describe_robot, robot_yaml
from trudi.train.envs.robot_description.actions import action_parts, joint_action
from trudi.train.envs.robot_description.commands import describe_command
from trudi.train.envs.robot_description.isaac import IsaacMachine
from trudi.train.envs.robot_description.parts import RawAction, Undescribed
from trudi.train.trained import TrainedRun

TESTS = Path(__file__).parents[1]
TESTBOT = "Isaac-Velocity-Flat-TestBot"
ISAAC_TASKS = ("Isaac-Cartpole-v0", "Isaac-Cartpole-Direct-v0", *(f"{TESTBOT}-{one}v0" for one in ("", "History-", "Dict-")))


@pytest.fixture(scope="module")
def isaac(tmp_path_factory):
    """Recordings by task, of a process of its own."""
    out = tmp_path_factory.mktemp("isaac") / "recorded.json"
    command = [sys.executable, str(TESTS / "isaac_recording.py"), str(out), *ISAAC_TASKS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("task", [task for task in ISAAC_TASKS if "Direct" not in task])
def test_isaac_in_a_loop(task, isaac, tmp_path):
    recorded = isaac[task]
    file, _, contract = read_back(recorded["text"], tmp_path)
    deployed = Deployed(contract, seed=4)
    assert len(recorded["steps"]) >= 6
    for step in recorded["steps"]:
        sensors = {"quaternion_xyzw": [0, 0, 0, 1]} | {key: step[key] for key in ("linear_velocity", "angular_velocity")}
        commands = {"velocity": step["commands"].get("base_velocity")}
        seen = deployed.observe(step["joints"], sensors, {}, commands)
        np.testing.assert_allclose(seen, step["observation"], atol=1e-5)
        kind = {"joint_position": "position", "joint_effort": "effort"}[file.action.kind]
        for name, target in deployed.act(step["action"]).items():
            assert step["targets"][kind][name] == pytest.approx(target, abs=1e-5), name


def test_isaacs_own_descriptors_say_the_same(isaac, tmp_path):
    """They have no limits, and say of an action's term only which class it is: by joints, in the terms' order."""
    recorded = isaac[f"{TESTBOT}-v0"]
    file, text, _ = read_back(recorded["text"], tmp_path)
    about = recorded["descriptors"]["articulations"]["robot"]
    place = {name: index for index, name in enumerate(about["joint_names"])}
    for joint in file.robot.joints:
        index = place[joint.name]
        assert joint.default_position == pytest.approx(about["default_joint_pos"][index], abs=1e-7)
        assert (joint.stiffness, joint.damping) == pytest.approx(
            (about["default_joint_stiffness"][index], about["default_joint_damping"][index]), abs=1e-7
        )
    actions = recorded["descriptors"]["actions"]
    assert list(file.robot.joint_names) == [name for action in actions for name in action["joint_names"]]
    assert list(file.robot.joint_names) != about["joint_names"]
    assert file.control_period_s == pytest.approx(recorded["descriptors"]["scene"]["dt"])
    assert "The curriculum command may move the ranges of base_velocity" in text


def test_a_direct_workflow_says_sizes_and_joints(isaac, tmp_path):
    file, text, _ = read_back(isaac["Isaac-Cartpole-Direct-v0"]["text"], tmp_path)
    assert (file.robot, file.observation_size, file.action.size) == (None, 4, 1)
    assert file.action.scale == (0.5,) and file.action.clip == ((-0.5, 0.5),)
    assert "slider_to_cart 0, cart_to_pole 0" in text and "Names are invented" in text


def of_isaac(found, module):
    """A class or function, as if the released package had it."""
    found.__module__, found.__qualname__ = f"isaaclab.{module}", found.__name__
    return found


def isaac_asset(motor="DCMotor", names=("a", "b"), **data):
    """An articulation of two joints, in both environments alike but for what `data` says."""

    def both(*values):
        return torch.tensor([values, values], dtype=torch.float32)

    kind = of_isaac(type(motor, (), {}), "actuators.actuator_pd")
    group = kind()
    group.cfg, group.joint_names = SimpleNamespace(), list(reversed(names))
    group.effort_limit, group.velocity_limit = both(7.0, 1e9), both(20.0, float("inf"))
    defaults = {
        "default_joint_pos": both(0.1, -0.2),
        "default_joint_vel": both(0.0, 0.0),
        "default_joint_stiffness": both(30.0, 40.0),
        "default_joint_damping": both(1.0, 2.0),
        "default_joint_viscous_friction_coeff": both(0.25, 0.0),
        "default_joint_pos_limits": both([-1.0, 1.0], [-3.4e38, 3.4e38]),
        "soft_joint_pos_limits": both([-0.9, 0.9], [-0.5, 1.5]),
        "body_com_pos_b": torch.tensor([[[0.01, 0.0, 0.02]], [[0.03, 0.0, 0.02]]]),
    }
    initial = SimpleNamespace(joint_pos={"a": 0.1, ".*": -0.2})
    return SimpleNamespace(
        cfg=SimpleNamespace(
            init_state=initial, spawn=SimpleNamespace(usd_path="omniverse://x/Go2/go2.usd"), soft_joint_pos_limit_factor=0.9
        ),
        joint_names=list(names),
        body_names=["trunk"],
        is_fixed_base=False,
        actuators={"legs": group},
        data=SimpleNamespace(**(defaults | data)),
        root_physx_view=SimpleNamespace(
            shared_metatype=SimpleNamespace(dof_types=["DofType.Rotation", "DofType.Translation"])
        ),
    )


def isaac_machine(**options):
    asset = isaac_asset(**options)
    return IsaacMachine(SimpleNamespace(scene={"robot": asset}), "robot")


def test_isaacs_joints_by_name():
    """The group of motors has the joints in another order, and so its limits."""
    machine = isaac_machine()
    a, b = (machine.joint(name, "joint_position") for name in ("a", "b"))
    assert (a.type, a.stiffness, a.damping, a.position_limit) == ("revolute", 30.0, 1.25, (-1.0, 1.0))
    assert (a.effort_limit, a.velocity_limit) == (None, None), "1e9 and infinity are no limits"
    assert (b.type, b.stiffness, b.damping, b.position_limit) == ("prismatic", 40.0, 2.0, None)
    assert (b.effort_limit, b.velocity_limit) == (7.0, 20.0)
    assert machine.name == "go2" and machine.base.place == pytest.approx([0.02, 0.0, 0.02])


def test_isaacs_motors_that_are_no_pd_law():
    with pytest.raises(Undescribed, match=r"motor of a \(ActuatorNetMLP\) follows no PD law"):
        isaac_machine(motor="ActuatorNetMLP").joint("a", "joint_position")
    with pytest.raises(Undescribed, match="motor of a pulls towards a position, too"):
        isaac_machine().joint("a", "joint_velocity")


def test_what_isaacs_motors_do_beside_the_law_is_noted():
    machine = isaac_machine(motor="RemotizedPDActuator")
    group = machine._groups()["legs"]
    group._torque_limit, group.cfg = object(), SimpleNamespace(min_delay=0, max_delay=4)
    assert machine.joint("a", "joint_position").stiffness == 30.0
    notes = " ".join(machine.notes(("a",)))
    assert (
        "legs have an effort limit for each angle" in notes and "reached the motors legs 0 to 4 physics steps late" in notes
    )
    assert "Driven in the simulator, but not by the policy: b." in notes
    group._saturation_effort = 1.0
    assert "legs lose torque with speed" in " ".join(machine.notes(("a", "b")))


def test_a_default_pose_that_is_drawn_is_the_configured_one():
    drawn = torch.tensor([[0.11, -0.19], [0.09, -0.22]])
    assert isaac_machine(default_joint_pos=drawn).default_position == {"a": 0.1, "b": -0.2}


def limits_term(**options):
    """`JointPositionToLimitsAction`, or its average, as Isaac Lab computes it."""

    class JointPositionToLimitsAction:
        def process_actions(self):
            pass

        def apply_actions(self):
            pass

    for method in ("process_actions", "apply_actions"):
        function = getattr(JointPositionToLimitsAction, method)
        function.__module__, name = "isaaclab.envs.mdp.actions.joint_actions_to_limits", "JointPositionToLimitsAction"
        name = f"EMA{name}" if "_alpha" in options and method == "process_actions" else name
        function.__qualname__ = f"{name}.{method}"
    term = JointPositionToLimitsAction()
    term.cfg = SimpleNamespace(asset_name="robot", rescale_to_limits=True, clip=options.pop("clip", None))
    term._joint_names, term._scale = ["a", "b"], torch.tensor([[2.0, 0.5], [2.0, 0.5]])
    vars(term).update(options)
    return SimpleNamespace(active_terms=["move"], get_term=lambda _: term)


def test_actions_to_limits_are_a_scale_an_offset_and_a_clip():
    """clip(2 r, -1, 1) of the first joint's soft limits [-0.9, 0.9]: 0.9 * 2 r within them; the second never gets there."""
    machine, raw = isaac_machine(), RawAction.between([-1.0, -1.0], [1.0, 1.0])
    action, _ = joint_action(action_parts(limits_term(), lambda _: machine), raw)
    limits = np.array([[-0.9, 0.9], [-0.5, 1.5]])
    for r in np.random.default_rng(0).uniform(-1.0, 1.0, (50, 2)):
        within = np.clip(np.array([2.0, 0.5]) * r, -1.0, 1.0)
        theirs = limits.mean(1) + within * (limits[:, 1] - limits[:, 0]) / 2.0
        ours = np.clip(np.array(action.offset) + np.array(action.scale) * r, *np.array(action.clip).T)
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_a_moving_average_is_no_action_of_ours():
    with pytest.raises(Undescribed, match="commands a moving average"):
        action_parts(limits_term(_alpha=0.5), lambda _: isaac_machine())
    assert action_parts(limits_term(_alpha=1.0), lambda _: isaac_machine())[0].joints == ("a", "b")


def observed(function, name, module="envs.mdp.observations", **params):
    function.__name__ = name
    cfg = SimpleNamespace(
        func=of_isaac(function, module), params=params, history_length=0, scale=None, clip=None, noise=None
    )
    return name, cfg


def isaac_file(tmp_path, *terms, sizes, terrain="plane"):
    """The file of an environment of Isaac Lab with these observation terms and an action for both joints."""
    asset = isaac_asset(motor="ImplicitActuator")
    asset.data.default_joint_pos_limits[:, 1] = torch.tensor([-0.6, 0.6])
    imu = SimpleNamespace(cfg=SimpleNamespace(prim_path="/World/envs/env_.*/Robot/trunk", offset=Offset()))
    scene = Scene(
        robot=asset, imu=imu, tilted=SimpleNamespace(cfg=SimpleNamespace(prim_path="x/trunk", offset=Offset((0, 1, 0, 0))))
    )
    scene.terrain = SimpleNamespace(cfg=SimpleNamespace(terrain_type=terrain))
    observations = SimpleNamespace(
        active_terms={"policy": [name for name, _ in terms]},
        _group_obs_term_cfgs={"policy": [cfg for _, cfg in terms]},
        group_obs_term_dim={"policy": [(size,) for size in sizes]},
        group_obs_concatenate={"policy": True},
    )
    env = SimpleNamespace(scene=scene, observation_manager=observations, action_manager=limits_term(), step_dt=0.02)
    values = describe_robot(env, "isaaclab:Two", ["policy"], [-1.0, -1.0], [1.0, 1.0])
    file, text, _ = read_back(robot_yaml(values), tmp_path)
    assert file.robot is not None, text
    return {term.name: term for term in file.observation}, text


class Offset:
    def __init__(self, rot=(1.0, 0.0, 0.0, 0.0)):
        self.rot = rot


class Scene(dict):
    pass


ROBOT, IMU, TILTED = (SimpleNamespace(name=name, joint_ids=slice(None)) for name in ("robot", "imu", "tilted"))


def test_isaacs_observations(tmp_path):
    """Positions within the soft limits as [-1, 1] are 2 / span * (q - middle); a quaternion of w, x, y, z is not ours."""
    turned = observed(lambda env, make_quat_unique=False, asset_cfg=ROBOT: None, "root_quat_w")
    turned[1].func._descriptor = SimpleNamespace(extras={"axes": ["W", "X", "Y", "Z"], "units": "unit"})
    scanned = observed(lambda env, sensor_cfg: None, "height_scan", sensor_cfg="scanner")
    terms, text = isaac_file(
        tmp_path,
        observed(lambda env, asset_cfg=ROBOT: None, "joint_pos_limit_normalized"),
        turned,
        observed(lambda env, asset_cfg=ROBOT: None, "base_pos_z"),
        observed(lambda env, asset_cfg=ROBOT: None, "base_lin_vel"),
        observed(lambda env, asset_cfg=IMU: None, "imu_projected_gravity"),
        observed(lambda env, asset_cfg=TILTED: None, "imu_ang_vel"),
        scanned,
        sizes=(2, 4, 1, 3, 3, 3, 17),
    )
    assert terms["joint_pos_limit_normalized"].offset == pytest.approx((0.0, 0.5))
    assert terms["joint_pos_limit_normalized"].scale == pytest.approx((1 / 0.9, 1.0))
    assert (terms["root_quat_w"].kind, terms["root_quat_w"].element_names) == ("custom", ("w", "x", "y", "z"))
    assert (terms["base_pos_z"].kind, terms["base_lin_vel"].frame) == ("base_height", "base")
    # The IMU that is not turned sees what the base sees; the other one does not.
    assert terms["imu_projected_gravity"].frame == "base" and terms["imu_ang_vel"].frame == "tilted"
    assert terms["height_scan"].kind == "custom" and terms["height_scan"].size == 17
    assert "the base link's centre of mass, [0.02, 0.0, 0.02] m from the link's origin" in text


def test_a_height_above_rough_ground_is_not_said(tmp_path):
    height = observed(lambda env, asset_cfg=ROBOT: None, "base_pos_z")
    terms, text = isaac_file(tmp_path, height, sizes=(1,), terrain="generator")
    assert terms["base_pos_z"].kind == "custom" and "the ground is no plane" in text


def commanded(ranges, *curricula, kind="UniformVelocityCommand", **options):
    """(command, notes) of an environment with one velocity command and these curricula's parameters."""
    term = of_isaac(type(kind, (), {}), "envs.mdp.commands.velocity_command")()
    term.cfg = SimpleNamespace(ranges=SimpleNamespace(**ranges))
    manager = SimpleNamespace(
        active_terms=[f"term_{index}" for index in range(len(curricula))],
        _term_cfgs=[SimpleNamespace(params=params) for params in curricula],
    )
    env = SimpleNamespace(command_manager=SimpleNamespace(get_term=lambda _: term), curriculum_manager=manager)
    notes = []
    return describe_command(env, "drive", options.pop("control_steps", 0), notes, is_first=True), notes


RANGES = {"lin_vel_x": (0.5, 1.0), "lin_vel_y": (0.0, 0.0), "ang_vel_z": (-1.0, 1.0)}


def test_a_range_without_zero_is_left_for_its_nearest_end():
    command, notes = commanded(RANGES)
    assert command.neutral == (0.5, 0.0, 0.0) and command.range[0] == (0.5, 1.0)
    assert notes == ["velocity is the simulator's drive: lin_vel_x, lin_vel_y, ang_vel_z."]


def test_stages_that_were_reached_add_up():
    """At step 100 the range was [0.5, 1] at first, then [0, 0.8]: the policy has seen [0, 1]."""
    stages = [{"step": 50, "lin_vel_x": (0.0, 0.8)}, {"step": 500, "lin_vel_x": (-2.0, 2.0), "ang_vel_z": None}]
    command, notes = commanded(RANGES, {"command_name": "drive", "stages": stages}, control_steps=100)
    assert command.range == ((0.0, 1.0), (0.0, 0.0), (-1.0, 1.0))
    assert "[-2.0, 2.0] from control step 500; the range stated is that of the first 100" in " ".join(notes)


@pytest.mark.parametrize(
    "params", [{"command_name": "drive", "widest": 2.0}, {"address": "commands.drive.ranges.lin_vel_x"}]
)
def test_curricula_whose_ranges_nobody_can_foresee_are_named(params):
    command, notes = commanded(RANGES, params)
    assert command.range[0] == (0.5, 1.0) and "The curriculum term_0 may move the ranges of drive" in notes[0]


def test_commands_without_bounds_are_not_described():
    with pytest.raises(Undescribed, match=r"drive \(NormalVelocityCommand\) is no velocity from a range"):
        commanded(RANGES, kind="NormalVelocityCommand")


# --- What `trudi export` takes ---


@pytest.fixture
def copied(run, tmp_path):
    """A run of CartpoleSwingup into which a simulator might have written a file."""
    return Path(shutil.copytree(run, tmp_path / "run", symlinks=True))


def written(folder, **changes):
    """A file for the run, told from the preset by the names of its terms."""
    values = {
        "tasks": ["envpool:CartpoleSwingup-v1"],
        "control_period_s": 0.01,
        "robot": None,
        "action": {"kind": "actuator", "names": ["push"], "units": "1", "scale": 1.0, "offset": 0.0, "clip": [-1.0, 1.0]},
        "observation": [{"name": "all", "kind": "custom", "frame": "none", "units": "1", "element_names": list("abcde")}],
    }
    folder.mkdir(exist_ok=True)
    (folder / ROBOT_FILE).write_text(robot_yaml({"notes": ["A note."]} | values | changes))


def test_export_takes_the_runs_own_file_before_the_presets(copied):
    run = TrainedRun.open(copied)
    assert choose_robot(None, run)[0] == load_robot_file("cartpole_swingup")
    written(copied / "teacher")  # of a student, whose teacher was trained in the simulator
    assert choose_robot(None, run)[0].observation[0].name == "all"
    written(
        copied,
        observation=[{"name": "own", "kind": "custom", "frame": "none", "units": "1", "element_names": list("abcde")}],
    )
    robot, source = choose_robot(None, run)
    assert robot.observation[0].name == "own" and source == str(copied / ROBOT_FILE)
    assert choose_robot("cartpole_swingup", run) == (load_robot_file("cartpole_swingup"), "cartpole_swingup")


def test_a_runs_file_that_does_not_fit_is_refused(copied):
    run = TrainedRun.open(copied)
    written(copied, tasks=["mjlab:Other"])
    with pytest.raises(
        ExportError, match="is for mjlab:Other, the run is of envpool:CartpoleSwingup-v1: name the robot file"
    ):
        choose_robot(None, run)
    written(copied, control_period_s=0.02)
    with pytest.raises(ExportError, match=r"robot.yaml\) has a control period of 0.02 s, the task 0.01 s"):
        choose_robot(None, run)
    (copied / ROBOT_FILE).write_text("robot: [")
    with pytest.raises(ExportError, match=r"robot.yaml is not valid YAML"):
        choose_robot(None, run)
