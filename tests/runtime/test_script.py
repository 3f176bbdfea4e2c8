"""Scripts of commands: what is told when, and what is refused."""

import pytest
from bundles import contract, go1_values

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.script import read_script, values_at


@pytest.fixture(scope="module")
def commands():
    return contract(go1_values()).commands


def read(tmp_path, text, commands):
    path = tmp_path / "script.yaml"
    path.write_text(text)
    return read_script(path, commands)


def test_each_leg_holds_until_the_next_and_what_it_does_not_name_is_neutral(tmp_path, commands):
    legs = read(tmp_path, "- {at_s: 0}\n- {at_s: 2.0, vx: 0.5}\n- {at_s: 4, wz: -0.25}\n", commands)
    told = [values_at(legs, seconds)["velocity"] for seconds in (-1.0, 0.0, 1.99, 2.0, 3.5, 4.0, 1e9)]
    still, ahead, turning = (0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.0, -0.25)
    assert told == [still, still, still, ahead, ahead, turning, turning]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "a script is a list of 1 to"),
        ("at_s: 0", "a script is a list of 1 to"),
        ("- 3", r"entry 1: write \{at_s"),
        ("- {at_s: 0}\n- {vx: 1}", r"entry 2: write \{at_s"),
        ("- {at_s: 1}", "at_s begins with 0"),
        ("- {at_s: 0}\n- {at_s: 2}\n- {at_s: 2}", "rises from entry to entry"),
        ("- {at_s: 0, vz: 1}", "entry 1: vz=1.0: the policy's commands have no vz"),
        ("- {at_s: 0, vx: 9}", "was trained with vx from"),
        ("- {at_s: 0, vx: fast}", "vx is 'fast', which is no number"),
        ("- {at_s: .nan}", "at_s is nan, which is no number"),
        ("- {at_s: true}", "at_s is True, which is no number"),
        ("- {at_s: 0, at_s: 1}", "'at_s' stands twice"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, commands, text, what):
    with pytest.raises(TrudiRuntimeError, match=what) as raised:
        read(tmp_path, text, commands)
    assert "script.yaml" in str(raised.value) and "\n" not in str(raised.value)
