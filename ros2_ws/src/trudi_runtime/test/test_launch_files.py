"""The launch files. Where launch_ros is installed they are loaded by it; elsewhere their text is looked at, and they are run
with stand-ins that only take note of what they are given."""

import ast
import importlib.util
import sys
import types
from pathlib import Path

import pytest

from trudi_runtime.arguments import ArgumentError

PACKAGE = Path(__file__).resolve().parents[1]
ROS = importlib.util.find_spec("launch_ros") is not None
SHARED = {
    "bundle": None,
    "robot": None,
    "use_sim_time": "false",
    "namespace": "",
    "autostart": "true",
    "record": "",
    "bundle_root": "",
    "enclaves": "",
}
WANTED = {
    "runtime": SHARED,
    "sim": {**SHARED, "robot": "", "task": "", "faults": "", "discovery": "LOCALHOST"},
    "bringup": {
        **{name: default for name, default in SHARED.items() if name != "namespace"},
        "description_file": None,
        "controllers_file": "",
    },
}
# What the packages of ROS that the launch files name have, as far as they are used here.
EXECUTABLES = {
    "controller_manager": ("ros2_control_node", "spawner"),
    "robot_state_publisher": ("robot_state_publisher",),
}
each_file = pytest.mark.parametrize("name", sorted(WANTED))


def path_of(name):
    return PACKAGE / "launch" / f"{name}.launch.py"


def calls(tree, function):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function]


def keyword(call, name):
    return next((word.value for word in call.keywords if word.arg == name), None)


def test_no_other_files():
    assert {path.name for path in (PACKAGE / "launch").iterdir() if path.suffix} == {f"{name}.launch.py" for name in WANTED}


@each_file
def test_arguments_in_the_text(name):
    tree = ast.parse(path_of(name).read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "generate_launch_description" for node in tree.body)
    found = {}
    for call in calls(tree, "DeclareLaunchArgument"):
        default = keyword(call, "default_value")
        found[ast.literal_eval(call.args[0])] = None if default is None else ast.literal_eval(default)
        assert ast.literal_eval(keyword(call, "description"))
    assert found == WANTED[name]


@each_file
def test_everything_named_is_there(name):
    """Executables are entry points of setup.py, and files lie where the launch file looks."""
    text = path_of(name).read_text()
    own = (PACKAGE / "setup.py").read_text()
    for call in [*calls(ast.parse(text), "Node"), *calls(ast.parse(text), "LifecycleNode")]:
        executable, package = ast.literal_eval(keyword(call, "executable")), keyword(call, "package")
        if isinstance(package, ast.Name):
            assert f"{executable} = trudi_runtime.{executable}:main" in own
        else:
            assert executable in EXECUTABLES[ast.literal_eval(package)]
    assert "/config/" not in text
    for folder in ("launch", "config"):
        assert (PACKAGE / folder).is_dir()
    if name != "runtime":
        assert '"launch" / "runtime.launch.py"' in text


@each_file
def test_launch_loads_it(name):
    launch = pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file
    from launch.utilities import perform_substitutions

    description = get_launch_description_from_python_launch_file(str(path_of(name)))
    context = launch.LaunchContext()
    found = {
        argument.name: None if argument.default_value is None else perform_substitutions(context, argument.default_value)
        for argument in description.get_launch_arguments()
    }
    assert found == WANTED[name]


# Run with stand-ins.


class Made:
    """An object of launch: what it was made of."""

    def __init__(self, kind, args, kwargs):
        self.kind, self.args, self.kwargs = kind, args, kwargs


class StandIns(types.ModuleType):
    """A module whose every name makes a `Made`."""

    def __getattr__(self, name):
        if name.startswith("TRANSITION_"):
            return name
        if name == "Transition":
            return self
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: Made(name, args, kwargs)


@pytest.fixture
def run(monkeypatch):
    """Runs the function that starts things in a launch file, and gives what it made."""
    if ROS:
        pytest.skip("launch_ros is here: it loads the files itself")
    modules = ["launch", "launch_ros", "lifecycle_msgs", "ament_index_python"]
    modules += [f"launch.{name}" for name in ("action", "actions", "events", "event_handlers", "launch_description_sources")]
    modules += ["launch.events.process", "launch_ros.actions", "launch_ros.event_handlers", "launch_ros.events"]
    modules += ["launch_ros.events.lifecycle", "launch_ros.parameter_descriptions", "lifecycle_msgs.msg"]
    modules += ["ament_index_python.packages"]
    for name in modules:
        monkeypatch.setitem(sys.modules, name, StandIns(name))
    sys.modules["ament_index_python.packages"].get_package_share_directory = lambda _: str(PACKAGE)

    def start(name, **given):
        spec = importlib.util.spec_from_file_location(f"{name}_launch", path_of(name))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        described = module.generate_launch_description().args[0]
        assert described[-1].kind == "OpaqueFunction"
        assert described[-1].kwargs["function"] is module.start
        defaults = {key: value for key, value in WANTED[name].items() if value is not None}
        return module.start(types.SimpleNamespace(launch_configurations={**defaults, **given}))

    return start


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "cartpole"
    folder.mkdir()
    (folder / "bundle.json").write_text('{"task": {"backend": "envpool", "id": "CartpoleSwingup-v1"}}')
    return folder


def kinds(made):
    return [one.kind for one in made]


def parameters(node):
    """As the node gets them: files, and values with the type that launch leaves them."""
    *files, values = node.kwargs["parameters"]
    return files, {name: value.args[0] if isinstance(value, Made) else value for name, value in values.items()}


