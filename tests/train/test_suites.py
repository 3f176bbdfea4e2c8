"""The paper's tasks: that they exist where their files say, and that their presets are the authors' settings."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from trudi import cli
from trudi.train.commands import train
from trudi.train.config import load_config, parse_config, read_yaml, to_plain
from trudi.train.envs import envpool, registry
from trudi.train.envs.base import TaskInfo
from trudi.train.envs.registry import Backend
from trudi.train.errors import TrainError
from trudi.train.suites import PAPER, SuiteTask, load_suite, suite_names, suites

RELEASED = read_yaml(Path(__file__).parents[1] / "data" / "released_tasks.yaml")
ALL = [task for name in suite_names(PAPER) for task in load_suite(name)[1]]

# The paper's settings, the samples of a minibatch worked out by hand from 1024 environments x 128 steps = 131072.
AUTHORS = {
    # preset: (minibatch, epochs, gamma, v_min, v_max, bins, alpha, K, critic width, learned dt)
    "authors_dmc": (2048, 8, 0.99, -100.0, 200.0, 301, 0.01, 1, 512, "per-step"),  # 131072 / 64
    "authors_playground": (8192, 8, 0.97, -10.0, 10.0, 151, 0.01, 1, 1024, "no"),  # 131072 / 16
    "authors_maniskill": (2048, 4, 0.8, -15.0, 15.0, 151, 1.0, 4, 512, "no"),  # 131072 / 64; gamma 1 - 10 / 50
    "authors_humanoidbench": (2048, 8, 0.99, -250.0, 250.0, 151, 1.0, 4, 512, "no"),  # 64 x 128 / 4
    "authors_isaaclab": (1024, 4, 0.99, -10.0, 10.0, 151, 0.01, 1, 512, "no"),  # 131072 / 128
}


def candidates(backend):
    names = [task.partition(":") for entry in ALL for task in entry.candidates]
    return [name for prefix, _, name in names if prefix == backend]


def test_the_paper_is_all_suites():
    assert set(suite_names(PAPER)) == set(suites())
    counts = {name: len(load_suite(name)[1]) for name in suite_names(PAPER)}
    assert counts == {"dmc": 23, "playground": 4, "maniskill": 18, "humanoidbench": 32, "isaaclab": 13}
    assert {task.preset for task in ALL} == set(AUTHORS)


@pytest.mark.parametrize("preset", AUTHORS)
def test_presets_are_the_authors_settings(preset):
    cfg = load_config(preset, "envpool:HopperHop-v1")
    assert (
        cfg.update.minibatch_size, cfg.update.epochs, cfg.gamma,
        cfg.critic.v_min, cfg.critic.v_max, cfg.critic.bins,
        cfg.duals.alpha, cfg.trust_region.chains_per_state, cfg.critic.width, cfg.policy.learn_dt,
    ) == AUTHORS[preset]  # fmt: skip
    assert (cfg.policy.steps, cfg.policy.width, cfg.policy.layers, cfg.policy.init_std) == (8, 512, 3, 2.5)
    assert (cfg.trust_region.bound, cfg.duals.lam, cfg.duals.entropy_per_action, cfg.lam) == (0.1, 0.01, -4.0, 0.95)
    assert (cfg.optim.learning_rate, cfg.optim.schedule, cfg.optim.max_grad_norm) == (3e-4, "constant", 0.5)
    assert cfg.num_envs == (64 if preset == "authors_humanoidbench" else 1024)
    assert cfg.steps_per_iteration % cfg.update.minibatch_size == 0
    # 50 M steps, in whole iterations: one fewer would be too few
    assert (cfg.max_iterations - 1) * cfg.steps_per_iteration < 50_000_000 <= cfg.max_iterations * cfg.steps_per_iteration


def test_envpool_has_every_task():
    known = envpool.task_names()
    assert len(candidates("envpool")) == 27
    assert set(candidates("envpool")) <= set(known)


def test_mjlab_has_every_task():
    tasks = pytest.importorskip("mjlab.tasks.registry")
    assert set(candidates("mjlab")) <= set(tasks.list_tasks())
    assert candidates("mjlab")


@pytest.mark.parametrize("backend", ["isaaclab", "maniskill", "playground"])
def test_releases_have_every_task(backend):
    assert candidates(backend)
    assert set(candidates(backend)) <= set(RELEASED[backend])


def test_playground_lacks_only_what_the_paper_leaves_out():
    left_out = {"PointMass", "SwimmerSwimmer6"}
    assert left_out <= set(RELEASED["playground"])
    assert not left_out & {task.name for task in ALL}


def test_humanoid_bench_has_every_task_but_highbar():
    names = {task.name for task in ALL if task.suite == "humanoidbench"}
    assert {name for name in names if "highbar" not in name} == set(RELEASED["humanoidbench"])


@pytest.mark.parametrize("task", [task for task in ALL if task.suite == "maniskill"], ids=lambda task: task.name)
def test_maniskills_discounts_follow_from_its_episodes(task):
    assert task.episode_steps == RELEASED["maniskill"][task.name]
    assert task.overrides["gamma"] == pytest.approx(1.0 - 10.0 / task.episode_steps)


def test_discounts_by_hand():
    gamma = {task.name: task.overrides["gamma"] for task in ALL if task.suite == "maniskill"}
    assert gamma["PickCube-v1"] == 0.8  # 50 steps: 1 - 10 / 50
    assert gamma["RollBall-v1"] == 0.875  # 80 steps
    assert gamma["PushT-v1"] == 0.9  # 100 steps
    assert gamma["PlugCharger-v1"] == 0.95  # 200 steps


def different_commands():
    """One task of every preset and set of overrides."""
    return {(task.preset, json.dumps(task.overrides)): task for task in ALL if task.candidates}.values()


@pytest.mark.parametrize("task", different_commands(), ids=lambda task: task.name)
def test_a_command_is_understood(task):
    words = shlex.split(task.command(task.candidates[0]))
    assert words[:2] == ["trudi", "train"]
    plain = to_plain(load_config(task.preset, task.candidates[0]))
    for key, value in task.overrides.items():
        plain[key] = plain[key] | value if isinstance(value, dict) else value
    assert train.parse(words[2:])[0].cfg == parse_config(plain, "here")


def test_a_command_by_hand():
    task = SuiteTask("PickCube-v1", "maniskill", "authors_maniskill", True, ("maniskill:PickCube-v1",))
    assert task.command("maniskill:PickCube-v1") == "trudi train maniskill:PickCube-v1 --config authors_maniskill"
    plug = next(task for task in ALL if task.name == "PlugCharger-v1")
    assert plug.command("maniskill:PlugCharger-v1") == (
        "trudi train maniskill:PlugCharger-v1 --config authors_maniskill --gamma 0.95 --sim.overrides reward_mode=sparse"
    )
    lift = next(task for task in ALL if task.name == "Isaac-Lift-Cube-Franka-v0")
    assert lift.command("isaaclab:Isaac-Lift-Cube-Franka-v0") == (
        "trudi train isaaclab:Isaac-Lift-Cube-Franka-v0 --config authors_isaaclab"
        " --sim.action-bound 3.0 --critic.v-min -50.0 --critic.v-max 50.0"
    )


HERE = Backend(package="json", install="pip install 'trudi[here]'")
AWAY = Backend(package="a_package_nobody_has", install="pip install 'trudi[away]'")


@pytest.fixture
def only_backends(monkeypatch):
    """A function that puts others in place of the backends."""

    def put(**backends):
        for name in list(registry.BACKENDS):
            monkeypatch.delitem(registry.BACKENDS, name)
        for name, backend in backends.items():
            monkeypatch.setitem(registry.BACKENDS, name, backend)

    return put


@pytest.mark.parametrize(
    "backends,task,available",
    [
        ({"first": HERE, "second": HERE}, "first:A", "installed"),
        ({"first": AWAY, "second": HERE}, "second:A", "installed"),
        ({"second": HERE}, "second:A", "installed"),
        ({"first": AWAY, "second": AWAY}, "first:A", "not installed"),
        ({"second": AWAY}, "second:A", "not installed"),
        ({}, "first:A", "no adapter"),
    ],
)
def test_what_stands_for_a_task_here(only_backends, backends, task, available):
    only_backends(**backends)
    chosen = SuiteTask("A", "dmc", "authors_dmc", True, ("first:A", "second:A")).chosen()
    assert (chosen.task, chosen.available) == (task, available)
    assert chosen.install == (AWAY.install if available == "not installed" else None)


def test_a_task_without_a_package_has_no_candidate():
    assert SuiteTask("A", "humanoidbench", "authors_humanoidbench", False).chosen() is None


def listed(capsys, tmp_path, *argv):
    """What `trudi tasks` prints, and its JSON."""
    out = tmp_path / "tasks.json"
    assert cli.main(["tasks", *argv, "--json", str(out)]) == 0
    return capsys.readouterr().out, json.loads(out.read_text())


def test_the_paper_is_listed(capsys, tmp_path, only_backends):
    only_backends(envpool=HERE, isaaclab=AWAY)
    text, content = listed(capsys, tmp_path, "--suite", "paper")
    rows = {row["name"]: row for row in content["tasks"]}
    assert len(content["tasks"]) == 90 and list(content["suites"]) == list(suite_names(PAPER))
    assert rows["BallInCup"] | {"candidates": 0} == {
        "name": "BallInCup",
        "suite": "dmc",
        "preset": "authors_dmc",
        "certain": True,
        "candidates": 0,
        "episode_steps": None,
        "overrides": {},
        "note": "",
        "task": "envpool:BallInCupCatch-v1",
        "available": "installed",
        "install": None,
        "stand_in": True,
        "command": "trudi train envpool:BallInCupCatch-v1 --config authors_dmc",
    }
    assert [candidate["task"] for candidate in rows["BallInCup"]["candidates"]] == [
        "playground:BallInCup",
        "envpool:BallInCupCatch-v1",
    ]
    h1 = rows["Isaac-Velocity-Flat-H1-v0"]
    assert (h1["available"], h1["install"], h1["certain"]) == ("not installed", AWAY.install, False)
    walk = rows["h1hand-walk-v0"]
    assert (walk["task"], walk["available"], walk["command"]) == (None, "no package", None)
    assert "│ dmc           │ BallInCup                             │ envpool:BallInCupCatch-v1 ~" in text
    assert "h1hand-walk-v0 ?" in text
    assert f"isaaclab is not installed: {AWAY.install}" in text
    assert "? perhaps not in the paper: HumanoidBench has no package to install" in text
    assert "The paper has 73 tasks. These are 90 candidates, of which 31 are certain." in text
    assert "trudi train" not in text


def test_one_suite_is_listed_with_commands(capsys, tmp_path, only_backends):
    only_backends(envpool=HERE)
    text, content = listed(capsys, tmp_path, "--suite", "maniskill")
    assert "no adapter: this version cannot run maniskill" in text
    assert "trudi train maniskill:PickCube-v1 --config authors_maniskill --gamma 0.8\n" in text
    assert {row["suite"] for row in content["tasks"]} == set(content["suites"]) == {"maniskill"}


def test_a_part_of_the_paper_is_listed_with_commands(capsys, tmp_path):
    text, content = listed(capsys, tmp_path, "pickcube", "--suite", "paper")
    assert [row["name"] for row in content["tasks"]] == ["PickCube-v1", "TwoRobotPickCube-v1"]
    assert "--gamma 0.8\n" in text and "--gamma 0.9\n" in text
    certain, _ = listed(capsys, tmp_path, "maniskill:pullcubetool", "--suite", "paper")
    assert "?" not in certain


def refused(capsys, *argv):
    assert cli.main(["tasks", *argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_mistakes_are_named(capsys):
    assert "unknown suite 'manyskill'; did you mean maniskill?" in refused(capsys, "--suite", "manyskill")
    assert "unknown suite 'xyz'; available: dmc, humanoidbench, isaaclab" in refused(capsys, "--suite", "xyz")
    assert "no task of the suite 'dmc' contains 'zzz'" in refused(capsys, "zzz", "--suite", "dmc")
    assert "give one of them" in refused(capsys, "--sizes", "--suite", "dmc")


@pytest.fixture
def suite_file(tmp_path, monkeypatch):
    monkeypatch.setattr("trudi.train.suites.suites", lambda: {"mine": tmp_path / "mine.yaml"})

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)
        return load_suite("mine")

    return write


HEAD = "title: T\npreset: authors_dmc\ncertain: true\nsource: S\ncandidates: ['envpool:{name}-v1']\n"


def test_a_file_says_what_holds_for_its_tasks(suite_file):
    _, (first, second) = suite_file(HEAD + "tasks:\n  A: {}\n  B: {candidates: ['envpool:C-v1'], certain: false}\n")
    assert first == SuiteTask("A", "mine", "authors_dmc", True, ("envpool:A-v1",))
    assert second == SuiteTask("B", "mine", "authors_dmc", False, ("envpool:C-v1",))


@pytest.mark.parametrize(
    "text,says",
    [
        (HEAD + "tasks:\n  A: {certian: false}\n", r"tasks.A: unknown key 'certian'; did you mean certain"),
        (HEAD + "tasks:\n  A: {candidates: 3}\n", r"tasks.A: candidates: .*tuple.*got 3"),
        (HEAD + "tasks:\n  A: {}\n  A: {}\n", r"the key 'A' stands twice"),
        (HEAD + "tasks:\n  A:\n", r"tasks.A: .*dictionary"),
        (HEAD, r"tasks: .*"),
        (
            HEAD.replace("authors_dmc", "authors_dmk") + "tasks: {A: {}}\n",
            r"no preset 'authors_dmk'; did you mean authors_dmc",
        ),
    ],
)
def test_mistakes_in_a_file_are_named(suite_file, text, says):
    with pytest.raises(TrainError, match=says):
        suite_file(text)


INFO = TaskInfo("slow:Walk", {"state": 3}, {"state": 3}, 2, 0.02, 100)


@pytest.fixture
def slow(monkeypatch, only_backends):
    """A simulator alone that takes seconds a task, and the tasks that it was asked to describe."""
    described = []

    def describe_task(name):
        described.append(name)
        if name == "Broken":
            raise TrainError("Broken needs a file: --file FILE")
        return INFO

    only_backends(slow=replace(HERE, is_costly=True))
    adapter = SimpleNamespace(task_names=lambda: ["Walk", "Broken"], describe_task=describe_task)
    monkeypatch.setitem(sys.modules, "trudi.train.envs.slow", adapter)
    return described


def test_slow_simulators_are_not_asked_for_sizes(slow, capsys, tmp_path):
    text, rows = listed(capsys, tmp_path)
    assert not slow
    assert "sizes take seconds a task with slow: add --sizes, or a part of a task's name" in text
    assert rows[0] == {
        "task": "slow:Walk",
        "actor": None,
        "critic": None,
        "action_size": None,
        "control_period_s": None,
        "max_episode_steps": None,
        "not_described": "use --sizes, or name the task",
    }


@pytest.mark.parametrize("argv", [["--sizes"], ["slow"], ["slow:"]])
def test_slow_simulators_are_asked_when_a_user_wants_it(slow, capsys, tmp_path, argv):
    text, rows = listed(capsys, tmp_path, *argv)
    assert slow == ["Walk", "Broken"]
    assert "0.02" in text and "seconds a task" not in text
    assert rows[0]["actor"] == {"state": 3} and "not_described" not in rows[0]


def test_a_task_that_cannot_be_described_does_not_hide_the_others(slow, capsys, tmp_path):
    text, rows = listed(capsys, tmp_path, "--sizes")
    assert "slow:Broken: Broken needs a file: --file FILE" in text
    assert rows[1]["task"] == "slow:Broken" and rows[1]["not_described"] == "Broken needs a file: --file FILE"


def test_a_backend_and_a_part_of_a_name(slow, capsys, tmp_path):
    _, rows = listed(capsys, tmp_path, "slow:walk")
    assert slow == ["Walk"] and len(rows) == 1
