"""ONNX Runtime: the engine that runs everywhere, on one thread of a CPU unless asked otherwise."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trudi.runtime.engines.base import (
    ACTION,
    LATENT,
    OBSERVATION,
    Buffers,
    Engine,
    EngineInfo,
    Port,
    choose_batch,
    read_signature,
)
from trudi.runtime.errors import EngineError

Provider = Literal["cpu", "cuda", "tensorrt"]
GraphOptimization = Literal["disabled", "basic", "extended", "all"]

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bfloat16)": "bfloat16",
}


@dataclass(frozen=True)
class OnnxCfg:
    """How ONNX Runtime runs a graph. The defaults suit a control loop: one thread, waiting for no other."""

    provider: Provider = "cpu"
    """What computes: cpu, cuda or tensorrt; the latter two need an ONNX Runtime built with them and a GPU."""
    device: int = 0
    """The GPU's index; unused on a CPU."""
    batch: int | None = None
    """Rows of every array; None takes the graph's, or 1 where it is free."""
    threads: int = 1
    """Threads that share one operator. 0 takes every core, and takes them from the control loop too."""
    spin: bool = False
    """Whether idle threads spin instead of sleeping: lower latency with several threads, at the cost of whole cores."""
    graph_optimization: GraphOptimization = "all"
    """Which graph rewrites run while loading: disabled, basic (constants), extended (fusions), all (memory layout too)."""
    memory_arena: bool = True
    """Whether intermediate tensors come from an arena that grows while warming up and is then reused."""
    memory_pattern: bool = True
    """Whether their places in it are planned from the first call."""
    denormals_as_zero: bool = False
    """Whether denormal numbers count as zero: faster where they occur, not bit-equal to PyTorch."""
    optimized_model: Path | None = None
    """File that the rewritten graph is saved to; it suits this processor and this version alone."""
    session_entries: tuple[tuple[str, str], ...] = ()
    """Further session configuration of ONNX Runtime, as keys and values (`session.disable_prepacking`, `1`)."""
    precision: str = "unstated"
    """What the exporter says of the weights; shown, not checked."""

    def __post_init__(self) -> None:
        if self.threads < 0 or (self.batch is not None and self.batch < 1):
            raise EngineError(f"threads {self.threads} and batch {self.batch}: threads must be at least 0, batch at least 1")
        if self.provider not in PROVIDERS:
            raise EngineError(f"unknown ONNX Runtime provider '{self.provider}'; available: {', '.join(PROVIDERS)}")
        if self.graph_optimization not in ("disabled", "basic", "extended", "all"):
            raise EngineError(
                f"unknown graph optimisation '{self.graph_optimization}'; available: disabled, basic, extended, all"
            )


class OnnxEngine(Engine):
    """An ONNX graph in ONNX Runtime, its inputs and output bound once to the arrays of `Buffers`."""

    def __init__(self, model: bytes, cfg: OnnxCfg | None = None) -> None:
        cfg = cfg or OnnxCfg()
        runtime = import_onnxruntime()
        require_provider(runtime, cfg.provider)
        try:
            session = runtime.InferenceSession(model, _options(runtime, cfg), providers=_providers(cfg))
        except Exception as error:
            raise EngineError(f"ONNX Runtime {runtime.__version__} cannot load the graph: {_first_line(error)}") from error
        session.disable_fallback()
        used: list[str] = session.get_providers()
        if PROVIDERS[cfg.provider] not in used:
            raise EngineError(
                f"ONNX Runtime fell back to {used[0]}, {PROVIDERS[cfg.provider]} was asked: check the driver and CUDA"
            )
        signature = read_signature(_ports(session.get_inputs()), _ports(session.get_outputs()))
        info = EngineInfo("onnx", f"onnxruntime {runtime.__version__}", PROVIDERS[cfg.provider], cfg.precision)
        super().__init__(info, Buffers.zeros(signature, choose_batch(signature, cfg.batch)))
        self._session: Any = session
        self._binding: Any = self._bind(runtime)

    def _bind(self, runtime: Any) -> Any:
        """Binds the arrays by address: ONNX Runtime then reads and writes them, and a call makes no tensor."""
        binding = self._session.io_binding()
        wrap = runtime.OrtValue.ortvalue_from_numpy
        binding.bind_ortvalue_input(OBSERVATION, wrap(self._buffers.observation))
        if self._buffers.latent is not None:
            binding.bind_ortvalue_input(LATENT, wrap(self._buffers.latent))
        binding.bind_ortvalue_output(ACTION, wrap(self._buffers.action))
        return binding

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error

    def _release(self) -> None:
        self._binding = None
        self._session = None


def import_onnxruntime() -> Any:
    """The module, or an error that says how to get it."""
    try:
        return importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        raise EngineError(f"onnxruntime cannot be imported ({_first_line(error)}): pip install onnxruntime") from error


def require_provider(runtime: Any, provider: Provider) -> None:
    """Raises where this build of ONNX Runtime lacks the provider."""
    available: list[str] = runtime.get_available_providers()
    if PROVIDERS[provider] not in available:
        advice = "install onnxruntime-gpu in place of onnxruntime, or use the provider cpu"
        raise EngineError(
            f"onnxruntime {runtime.__version__} has no {PROVIDERS[provider]} (it has {', '.join(available)}): {advice}"
        )


def _providers(cfg: OnnxCfg) -> list[tuple[str, dict[str, Any]]]:
    chain: dict[Provider, tuple[Provider, ...]] = {
        "cpu": ("cpu",),
        "cuda": ("cuda", "cpu"),
        "tensorrt": ("tensorrt", "cuda", "cpu"),
    }
    return [(PROVIDERS[name], {} if name == "cpu" else {"device_id": cfg.device}) for name in chain[cfg.provider]]


def _options(runtime: Any, cfg: OnnxCfg) -> Any:
    options = runtime.SessionOptions()
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = {
        "disabled": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[cfg.graph_optimization]
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = cfg.threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = cfg.memory_arena
    options.enable_mem_pattern = cfg.memory_pattern
    options.log_severity_level = 3
    if cfg.optimized_model is not None:
        options.optimized_model_filepath = str(cfg.optimized_model)
    for kind in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{kind}.allow_spinning", "1" if cfg.spin else "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1" if cfg.denormals_as_zero else "0")
    for key, value in cfg.session_entries:
        options.add_session_config_entry(key, value)
    return options


def _ports(nodes: list[Any]) -> list[Port]:
    """A dimension that ONNX Runtime names, or leaves out, is free."""
    return [
        Port(
            node.name,
            tuple(size if isinstance(size, int) else None for size in node.shape),
            _DTYPES.get(node.type, str(node.type)),
        )
        for node in nodes
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
