"""Builds serialised engines from an ONNX graph, with TensorRT (`tensorrt`, 10 and 11) or TensorRT-RTX (`tensorrt_rtx`).

Networks are strongly typed: the precision is what the graph says, so a graph is cast before it comes here. A build with
TensorRT-RTX needs no GPU, one with TensorRT the robot's own. A second build finds the file of the first, by its key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from trudi.export.files import TEMPORARY, build_lock, write_durably
from trudi.runtime.engines.base import Port, Signature, read_signature
from trudi.runtime.engines.cuda import Cuda
from trudi.runtime.engines.files import (
    SIDECAR_VERSION,
    EngineKey,
    cuda_variant,
    library_version,
    read_engine,
    sha256,
    sidecar_path,
)
from trudi.runtime.engines.tensorrt import DTYPES, MODULES, Flavour, LibraryLog, fresh_log, import_flavour
from trudi.runtime.errors import EngineError

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
MAX_ERRORS_SHOWN: Final = 3


@dataclass(frozen=True)
class BuildCfg:
    """How an engine is built. Options that a flavour lacks or ignores are refused: no key claims what was not done."""

    flavour: Flavour = "tensorrt-rtx"
    """tensorrt-rtx (GeForce and RTX; builds without a GPU) or tensorrt (data centre and Jetson; builds on the robot)."""
    precision: str = "fp32"
    """What the exporter says of the graph's weights; a part of the key. The graph itself decides."""
    compute_capabilities: tuple[str, ...] = ()
    """tensorrt-rtx: the GPUs to build for, such as 8.6, 8.9, 12.0; none is the library's choice, Ampere and later."""
    optimization_level: int | None = None
    """tensorrt: how long to search for kernels, 0 to 5; None is the library's choice."""
    hardware_compatibility: HardwareCompatibility = "none"
    """tensorrt: other GPUs that must run the engine too, at some cost: none, ampere_plus or same_compute_capability."""
    version_compatible: bool = False
    """tensorrt: whether later versions of the library must run it too; carries a lean runtime along."""
    timing_cache: Path | None = None
    """tensorrt: file with kernel timings that builds share; read and extended. Not a part of the key."""
    max_batch: int = 1
    """The largest batch, where the graph leaves it free."""
    tf32: bool = False
    """Whether fp32 products may be rounded to 10 bits of mantissa: TensorRT's default, but far from fp32's parity."""

    def __post_init__(self) -> None:
        if self.flavour not in MODULES:
            raise EngineError(f"unknown TensorRT flavour '{self.flavour}'; available: {', '.join(MODULES)}")
        if self.max_batch < 1 or self.optimization_level not in (None, *range(6)):
            raise EngineError(
                f"max_batch {self.max_batch}, optimization_level {self.optimization_level}: at least 1, and 0 to 5"
            )
        if self.hardware_compatibility not in ("none", "ampere_plus", "same_compute_capability"):
            raise EngineError(f"unknown hardware compatibility '{self.hardware_compatibility}'")
        foreign = {
            "optimization_level": self.optimization_level is not None,
            "hardware_compatibility": self.hardware_compatibility != "none",
            "version_compatible": self.version_compatible,
            "timing_cache": self.timing_cache is not None,
        }
        if self.flavour == "tensorrt":
            foreign = {"compute_capabilities": bool(self.compute_capabilities)}
        if any(foreign.values()):
            raise EngineError(
                f"{self.flavour} has no {', '.join(name for name, is_set in foreign.items() if is_set)}: leave it out"
            )

    def flags(self) -> tuple[tuple[str, str], ...]:
        """Every option that changes the engine and has no part of its own in the key."""
        named: Mapping[str, object] = {
            "hardware_compatibility": self.hardware_compatibility,
            "max_batch": self.max_batch,
            "optimization_level": self.optimization_level,
            "tf32": self.tf32,
            "version_compatible": self.version_compatible,
            "weight_streaming": False,
        }
        return tuple((name, str(value)) for name, value in named.items())


@dataclass(frozen=True)
class Plan:
    """A serialised engine fresh from the builder."""

    data: bytes
    signature: Signature
    """The sizes of the network that was parsed."""
    log: str
    """The library's messages, one a line."""
    seconds: float
    """Of parsing and building."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on disk."""

    path: Path
    key: EngineKey
    reused: bool
    """Whether an earlier build had made it."""


def engine_key(model: bytes, cfg: BuildCfg) -> EngineKey:
    """What an engine of this graph depends on, with the library (and for tensorrt the GPU) of this machine."""
    capabilities = cfg.compute_capabilities or ((_own_capability(),) if cfg.flavour == "tensorrt" else ())
    return EngineKey(
        onnx_sha256=sha256(model),
        flavour=cfg.flavour,
        library_version=library_version(cfg.flavour),
        cuda=cuda_variant(cfg.flavour),
        compute_capabilities=tuple(sorted(set(capabilities))),
        precision=cfg.precision,
        flags=cfg.flags(),
    )


