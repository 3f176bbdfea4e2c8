"""The contract: what it says, what it refuses, and how its versions are read."""

import copy
import json
import math
from typing import get_args

import pytest
from bundles import cheetah_values, contract, go1_values, graph
from hypothesis import given, settings
from hypothesis import strategies as st

from trudi.runtime.contract import SCHEMA_VERSION, Contract
from trudi.runtime.errors import BundleError
from trudi.runtime.metadata import csv_metadata
from trudi.runtime.reading import MAX_JSON_BYTES, contract_json, parse_contract, parse_json, read_contract


def refusal(values) -> str:
    with pytest.raises(BundleError) as caught:
        parse_contract(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(path, value, values=None):
    """The Go1 contract's values with one of them replaced."""
    values = copy.deepcopy(values or go1_values())
    *parents, last = path
    place = values
    for key in parents:
        place = place[key]
    place[last] = value
    return values


def text_refusal(text) -> str:
    with pytest.raises(BundleError) as caught:
        parse_json(text if isinstance(text, bytes) else text.encode(), "bundle.json")
    return str(caught.value)


def test_sizes_of_the_go1_contract():
    # 3 + 3 + 3 + 12 + 12 + 12 + 3 = 48
    go1 = contract(go1_values())
    assert (go1.observation_size, go1.action.size) == (48, 12)
    assert go1.robot is not None and go1.robot.joint_names == go1.action.names


@pytest.mark.parametrize("values", [go1_values(), cheetah_values()], ids=["robot", "actuators"])
def test_the_round_trip_is_exact(values):
    first = contract(values)
    again, ignored = read_contract(contract_json(first))
    assert again == first and ignored == ()
    assert contract_json(again) == contract_json(first)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=12, max_size=12))
def test_floats_survive_exactly(offset):
    values = changed(["action", "offset"], offset)
    read = read_contract(contract_json(contract(values)))[0].action.offset
    assert [math.copysign(1, x) for x in read] == [math.copysign(1, x) for x in offset] and list(read) == offset


def test_the_history_multiplies_a_terms_size():
    values = changed(["observation", 1, "history"], 5)
    # 48 - 3 + 3 * 5 = 60
    assert "the observation terms add up to 60, safety.observation_range.low has 48" in refusal(values)
    values["graph"] = graph(60, 12)
    values["safety"] = {}
    assert contract(values).observation_size == 60


def test_a_joint_list_and_an_action_size_that_differ():
    values = go1_values()
    for field in ("names", "units", "scale", "offset", "clip", "rate_limit"):
        values["action"][field] = values["action"][field][:10]
    assert "robot.joints (joint_names) has 12, action.names (action size) has 10" in refusal(values)


def test_joints_in_another_order_than_the_actions():
    values = go1_values()
    values["robot"]["joints"][0], values["robot"]["joints"][1] = values["robot"]["joints"][1], values["robot"]["joints"][0]
    assert "robot.joints[0] is FR_thigh_joint, action.names[0] is FR_hip_joint" in refusal(values)


