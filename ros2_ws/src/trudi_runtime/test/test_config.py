"""The parameter files: what the runtime declares, in type and range, and the robots that they say they are."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from trudi_runtime.arguments import SIMULATED, parameters_of

PACKAGE = Path(__file__).resolve().parents[1]
FILES = sorted((PACKAGE / "config").glob("*.yaml"))
CONTROLLERS = sorted((PACKAGE / "config" / "controllers").glob("*.yaml"))
each_robot = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
KINDS = {"STRINGS": str, "DOUBLES": float}


def declared():
    """What trudi_runtime.parameters declares, read from its text: rclpy is not needed for it."""
    tree = ast.parse((PACKAGE / "trudi_runtime" / "parameters.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    table = next(node.value for node in assigned if getattr(node.target, "id", "") == "PARAMETERS")
    found = {}
    for key, call in zip(table.keys, table.values, strict=True):
        words = {word.arg: word.value for word in call.keywords}
        options = {name: ast.literal_eval(words[name]) for name in ("low", "high", "choices", "when") if name in words}
        kind = call.args[2].id if len(call.args) > 2 else ""
        found[ast.literal_eval(key)] = {"default": ast.literal_eval(call.args[0]), "kind": kind, **options}
    return found


PARAMETERS = declared()


def test_robots():
    assert [path.stem for path in FILES] == ["cartpole", "franka_panda", "mjlab_go1", "unitree_go1", "unitree_go2"]


def test_text_and_module_declare_the_same():
    pytest.importorskip("rclpy")
    from trudi_runtime.parameters import PARAMETERS as imported

    assert set(imported) == set(PARAMETERS)


@each_robot
def test_only_declared_parameters(path):
    unknown = set(parameters_of(path)) - set(PARAMETERS)
    assert not unknown


@each_robot
def test_types(path):
    """ROS refuses a whole number where a float is declared."""
    for name, value in parameters_of(path).items():
        default, kind = PARAMETERS[name]["default"], PARAMETERS[name]["kind"]
        if default is None:
            assert isinstance(value, list)
            assert value, f"{name}: an empty array has no type; leave it out"
            assert all(type(one) is KINDS[kind] for one in value), name
        else:
            assert type(value) is type(default), name


@each_robot
def test_ranges(path):
    for name, value in parameters_of(path).items():
        parameter = PARAMETERS[name]
        if "choices" in parameter:
            assert value in parameter["choices"]
        if "low" in parameter:
            assert parameter["low"] <= value <= parameter["high"]


@each_robot
def test_arrays_fit_the_joints(path):
    robot = parameters_of(path)
    joints, drives = robot["robot.joints"], robot.get("robot.drives", robot["robot.joints"])
    assert len(set(joints)) == len(joints)
    if robot["robot.pd"]:
        assert set(drives) <= set(joints)
    for name in ("position_lower", "position_upper", "velocity_limit", "effort_limit"):
        assert len(robot.get(f"robot.{name}", joints)) == len(joints), name
    assert len(robot.get("robot.damping", drives)) == len(drives)
    limits = zip(robot.get("robot.position_lower", ()), robot.get("robot.position_upper", ()), strict=True)
    assert all(low < high for low, high in limits)


@pytest.mark.parametrize("path", [*FILES, *CONTROLLERS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_yaml_that_ros_reads(path):
    """rcl's parser knows no anchors and aliases, and no empty arrays."""
    text = path.read_text()
    tokens = [type(token).__name__ for token in yaml.scan(text)]
    assert "AliasToken" not in tokens
    assert "AnchorToken" not in tokens
    assert not re.search(r"^[^#]*\[\s*\]", text, re.MULTILINE)


@each_robot
def test_description_of_the_robot(path):
    """What the runtime makes of the file is a robot."""
    pytest.importorskip("rclpy")
    from trudi_runtime.parameters import Settings, describe_robot

    given = parameters_of(path)
    settings = Settings(given)
    assert settings.complaint() == ""
    described = describe_robot(settings)
    assert described.name == given["robot.name"]
    assert described.joint_names == tuple(given["robot.joints"])


