"""`trudi bench BUNDLE`: how long one action takes, engine by engine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trudi.cli import extension
from trudi.runtime.bench import Call, Latency, measure, processor, table
from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.common import EXIT_OK, reports_errors, write_json
from trudi.runtime.commands.verify import chosen
from trudi.runtime.engines.base import Engine
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.errors import EngineError, TrudiRuntimeError
from trudi.runtime.golden import GOLDEN, GoldenCases
from trudi.runtime.verification import ONNX, STUDENT, open_engine


@reports_errors("bench")
def main(argv: list[str]) -> int:
    """Warms up, then times the engines of a bundle and its student in turns; with --run, the baselines and the floor too."""
    args = arguments(argv)
    if args.calls < 1 or args.threads < 0:
        raise TrudiRuntimeError(f"--calls {args.calls} and --threads {args.threads}: at least 1, and 0 (all cores) or more")
    with Bundle.open(args.bundle) as bundle, ExitStack() as stack:
        candidates, skipped = engine_calls(bundle, chosen(bundle, args.engine), args.threads, stack)
        floors: dict[str, Call] = {}
        if args.run is not None:
            baselines = extension("baselines")
            candidates |= baselines.baseline_calls(args.run, bundle, args.threads)
            floors = baselines.floor_calls(bundle, args.threads)
        results = measure({**candidates, **floors}, args.calls)
        floor_us = min((results[name].p50_us for name in floors), default=None)
        batch = 1 if bundle.contract.graph.batch == "any" else bundle.contract.graph.batch
        title = f"{bundle.contract.task.id}, batch {batch}, {args.threads} thread(s), {args.calls} calls each, {processor()}"
        beside = student_ratio(results)
        print(f"{title}\n{table(results, floor_us)}")
        if beside is not None:
            print(f"the student takes 1/{1.0 / beside['ratio']:.1f} of the teacher's time (p50, both in ONNX Runtime)")
        for name, why in skipped.items():
            print(f"{name}: not run: {why}")
        write_json(args.json, facts(results, floor_us, skipped, title) | {"student": beside})
        if args.picture is not None:
            extension("baselines").draw(results, floor_us, title, args.picture)
    return EXIT_OK


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="trudi bench", description=main.__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle's folder or .zip")
    parser.add_argument("--engine", action="append", help="time this engine only (may be given again); default: all")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime and PyTorch (default: 1)")
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each candidate (default: 20000)")
    parser.add_argument(
        "--run", type=Path, help="the run it was exported from: adds eager PyTorch, a plain export, the floor"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draws the result (needs the `plot` extra)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for a machine-readable result")
    return parser.parse_args(argv)


def engine_calls(bundle: Bundle, names: list[str], threads: int, stack: ExitStack) -> tuple[dict[str, Call], dict[str, str]]:
    """A call for every engine that runs here, and why the others do not. Each call takes the next golden observation."""
    golden = GoldenCases.from_bytes(bundle.read(GOLDEN), bundle.contract)
    calls: dict[str, Call] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            engine = load(bundle, name, threads)
        except EngineError as error:
            skipped[name] = str(error)
            continue
        stack.enter_context(engine)
        calls[label(name)] = cycle(engine, golden)
    if not calls:
        raise EngineError(
            "no engine of this bundle runs here: " + "; ".join(f"{name}: {why}" for name, why in skipped.items())
        )
    return calls, skipped


def label(name: str) -> str:
    """What an engine of the bundle is called beside the baselines."""
    return f"ours, {name}"


def student_ratio(results: Mapping[str, Latency]) -> dict[str, float] | None:
    """The student's median beside its teacher's in the same library; None where not both were timed."""
    student, teacher = results.get(label(STUDENT)), results.get(label(ONNX))
    if student is None or teacher is None:
        return None
    return {"p50_us": student.p50_us, "teacher_p50_us": teacher.p50_us, "ratio": student.p50_us / teacher.p50_us}


def load(bundle: Bundle, name: str, threads: int) -> Engine:
    """An engine, with ONNX Runtime on `threads` threads."""
    student = bundle.contract.student
    if name == STUDENT and student is not None:
        return OnnxEngine(bundle.read(student.graph.file), OnnxCfg(threads=threads))
    if name == ONNX:
        return OnnxEngine(bundle.read(bundle.contract.graph.file), OnnxCfg(threads=threads))
    return open_engine(bundle, name)


def cycle(engine: Engine, golden: GoldenCases) -> Callable[[], object]:
    """One call on the next golden case of the policy, whose observations a student takes, too."""
    cases, state = len(golden.observation), [0]
    observations = [np.repeat(golden.observation[index : index + 1], engine.batch, axis=0) for index in range(cases)]
    latents: list[Any] = [None] * cases
    if engine.takes_latent:
        given = golden.latent if golden.latent is not None else np.zeros((cases, engine.action_size), np.float32)
        latents = [np.repeat(given[index : index + 1], engine.batch, axis=0) for index in range(cases)]

    def call() -> object:
        index = state[0] = (state[0] + 1) % cases
        return engine.infer(observations[index], latents[index])

    return call


def facts(results: dict[str, Latency], floor_us: float | None, skipped: dict[str, str], title: str) -> dict[str, Any]:
    """The same for machines."""
    return {"title": title, "floor_us": floor_us, "engines": [asdict(one) for one in results.values()], "not_run": skipped}
