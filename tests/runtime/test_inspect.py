"""`trudi inspect` and `trudi keygen`."""

import copy
import json
import subprocess
import sys

import pytest
from bundles import cheetah_values, contract, go1_files, go1_values

from trudi import cli
from trudi.runtime.writing import write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "go1", contract(go1_values()), go1_files())


def altered(path, change, files=None):
    values = copy.deepcopy(go1_values())
    change(values)
    return write_bundle(path, contract(values), files or go1_files())


def test_the_page_says_what_a_deployer_asks(bundle, capsys):
    assert cli.main(["inspect", str(bundle)]) == 0
    page = capsys.readouterr().out
    for line in (
        "control period  0.02 s (50 Hz)",
        "sizes           48 observations, 12 actions",
        "FR_calf_joint   rad, N m  -1.8     35.0       0.5      [-2.818, -0.888]  30.1            35.55",
        "the RUNTIME applies scale and offset: the graph's output is in [-1, 1], not yet a command",
        "velocity  wz       rad/s  base   [-1.2, 1.2]  0.0      0.5",
        "steps           8, ODE (no noise between steps)",
        "state age    warns at 0.1 s, lost at 0.5 s",
        "return 27.125, 95 % in [26.5, 27.75], std 1.5, 64 episodes, seed 100",
    ):
        assert line in page, line
    rows = [line.split() for line in page.splitlines()]
    assert ["45..47", "command", "command", "m/s,", "m/s,", "rad/s", "base"] in [row[:7] for row in rows]
    assert "policy.onnx  1024   785b0751fc2c53dc14a4ce3d800e69ef9ce1009eb327ccf458afe09c242c26c9" in page


def test_who_applies_the_scale_is_shouted(tmp_path, capsys):
    path = altered(tmp_path / "g", lambda values: values["action"].update(scale_offset_applied_by="graph"))
    cli.main(["inspect", str(path)])
    assert "the GRAPH applies scale and offset" in capsys.readouterr().out


def test_a_task_without_a_robot(tmp_path, capsys):
    path = write_bundle(tmp_path / "c.zip", contract(cheetah_values()), go1_files())
    assert cli.main(["inspect", str(path)]) == 0
    page = capsys.readouterr().out
    assert "none: this task has no robot" in page and "bthigh  1     1.0    0.0     [-1.0, 1.0]  -" in page


def test_the_json_carries_the_whole_contract(bundle, tmp_path):
    assert cli.main(["inspect", str(bundle), "--json", str(tmp_path / "out.json")]) == 0
    facts = json.loads((tmp_path / "out.json").read_text())
    assert contract(facts["contract"]) == contract(go1_values())
    assert facts["files"]["policy.onnx"]["size"] == 1024 and facts["signed"] is False


def test_no_difference(bundle, tmp_path, capsys):
    same = write_bundle(tmp_path / "same.zip", contract(go1_values()), go1_files())
    assert cli.main(["inspect", str(bundle), "--diff", str(same)]) == 0
    assert "no difference" in capsys.readouterr().out


def test_differences_are_named_by_joint_and_exact(bundle, tmp_path, capsys):
    def change(values):
        values["action"]["scale"][4] = 0.5000000000000001
        values["robot"]["joints"][2]["damping"] = 0.6
        values["observation"][:2] = values["observation"][1::-1]

    other = altered(tmp_path / "other", change, go1_files() | {"golden.npz": b"", "more.txt": b""})
    report = tmp_path / "diff.json"
    assert cli.main(["inspect", str(bundle), "--diff", str(other), "--json", str(report)]) == 1
    assert "action.scale[FL_thigh_joint]\n  - 0.5\n  + 0.5000000000000001" in capsys.readouterr().out
    found = {entry["field"]: (entry["one"], entry["other"]) for entry in json.loads(report.read_text())["differences"]}
    assert list(found) == [
        "robot.joints[FR_calf_joint].damping",
        "action.scale[FL_thigh_joint]",
        "observation (order)",
        "files[golden.npz].sha256",
        "files[more.txt].sha256",
    ]
    assert found["robot.joints[FR_calf_joint].damping"] == (0.5, 0.6)
    assert found["observation (order)"][1].startswith("gyro, linvel, ")
    assert found["files[more.txt].sha256"][0] == "(absent)"


def test_bad_input_is_one_line_and_exit_2(tmp_path, bundle, capsys):
    assert cli.main(["inspect", str(tmp_path / "nothing")]) == 2
    (bundle / "policy.onnx").write_bytes(bytes(1024))
    assert cli.main(["inspect", str(bundle)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("trudi inspect: error:") and "policy.onnx does not match its SHA-256" in lines[1]


def test_a_key_is_made_once_and_demanded(tmp_path, bundle, capsys):
    key = tmp_path / "keys" / "robot"
    assert cli.main(["keygen", str(key)]) == 0
    assert "give" in capsys.readouterr().out and key.with_name("robot.pub").is_file()
    assert cli.main(["keygen", str(key)]) == 2
    assert cli.main(["inspect", str(bundle), "--trust", str(key) + ".pub"]) == 2
    assert "is not signed" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(bundle):
    code = f"import sys; from trudi import cli; sys.exit(cli.main(['inspect', {str(bundle)!r}]))"
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