REFUSALS = {
    "scale too short": (["action", "scale"], [0.5] * 11, "action.names has 12, action.scale has 11"),
    "clip upside down": (["action", "clip", 2], [1.0, -1.0], "the lower bound 1.0 is above the upper bound -1.0"),
    "scale of zero": (["action", "scale", 3], 0.0, "action.scale of FL_hip_joint is 0"),
    "a name twice": (["action", "names", 1], "FR_hip_joint", "action.names: FR_hip_joint stands twice"),
    "a bool as number": (["action", "scale", 0], True, "action.scale.0: Input should be a valid number (got True)"),
    "a string as number": (["control_period_s"], "0.02", "control_period_s"),
    "a period of zero": (["control_period_s"], 0, "greater than 0"),
    "infinite gain": (["robot", "joints", 0, "stiffness"], math.inf, "finite"),
    "negative damping": (["robot", "joints", 0, "damping"], -0.5, "robot.joints.0.damping"),
    "default outside limits": (
        ["robot", "joints", 0, "default_position"],
        2.0,
        "default_position 2.0 is outside [-0.863, 0.863]",
    ),
    "no robot": (["robot"], None, "robot is null and action.kind is joint_position"),
    "actuators of a robot": (["action", "kind"], "actuator", "robot is unitree_go1 and action.kind is actuator"),
    "increment with an offset": (["action", "kind"], "joint_position_increment", "its offset must be 0"),
    "element names": (["observation", 0, "element_names"], ["x", "y"], "linvel: size is 3, element_names has 2"),
    "an unknown joint": (["observation", 3, "joints", 5], "FL_kalf", "joint_pos: joints names FL_kalf"),
    "joints missing": (["observation", 4, "joints"], None, "kind is joint_velocity, so joints must name"),
    "last action": (["observation", 5, "size"], 11, "size is 11, element_names has 12"),
    "unknown command": (["observation", 6, "command"], "pose", "shows the command pose; commands has velocity"),
    "a command on another term": (
        ["observation", 0, "command"],
        "velocity",
        "kind is base_linear_velocity and command is velocity",
    ),
    "unknown kind": (["observation", 0, "kind"], "sonar", "observation.0.kind"),
    "same term twice": (["observation", 1, "name"], "linvel", "observation: linvel stands twice"),
    "neutral out of range": (["commands", 0, "neutral", 0], 9.0, "neutral vx 9.0 is outside its range [-1.5, 1.5]"),
    "timeout too long": (["commands", 0, "timeout_s"], 5.0, "timeout_s 5.0 is above safety.command_lost_s 2.0"),
    "seed missing": (["sampler", "noise"], "fixed", "sampler.noise is fixed and sampler.seed is None"),
    "latent missing": (
        ["sampler", "noise"],
        "input",
        "inputs are observation; with noise input they are observation, latent",
    ),
    "latent not used": (["graph"], graph(48, 12, latent=True), "inputs are observation, latent; with noise zero"),
    "batch": (["graph", "batch"], "any", "batch is any, observation has the shape [1, 48]"),
    "action shape": (["graph"], graph(48, 10), "action.names has 12, action has the shape [1, 10]"),
    "ages": (["safety", "state_age_warn_s"], 0.6, "state_age_warn_s 0.6 is above safety.state_age_lost_s 0.5"),
    "range too short": (
        ["safety", "observation_range", "low"],
        [0.0] * 47,
        "add up to 48, safety.observation_range.low has 47",
    ),
    "range upside down": (["safety", "observation_range", "low", 7], 6.0, "low[7] 6.0 is above high[7] 5.0"),
    "path": (["graph", "file"], "../policy.onnx", "graph.file: the file name is refused: it leaves the bundle"),
    "escape codes": (["provenance", "run"], "a\x1b[2J", "control characters"),
    "a comma in a name": (["observation", 0, "name"], "lin,vel", "observation.0.name"),
    "a long name": (["task", "id"], "x" * 129, "128 characters"),
    "a long list": (["action", "scale"], [0.5] * 5000, "at most 4096"),
    "a number beyond floats": (["control_period_s"], 10**400, "control_period_s"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_contradiction_is_refused_with_both_sides(case):
    path, value, reason = REFUSALS[case]
    assert reason in refusal(changed(path, value))


def test_a_quaternion_says_xyzw():
    values = go1_values()
    values["observation"][0] |= {
        "kind": "base_quaternion",
        "size": 4,
        "units": ["1"] * 4,
        "element_names": ["w", "x", "y", "z"],
    }
    assert "a quaternion's element_names are x, y, z, w, not w, x, y, z" in refusal(values)


def test_a_student_stands_beside_a_teacher_with_a_file_of_its_own():
    values = go1_values()
    student = {"sampler": values["sampler"] | {"network": "student", "steps": 1}, "graph": graph(48, 12, "student.onnx")}
    values["student"] = student
    assert contract(values).student.sampler.steps == 1
    assert "both policy.onnx" in refusal(changed(["student", "graph"], graph(48, 12), values))
    assert "student.sampler.network is teacher" in refusal(changed(["student", "sampler"], values["sampler"], values))
    assert "student.graph: action.names has 12" in refusal(changed(["student", "graph"], graph(48, 3, "s.onnx"), values))


def test_a_missing_field_is_named():
    values = go1_values()
    del values["robot"]["joints"][4]["effort_limit"]
    assert refusal(values).endswith("the field robot.joints.4.effort_limit is missing")


def test_an_unknown_field_names_near_ones():
    message = refusal(changed(["action", "scales"], [1.0]))
    assert "unknown field 'scales' in action; did you mean scale or " in message
    assert "in observation[2]" in refusal(changed(["observation", 2, "lag"], 1))


def test_a_newer_minor_schema_is_read_and_its_new_fields_reported():
    values = changed(["schema_version"], "1.7")
    values["action"]["future"] = {"deep": [1]}
    values["observation"][2]["mood"] = "good"
    read, ignored = parse_contract(values)
    assert ignored == ("action.future", "observation[2].mood")
    assert read.schema_version == "1.7" and read.action == contract(go1_values()).action


def test_a_new_field_of_a_hostile_name_is_shown_harmlessly():
    values = changed(["schema_version"], "1.7")
    values["action"] |= {"\x1b[2J\ud800": 1, "x" * 200: 2}
    shown = parse_contract(values)[1]
    assert shown[0] == r"action.'\x1b[2J\ud800'"
    assert all(name.isascii() and name.isprintable() and len(name) < 80 for name in shown)


def test_a_newer_minor_schema_is_still_checked():
    values = changed(["schema_version"], "1.7")
    values["action"]["scale"] = [0.5] * 3
    assert "action.scale has 3" in refusal(values)


def test_a_newer_major_schema_is_refused():
    message = refusal(changed(["schema_version"], "2.0"))
    assert message == f"contract: schema 2.0 is newer than {SCHEMA_VERSION}, which this TruDi reads; update TruDi"


@pytest.mark.parametrize("version", [None, 1.0, "1", "1.0.0", "v1.0", "-1.0", "1.99999", "\u0661.0", [1, 0], "1.0\n"])
def test_a_version_that_is_none_is_refused(version):
    assert "it must be MAJOR.MINOR" in refusal(changed(["schema_version"], version))


def test_endlessly_nested_json_is_refused_before_parsing():
    assert "nested 100000 deep" in text_refusal('{"a":' * 100_000)
    assert "nested 500000 deep" in text_refusal("[" * 500_000)


def test_brackets_inside_strings_do_not_count_as_nesting():
    for value in ("[" * 40, '"' + "[" * 40, "\\" * 2 + '"' + "{" * 40, "\\"):
        text = json.dumps({"a": value, value: "{" * 40})
        assert parse_json(text.encode(), "x") == json.loads(text)


@settings(deadline=None)
@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_strict_parsing_agrees_with_json_on_good_text(tree):
    assert parse_json(json.dumps({"root": tree}).encode(), "x") == {"root": tree}


def test_text_that_json_readers_understand_differently_is_refused():
    assert "the key 'a' stands twice" in text_refusal('{"b": {"a": 1, "a": 2}}')
    for word in ("NaN", "Infinity", "-Infinity"):
        assert f"holds {word}; every number must be finite" in text_refusal(f'{{"a": {word}}}')
    assert "not UTF-8" in text_refusal(b'{"a": "\xff"}')
    assert "not JSON" in text_refusal('\ufeff{"a": 1}')
    assert "not JSON" in text_refusal('{"a": 1} {"b": 2}')
    assert "not JSON" in text_refusal('{"a": ' + "9" * 5000 + "}")
    assert "must hold a JSON object, not [1]" in text_refusal("[1]")


def test_large_json_is_refused_before_parsing():
    text = '{"a": "' + "x" * MAX_JSON_BYTES + '"}'
    assert f"at most {MAX_JSON_BYTES} are read" in text_refusal(text)


def test_an_overflowing_literal_is_not_finite():
    text = contract_json(contract(go1_values())).replace(b'"control_period_s": 0.02', b'"control_period_s": 1e999')
    with pytest.raises(BundleError, match="control_period_s: Input should be a finite number"):
        read_contract(text)


def test_metadata_that_other_deployers_read():
    values = changed(["robot", "joints", 0, "stiffness"], 1 / 3)
    metadata = csv_metadata(contract(values))
    assert metadata["joint_names"].split(",")[:2] == ["FR_hip_joint", "FR_thigh_joint"]
    assert [float(x) for x in metadata["joint_stiffness"].split(",")] == [1 / 3] + [35.0] * 11
    assert metadata["default_joint_pos"].startswith("-0.1,0.9,-1.8,0.1,")
    assert metadata["joint_damping"] == ",".join(["0.5"] * 12)
    assert metadata["action_scale"] == ",".join(["0.5"] * 12)
    assert metadata["observation_names"] == "linvel,gyro,gravity,joint_pos,joint_vel,last_action,command"
    assert metadata["observation_history_lengths"] == "1,1,1,1,1,1,1"
    assert (metadata["command_names"], metadata["run_path"]) == ("velocity", "go1_seed_1")
    assert read_contract(metadata["trudi_contract"].encode())[0] == contract(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [(["action", "scale_offset_applied_by"], "graph"), (["action", "offset", 0], 0.0)],
    ids=["graph", "offset"],
)
def test_metadata_has_no_action_scale_where_others_would_apply_it_wrongly(path, value):
    assert "action_scale" not in csv_metadata(contract(changed(path, value)))


def test_metadata_without_a_robot():
    assert {"joint_names", "action_scale"}.isdisjoint(csv_metadata(contract(cheetah_values())))


def models(model=Contract):
    yield model
    for entry in model.model_fields.values():
        for part in (entry.annotation, *get_args(entry.annotation)):
            if hasattr(part, "model_fields"):
                yield from models(part)


def test_every_field_is_documented_and_every_model_frozen():
    for model in models():
        assert model.model_config["frozen"] and model.model_config["extra"] == "forbid"
        for name, entry in model.model_fields.items():
            assert entry.description, f"{model.__name__}.{name}"


def test_a_message_that_quotes_a_hostile_file_is_one_printable_line():
    message = str(BundleError("a\nb\x1b[2J\u202ec" + "x" * 10_000))
    assert message.startswith("a b?[2J?cxxx") and message.endswith("...") and len(message) == 600
    assert "'\\x1b[2J\\n'" in refusal(changed(["action", "\x1b[2J\n"], 1))
