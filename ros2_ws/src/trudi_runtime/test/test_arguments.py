import json
import zipfile
from pathlib import Path

import pytest

from trudi_runtime.arguments import (
    SIMULATED,
    ArgumentError,
    RuntimeArguments,
    SimArguments,
    boolean,
    bundle_path,
    choice,
    enclave_prefix,
    namespace,
    parameters_of,
    record_folder,
    robot_file,
    root_folder,
    task_of,
)
from trudi_runtime.bringup import BringupArguments, Controllers, check_description, describe

CONFIG = Path(__file__).resolve().parents[1] / "config"
GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
PLAIN = {"use_sim_time": "false", "namespace": "", "autostart": "true", "record": "", "bundle_root": "", "enclaves": ""}
FILES = {**PLAIN, "controllers_file": ""}


def make_bundle(folder: Path, task: str = "CartpoleSwingup-v1") -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"task": {"backend": "envpool", "id": task}}))
    return folder


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundles" / "walker")


# One argument.


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("True", True), ("FALSE", False)])
def test_booleans(text, value):
    assert boolean("autostart", text) is value


@pytest.mark.parametrize("text", ["yes", "1", "", "tru"])
def test_no_booleans(text):
    with pytest.raises(ArgumentError, match=f"^autostart:={text} is none of true, false$"):
        boolean("autostart", text)


def test_choice():
    with pytest.raises(ArgumentError, match="discovery:=HOST is none of LOCALHOST, SUBNET"):
        choice("discovery", "HOST", ("LOCALHOST", "SUBNET"))


@pytest.mark.parametrize("text", ["", "lab", "/lab", "robots/go2", "/a/b_1"])
def test_namespaces(text):
    assert namespace(text) == text


@pytest.mark.parametrize("text", ["/", "lab/", "1robot", "a b", "a//b", "a-b"])
def test_no_namespaces(text):
    with pytest.raises(ArgumentError, match="namespace:="):
        namespace(text)


def test_enclaves():
    assert enclave_prefix("/trudi") == "/trudi"
    for text in ("trudi", "/trudi/", "/"):
        with pytest.raises(ArgumentError, match="enclaves:="):
            enclave_prefix(text)


def test_bundle_folder_and_zip(bundle):
    assert bundle_path(str(bundle)) == bundle
    archive = bundle.parent / "walker.zip"
    archive.write_bytes(b"")
    assert bundle_path(str(archive)) == archive


def test_bundle_is_found_through_links_and_home(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bundle_path("~/bundles/walker") == bundle
    (tmp_path / "latest").symlink_to(bundle)
    assert bundle_path(str(tmp_path / "latest")) == bundle


def test_bundle_that_is_none_names_those_beside_it(bundle):
    (bundle.parent / "notes").mkdir()
    for name, wrong in (("wlaker", "is not there"), ("notes", "has no bundle.json")):
        with pytest.raises(ArgumentError, match=rf"{name} {wrong}; bundles in .*/bundles: walker$"):
            bundle_path(str(bundle.parent / name))
    with pytest.raises(ArgumentError, match=r"bundle\.json is a file that is no \.zip"):
        bundle_path(str(bundle / "bundle.json"))


def test_no_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"^bundle:= names no bundle; bundles in .*: none$"):
        bundle_path("")


def test_bundle_root(bundle, tmp_path):
    assert root_folder("", bundle) == ""
    assert root_folder(str(bundle.parent), bundle) == str(bundle.parent)
    with pytest.raises(ArgumentError, match="is no folder"):
        root_folder(str(tmp_path / "none"), bundle)
    (tmp_path / "other").mkdir()
    with pytest.raises(ArgumentError, match="lies outside bundle_root"):
        root_folder(str(tmp_path / "other"), bundle)


def test_bundle_root_is_not_left_through_a_link(bundle, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "walker").symlink_to(bundle)
    with pytest.raises(ArgumentError, match="lies outside bundle_root"):
        root_folder(str(root), bundle_path(str(root / "walker")))


def test_robot_by_name_and_path(tmp_path):
    assert robot_file("unitree_go2", CONFIG) == CONFIG / "unitree_go2.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**: {ros__parameters: {robot: {name: mine}}}")
    assert robot_file(str(mine), CONFIG) == mine


def test_robot_that_is_none_names_those_that_are():
    with pytest.raises(
        ArgumentError, match=r"robot:=go2 .*; robots: cartpole, franka_panda, mjlab_go1, unitree_go1, unitree_go2$"
    ):
        robot_file("go2", CONFIG)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a: [", "is no parameter file"),
        ("robot: {name: x}", "has no ros__parameters"),
        ("", "has no ros__parameters"),
        ("[1]", "has no ros__par"),
    ],
)
def test_robot_file_that_is_none(tmp_path, text, wrong):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=wrong) as caught:
        robot_file(str(path), CONFIG)
    assert "\n" not in str(caught.value)


