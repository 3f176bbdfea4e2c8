"""TensorRT (`tensorrt`, 10 and 11) and TensorRT-RTX (`tensorrt_rtx`): two libraries with one interface, so one engine.

A call is one launch of a CUDA graph that copies the inputs in, runs all the steps, and copies the action out.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from trudi.runtime.engines.base import (
    ACTION,
    LATENT,
    OBSERVATION,
    Buffers,
    Engine,
    EngineInfo,
    Float32,
    Port,
    Signature,
    choose_batch,
    read_signature,
)
from trudi.runtime.engines.cuda import Cuda
from trudi.runtime.errors import EngineError

Flavour = Literal["tensorrt", "tensorrt-rtx"]

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
SETTLING_CALLS = 3


@dataclass(frozen=True)
class TensorRTCfg:
    """How a serialised engine is run."""

    flavour: Flavour = "tensorrt-rtx"
    """The library that built it: tensorrt or tensorrt-rtx."""
    device: int = 0
    """The GPU's index."""
    batch: int | None = None
    """Rows of every array; None takes the engine's, or 1 where it is free."""
    cuda_graph: bool = True
    """Whether the copies and the kernels of a call are captured once and launched together."""
    precision: str = "unstated"
    """What the exporter says of the weights; shown, not checked."""

    def __post_init__(self) -> None:
        if self.flavour not in MODULES:
            raise EngineError(f"unknown TensorRT flavour '{self.flavour}'; available: {', '.join(MODULES)}")


@dataclass(frozen=True)
class PlanReport:
    """What a machine could say of a serialised engine."""

    signature: Signature | None
    """The sizes it declares; None where it could not be opened."""
    checked: tuple[str, ...]
    """What was checked and is right, a phrase each."""
    unchecked: tuple[str, ...]
    """What was not, and why."""


class LibraryLog:
    """A library's messages. A library keeps the first logger of a process, so each library has one for good."""

    def __init__(self, library: Any) -> None:
        self.lines: list[str] = []

        class Logger(library.ILogger):
            def __init__(self, lines: list[str]) -> None:
                library.ILogger.__init__(self)
                self.lines = lines

            def log(self, severity: Any, message: str) -> None:
                if severity.name != "VERBOSE":
                    self.lines.append(f"{severity.name}: {message}")

        self.logger = Logger(self.lines)

    def problems(self) -> list[str]:
        """The errors among the lines, each once."""
        return list(dict.fromkeys(line.split(": ", 1)[1] for line in self.lines if "ERROR" in line.split(": ", 1)[0]))


_LOGS: dict[str, LibraryLog] = {}


def fresh_log(library: Any) -> LibraryLog:
    """The library's log, emptied; for one thread at a time."""
    if library.__name__ not in _LOGS:
        _LOGS[library.__name__] = LibraryLog(library)
    _LOGS[library.__name__].lines.clear()
    return _LOGS[library.__name__]


def import_flavour(flavour: Flavour) -> Any:
    """The library, or an error that says how to get it and that ONNX works without it."""
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:
        advice = f"pip install 'trudi[{flavour}]'; the bundle's policy.onnx works without it"
        raise EngineError(f"{MODULES[flavour]} cannot be imported ({error}): {advice}") from error


def inspect_plan(plan: bytes, flavour: Flavour) -> PlanReport:
    """Opens a serialised engine as far as this machine can; an EngineError where it is broken or another version's."""
    library = import_flavour(flavour)
    actions = "the actions: compare them with the golden ones on the robot's GPU"
    log = fresh_log(library)
    runtime, engine = _deserialize(library, log, plan)
    if engine is not None:
        signature = read_signature(*_ports(engine))
        return PlanReport(signature, ("the engine opens", "its inputs and outputs keep the contract"), (actions,))
    problems = log.problems()
    invalid = _invalidity(library, runtime, plan)
    if invalid & {"MALFORMED_ENGINE", "VERSION_MISMATCH"} or any("Serialization" in line for line in problems):
        raise EngineError(f"{flavour} {library.__version__} refuses the engine: {_worst(problems)}; build it again")
    if not any("cuda" in line.lower() for line in problems):
        raise EngineError(f"{flavour} {library.__version__} cannot open the engine: {_worst(problems)}")
    stopped = f"opening it: {library.__name__} stops without a GPU ({_worst(problems)})"
    checked = ("its header and length",) if runtime is not None else ()
    return PlanReport(None, checked, (stopped, "its inputs and outputs", actions))


