"""Robot files against the simulators they describe: sizes, the models' own files, and what the simulator does."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from mjcf import read_drives, read_key

from trudi.export.errors import ExportError
from trudi.export.robot_file import find_robot_file, generic_robot_file, load_robot_file, robot_presets, with_safety
from trudi.runtime.model import MAX_ELEMENTS
from trudi.train.config import presets
from trudi.train.envs.assets import mesh_free_assets, stock_assets
from trudi.train.envs.envpool import describe_task, make_pool

PLAYGROUND = Path("mujoco/playground/assets/mujoco_playground/_src")
FILES = {name: load_robot_file(name) for name in robot_presets()}
TASKS = [(name, task) for name, file in FILES.items() for task in file.tasks]


@dataclass(frozen=True)
class Model:
    """Where a robot's numbers come from."""

    scene: str
    """With `{}` for the terrain."""
    key: str
    terrains: tuple[str, ...] = ("flat",)
    task_gains: bool = False
    """Whether the task replaces the model's stiffness and viscous damping by its `kp` and `kd`."""


BOTH = ("flat", "rough")
MODELS = {
    "unitree_go1": Model("locomotion/go1/xmls/scene_mjx_feetonly_{}_terrain.xml", "home", BOTH, task_gains=True),
    "unitree_g1": Model("locomotion/g1/xmls/scene_mjx_feetonly_{}_terrain.xml", "knees_bent", BOTH),
    "booster_t1": Model("locomotion/t1/xmls/scene_mjx_feetonly_{}_terrain.xml", "home", BOTH),
    "unitree_h1": Model("locomotion/h1/xmls/scene_mjx_feetonly.xml", "home"),
    "boston_dynamics_spot": Model("locomotion/spot/xmls/scene_mjx_feetonly_{}_terrain.xml", "home", task_gains=True),
    "franka_panda": Model("manipulation/franka_emika_panda/xmls/mjx_single_cube.xml", "home"),
}
SCENES = [(name, terrain) for name, model in MODELS.items() for terrain in model.terrains]


def spec_of(name):
    import envpool

    return envpool.make_spec(FILES[name].tasks[0].partition(":")[2]).config


@pytest.mark.parametrize("name,task", TASKS)
def test_a_file_fits_its_tasks(name, task):
    file, info = FILES[name], describe_task(task.partition(":")[2])
    assert file.observation_size == sum(info.actor.values())
    assert file.action.size == info.action_size
    assert file.control_period_s == pytest.approx(info.control_period_s, rel=1e-9)
    assert file.action.scale_offset_applied_by == "runtime"
    assert find_robot_file(task) == file


def test_no_task_has_two_files():
    tasks = [task for _, task in TASKS]
    assert len(tasks) == len(set(tasks))
    assert {name for name, file in FILES.items() if file.robot is not None} == set(MODELS)


@pytest.mark.parametrize("name", [name for name, file in FILES.items() if file.robot is None])
def test_actuators_are_the_models(name):
    scene = stock_assets(FILES[name].tasks[0].partition(":")[2]) / f"mujoco/assets_dmc/{name.split('_')[0]}.xml"
    drives = read_drives(scene)
    assert FILES[name].action.names == tuple(drive.actuator["name"] for drive in drives)
    assert FILES[name].action.clip == tuple(tuple(map(float, drive.actuator["ctrlrange"].split())) for drive in drives)


