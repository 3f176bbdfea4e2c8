"""config/security/policies.xml against the schema of SROS2's policies (sros2/policy/schemas/policy.xsd, version 0.2.0), and
against the nodes that it is for."""

import importlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
POLICIES = ET.parse(PACKAGE / "config" / "security" / "policies.xml").getroot()
# Element -> attributes that it must have, attributes that it may have, and what may stand in it.
SCHEMA = {
    "policy": ({"version"}, set(), {"enclaves"}),
    "enclaves": (set(), set(), {"enclave"}),
    "enclave": ({"path"}, set(), {"profiles"}),
    "profiles": (set(), {"type"}, {"profile"}),
    "profile": ({"ns", "node"}, set(), {"topics", "services", "actions"}),
    "topics": (set(), {"publish", "subscribe"}, {"topic"}),
    "services": (set(), {"reply", "request"}, {"service"}),
    "actions": (set(), {"call", "execute"}, {"action"}),
    "topic": (set(), set(), set()),
    "service": (set(), set(), set()),
    "action": (set(), set(), set()),
}
PARAMETERS = {
    "~/describe_parameters",
    "~/get_parameter_types",
    "~/get_parameters",
    "~/get_type_description",
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
}
LIFECYCLE = {
    "~/change_state",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_state",
    "~/get_transition_graph",
}


@pytest.mark.parametrize("element", list(POLICIES.iter()), ids=lambda element: element.tag)
def test_schema(element):
    needed, allowed, children = SCHEMA[element.tag]
    assert needed <= set(element.keys()) <= needed | allowed
    assert {child.tag for child in element} <= children
    if children:
        assert len(element) > 0
        assert not (element.text or "").strip()
    else:
        assert re.fullmatch(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*", element.text)
    for qualifier in ("publish", "subscribe", "reply", "request", "call", "execute"):
        assert element.get(qualifier, "ALLOW") == "ALLOW"
    if element.tag in ("topics", "services", "actions"):
        assert len(element.keys()) == 1


def test_version():
    assert POLICIES.tag == "policy"
    assert POLICIES.get("version") == "0.2.0"
    assert len(POLICIES) == 1


def granted(enclave, node, qualifier):
    profile = POLICIES.find(f"enclaves/enclave[@path='{enclave}']/profiles/profile[@node='{node}']")
    return {one.text for group in profile if group.get(qualifier) == "ALLOW" for one in group}


def whole(enclave, node, qualifier):
    """`granted`, with whole names; SROS2 resolves them so, in the namespace `/`."""
    return {f"/{node}{name[1:]}" if name[0] == "~" else f"/{name.lstrip('/')}" for name in granted(enclave, node, qualifier)}


def test_enclaves_are_named_as_launch_names_them():
    """`enclaves:=/trudi` gives each executable the enclave /trudi/EXECUTABLE; ros2's own commands use `/`."""
    paths = [enclave.get("path") for enclave in POLICIES.iter("enclave")]
    assert paths == ["/trudi/runtime_node", "/trudi/sim_robot", "/trudi/record_bag", "/"]


def test_sorted_and_once():
    for group in POLICIES.iter():
        if group.tag in ("topics", "services"):
            names = [one.text for one in group]
            assert names == sorted(set(names))


def test_runtime():
    of = "/trudi/runtime_node", "trudi_runtime"
    assert granted(*of, "subscribe") == {"clock", "cmd_vel", "imu", "joint_states", "joy", "odom", "sensors"}
    own = {"~/about", "~/is_active", "~/state", "~/ticks", "~/transition_event"}
    assert granted(*of, "publish") == own | {"/diagnostics", "joint_commands", "joint_gains", "parameter_events", "rosout"}
    operator = {f"~/{name}" for name in ("stand", "start", "stop", "reset", "save")}
    assert granted(*of, "reply") == PARAMETERS | LIFECYCLE | operator
    assert granted(*of, "request") == set()


def test_robot_and_runtime_hear_each_other():
    robot, runtime = ("/trudi/sim_robot", "sim_robot"), ("/trudi/runtime_node", "trudi_runtime")
    said = granted(*robot, "publish") - {"parameter_events", "rosout"}
    assert said < granted(*runtime, "subscribe")
    assert granted(*robot, "subscribe") < granted(*runtime, "publish")


def test_operator_may_ask_and_not_command():
    """Motors are the runtime's alone: no other enclave may publish commands or gains, or set a parameter."""
    for enclave in POLICIES.iter("enclave"):
        for profile in enclave.iter("profile"):
            published = granted(enclave.get("path"), profile.get("node"), "publish")
            asked = granted(enclave.get("path"), profile.get("node"), "request")
            if enclave.get("path") != "/trudi/runtime_node":
                assert not published & {"joint_commands", "joint_gains"}
            assert not any("set_parameters" in name for name in asked)
    asked = granted("/", "operator", "request")
    assert {f"trudi_runtime/{name}" for name in ("stand", "start", "stop", "reset", "change_state")} <= asked


def test_recorder_only_listens():
    of = "/trudi/record_bag", "record_bag"
    assert granted(*of, "publish") == {"parameter_events", "rosout"}
    assert granted(*of, "reply") == PARAMETERS


@pytest.mark.parametrize(
    ("module", "kind", "given"),
    [
        ("runtime_node", "RuntimeNode", ["realtime.priority:=0", "realtime.lock_memory:=false", "publish_ticks:=true"]),
        ("sim_robot", "SimRobot", []),
        ("record_bag", "RecordBag", ["output:=BAG"]),
    ],
)
def test_nodes_have_what_they_are_granted(module, kind, given, tmp_path, monkeypatch):
    """What a node offers and publishes as soon as it is made, on the real graph: all is granted, and no service more."""
    rclpy = pytest.importorskip("rclpy")
    pytest.importorskip("mujoco")
    pytest.importorskip("rosbags")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    enclave = f"/trudi/{module}"
    arguments = [word for text in given for word in ("-p", text.replace("BAG", str(tmp_path / "bag")))]
    rclpy.init(args=["--ros-args", *arguments] if arguments else [])
    try:
        made = getattr(importlib.import_module(f"trudi_runtime.{module}"), kind)()
        names = [name for name, _ in made.get_node_names_and_namespaces()]
        topics = {word: set().union(*(whole(enclave, name, word) for name in names)) for word in ("publish", "subscribe")}
        for name in names:
            services = {service for service, _ in made.get_service_names_and_types_by_node(name, "/")}
            assert services == whole(enclave, name, "reply")
            assert {topic for topic, _ in made.get_publisher_names_and_types_by_node(name, "/")} <= topics["publish"]
            assert {topic for topic, _ in made.get_subscriber_names_and_types_by_node(name, "/")} <= topics["subscribe"]
        made.end() if module == "runtime_node" else made.destroy_node()
    finally:
        rclpy.try_shutdown()