class TensorRTEngine(Engine):
    """A serialised engine on a GPU, with pinned memory and a captured CUDA graph."""

    def __init__(self, plan: bytes, cfg: TensorRTCfg | None = None) -> None:
        cfg = cfg or TensorRTCfg()
        library = import_flavour(cfg.flavour)
        with ExitStack() as undo:
            self._cuda = Cuda(cfg.device)
            undo.callback(self._cuda.close)
            log = fresh_log(library)
            self._runtime, self._engine = _deserialize(library, log, plan)
            if self._engine is None:
                raise EngineError(f"{cfg.flavour} {library.__version__} cannot open the engine: {_worst(log.problems())}")
            self._context: Any = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"{cfg.flavour} cannot make an execution context: {_worst(log.problems())}")
            signature = read_signature(*_ports(self._engine))
            buffers = Buffers.zeros(signature, choose_batch(signature, cfg.batch))
            self._pinned = self._place(buffers)
            self._graph = self._settle(cfg.cuda_graph)
            undo.pop_all()
        info = EngineInfo(cfg.flavour, f"{library.__name__} {library.__version__}", str(self._cuda), cfg.precision)
        super().__init__(info, buffers)

    def _place(self, buffers: Buffers) -> dict[str, tuple[Float32, int]]:
        """Pinned memory and device memory for each port, known to the context."""
        arrays = {OBSERVATION: buffers.observation, LATENT: buffers.latent, ACTION: buffers.action}
        placed: dict[str, tuple[Float32, int]] = {}
        for name, array in arrays.items():
            if array is None:
                continue
            placed[name] = (self._cuda.pinned(array.shape), self._cuda.device_memory(array.nbytes))
            if name != ACTION and not self._context.set_input_shape(name, array.shape):
                raise EngineError(f"the engine was not built for {name} {array.shape}: choose its batch, or build it again")
            self._context.set_tensor_address(name, placed[name][1])
        return placed

    def _settle(self, cuda_graph: bool) -> Any:
        """Lets the library allocate and compile in its first calls, then captures one; None where it cannot be captured."""
        for _ in range(SETTLING_CALLS):
            self._enqueue()
            self._cuda.wait()
        capturable = getattr(self._context, "is_stream_capturable", None)
        if not cuda_graph or (capturable is not None and not capturable(self._cuda.stream)):
            return None
        graph = self._cuda.capture(self._enqueue)
        self._cuda.launch(graph)
        self._cuda.wait()
        return graph

    @property
    def captured(self) -> bool:
        """Whether a call is one launch of a captured graph."""
        return self._graph is not None

    def _enqueue(self) -> None:
        for name, (array, address) in self._pinned.items():
            if name != ACTION:
                self._cuda.upload(array, address)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT could not queue the engine: see its log")
        array, address = self._pinned[ACTION]
        self._cuda.download(address, array)

    def _run(self) -> None:
        self._cuda.use_device()
        self._pinned[OBSERVATION][0][...] = self._buffers.observation
        if self._buffers.latent is not None:
            self._pinned[LATENT][0][...] = self._buffers.latent
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph)
        self._cuda.wait()
        self._buffers.action[...] = self._pinned[ACTION][0]

    def _release(self) -> None:
        self._pinned = {}
        self._context = None
        self._engine = None
        self._runtime = None
        self._cuda.close()


def _deserialize(library: Any, log: LibraryLog, plan: bytes) -> tuple[Any, Any]:
    """The runtime, which must outlive the engine, and the engine; None for each that the library does not give."""
    try:
        runtime = library.Runtime(log.logger)
    except TypeError:  # how the bindings say that the library returned nothing
        return None, None
    return runtime, runtime.deserialize_cuda_engine(plan)


def _invalidity(library: Any, runtime: Any, plan: bytes) -> set[str]:
    """TensorRT-RTX's own diagnosis of a plan; empty where the library has none."""
    if runtime is None or not hasattr(runtime, "get_engine_validity"):
        return set()
    known = library.EngineInvalidityDiagnostics.__members__
    _, bits = runtime.get_engine_validity(plan)
    return {name for name, flag in known.items() if int(flag) & int(bits)}


def _ports(engine: Any) -> tuple[list[Port], list[Port]]:
    ports: dict[str, list[Port]] = {"INPUT": [], "OUTPUT": []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        dtype = str(engine.get_tensor_dtype(name).name)
        ports[engine.get_tensor_mode(name).name].append(Port(name, shape, DTYPES.get(dtype, dtype)))
    return ports["INPUT"], ports["OUTPUT"]


def _worst(problems: list[str]) -> str:
    """The message that says most: the library's own, before the driver's."""
    ordered = sorted(problems, key=lambda line: "deserialize" not in line)
    return ordered[0].splitlines()[0][:200] if ordered else "it says nothing"