def build_engine(model: bytes | Path, folder: Path, cfg: BuildCfg | None = None) -> BuiltEngine:
    """The engine of a graph, as a file in `folder`: the one there, if its key is this one and it is whole, or a new one.

    Processes that build in one folder wait for each other. One that dies leaves no sidecar, so its engine is built again.
    """
    cfg = cfg or BuildCfg()
    data = read_model(model) if isinstance(model, Path) else model
    key = engine_key(data, cfg)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key.stem}.engine"
    with build_lock(folder, leftovers=f".tensorrt*{TEMPORARY}"):
        try:
            read_engine(path, key)
            return BuiltEngine(path, key, reused=True)
        except EngineError:
            sidecar_path(path).unlink(missing_ok=True)
        plan = compile_plan(data, cfg)
        write_durably(path, plan.data)
        write_durably(path.with_suffix(".log"), plan.log.encode())
        write_durably(sidecar_path(path), _sidecar(key, plan))
    return BuiltEngine(path, key, reused=False)


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}") from error


def compile_plan(model: bytes, cfg: BuildCfg) -> Plan:
    """Parses and builds, with nothing written but the timing cache; an EngineError carries the library's own messages."""
    library = import_flavour(cfg.flavour)
    log = fresh_log(library)
    start = time.perf_counter()
    builder = _builder(library, log, cfg.flavour)
    network = builder.create_network(_strongly_typed(library))
    _parse(library, log, network, model)
    inputs = [_port(network.get_input(index)) for index in range(network.num_inputs)]
    signature = read_signature(inputs, [_port(network.get_output(index)) for index in range(network.num_outputs)])
    config = _config(library, builder, cfg)
    if signature.batch is None:
        config.add_optimization_profile(_profile(builder, inputs, cfg.max_batch))
    cache = _timing_cache(config, cfg.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{cfg.flavour} {library.__version__} cannot build the engine: {_told(log.problems())}")
    if cfg.timing_cache is not None:
        write_durably(cfg.timing_cache, bytes(cache.serialize()))
    return Plan(bytes(plan), signature, "\n".join(log.lines) + "\n", time.perf_counter() - start)


def _builder(library: Any, log: LibraryLog, flavour: Flavour) -> Any:
    try:
        return library.Builder(log.logger)
    except TypeError as error:  # how the bindings say that the library returned nothing
        advice = "build on the robot's GPU, or use tensorrt-rtx, which needs none; the ONNX graph works without either"
        raise EngineError(
            f"{flavour} {library.__version__} cannot start here ({_told(log.problems())}): {advice}"
        ) from error


def _strongly_typed(library: Any) -> int:
    """The flag that TensorRT 10 needs; later versions know no other networks."""
    flags = library.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(library: Any, log: LibraryLog, network: Any, model: bytes) -> None:
    parser = library.OnnxParser(network, log.logger)
    if parser.parse(model):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [
        f"{error.node_operator() or 'graph'} '{error.node_name()}' (node {error.node()}): {error.desc()}" for error in errors
    ]
    raise EngineError(f"{library.__name__} {library.__version__} cannot parse the graph: {_told(told or log.problems())}")


def _port(tensor: Any) -> Port:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return Port(tensor.name, shape, DTYPES.get(tensor.dtype.name, str(tensor.dtype.name)))


def _config(library: Any, builder: Any, cfg: BuildCfg) -> Any:
    config = builder.create_builder_config()
    flags = library.BuilderFlag
    (config.set_flag if cfg.tf32 else config.clear_flag)(flags.TF32)
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: what makes an engine safe to capture in a CUDA graph
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if cfg.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if cfg.optimization_level is not None:
        config.builder_optimization_level = cfg.optimization_level
    if cfg.hardware_compatibility != "none":
        config.hardware_compatibility_level = getattr(library.HardwareCompatibilityLevel, cfg.hardware_compatibility.upper())
    if cfg.compute_capabilities:
        _target(library, config, cfg.compute_capabilities)
    return config


def _target(library: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    known = {
        f"{int(one) // 10}.{int(one) % 10}": one for one in library.ComputeCapability.__members__.values() if int(one) > 1
    }
    unknown = [name for name in capabilities if name not in known]
    if unknown:
        raise EngineError(f"unknown compute capabilities {unknown}; {library.__name__} builds for {', '.join(known)}")
    targets = sorted(set(capabilities))
    config.num_compute_capabilities = len(targets)
    for index, name in enumerate(targets):
        config.set_compute_capability(known[name], index)


def _profile(builder: Any, inputs: list[Port], max_batch: int) -> Any:
    profile = builder.create_optimization_profile()
    for port in inputs:
        profile.set_shape(port.name, *((size, *port.shape[1:]) for size in (1, max_batch, max_batch)))
    return profile


def _timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _sidecar(key: EngineKey, plan: Plan) -> bytes:
    content = {
        "version": SIDECAR_VERSION,
        "digest": key.digest,
        "key": asdict(key),
        "sha256": sha256(plan.data),
        "bytes": len(plan.data),
        "signature": asdict(plan.signature),
        "build_s": round(plan.seconds, 3),
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _own_capability() -> str:
    cuda = Cuda()
    try:
        major, minor = cuda.compute_capability()
    finally:
        cuda.close()
    return f"{major}.{minor}"


def _told(problems: list[str]) -> str:
    """The first few messages, a line each cut to its first."""
    return (
        "; ".join(problem.strip().splitlines()[0] for problem in problems[:MAX_ERRORS_SHOWN] if problem.strip())
        or "it says nothing"
    )