@pytest.mark.parametrize("name,terrain", SCENES)
def test_joints_are_the_models(name, terrain):
    file, model = FILES[name], MODELS[name]
    scene = stock_assets(file.tasks[0].partition(":")[2]) / PLAYGROUND / model.scene.format(terrain)
    drives = read_drives(scene)
    assert file.robot.joint_names == tuple(drive.joint for drive in drives)
    assert tuple(joint.default_position for joint in file.robot.joints) == read_key(scene, model.key)
    spec = spec_of(name)
    for joint, drive, clip in zip(file.robot.joints, drives, file.action.clip, strict=True):
        assert joint.position_limit == drive.position_limit, joint.name
        assert clip == drive.target_limit, joint.name
        assert joint.stiffness == (spec.kp if model.task_gains else drive.stiffness), joint.name
        if drive.derivative_gain is not None:
            viscous = spec.kd if model.task_gains else drive.viscous_damping
            assert joint.damping == drive.derivative_gain + viscous, joint.name
        assert joint.effort_limit in (drive.effort_limit, None), joint.name
        assert joint.type == ("prismatic" if drive.joint_attributes.get("type") == "slide" else "revolute")


@pytest.mark.parametrize("name", ["unitree_g1", "booster_t1", "unitree_h1", "boston_dynamics_spot"])
def test_commands_have_the_range_that_is_trained_on(name):
    spec = spec_of(name)
    elements = ("lin_vel_x", "lin_vel_y", "ang_vel_yaw")
    ranges = tuple((getattr(spec, f"{element}_min"), getattr(spec, f"{element}_max")) for element in elements)
    assert FILES[name].commands[0].range == ranges
    assert FILES[name].action.scale == (spec.action_scale,) * FILES[name].action.size


def test_go1_commands_have_the_range_that_is_trained_on():
    spec = spec_of("unitree_go1")
    bounds = (spec.command_a0, spec.command_a1, spec.command_a2)
    assert FILES["unitree_go1"].commands[0].range == tuple((-bound, bound) for bound in bounds)


class Recording:
    """An episode of random actions without noise, cut into the file's terms: `term[t]`, and `target[t]` behind it."""

    def __init__(self, name, steps, folder, envs=1, start=None, **options):
        self.file = file = FILES[name]
        task = file.tasks[0].partition(":")[2]
        if (assets := mesh_free_assets(task, folder)) is not None:
            options["base_path"] = str(assets)
        pool = make_pool(task, envs, seed=3, num_threads=1, **options)
        keys = ["state"] if "state" in (info := describe_first(pool)) else list(info)
        observations, self.privileged, self.action = [], [], []
        rng = np.random.default_rng(0)
        observed, _ = pool.reset()
        for _ in range(steps + 1):
            observations.append(np.concatenate([part(observed, key).reshape(envs, -1) for key in keys], axis=1)[0])
            if isinstance(observed, dict) and "privileged_state" in observed:
                self.privileged.append(observed["privileged_state"][0])
            self.action.append(rng.uniform(-0.3, 0.3, file.action.size))
            observed, _, terminated, _, _ = pool.step(np.tile(self.action[-1], (envs, 1)).astype(pool.action_space.dtype))
            if terminated[0]:
                break
        pool.close()
        assert len(observations) > min(steps, 6)
        self.action, self.privileged, observed = map(np.array, (self.action, self.privileged, observations))
        self.target = self.targets(start)
        cuts = np.cumsum([term.total_size for term in file.observation])
        self.terms = dict(zip([term.name for term in file.observation], np.split(observed, cuts[:-1], axis=1), strict=True))
        self.delay = {term.name: term.delay_steps * file.control_period_s for term in file.observation}

    def __getitem__(self, term):
        return self.terms[term]

    @property
    def joint_pos(self):
        term = next(term for term in self.file.observation if term.name == "joint_pos")
        return self["joint_pos"] + np.array(term.offset or 0.0)

    def targets(self, start):
        """The targets u that the contract makes of the actions; u[t] leads to the observation t + 1."""
        act, last, made = self.file.action, start, []
        low, high = np.array(act.clip).T
        for a in self.action:
            base = np.array(act.offset) if act.kind != "joint_position_increment" else last
            last = np.clip(base + np.array(act.scale) * a, low, high)
            made.append(last)
        return np.array(made)


def describe_first(pool):
    return getattr(pool.observation_space, "spaces", {"observation": None})


def part(observed, key):
    return observed[key] if isinstance(observed, dict) else observed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("assets")


