"""Isaac Lab's released package has what the adapter uses, and `tests/isaac_signatures` is the same.

The package is downloaded and its sources are read, never imported: it needs Isaac Sim and Python 3.11.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from isaac_signatures.sources import Sources, accesses, arguments, is_property, returned_sizes
from isaac_signatures.used import ADDED, OPTIONS, ORDER, USED, USED_OF_THE_RELEASE

RELEASE = "2.3.2"
SIMULATOR = Path(__file__).parents[1] / "isaac_signatures"


@pytest.fixture(scope="session")
def release(request) -> Sources:
    """The released package; downloaded once, since a version never changes."""
    folder = request.config.cache.mkdir("isaaclab")
    wheels = list(folder.glob(f"isaaclab-{RELEASE}-*.whl"))
    if not wheels:
        download(folder)
        wheels = list(folder.glob(f"isaaclab-{RELEASE}-*.whl"))
    return Sources.of_wheel(wheels[0])


def download(folder: Path) -> None:
    """For Python 3.11 on Linux, whatever runs here. Skips only where no network is, and never in CI."""
    target = ["--python-version", "3.11", "--platform", "manylinux_2_35_x86_64", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
    command += ["--no-deps", *target, "--dest", str(folder), f"isaaclab=={RELEASE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    offline = any(sign in done.stderr for sign in ("Retrying", "ConnectionError", "NewConnectionError", "timed out"))
    if offline and not os.environ.get("CI"):
        pytest.skip("the package index is not reachable, and isaaclab is not downloaded yet")
    pytest.fail(f"pip download isaaclab=={RELEASE}: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def simulator() -> Sources:
    return Sources.of_folder(SIMULATOR)


@pytest.fixture(params=["release", "simulator"])
def sources(request) -> Sources:
    return request.getfixturevalue(request.param)


def find(sources: Sources, path: str):
    module, _, name = path.partition(":")
    found = sources.find(module, name)
    assert found is not None, f"{sources.name}: from {module} import {name}"
    return found


def entries(table: str) -> list[tuple[str, str]]:
    """(kind, entry) of a class in the table: methods have parentheses; other lines begin a list, or go on with it."""
    kind, found = "", []
    for line in filter(None, map(str.strip, table.splitlines())):
        if "(" in line:
            found.append(("method", line))
            continue
        head, _, tail = line.rpartition(": ")
        kind = head or kind
        found += [(kind, name.strip()) for name in tail.split(",") if name.strip()]
    return found


def problem(sources: Sources, path: str, kind: str, entry: str) -> str | None:
    """What the sources have instead of an entry of the table; None where it is as the table says."""
    found = find(sources, path)
    if kind != "method":
        method = sources.method(found, entry)
        is_there = (
            sources.has_attribute(found, entry) if kind == "attributes" else method is not None and is_property(method)
        )
        return None if is_there else f"not among the {kind}"
    signature, _, size = entry.partition(" -> ")
    name, _, names = signature.removesuffix(")").partition("(")
    function = sources.method(found, name) if name else found.node
    if not isinstance(function, ast.FunctionDef) or is_property(function):
        return f"no method {name}"
    if (real := ", ".join(arguments(function))) != names:
        return f"{name}({real})"
    if size and returned_sizes(function) != {int(size)}:
        return f"{name} returns {returned_sizes(function)} values"
    return None


@pytest.mark.parametrize("path", USED)
def test_everything_used_exists(sources, path):
    find(sources, path)
    found = {entry: problem(sources, path, kind, entry) for kind, entry in entries(USED[path])}
    assert {entry: what for entry, what in found.items() if what} == {}


@pytest.mark.parametrize("path", USED_OF_THE_RELEASE)
def test_what_only_some_tasks_have_exists_in_the_release(release, path):
    found = {entry: problem(release, path, kind, entry) for kind, entry in entries(USED_OF_THE_RELEASE[path])}
    assert {entry: what for entry, what in found.items() if what} == {}


def test_the_reader_sees_what_differs(simulator):
    path = "isaaclab.envs:ManagerBasedRLEnv"
    assert problem(simulator, path, "method", "step(actions) -> 5") == "step(action)"
    assert problem(simulator, path, "method", "step(action) -> 4") == "step returns {5} values"
    assert problem(simulator, path, "method", "num_envs()") == "no method num_envs"
    assert problem(simulator, path, "properties", "close") == "not among the properties"
    assert problem(simulator, path, "attributes", "reward_buffer") == "not among the attributes"
    assert first_out_of_order(simulator, path, "step", ["_reset_idx", "sim.step"]) == "sim.step"
    assert entries("f(a) -> 2\nproperties: b,\n  c\nattributes: d") == [
        ("method", "f(a) -> 2"),
        ("properties", "b"),
        ("properties", "c"),
        ("attributes", "d"),
    ]


@pytest.mark.parametrize(("path", "method"), ORDER)
def test_order_of_events(sources, path, method):
    assert first_out_of_order(sources, path, method, ORDER[path, method]) is None


def first_out_of_order(sources: Sources, path: str, method: str, events: list[str]) -> str | None:
    """The first event that the method does not name after those before it."""
    names = iter(accesses(sources.method(find(sources, path), method)))
    follows = (any(name == event or name.startswith(f"{event}.") for name in names) for event in events)
    return next((event for event, is_there in zip(events, follows, strict=True) if not is_there), None)


def test_the_simulator_invents_nothing(release, simulator):
    """Each of its classes, functions and public methods is in the release, at the same place, with the same arguments."""
    differences = {}
    for file in sorted(SIMULATOR.glob("isaaclab*/**/*.py")):
        module = ".".join(file.relative_to(SIMULATOR).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                differences |= compared(release, module, node)
    unexplained = {path: what for path, what in differences.items() if not any(path.startswith(known) for known in ADDED)}
    assert unexplained == {}
    assert [known for known in ADDED if not any(path.startswith(known) for path in differences)] == [], "no longer added"


def compared(release: Sources, module: str, node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    real = release.find(module, node.name)
    path = f"{module}:{node.name}"
    if real is None or type(real.node) is not type(node):
        return {path: "absent"}
    if isinstance(node, ast.FunctionDef):
        same = arguments(node) == arguments(real.node)
        return {} if same else {path: f"{arguments(node)}, not {arguments(real.node)}"}
    differences = {}
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or not method.name.startswith("_")):
            its = release.method(real, method.name)
            if its is None:
                differences[f"{path}.{method.name}"] = "absent"
            elif arguments(method) != arguments(its) or is_property(method) != is_property(its):
                differences[f"{path}.{method.name}"] = f"{arguments(method)}, not {arguments(its)}"
    return differences


def test_launcher_options(sources):
    launcher = find(sources, "isaaclab.app:AppLauncher")
    table = next(
        node for node in ast.walk(launcher.node) if isinstance(node, ast.Dict) and "'livestream'" in ast.unparse(node)
    )
    defaults = {key.value: ast.literal_eval(value.elts[1]) for key, value in zip(table.keys, table.values, strict=True)}
    found = {}
    for call in ast.walk(sources.method(launcher, "add_app_launcher_args")):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".add_argument")):
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        name, default = call.args[0].value, keywords.get("default")
        if default is None:
            found[name] = False if "store_true" in ast.unparse(call) else None
        else:
            found[name] = default.value if isinstance(default, ast.Constant) else defaults[name.removeprefix("--")]
    assert {name: found.get(name, "absent") for name in OPTIONS} == OPTIONS


def test_tasks_are_registered_alike(sources):
    """The adapter finds a task's configuration by the key, and lists tasks by the start of their names."""
    calls = {
        "Isaac-Cartpole-v0": "isaaclab_tasks.manager_based.classic.cartpole",
        "Isaac-Cartpole-Direct-v0": "isaaclab_tasks.direct.cartpole",
    }
    for task, module in calls.items():
        tree, _ = sources.module(module)
        call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and f"id='{task}'" in ast.unparse(node))
        assert ast.unparse(call.func) == "gym.register"
        assert "'env_cfg_entry_point': f'{__name__}." in ast.unparse(call)
        assert "disable_env_checker=True" in ast.unparse(call)
