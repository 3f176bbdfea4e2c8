"""The conformance suite: red for every fault that it knows of, and for that alone; green for the simulators there are."""

import json

import pytest
import torch
from broken_adapters import (
    FAULTS,
    NaiveEnvPool,
    NeedlessException,
    NumbersOfTheProcess,
    OneStreamOfNumbers,
    PointMass,
    TerminalMissingAsDeclared,
)

from trudi import cli
from trudi.train.envs.conformance import check
from trudi.train.envs.envpool import EnvPoolEnv
from trudi.train.envs.registry import make_env
from trudi.train.errors import TrainError


def of(task):
    """The factory of a registered task."""
    return lambda num_envs, seed, stagger: make_env(
        task, num_envs, seed, device=torch.device("cpu"), num_threads=1, stagger=stagger
    )


def envpool(name, max_episode_steps=100):
    """The factory of an EnvPool task, with shorter episodes: there is as much to see in them."""
    return lambda num_envs, seed, stagger: EnvPoolEnv(
        name, num_envs, seed, num_threads=1, stagger=stagger, max_episode_steps=max_episode_steps
    )


# A simulator is added with its factory and the settings of `check` under which every check has something to look at.
SIMULATORS = {
    "a point mass": (PointMass, {}),
    "point masses with one stream of random numbers": (OneStreamOfNumbers, {}),
    "Cartpole of EnvPool": (envpool("CartpoleSwingup-v1"), {"num_envs": 4}),
    "Walker of EnvPool": (envpool("WalkerRun-v1"), {"num_envs": 4}),
    "Go1 of EnvPool, which falls": (envpool("MuJoCoPlayground/Go1JoystickFlatTerrain-v1"), {}),
    "ReachAround of MuJoCo": (of("mujoco:ReachAround-v1"), {}),
}


@pytest.mark.parametrize("name", SIMULATORS)
def test_simulators_keep_every_promise(name):
    make, settings = SIMULATORS[name]
    report = check(make, **settings)
    others = {finding.check for finding in report.findings if finding.verdict != "passed"}
    assert others <= {"restarts"}, str(report)  # which not every simulator can


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_and_called_by_its_name(name):
    broken, expected = FAULTS[name]
    report = check(broken)
    assert set(report.failed) == expected, str(report)


def test_every_check_is_turned_red_by_some_fault():
    named = set().union(*(expected for _, expected in FAULTS.values()))
    assert named == {finding.check for finding in check(PointMass).findings}


def test_envpool_as_one_would_first_wrap_it():
    """Its reset step is in the data and makes episodes longer; it knows neither last observations nor staggered starts."""
    report = check(NaiveEnvPool, num_envs=2)
    found = {"no-reset-step", "next-first", "time-limit", "terminal-given", "staggered-starts", "closed-refuses"}
    assert set(report.failed) == found, str(report)


def test_exceptions_are_for_checks_that_fail():
    report = check(TerminalMissingAsDeclared)
    assert report.passed and report["terminal-given"].verdict == "excepted"
    assert "resets before it observes (missing for" in report["terminal-given"].seen
    assert report["terminal-true"].verdict == report["terminal-rows"].verdict == "not exercised"
    needless = check(NeedlessException)
    assert needless.passed and needless["finite"].verdict == "passed"
    assert "it holds, although it is declared that it does not (once upon a time)" in needless["finite"].seen


def test_what_did_not_happen_is_not_called_right():
    report = check(PointMass, steps=10, num_envs=1)
    assert report.passed
    unseen = {finding.check for finding in report.findings if finding.verdict == "not exercised"}
    assert {"environments-differ", "time-limit", "staggered-starts"} <= unseen


def test_the_process_s_random_numbers_stay_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check(NumbersOfTheProcess)
    assert torch.equal(torch.rand(2), expected)


def test_every_simulator_is_closed_before_the_next():
    alive, most = [], []

    class Counted(PointMass):
        def __init__(self, *args):
            super().__init__(*args)
            alive.append(self)
            most.append(len(alive))

        def close(self):
            super().close()
            if self in alive:
                alive.remove(self)

    check(Counted)
    assert max(most) == 1 and not alive
    assert len(most) <= 7  # each may take seconds


def test_too_few():
    with pytest.raises(TrainError, match="8 environments and 9 steps are too few; it takes at least 1, and 10 steps"):
        check(PointMass, steps=9)
    with pytest.raises(TrainError, match="0 environments are too few"):
        check(PointMass, num_envs=0)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert cli.main(["conform", "mujoco:ReachAround-v1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "terminal-true" in printed and "0 failed, 0 excepted, 1 not exercised" in printed
    content = json.loads(out.read_text())
    assert content["passed"] and content["task"] == "mujoco:ReachAround-v1"
    assert {"check", "contract", "verdict", "seen"} == content["findings"][0].keys()


def test_the_command_says_what_is_wrong(capsys, monkeypatch):
    broken = FAULTS["RowsReversed"][0]
    monkeypatch.setattr("trudi.train.commands.conform.make_env", lambda _, *args, stagger, **__: broken(*args, stagger))
    assert cli.main(["conform", "mujoco:ReachAround-v1"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "terminal-rows" in printed and "1 failed" in printed and "A row for each end" in printed


def test_the_command_refuses_what_it_does_not_know(capsys):
    assert cli.main(["conform", "mujoco:ReachAround-v2"]) == 2
    assert "did you mean ReachAround-v1" in capsys.readouterr().err