@pytest.fixture(scope="module")
def quiet(folder):
    """Twenty steps of a file's first task, without noise: `quiet(name)`."""
    noise_option = {"unitree_h1": "obs_noise_level"} | dict.fromkeys(
        MODELS.keys() - {"unitree_h1", "franka_panda"}, "noise_level"
    )

    @lru_cache
    def record(name):
        start = {"unitree_h1": np.zeros(19), "franka_panda": home_of("franka_panda")}.get(name)
        return Recording(name, 20, folder, start=start, **({noise_option[name]: 0.0} if name in noise_option else {}))

    return record


def home_of(name):
    return np.array([joint.default_position for joint in FILES[name].robot.joints])


@pytest.mark.parametrize("name,force_at", [("unitree_go1", 39), ("unitree_g1", 15 + 58 + 1), ("booster_t1", 15 + 46 + 1)])
def test_motors_do_what_the_file_says(name, force_at, quiet):
    """The simulator's motor forces are stiffness * (target - position), with positions one physics step back.

    That holds to rounding only if joint order, default pose, action scale, clip, stiffness and the sensors' delay are all
    right. A velocity v of MuJoCo's Euler steps is the one that led to the position: q_before = q - v dt.
    """
    run = quiet(name)
    count = run.file.action.size
    force = run.privileged[1:, run.file.observation_size + force_at :][:, :count]
    before = run.joint_pos[1:] - run["joint_vel"][1:] * run.delay["gyro"]
    stiffness = np.array([joint.stiffness for joint in run.file.robot.joints])
    np.testing.assert_allclose(force, stiffness * (run.target[:-1] - before), atol=1e-9)


@pytest.mark.parametrize("name", ["unitree_go1", "unitree_g1", "booster_t1"])
def test_gravity_is_projected_into_the_imu(name, quiet):
    """A body's turning rate about the world's z axis is the same from gyro and gravity as from the world's frame.

    On its feet a robot's gravity is 0, 0, -1, even where its bent waist turns the torso: the site is the one stated.
    """
    run = quiet(name)
    np.testing.assert_allclose(run["gravity"][0], [0.0, 0.0, -1.0], atol=1e-9)
    size = run.file.observation_size
    world_rate = run.privileged[:, size + 12 : size + 15]
    np.testing.assert_allclose(-(run["gravity"] * run["gyro"]).sum(1), world_rate[:, 2], atol=1e-9)


def test_spots_upvector_is_the_imus_axis_in_the_world(quiet):
    run = quiet("boston_dynamics_spot")
    size = run.file.observation_size
    world_rate = run.privileged[:, size + 12 : size + 15]
    np.testing.assert_allclose((run["upvector"] * world_rate).sum(1), run["gyro"][:, 2], atol=1e-9)


def test_spots_errors_are_positions_minus_targets(quiet):
    run = quiet("boston_dynamics_spot")
    error = run.joint_pos[1:] - run.target[:-1]
    np.testing.assert_allclose(run["joint_error"][1:], error, atol=1e-12)
    np.testing.assert_allclose(run["joint_error_1"][2:], error[:-1], atol=1e-12)
    np.testing.assert_allclose(run["joint_error_2"][3:], error[:-2], atol=1e-12)
    x, y, z = run["feet_pos"][0].reshape(4, 3).T
    assert (np.sign(x) == [1, 1, -1, -1]).all() and (np.sign(y) == [1, -1, 1, -1]).all() and (z < -0.3).all()


def test_spots_motors_pull_with_its_stiffness(quiet):
    """At rest in the default pose, the simulator's first target is 0: the force is -stiffness * default position."""
    run = quiet("boston_dynamics_spot")
    force = run.privileged[0, run.file.observation_size + 51 :][:12]
    expected = [-joint.stiffness * joint.default_position for joint in run.file.robot.joints]
    np.testing.assert_allclose(force[[1, 4, 7, 10]], np.array(expected)[[1, 4, 7, 10]], rtol=1e-9)


