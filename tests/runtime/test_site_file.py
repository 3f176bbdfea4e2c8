"""The site file: what it may say, and for everything else one line that names file, field and value."""

import json

import pytest

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.site_file import SiteFile, read_site_file
from trudi.runtime.yaml_file import MAX_FILE_BYTES

WHOLE = """
joints:
  FR_calf_joint: {velocity_limit: 20.0, damping: 2}
  FR_hip_joint: {position_limit: [-0.5, 0.5], effort_limit: 10}
safety: {max_tilt_rad: 0.8, state_age_lost_s: 0.1, max_overruns_in_row: 2, max_latent_spread: 0.5}
position_margin: 0.05
out_of_range_steps: 3
stand_s: 1
stand_speed: 0.5
fade_in_s: 0
on_fault: freeze
accept_wider_limits: true
"""


def written(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(TrudiRuntimeError) as caught:
        read_site_file(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


def test_the_whole_file(tmp_path):
    file = read_site_file(written(tmp_path, WHOLE))
    assert file.joints["FR_calf_joint"].velocity_limit == 20.0 and file.joints["FR_calf_joint"].damping == 2.0
    assert file.joints["FR_hip_joint"].position_limit == (-0.5, 0.5) and file.joints["FR_hip_joint"].damping is None
    assert (file.safety.max_tilt_rad, file.safety.state_age_lost_s, file.safety.max_overruns_in_row) == (0.8, 0.1, 2)
    assert (file.position_margin, file.out_of_range_steps, file.stand_s, file.stand_speed) == (0.05, 3, 1.0, 0.5)
    assert (file.fade_in_s, file.on_fault, file.accept_wider_limits) == (0.0, "freeze", True)
    assert read_site_file(written(tmp_path, file.model_dump_json())) == file, "JSON is YAML, and nothing is lost"


def test_every_field_may_be_absent(tmp_path):
    file = read_site_file(written(tmp_path, "{}"))
    assert file == SiteFile(joints={}) and not file.joints
    assert (file.on_fault, file.accept_wider_limits, file.fade_in_s, file.position_margin) == ("damp", False, 1.0, 0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fade_in: 2.0", ["unknown field 'fade_in'", "did you mean fade_in_s or fade_out_s?"]),
        ("safety: {max_tilt: 0.5}", ["unknown field 'max_tilt' in safety", "did you mean max_tilt_rad?"]),
        ("joints: {hip: {velocity: 3.0}}", ["joints.hip.velocity"]),
        ("fade_in_s: 1.0\nfade_in_s: 2.0", ["'fade_in_s' stands twice"]),
        ("joints:\n  hip: {damping: 1}\n  hip: {damping: 2}", ["'hip' stands twice"]),
        ("safety: {max_tilt_rad: 1, max_tilt_rad: 2}", ["'max_tilt_rad' stands twice"]),
        ('{"stand_s": 1, "stand_s": 2}', ["'stand_s' stands twice"]),
        ("fade_in_s: soon", ["fade_in_s", "number", "'soon'"]),
        ("fade_in_s: true", ["fade_in_s", "True"]),
        ("fade_in_s: -1", ["fade_in_s", "greater than or equal to 0", "-1"]),
        ("stand_s: 0", ["stand_s", "greater than 0"]),
        ("stand_speed: .inf", ["stand_speed", "finite"]),
        ("position_margin: .nan", ["position_margin", "finite"]),
        ("out_of_range_steps: 2.5", ["out_of_range_steps", "2.5"]),
        ("out_of_range_steps: 0", ["out_of_range_steps", "greater than or equal to 1"]),
        ("on_fault: stop", ["on_fault", "'damp' or 'freeze'", "'stop'"]),
        ("on_fault: off", ["on_fault", "False"]),
        ("accept_wider_limits: 1", ["accept_wider_limits", "boolean"]),
        ("safety: {max_tilt_rad: 4}", ["safety.max_tilt_rad", "3.1416"]),
        ("safety: {max_overruns_in_row: 0}", ["safety.max_overruns_in_row"]),
        ("safety: 3", ["safety"]),
        ("joints: [hip]", ["joints"]),
        ("joints:", ["joints"]),
        ("joints: {hip: 3}", ["joints.hip"]),
        ("joints: {hip: {position_limit: [1]}}", ["joints.hip.position_limit"]),
        ("joints: {hip: {position_limit: [a, 1]}}", ["joints.hip.position_limit.0", "'a'"]),
        ("joints: {hip: {velocity_limit: 0}}", ["joints.hip.velocity_limit", "greater than 0"]),
        ("joints: {hip: {damping: -1}}", ["joints.hip.damping"]),
        ("joints: {'a b': {damping: 1}}", ["joints", "a name is letters"]),
        ("joints: {3: {damping: 1}}", ["the key 3 is no name"]),
        ("joints: {yes: {damping: 1}}", ["the key True is no name (YAML takes yes, no, on and off for booleans)"]),
        ("1: 2", ["the key 1 is no name"]),
        ("on: 2", ["the key True is no name"]),
        ("safety: {on: 2}", ["the key True is no name"]),
        ("? [a, b]\n: 3", ["is not valid YAML", "is no name"]),
        ("? {a: b}\n: 3", ["is not valid YAML", "is no name"]),
        ("a: &x {b: 1}\nc: {<<: *x}", ["unknown field 'a'"]),
        ("- 1\n- 2", ["must hold `key: value` lines, not a"]),
        ("", ["must hold `key: value` lines, not a"]),
        ("fade_in_s", ["must hold `key: value` lines, not a"]),
        ("fade_in_s: [1", ["is not valid YAML"]),
        ("a: b: c", ["is not valid YAML"]),
        ("fade_in_s: !!python/object/apply:os.system [ls]", ["is not valid YAML"]),
        (b"fade_in_s: \xff", ["is not valid YAML"]),
        ("[" * 20_000, ["is not valid YAML"]),
        ("fade_in_s: 1  #" + " " * MAX_FILE_BYTES, ["is larger than the"]),
    ],
    ids=range(46),
)
def test_every_refusal_names_file_and_field(tmp_path, text, words):
    message = refusal(tmp_path, text)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("word", "number"), [("1e-3", 1e-3), ("2.5e1", 25.0), ("1.0e+1", 10.0), ("1E2", 100.0), ("7", 7.0)])
def test_numbers_as_people_write_them(tmp_path, word, number):
    assert read_site_file(written(tmp_path, f"stand_s: {word}")).stand_s == number
    assert "1e3abc" in read_site_file(written(tmp_path, "joints: {1e3abc: {damping: 1}}")).joints


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TrudiRuntimeError, match=r"none.yaml cannot be read: No such file"):
        read_site_file(tmp_path / "none.yaml")
    with pytest.raises(TrudiRuntimeError, match="cannot be read: Is a directory"):
        read_site_file(tmp_path)


def test_what_a_recording_keeps_of_it_is_the_same_file():
    file = SiteFile.model_validate_json(json.dumps({"joints": {"hip": {"damping": 0.1}}, "fade_in_s": 0.1}))
    assert SiteFile.model_validate_json(file.model_dump_json()) == file