def test_record(tmp_path):
    assert record_folder("") is None
    assert record_folder(str(tmp_path / "bag")) == tmp_path / "bag"
    with pytest.raises(ArgumentError, match="cannot be made"):
        record_folder(str(tmp_path / "none" / "bag"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder", "file"):
        with pytest.raises(ArgumentError, match="is there already"):
            record_folder(str(tmp_path / name))


def test_task_of_folder_and_zip(bundle, tmp_path):
    assert task_of(bundle) == "CartpoleSwingup-v1"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(bundle / "bundle.json", "bundle.json")
    assert task_of(tmp_path / "b.zip") == "CartpoleSwingup-v1"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"task": 3}', "nonsense", "[" * 100_000])
def test_task_that_is_not_said(tmp_path, text):
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(ArgumentError, match=r"does not say its task .* task:=CartpoleSwingup-v1"):
        task_of(tmp_path)


def test_task_of_a_zip_that_is_none(tmp_path):
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(ArgumentError, match="does not say its task"):
        task_of(tmp_path / "b.zip")


def test_parameters_are_flat_and_of_a_node(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "/**: {ros__parameters: {robot: {name: x, deep: {er: 1}}, a.b: 2}}\n/lab/other: {ros__parameters: {c: 3}}\n"
        "/**/nested: {third: {ros__parameters: {d: 4}}}\n"
    )
    assert parameters_of(path) == {"robot.name": "x", "robot.deep.er": 1, "a.b": 2, "c": 3, "d": 4}
    assert parameters_of(path, "other") == {"c": 3}
    assert parameters_of(path, "third") == {"d": 4}
    with pytest.raises(ArgumentError, match="no parameter file for fourth"):
        parameters_of(path, "fourth")


# A launch file's arguments.


def test_runtime_arguments(bundle):
    given = RuntimeArguments.read({**PLAIN, "bundle": str(bundle), "robot": "unitree_go1"}, CONFIG)
    assert given.parameters == {"bundle": str(bundle), "use_sim_time": False}
    assert given.ros_arguments("runtime_node") == []
    assert given.autostart
    assert given.record is None


def test_simulated_time_makes_stamps_the_robots_own(bundle, tmp_path):
    """The runtime refuses stamps of this machine's clock then; a file that says otherwise is left alone."""
    words = {**PLAIN, "bundle": str(bundle), "robot": "unitree_go1", "use_sim_time": "true"}
    assert RuntimeArguments.read(words, CONFIG).parameters["stamps"] == "own"
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**: {ros__parameters: {stamps: arrival}}")
    assert "stamps" not in RuntimeArguments.read({**words, "robot": str(mine)}, CONFIG).parameters


def test_sim_takes_task_and_robot_from_the_bundle(bundle):
    given = SimArguments.read({**PLAIN, "bundle": str(bundle), **SIM}, CONFIG)
    assert (given.task, given.robot, given.discovery) == ("CartpoleSwingup-v1", "cartpole", "LOCALHOST")


SIM = {"task": "", "robot": "", "faults": "", "discovery": "LOCALHOST"}


def test_sim_robot_is_what_the_runtime_is_told_of(bundle):
    given = SimArguments.read({**PLAIN, "bundle": str(bundle), **SIM, "task": f"envpool:{GO1}"}, CONFIG)
    assert given.parameters == {
        "task": GO1,
        "odometry": True,
        "command_timeout_s": 0.1,
        "imu_frame": "imu",
    }


def test_sim_without_a_robot_for_the_task(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", "CheetahRun-v1")
    with pytest.raises(ArgumentError, match=r"task:=CheetahRun-v1 has no simulated robot; available: MuJoCoPlayground/Go1"):
        SimArguments.read({**PLAIN, "bundle": str(other), **SIM}, CONFIG)


def test_simulated_tasks_are_those_of_the_simulator():
    simulation = pytest.importorskip("trudi.runtime.robots.simulation")
    assert set(SIMULATED) <= set(simulation.TASKS)
    assert {f"{robot}.yaml" for robot in SIMULATED.values()} <= {path.name for path in CONFIG.iterdir()}


# Bringup.

DRIVES = [f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")]
FIVE = ("position", "velocity", "effort", "kp", "kd")


def urdf(joints=DRIVES, interfaces=FIVE):
    inside = "".join(f'<command_interface name="{name}"/>' for name in interfaces)
    rows = "".join(f'<joint name="{joint}">{inside}</joint>' for joint in joints)
    return f'<robot name="r"><ros2_control>{rows}</ros2_control></robot>'


@pytest.fixture
def words(bundle, tmp_path):
    (tmp_path / "go2.urdf").write_text(urdf())
    return {**FILES, "bundle": str(bundle), "robot": "unitree_go2", "description_file": str(tmp_path / "go2.urdf")}


def test_bringup_go2(words):
    given = BringupArguments.read(words, CONFIG)
    assert given.controllers_file == CONFIG / "controllers" / "unitree_go2.yaml"
    commanding = tuple(f"{name}_controller" for name in FIVE)
    assert given.spawned == ("joint_state_broadcaster", "imu_sensor_broadcaster", *commanding)
    assert given.imu_topic == "imu_sensor_broadcaster/imu"
    assert given.description == urdf()


def test_bringup_panda(words, tmp_path):
    joints = [*(f"joint{number}" for number in range(1, 8)), "finger_joint1"]
    (tmp_path / "panda.urdf").write_text(urdf(joints, ["position"]))
    words |= {"robot": "franka_panda", "description_file": str(tmp_path / "panda.urdf")}
    given = BringupArguments.read(words, CONFIG)
    assert given.spawned == ("joint_state_broadcaster", "arm_controller")
    assert given.imu_topic == ""


def test_bringup_of_a_robot_without_controllers(words):
    with pytest.raises(ArgumentError, match=r"unitree_go1\.yaml has command_form joint_state.*use runtime\.launch\.py"):
        BringupArguments.read({**words, "robot": "unitree_go1"}, CONFIG)


def test_bringup_of_hardware_without_an_interface(words, tmp_path):
    (tmp_path / "go2.urdf").write_text(urdf(interfaces=FIVE[:3]))
    with pytest.raises(ArgumentError, match=r"kp_controller commands FR_hip_joint/kp, .* interfaces: effort, position, vel"):
        BringupArguments.read(words, CONFIG)


def test_bringup_of_hardware_without_a_joint(words, tmp_path):
    (tmp_path / "go2.urdf").write_text(urdf(DRIVES[:-1]))
    with pytest.raises(ArgumentError, match=r"commands RL_calf_joint, which the hardware does not have; joints: FL_calf"):
        BringupArguments.read(words, CONFIG)


@pytest.mark.parametrize(("text", "wrong"), [("<robot", "is no URDF"), ("<robot/>", "no <ros2_control>")])
def test_descriptions_that_are_none(text, wrong):
    with pytest.raises(ArgumentError, match=wrong):
        check_description(text, {})


def changed(tmp_path, old, new):
    text = (CONFIG / "controllers" / "unitree_go2.yaml").read_text()
    assert old in text
    path = tmp_path / "controllers.yaml"
    path.write_text(text.replace(old, new))
    return Controllers.read(path)


GO2 = parameters_of(CONFIG / "unitree_go2.yaml")


def test_joints_in_another_order_are_refused(tmp_path):
    """A Float64MultiArray has no names: the wrong legs would move."""
    swapped = "      - FR_thigh_joint\n      - FR_hip_joint\n"
    controllers = changed(tmp_path, "      - FR_hip_joint\n      - FR_thigh_joint\n", swapped)
    with pytest.raises(ArgumentError, match=r"position_controller has the joints FR_thigh_joint, .* in this order and"):
        controllers.forwarded(GO2)


def test_controller_of_another_interface_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"ros2_control\.kp is kp_controller, which commands the interface stiffness"):
        changed(tmp_path, "interface_name: kp", "interface_name: stiffness").forwarded(GO2)


def test_controller_that_is_not_there(tmp_path):
    with pytest.raises(ArgumentError, match=r"ros2_control\.kd is other, .* controllers: effort_controller, imu_sensor"):
        changed(tmp_path, "FR", "FR").forwarded({**GO2, "ros2_control.kd": "other"})


def test_no_controller_at_all(tmp_path):
    with pytest.raises(ArgumentError, match=r"none of ros2_control\.position, \.velocity, \.effort, \.kp, \.kd is named"):
        changed(tmp_path, "FR", "FR").forwarded({"robot.joints": DRIVES})


def test_broadcasters_are_needed(tmp_path):
    with pytest.raises(ArgumentError, match="nobody would publish joint_states"):
        changed(tmp_path, "joint_state_broadcaster/JointStateBroadcaster", "other/Broadcaster").broadcasters()
    with pytest.raises(ArgumentError, match=r"robot\.imu is true"):
        changed(tmp_path, "imu_sensor_broadcaster/IMUSensorBroadcaster", "other/Broadcaster").imu(GO2)
    with pytest.raises(ArgumentError, match=r"publishes in the frame .base., and imu_frame"):
        changed(tmp_path, "frame_id: imu_link", "frame_id: base").imu(GO2)


def test_trajectory_of_other_joints():
    controllers = Controllers.read(CONFIG / "controllers" / "franka_panda.yaml")
    panda = parameters_of(CONFIG / "franka_panda.yaml")
    assert controllers.trajectory({**panda, "robot.drives": panda["robot.drives"][::-1]})
    with pytest.raises(ArgumentError, match=r"arm_controller moves joint1, .*; the runtime drives joint1$"):
        controllers.trajectory({**panda, "robot.drives": ["joint1"]})


def test_xacro(tmp_path, monkeypatch):
    source = tmp_path / "robot.urdf.xacro"
    source.write_text("<robot/>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArgumentError, match="needs xacro"):
        describe(source)
    script = tmp_path / "xacro"
    script.write_text("#!/bin/sh\n[ -f $1 ] && echo '<robot expanded=\"1\"/>' && exit 0\necho 'no such\nfile' >&2; exit 2\n")
    script.chmod(0o755)
    assert describe(source) == '<robot expanded="1"/>\n'
    with pytest.raises(ArgumentError, match=r"xacro cannot expand .*none\.xacro: no such file$"):
        describe(tmp_path / "none.xacro")