def test_h1_moves_its_last_target(quiet):
    run = quiet("unitree_h1")
    np.testing.assert_allclose(run["joint_error"][1:], run.joint_pos[1:] - run.target[:-1], atol=1e-12)
    np.testing.assert_array_equal(run["joint_vel_again"], run["joint_vel"])
    np.testing.assert_allclose(run["phase"][0], [1.0, -1.0, 0.0, 0.0], atol=1e-12)
    frequency, gait, height = run["gait"][0]
    step = np.diff(np.unwrap(np.arctan2(run["phase"][:, 2], run["phase"][:, 0])))[1:]
    np.testing.assert_allclose(step, 2 * np.pi * frequency * 0.02, atol=1e-9)
    assert gait == 0 and 0.08 <= height <= 0.4
    # Pitching forward turns the upright imu's z axis towards the world's x axis; gravity in the imu turns the same way.
    turned = np.diff(run["upvector"][:3, 0])[1]
    assert abs(turned - run["gyro"][1:3, 1].mean() * 0.02) < 0.02 and np.linalg.norm(run["upvector"][5]) == pytest.approx(1)


def test_panda_moves_its_last_target(quiet):
    run = quiet("franka_panda")
    np.testing.assert_allclose(run["joint_error"][1:], run.target[:-1] - run.joint_pos[1:, :8], atol=1e-9)
    np.testing.assert_allclose(run.joint_pos[0, :8], home_of("franka_panda"), atol=1e-12)
    np.testing.assert_allclose(run["gripper_to_box"][0], run["box_pos"][0] - run["gripper_pos"][0], atol=1e-12)
    np.testing.assert_allclose(run["box_quat"][0], [1.0, 0.0, 0.0, 0.0], atol=1e-12)  # w, x, y, z
    y_row, z_row = run["gripper_rot"].reshape(-1, 2, 3).transpose(1, 0, 2)
    np.testing.assert_allclose(y_row @ z_row.T * np.eye(len(y_row)), 0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["unitree_go1", "unitree_g1", "booster_t1", "unitree_h1", "boston_dynamics_spot"])
def test_the_last_action_is_as_late_as_stated(name, quiet):
    run = quiet(name)
    late = next(int(term.delay_steps) for term in run.file.observation if term.kind == "last_action")
    np.testing.assert_allclose(run["last_action"][1 + late :], run.action[: -1 - late], atol=1e-7)


def test_go1_starts_at_the_default_pose_within_the_stated_noise(folder):
    run = Recording("unitree_go1", 0, folder, envs=2)
    assert np.abs(run["joint_pos"]).max() <= 0.03
    assert np.abs(run["gravity"] - [0.0, 0.0, -1.0]).max() <= 0.05
    assert 0 < np.abs(run["joint_vel"]).max() <= 1.5
    assert np.abs(run["linvel"]).max() < 1.0 and np.abs(run["gyro"]).max() < 1.0
    assert (run["last_action"] == 0).all() and (np.abs(run["command"]) <= [1.5, 0.8, 1.2]).all()


def test_cheetahs_velocities_are_of_its_positions(quiet):
    """MuJoCo's Euler steps: each position moved by its new velocity; the velocity's first element has no position."""
    run = quiet("cheetah_run")
    assert run.file.observation[0].element_names == run.file.observation[1].element_names[1:]
    np.testing.assert_allclose(np.diff(run["position"], axis=0) / 0.01, run["velocity"][1:, 1:], atol=1e-9)


def test_cartpoles_angle_is_given_as_cosine_and_sine(quiet):
    run = quiet("cartpole_swingup")
    x, cosine, sine = run["position"].T
    angle = np.unwrap(np.arctan2(sine, cosine))
    mean = (run["velocity"][1:] + run["velocity"][:-1]) / 2
    np.testing.assert_allclose(np.diff(x) / 0.01, mean[:, 0], atol=1e-3)
    np.testing.assert_allclose(np.diff(angle) / 0.01, mean[:, 1], atol=1e-3)