@pytest.mark.parametrize("task", sorted(SIMULATED))
def test_simulated_robot_is_the_one_in_the_file(task):
    """The file says of the robot what the simulated one says of itself."""
    pytest.importorskip("mujoco")
    simulation = pytest.importorskip("trudi.runtime.robots.simulation")
    robot = parameters_of(PACKAGE / "config" / f"{SIMULATED[task]}.yaml")
    described = simulation.make_simulation(task).describe()
    joints = described.joints
    assert robot["robot.name"] == described.name
    assert tuple(robot["robot.joints"]) == described.joint_names
    assert tuple(robot.get("robot.drives", robot["robot.joints"])) == described.drives
    assert robot["robot.pd"] is described.pd
    limits = [one.position_limit for one in joints] if joints[0].position_limit else None
    assert robot.get("robot.position_lower") == (limits and [low for low, _ in limits])
    assert robot.get("robot.position_upper") == (limits and [high for _, high in limits])
    assert robot.get("robot.effort_limit") == ([one.effort_limit for one in joints] if joints[0].effort_limit else None)
    assert "robot.velocity_limit" not in robot
    assert all(one.velocity_limit is None for one in joints)
    assert tuple(robot.get("robot.damping", ())) == described.damping
    assert robot.get("robot.max_stiffness") == described.max_stiffness
    assert 1.0 / robot["robot.state_rate_hz"] == described.state_period_s
    assert robot["robot.command_timeout_s"] == described.command_timeout_s
    assert robot["robot.sensor_frame"] == described.sensor_frame
    assert robot["robot.imu"] is described.has_imu
    assert robot["robot.odometry"] is described.has_linear_velocity
    assert robot.get("robot.custom", []) == [f"{one.name}:{one.size}" for one in described.custom]


def in_repository():
    """A copy of the package alone, in a workspace, has nothing to be held against."""
    if not (PACKAGE.parents[2] / "runtime").is_dir():
        pytest.skip("the package stands alone")


def robot_file(name):
    in_repository()
    path = PACKAGE.parents[2] / "configs" / "robots" / f"{name}.yaml"
    return yaml.safe_load(path.read_text())["robot"]


@pytest.mark.parametrize("name", ["franka_panda", "unitree_go1"])
def test_policies_fit_the_robot(name):
    """Names and position limits are those of the robot file that bundles are exported with; other limits are not wider."""
    contract, robot = robot_file(name), parameters_of(PACKAGE / "config" / f"{name}.yaml")
    columns = contract["joint_columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in contract["joints"]]
    assert robot.get("robot.drives", robot["robot.joints"]) == [row["name"] for row in rows]
    measured = robot["robot.joints"]
    assert set(measured) == {row["name"] for row in rows} | set(contract.get("passive_joints", ()))
    for row in rows:
        place = measured.index(row["name"])
        limits = [robot["robot.position_lower"][place], robot["robot.position_upper"][place]]
        assert limits == row["position_limit"], row["name"]
        assert robot["robot.effort_limit"][place] <= row["effort_limit"]


def test_panda_has_what_its_policies_observe():
    in_repository()
    path = PACKAGE.parents[2] / "configs" / "robots" / "franka_panda.yaml"
    terms = [term for term in yaml.safe_load(path.read_text())["observation"] if term["kind"] == "custom"]
    sizes = {"joints": 8}  # `joints` stands for the driven ones
    wanted = [f"{term['name']}:{sizes.get(str(term['element_names'])) or len(term['element_names'])}" for term in terms]
    assert parameters_of(PACKAGE / "config" / "franka_panda.yaml")["robot.custom"] == wanted


def test_go2_is_unitrees():
    """Position, speed and effort limits of unitree_ros' URDF, and a hind thigh that reaches further than a front one."""
    robot = parameters_of(PACKAGE / "config" / "unitree_go2.yaml")
    front, hind = (-1.5708, 3.4907), (-0.5236, 4.5379)
    for place, joint in enumerate(robot["robot.joints"]):
        limits = (robot["robot.position_lower"][place], robot["robot.position_upper"][place])
        thigh = front if joint.startswith("F") else hind
        assert limits == {"hip": (-1.0472, 1.0472), "thigh": thigh, "calf": (-2.7227, -0.83776)}[joint.split("_")[1]]
        assert robot["robot.velocity_limit"][place] == (20.07 if "calf" in joint else 30.1)
        assert robot["robot.effort_limit"][place] == (35.55 if "calf" in joint else 23.7)


@pytest.mark.parametrize("path", CONTROLLERS, ids=lambda path: path.stem)
def test_controllers_belong_to_a_robot(path):
    robot = parameters_of(PACKAGE / "config" / path.name)
    manager = parameters_of(path, "controller_manager")
    assert manager["update_rate"] == robot["robot.state_rate_hz"]
