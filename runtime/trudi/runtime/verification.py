"""Whether a bundle's engines compute its policy, and its student: each in a process of its own, over every golden case."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from trudi.runtime.bundle import Bundle
from trudi.runtime.engines.base import Engine
from trudi.runtime.engines.choose import Golden, compute
from trudi.runtime.engines.files import read_engine_for
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine, import_onnxruntime
from trudi.runtime.engines.tensorrt import MODULES, Flavour, TensorRTCfg, TensorRTEngine, import_flavour, inspect_plan
from trudi.runtime.errors import EngineError
from trudi.runtime.golden import GOLDEN, STUDENT_GOLDEN, GoldenCases
from trudi.runtime.metadata import CONTRACT_KEY
from trudi.runtime.reading import parse_contract, parse_json

ONNX: Final = "onnx"
STUDENT: Final = "student"
"""Of a bundle's engines the one that computes its student, with ONNX Runtime."""
ENGINE_TIMEOUT_S: Final = 300.0
NO_STUDENT_GOLDEN: Final = (
    f"the bundle has no {STUDENT_GOLDEN}, so nothing shows that the student's graph is right; export again"
)
Verdict = Literal["ok", "failed", "not run"]


@dataclass(frozen=True)
class EngineCheck:
    """What one engine showed."""

    engine: str
    """`onnx`, the name of an engine's file in the bundle, or `student`."""
    verdict: Verdict
    detail: str
    """Why it failed, or what could not be checked here; empty otherwise."""
    max_error: float | None = None
    """Largest absolute error of any action, against float64."""
    mean_error: float | None = None
    threshold: float | None = None
    """What `max_error` may be."""


def engines_in(bundle: Bundle) -> list[str]:
    """`onnx`, the engine files of a bundle, and `student` where it has one."""
    return [ONNX, *engine_files(bundle), *([STUDENT] if bundle.contract.student is not None else [])]


def engine_files(bundle: Bundle) -> list[str]:
    """The compiled engines of a bundle's policy, by the names of their files."""
    return sorted(name for name in bundle.files if name.endswith(".engine"))


def verify_engines(path: Path, names: list[str]) -> list[EngineCheck]:
    """Checks each engine in a new process, so that a library that crashes or hangs takes nothing with it."""
    return [_in_process(path, name) for name in names]


def check_metadata(bundle: Bundle) -> str:
    """Empty where the contract inside the graph is the bundle's; otherwise what differs (an ONNX and a YAML that drift)."""
    contract = bundle.contract
    runtime = import_onnxruntime()
    if contract.graph.precision == "bf16":  # ONNX Runtime cannot load the graph on a CPU.
        return ""
    session = runtime.InferenceSession(bundle.read(contract.graph.file), providers=["CPUExecutionProvider"])
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    if CONTRACT_KEY not in metadata:
        return f"{contract.graph.file} has no {CONTRACT_KEY}"
    inside, _ = parse_contract(parse_json(metadata[CONTRACT_KEY].encode(), CONTRACT_KEY), CONTRACT_KEY)
    return "" if inside == contract else f"the contract inside {contract.graph.file} differs from bundle.json"


def check_engine(path: Path, name: str) -> EngineCheck:
    """Loads one engine of the bundle in `path` and recomputes the golden cases, in this process."""
    with Bundle.open(path) as bundle:
        contract = bundle.contract
        if name == STUDENT:
            return _check_student(bundle)
        golden = GoldenCases.from_bytes(bundle.read(GOLDEN), contract).for_engine(contract)
        try:
            with open_engine(bundle, name) as engine:
                return _compare(name, engine, golden)
        except EngineError as error:
            if name == ONNX and contract.graph.precision == "bf16":
                return EngineCheck(name, "not run", f"ONNX Runtime cannot run bf16 on a CPU: {error}")
            unchecked = _without_gpu(bundle, name)
            return EngineCheck(name, "not run", unchecked) if unchecked else EngineCheck(name, "failed", str(error))


def open_engine(bundle: Bundle, name: str) -> Engine:
    """An engine of a bundle by its name (see `engines_in`); EngineError where it cannot run here."""
    model, precision = bundle.read(bundle.contract.graph.file), bundle.contract.graph.precision
    if name == ONNX:
        return OnnxEngine(model)
    if name == STUDENT and (student := bundle.contract.student) is not None:
        return OnnxEngine(bundle.read(student.graph.file), OnnxCfg(precision=student.graph.precision))
    if name not in bundle.files:
        raise EngineError(f"the bundle has no engine '{name}'; it has {', '.join(engines_in(bundle))}")
    bundle.path(str(Path(name).with_suffix(".json")))  # of a zip, the sidecar must lie beside the engine
    return TensorRTEngine(read_engine_for(bundle.path(name), model), TensorRTCfg(flavour_of(name), precision=precision))


def flavour_of(name: str) -> Flavour:
    """The library that an engine's file is for."""
    stem = Path(name).name
    for flavour in sorted(MODULES, key=len, reverse=True):
        if stem.startswith(f"{flavour}-"):
            return flavour
    raise EngineError(f"{name} is no engine of {', '.join(MODULES)}")


def student_golden(bundle: Bundle) -> Golden | None:
    """What the student of a bundle must reproduce; None where the bundle does not say, as older ones do not."""
    student = bundle.contract.student
    if student is None or STUDENT_GOLDEN not in bundle.files:
        return None
    return GoldenCases.of_student(bundle.read(STUDENT_GOLDEN), bundle.contract).for_engine(student)


def _check_student(bundle: Bundle) -> EngineCheck:
    golden = student_golden(bundle)
    if golden is None:
        return EngineCheck(STUDENT, "not run", NO_STUDENT_GOLDEN)
    try:
        with open_engine(bundle, STUDENT) as engine:
            return _compare(STUDENT, engine, golden)
    except EngineError as error:
        return EngineCheck(STUDENT, "failed", str(error))


def _compare(name: str, engine: Engine, golden: Golden) -> EngineCheck:
    errors = np.abs(compute(engine, golden) - golden.actions)
    worst = float(errors.max())
    threshold = golden.tolerance_by_engine.get(engine.name, golden.tolerance)
    verdict: Verdict = "ok" if worst <= threshold else "failed"  # a NaN fails
    detail = "" if verdict == "ok" else "this engine does not compute the policy"
    return EngineCheck(name, verdict, detail, worst, float(errors.mean()), threshold)


def _without_gpu(bundle: Bundle, name: str) -> str:
    """What of a TensorRT engine was and was not checked where no GPU can run it; empty where there is more wrong."""
    if name == ONNX:
        return ""
    try:
        import_flavour(flavour_of(name))
    except EngineError as error:
        return str(error)
    try:
        model = bundle.read(bundle.contract.graph.file)
        report = inspect_plan(read_engine_for(bundle.path(name), model), flavour_of(name))
    except EngineError:
        return ""
    return f"checked: {', '.join(report.checked)}; not checked: {', '.join(report.unchecked)}" if report.unchecked else ""


def _in_process(path: Path, name: str) -> EngineCheck:
    command = [sys.executable, "-m", "trudi.runtime.verification", str(path), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return EngineCheck(name, "failed", f"no answer after {ENGINE_TIMEOUT_S:g} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return EngineCheck(name, "failed", f"its process ended with code {done.returncode}: {last}")
    values: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return EngineCheck(**values)


if __name__ == "__main__":
    print(json.dumps(asdict(check_engine(Path(sys.argv[1]), sys.argv[2]))))
