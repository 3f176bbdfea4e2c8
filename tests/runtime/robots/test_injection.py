"""Schedules of faults: what is read, and how mistakes are named."""

import json
import re

import pytest

from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.injection import KINDS, ROBOT_KINDS, RUNTIME_KINDS, Fault, check_fits, read_schedule

GOOD = """
faults:
  - {kind: state_stop, at_s: 2, duration_s: 0.5}
  - {kind: push, at_s: 4.5, value: 1.0}
  - {kind: state_nan, at_s: 6, value: quaternion_xyzw}
  - {kind: engine_error, at_s: 8}
"""
FAULTS = (
    Fault("state_stop", 2, 0.5),
    Fault("push", 4.5, None, 1.0),
    Fault("state_nan", 6, None, "quaternion_xyzw"),
    Fault("engine_error", 8),
)


def test_a_schedule_is_read_from_yaml_and_json(tmp_path):
    (tmp_path / "faults.yaml").write_text(GOOD)
    assert read_schedule(tmp_path / "faults.yaml") == FAULTS
    listed = [{"kind": "state_stop", "at_s": 2, "duration_s": 0.5}, {"kind": "engine_error", "at_s": 8}]
    for name, content in (("list.json", listed), ("mapping.json", {"faults": listed})):
        (tmp_path / name).write_text(json.dumps(content))
        assert read_schedule(tmp_path / name) == (FAULTS[0], FAULTS[3])
    (tmp_path / "none.yaml").write_text("[]")
    assert read_schedule(tmp_path / "none.yaml") == ()


def test_who_injects_what():
    assert [fault.by_robot for fault in FAULTS] == [True, True, True, False]
    assert set(KINDS) == set(ROBOT_KINDS) | set(RUNTIME_KINDS) and not set(ROBOT_KINDS) & set(RUNTIME_KINDS)


@pytest.mark.parametrize(
    "text,says",
    [
        ("- {kind: state_stpo, at_s: 1}", "fault 1: unknown kind 'state_stpo'; did you mean state_stop"),
        (
            "- {kind: state_stop, at_s: 1}\n- {at_s: 1}",
            "fault 2: kind is missing; a fault has kind, at_s, duration_s, value",
        ),
        ("- {kind: state_stop}", "fault 1: at_s is missing"),
        ("- {kind: state_stop, at: 1}", "fault 1: unknown field 'at'; did you mean at_s"),
        ("- {kind: state_stop, at_s: soon}", "fault 1: at_s of state_stop is 'soon': must be a time of 0 s or more"),
        ("- {kind: state_stop, at_s: -1}", "at_s of state_stop is -1"),
        ("- {kind: state_stop, at_s: .nan}", "at_s of state_stop is nan"),
        ("- {kind: state_stop, at_s: true}", "at_s of state_stop is True"),
        (
            "- {kind: state_stop, at_s: 1, duration_s: 0}",
            "duration_s of state_stop is 0: must be a time above 0 s, or absent",
        ),
        ("- {kind: push, at_s: 1, duration_s: 1, value: 1}", "push happens once and takes no duration_s; 1 is given"),
        ("- {kind: state_stop, at_s: 1, value: 3}", "state_stop takes no value, and 3 is given"),
        ("- {kind: push, at_s: 1}", "value of push is None: must be a number (change of speed"),
        ("- {kind: push, at_s: 1, value: hard}", "value of push is 'hard'"),
        ("- {kind: state_dropout, at_s: 1, value: 1.5}", "value of state_dropout is 1.5: a probability is 0 to 1"),
        ("- {kind: quantise, at_s: 1, value: 0}", "value of quantise is 0: must be above 0"),
        ("- {kind: command_latency, at_s: 1, value: -1}", "value of command_latency is -1: must be 0 or more"),
        ("- {kind: state_nan, at_s: 1, value: knee}", "a part of the state is one of joint_position, joint_velocity"),
        ("- {kind: inference_slow, at_s: 1, value: much}", "value of inference_slow is 'much'"),
        ("- {kind: inference_slow, at_s: 1}", "value of inference_slow is None: must be a number (times the budget"),
        ("- {kind: inference_slow, at_s: 1, value: 0}", "value of inference_slow is 0: must be above 0"),
        ("- {kind: engine_error, at_s: 1, value: 1}", "engine_error takes no value, and 1 is given"),
        ("- {kind: 3, at_s: 1}", "unknown kind 3"),
        ("- {kind: [a], at_s: 1}", "unknown kind ['a']"),
        ("- state_stop", "fault 1: must be a mapping with kind, at_s, duration_s, value (got 'state_stop')"),
        ("state_stop", "must hold a list of faults, each with kind and at_s (got 'state_stop')"),
        ("fault: []", "unknown key 'fault'; a schedule is a list of faults, or has `faults`"),
        ("faults:", "must hold a list of faults"),
        ("", "must hold a list of faults"),
        ("[", "is not valid YAML"),
        ("[{kind: state_stop, at_s: 1}" + ", {kind: state_stop, at_s: 1}" * 256 + "]", "257 faults; at most 256"),
    ],
)
def test_mistakes_name_the_file_the_entry_and_what_is_available(tmp_path, text, says):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(RobotError, match=r"wrong\.yaml(:)? .*" + re.escape(says)) as caught:
        read_schedule(tmp_path / "wrong.yaml")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(RobotError, match=r"none\.yaml cannot be read: No such file"):
        read_schedule(tmp_path / "none.yaml")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RobotError, match=r"a\.json is not valid YAML"):
        read_schedule(tmp_path / "a.json")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RobotError, match=r"a\.yaml is not valid YAML"):
        read_schedule(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "fault,times",
    [
        # now:                                        0.9    1.0   1.05   1.15   9.0
        (Fault("state_stop", 1.0), (False, True, True, True, True)),
        (Fault("state_stop", 1.0, 0.1), (False, True, True, False, False)),
        (Fault("joint_velocity", 1.0, None, 3.0), (False, True, True, False, False)),
        (Fault("joint_velocity", 1.0, 0.3, 3.0), (False, True, True, True, False)),
        (Fault("clock_step", 1.0, None, 3.0), (False, True, True, True, True)),
    ],
)
def test_how_long_a_fault_lasts(fault, times):
    assert tuple(fault.lasts(now) for now in (0.9, 1.0, 1.05, 1.15, 9.0)) == times


def test_what_cannot_happen_to_a_robot_is_refused():
    with pytest.raises(RobotError, match="tip_over at 2 s needs a robot with a free base; cart has none"):
        check_fits([Fault("tip_over", 2.0, None, 1.5)], "cart", has_free_base=False, has_limited_joint=True)
    with pytest.raises(RobotError, match="joint_position at 2 s needs a joint with a limit"):
        check_fits([Fault("joint_position", 2.0, None, 0.1)], "cart", has_free_base=True, has_limited_joint=False)
    check_fits([Fault("push", 2.0, None, 0.1)], "cart", has_free_base=False, has_limited_joint=False)