def test_walkers_bodies_turn_with_their_joints(quiet):
    """A body's pitch turns with the root and against the joints above it (their axes are opposite)."""
    run = quiet("walker_walk")
    pairs = run["orientations"].reshape(-1, 7, 2)
    np.testing.assert_allclose((pairs**2).sum(-1), 1.0, atol=1e-9)
    turned = np.diff(np.unwrap(np.arctan2(pairs[..., 1], pairs[..., 0]), axis=0), axis=0) / 0.025
    root, *joints = ((run["velocity"][1:] + run["velocity"][:-1]) / 2).T[2:]
    chains = [[], [0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5]]
    for body, chain in enumerate(chains):
        expected = root - sum((joints[index] for index in chain), np.zeros_like(root))
        assert np.corrcoef(turned[:, body], expected)[0, 1] > 0.9, body
    assert run["height"][0] == pytest.approx(1.3)


def test_robot_files_are_no_presets_of_training():
    assert "cheetah_run" in presets() and presets()["cheetah_run"].parent.name == "tasks"
    assert "unitree_go1" not in presets()


def test_a_task_without_a_file_has_sizes_only():
    assert find_robot_file("envpool:HopperHop-v1") is None
    file = generic_robot_file("envpool:HopperHop-v1", 15, 4, 0.02)
    assert file.robot is None and file.action.kind == "actuator" and file.action.size == 4
    (term,) = file.observation
    assert (term.name, term.kind, term.size, set(term.units)) == ("unnamed_observation", "custom", 15, {"unknown"})
    assert term.element_names[:2] == ("obs_0", "obs_1")


@pytest.mark.parametrize("sizes", [(0, 4), (15, 0), (MAX_ELEMENTS + 1, 4)])
def test_a_task_too_large_or_empty_is_refused(sizes):
    with pytest.raises(ExportError, match=r"envpool:X has \d+ (observations|actions); a bundle describes 1 to 4096"):
        generic_robot_file("envpool:X", *sizes, 0.02)


GOOD = """
control_period_s: 0.02
robot:
  name: arm
  joint_defaults: {stiffness: 10.0, damping: 1.0, velocity_limit: null, effort_limit: null}
  joint_columns: [name, default_position, position_limit]
  joints:
    - [a, 0.5, [-1.0, 1.0]]
    - {name: b, type: prismatic, default_position: 0.0, position_limit: [0.0, 0.1]}
action: {kind: joint_position, scale: 0.5, offset: default_position, clip: position_limit}
observation:
  - {name: q, kind: joint_position, offset: default_position, joints: [b, a]}
  - {name: v, kind: base_linear_velocity, frame: imu}
  - {name: last, kind: last_action}
  - {name: command, kind: command, command: goal}
commands:
  - {name: goal, element_names: [x], units: m, frame: base, range: [[0.0, 1.0]], neutral: 0.0, timeout_s: 0.5}
"""


def write(tmp_path, text):
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    return path


def test_the_shorthand_is_spelled_out(tmp_path):
    file = load_robot_file(write(tmp_path, GOOD))
    assert [joint.stiffness for joint in file.robot.joints] == [10.0, 10.0]
    assert file.action.names == ("a", "b") and file.action.units == ("rad", "m")
    assert file.action.scale == (0.5, 0.5) and file.action.offset == (0.5, 0.0)
    assert file.action.clip == ((-1.0, 1.0), (0.0, 0.1)) and file.action.scale_offset_applied_by == "runtime"
    q, v, last, command = file.observation
    assert q.element_names == ("b", "a") and q.units == ("m", "rad") and q.offset == (0.0, 0.5) and q.frame == "joint"
    assert v.element_names == ("x", "y", "z") and v.units == ("m/s",) * 3
    assert last.element_names == ("a", "b") and command.units == ("m",) and command.frame == "base"
    assert file.observation_size == 8 and file.tasks == () and file.safety.max_tilt_rad == 1.0


