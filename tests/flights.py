"""Bundles that fly without a training, and flights of them in processes of their own."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
from graphs import model, ports
from onnx import helper, numpy_helper

from trudi.export.robot_file import load_robot_file
from trudi.runtime.contract import SCHEMA_VERSION, Contract
from trudi.runtime.golden import GOLDEN, STUDENT_GOLDEN, GoldenCases
from trudi.runtime.reading import parse_contract
from trudi.runtime.writing import write_bundle

GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
GO1_ACTION = 0.1
"""Largest action of the made-up Go1 policy: it stands, and sways a little with what it sees."""


PATIENCE = 25
"""Control periods that may be missed in a row, half a second: a shared machine may take its cores away for a while."""


def small_policy(n: int, m: int, *, seed: int = 0, latent: bool = False, largest: float = GO1_ACTION):
    """A graph action = largest tanh(observation W + latent / 10) in ONNX, and the same in numpy."""
    weight = np.random.default_rng(seed).normal(0.0, 0.3 / n**0.5, (n, m)).astype(np.float32)
    constants = {"weight": weight, "largest": np.array(largest, np.float32), "tenth": np.array(0.1, np.float32)}
    nodes = [helper.make_node("MatMul", ["observation", "weight"], ["product"])]
    if latent:
        nodes += [
            helper.make_node("Mul", ["latent", "tenth"], ["part"]),
            helper.make_node("Add", ["product", "part"], ["sum"]),
        ]
    nodes += [helper.make_node("Tanh", ["sum" if latent else "product"], ["bent"])]
    nodes += [helper.make_node("Mul", ["bent", "largest"], ["action"])]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = model(nodes, *ports(n, m, 1, latent=latent), held)

    def act(observation, latents=None):
        total = observation.astype(float) @ weight + (0.0 if latents is None else 0.1 * latents)
        return float(np.float32(largest)) * np.tanh(total)

    return graph, act


def contract_values(robot: str, task: str, *, latent: bool = False, changes=None):
    """Plain values of a contract for one of the project's robot files, with some of them changed."""
    file = load_robot_file(robot)
    n, m = file.observation_size, file.action.size
    values = json.loads(file.model_dump_json())
    values.pop("tasks")
    inputs = [{"name": "observation", "shape": [1, n]}] + ([{"name": "latent", "shape": [1, m]}] if latent else [])
    values |= {
        "schema_version": SCHEMA_VERSION,
        "task": {"backend": "envpool", "id": task},
        "graph": {
            "file": "policy.onnx",
            "opset": 20,
            "precision": "fp32",
            "batch": 1,
            "inputs": inputs,
            "outputs": [{"name": "action", "shape": [1, m]}],
        },
        "sampler": {"network": "teacher", "steps": 8, "ode": True, "noise": "zero", "seed": None, "latent_std": 2.5},
        "provenance": {"run": "made_by_hand", "seed": 0},
    }
    values["safety"]["max_overruns_in_row"] = PATIENCE
    if latent:
        values["sampler"] |= {"noise": "seeded", "seed": 7}
    return values | (changes or {})


def made_bundle(target, robot="unitree_go1", task=GO1, *, student=False, latent=False, changes=None, student_scale=1.0):
    """A bundle whose policy is `small_policy`; with a student whose actions are `student_scale` times the policy's."""
    values = contract_values(robot, task, latent=latent, changes=changes)
    if student:
        values["student"] = {
            "graph": values["graph"] | {"file": "student.onnx"},
            "sampler": values["sampler"] | {"network": "student", "steps": 1},
        }
    contract: Contract = parse_contract(values)[0]
    n, m = contract.observation_size, contract.action.size
    graph, act = small_policy(n, m, latent=latent)
    observation = np.random.default_rng(1).normal(size=(16, n)).astype(np.float32)
    latents = np.random.default_rng(2).normal(0.0, 2.5, (16, m)).astype(np.float32) if latent else None
    actions = act(observation, latents)
    golden = GoldenCases(observation, latents, actions, actions.astype(np.float32))
    files = {"policy.onnx": graph, GOLDEN: golden.to_bytes()}
    if student:
        graph, act = small_policy(n, m, latent=latent, largest=student_scale * GO1_ACTION)
        actions = act(observation, latents)
        golden = GoldenCases(observation, latents, actions, actions.astype(np.float32))
        files |= {"student.onnx": graph, STUDENT_GOLDEN: golden.to_bytes()}
    return write_bundle(target, contract, files)


def command_line(*argv):
    return [sys.executable, "-m", "trudi.cli", *map(str, argv)]


def start(*argv, **options):
    """A `trudi` command in a process of its own."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | options.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command_line(*argv), text=True, env=environment, **(pipes | options))


def fly(bundle, folder, *argv, faults=(), site_file=None):
    """`trudi run` to its end: exit code, its JSON, and all it printed."""
    report = folder / "report.json"
    options = ["--json", report, "--record", folder / "flight.mcap"]
    if faults:
        (folder / "faults.yaml").write_text(json.dumps(list(faults)))
        options += ["--faults", folder / "faults.yaml"]
    if site_file is not None:
        (folder / "site.yaml").write_text(json.dumps(site_file))
        options += ["--site", folder / "site.yaml"]
    done = subprocess.run(
        command_line("run", bundle, *options, *argv), capture_output=True, text=True, check=False, timeout=60
    )
    said = done.stdout + done.stderr
    return done.returncode, json.loads(report.read_text()) if report.exists() else {}, said


def await_line(process, ending, timeout_s=30.0):
    """Reads what a process prints until a line has this ending; one that never says it is killed."""
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    try:
        if not any(line.rstrip().endswith(ending) for line in process.stdout):
            raise AssertionError(f"no line ends in {ending!r} within {timeout_s:g} s: {process.stderr.read()}")
    finally:
        killer.cancel()


def end(process):
    """Whatever a test did with a process, it is gone afterwards."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def until(condition, what, timeout_s=10.0):
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def unsafe(robot):
    """What a robot's report, an object or from JSON, says of unsafe commands; those that expired on their way aside.

    A machine without real-time priorities may set the runtime aside in the middle of a tick; a late command is not obeyed.
    """
    report = robot if isinstance(robot, dict) else {name: getattr(robot, name) for name in ("violations", "violation_count")}
    sentences = [sentence for sentence in report["violations"] if not sentence.endswith(": expired")]
    untold = report["violation_count"] - len(report["violations"])
    return sentences + ([f"{untold} more"] if untold else [])