def test_autostart_ends_in_standby(run, bundle):
    """Configure, and activate once that is done. Nothing in any launch file asks for more."""
    activate, node, configure = run("runtime", bundle=str(bundle), robot="cartpole")
    assert kinds([activate, node, configure]) == ["RegisterEventHandler", "LifecycleNode", "EmitEvent"]
    assert configure.kwargs["event"].kwargs["transition_id"] == "TRANSITION_CONFIGURE"
    handler = activate.args[0].kwargs
    assert (handler["start_state"], handler["goal_state"]) == ("configuring", "inactive")
    assert handler["target_lifecycle_node"] is node
    assert handler["entities"][0].kwargs["event"].kwargs["transition_id"] == "TRANSITION_ACTIVATE"
    for name in WANTED:
        assert "/stand" not in path_of(name).read_text().replace("`~/stand`", "")
        assert "Trigger" not in path_of(name).read_text()


def test_runtime_without_autostart(run, bundle):
    made = run("runtime", bundle=str(bundle), robot="cartpole", autostart="false", namespace="lab", enclaves="/trudi")
    assert kinds(made) == ["LifecycleNode"]
    node = made[0].kwargs
    assert (node["name"], node["namespace"], node["executable"]) == ("trudi_runtime", "lab", "runtime_node")
    assert node["ros_arguments"] == ["--enclave", "/trudi/runtime_node"]
    assert kinds(node["on_exit"]) == ["Shutdown"]
    files, values = parameters(made[0])
    assert files == [str(PACKAGE / "config" / "cartpole.yaml")]
    assert values == {"bundle": str(bundle), "use_sim_time": False}


def test_texts_stay_texts(run, bundle):
    node = run("runtime", bundle=str(bundle), robot="cartpole")[1]
    assert node.kwargs["parameters"][1]["bundle"].kwargs == {"value_type": str}


def test_record_starts_the_recorder_first(run, bundle, tmp_path):
    recorder, _, runtime, _ = run("runtime", bundle=str(bundle), robot="cartpole", record=str(tmp_path / "bag"))
    assert recorder.kwargs["executable"] == "record_bag"
    assert parameters(recorder) == ([], {"output": str(tmp_path / "bag"), "cmd_vel_stamped": True, "use_sim_time": False})
    assert parameters(runtime)[1]["publish_ticks"] is True


def test_sim_stays_on_this_machine(run, bundle):
    environment, robot, runtime = run("sim", bundle=str(bundle))
    assert environment.kind == "SetEnvironmentVariable"
    assert environment.args == ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert robot.kwargs["executable"] == "sim_robot"
    assert parameters(robot)[1] == {"task": "CartpoleSwingup-v1", "odometry": False, "command_timeout_s": 0.1}
    words = dict(runtime.kwargs["launch_arguments"])
    assert words.pop("robot") == str(PACKAGE / "config" / "cartpole.yaml")
    assert words == {**{name: SHARED[name] for name in words}, "bundle": str(bundle)}
    assert words.keys() | {"robot"} == SHARED.keys()


def test_sim_is_widened_when_asked(run, bundle):
    assert run("sim", bundle=str(bundle), discovery="subnet")[0].args[1] == "SUBNET"


def test_sim_goes_wrong_when_asked(run, bundle):
    """A YAML list is a text for the robot, not a list of parameters."""
    text = "[{kind: push, at_s: 2.0, value: 1.0}]"
    robot = run("sim", bundle=str(bundle), faults=text)[1]
    faults = robot.kwargs["parameters"][0]["faults"]
    assert (faults.args, faults.kwargs) == ((text,), {"value_type": str})


@each_file
def test_nothing_starts_with_a_bad_argument(name, run, tmp_path):
    given = {key: "unitree_go1" if key == "robot" else "x" for key, default in WANTED[name].items() if default is None}
    with pytest.raises(ArgumentError, match="bundle:="):
        run(name, **given, **({"task": "CartpoleSwingup-v1"} if name == "sim" else {}))


def test_bringup(run, bundle, tmp_path):
    """Controllers first, broadcasters before the others; the runtime once the spawner has done its work."""
    joints = "".join(
        f'<joint name="{leg}_{part}_joint">'
        + "".join(f'<command_interface name="{word}"/>' for word in ("position", "velocity", "effort", "kp", "kd"))
        + "</joint>"
        for leg in ("FR", "FL", "RR", "RL")
        for part in ("hip", "thigh", "calf")
    )
    (tmp_path / "go2.urdf").write_text(f'<robot name="go2"><ros2_control>{joints}</ros2_control></robot>')
    made = run("bringup", bundle=str(bundle), robot="unitree_go2", description_file=str(tmp_path / "go2.urdf"))
    assert kinds(made) == ["RegisterEventHandler", "Node", "Node", "Node"]
    handler, _, manager, spawner = made
    controllers = str(PACKAGE / "config" / "controllers" / "unitree_go2.yaml")
    assert manager.kwargs["parameters"][0] == controllers
    assert kinds(manager.kwargs["on_exit"]) == ["Shutdown"]
    commanding = [f"{word}_controller" for word in ("position", "velocity", "effort", "kp", "kd")]
    spawned = ["joint_state_broadcaster", "imu_sensor_broadcaster", *commanding]
    assert spawner.kwargs["arguments"] == [*spawned, "--param-file", controllers, "--controller-manager-timeout", "30"]

    then = handler.args[0].kwargs["on_exit"]
    assert handler.args[0].kwargs["target_action"] is spawner
    assert kinds(then(types.SimpleNamespace(returncode=1), None)) == ["Shutdown"]
    (group,) = then(types.SimpleNamespace(returncode=0), None)
    remap, runtime = group.args[0]
    assert remap.kwargs == {"src": "imu", "dst": "imu_sensor_broadcaster/imu"}
    assert dict(runtime.kwargs["launch_arguments"]).keys() == SHARED.keys()