def test_the_example_in_the_docs_is_one(tmp_path):
    text = (Path(__file__).parents[2] / "docs/robots.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]
    assert load_robot_file(write(tmp_path, example)).robot.name == "two_joints"


@pytest.mark.parametrize(
    "old,new,says",
    [
        ("control_period_s: 0.02", "", r"the field control_period_s is missing"),
        ("damping: 1.0, ", "", r"the field robot\.joints\.0\.damping is missing"),
        ("control_period_s: 0.02", "control_period_s: fast", r"control_period_s: .*number \(got 'fast'\)"),
        (
            "control_period_s: 0.02",
            "control_periods: 0.02",
            r"unknown field 'control_periods'; did you mean control_period_s",
        ),
        ("damping: 1.0", "dampin: 1.0", r"unknown field 'dampin' in robot\.joints\[0\]; did you mean damping"),
        (
            "{kind: joint_position, scale",
            "{kind: joint_position, names: [a], scale",
            r"robot\.joints.*has 2, action\.names.*has",
        ),
        (
            "offset: default_position, joints: [b, a]",
            "joints: [b, c]",
            r"observation term q: joints names c, which is neither",
        ),
        ("command: goal}", "command: gaol}", r"shows the command gaol; commands has goal"),
        ("[a, 0.5, [", "[a, 2.5, [", r"joint a: default_position 2\.5 is outside"),
        ("- [a, 0.5, [-1.0, 1.0]]", "- [a, 0.5]", r"robot\.joints\[0\] has 2 values \(a, \.\.\.\), joint_columns has 3"),
        ("scale: 0.5,", "scale: 0.5, scale: 0.25,", r"is not valid YAML: the key 'scale' stands twice, line 10"),
        ("  - {name: last, kind: last_action}", "  - last_action", r"observation\.2: .*\(got 'last_action'\)"),
        ("neutral: 0.0", "neutral: [0.0, 0.0]", r"element_names has 1, command goal: neutral has 2"),
        (GOOD, "- a\n", r"must hold `key: value` lines, not a list"),
        (GOOD, "a: [", r"is not valid YAML"),
        (GOOD, "robot: 3\n", r"robot: .*\(got 3\)"),
        (
            GOOD,
            "{robot: {joint_defaults: 3}, action: {clip: 1}, observation: [3], commands: [{}]}",
            r"joint_defaults must hold",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, old, new, says):
    assert old in GOOD
    with pytest.raises(ExportError, match=rf"arm\.yaml.*{says}") as caught:
        load_robot_file(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_thresholds_can_be_given_for_one_policy():
    go1 = load_robot_file("unitree_go1")
    own = with_safety(go1, ["state_age_warn_s=0.03", "state_age_lost_s=0.06", "max_tilt_rad=null"])
    assert (own.safety.state_age_warn_s, own.safety.state_age_lost_s, own.safety.max_tilt_rad) == (0.03, 0.06, None)
    assert own.model_copy(update={"safety": go1.safety}) == go1 and with_safety(go1, []) == go1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("state_age_warn_s", "takes KEY=VALUE, such as state_age_warn_s=0.03"),
        ("state_age_warn=1", "there is no 'state_age_warn'; .*state_age_warn_s"),
        ("observation_range=null", "there is no 'observation_range'"),
        ("state_age_warn_s=[", "'\\[' for state_age_warn_s is not a number"),
        ("max_tilt_rad=-1", "safety.max_tilt_rad: .* greater than 0"),
        ("state_age_warn_s=0.6", "state_age_warn_s 0.6 is above safety.state_age_lost_s 0.5"),
    ],
)
def test_a_threshold_that_cannot_be_is_named(given, says):
    with pytest.raises(ExportError, match=says):
        with_safety(load_robot_file("unitree_go1"), [given])


def test_an_unknown_name_says_what_is_near():
    with pytest.raises(ExportError, match=r"no robot file or preset 'unitree_g01'; did you mean unitree_g"):
        load_robot_file("unitree_g01")
