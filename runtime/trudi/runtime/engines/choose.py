"""Which engine a robot uses: the first of a preference list that loads and passes the golden self-test.

An engine that loads is not yet an engine that is right: libraries have been silently wrong on versions they do not support.
So each is made to compute recorded actions before it may move anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.engines.base import Engine, Float32
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.engines.tensorrt import MODULES, Flavour, TensorRTCfg, TensorRTEngine
from trudi.runtime.errors import EngineError

ENGINES: Final = ("onnx", "onnx-cuda", "onnx-tensorrt", *MODULES)
Loader = Callable[[], Engine]


@dataclass(frozen=True)
class Golden:
    """Recorded inputs and the actions that every engine must reproduce."""

    observations: Float32
    """(cases, n)."""
    latents: Float32 | None
    """(cases, m); None where the graph takes none."""
    actions: NDArray[Any]
    """(cases, m), float32 or float64."""
    tolerance: float
    """The largest absolute difference of any action's element."""
    tolerance_by_engine: Mapping[str, float] = field(default_factory=dict[str, float])
    """Another tolerance for the engines named: a lower precision has a larger one."""

    def __post_init__(self) -> None:
        arrays = [self.observations, self.actions] + ([] if self.latents is None else [self.latents])
        if any(array.ndim != 2 or len(array) != len(self.actions) or array.size == 0 for array in arrays):
            raise EngineError(
                f"golden arrays have shapes {[array.shape for array in arrays]}: each must be (cases, size), cases alike"
            )
        if not all(bool(np.isfinite(array).all()) for array in arrays):
            raise EngineError("golden arrays hold values that are not finite: record them again")
        if not all(value > 0.0 for value in (self.tolerance, *self.tolerance_by_engine.values())):
            raise EngineError(
                f"golden tolerance {self.tolerance} and {dict(self.tolerance_by_engine)}: each must be above 0"
            )


@dataclass(frozen=True)
class Rejection:
    """An engine that was preferred but not taken."""

    name: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The engine taken, warm, and why not the ones before it."""

    engine: Engine
    max_error: float
    """Of the golden self-test."""
    rejected: tuple[Rejection, ...]

    def log_lines(self) -> list[str]:
        """A sentence for each engine that was tried."""
        taken = f"{self.engine.name}: taken ({self.engine.info.library}, {self.engine.info.provider}), "
        return [f"{one.name}: rejected, {one.reason}" for one in self.rejected] + [
            taken + f"golden error {self.max_error:.3g}"
        ]


def choose_engine(
    preference: Sequence[str], loaders: Mapping[str, Loader], golden: Golden, *, warm_up_calls: int = 20
) -> Choice:
    """The first engine of `preference` that loads and reproduces `golden`; an EngineError gives every reason if none does.

    Whatever a loader raises rejects its engine: behind it is a library whose failures are its own.
    """
    unknown = [name for name in preference if name not in ENGINES]
    if unknown or not preference:
        raise EngineError(f"unknown engines {unknown} in the preference {list(preference)}; available: {', '.join(ENGINES)}")
    rejected: list[Rejection] = []
    for name in preference:
        if name not in loaders:
            rejected.append(Rejection(name, "there is no file for it"))
            continue
        engine: Engine | None = None
        try:
            engine = loaders[name]()
            error = self_test(engine, golden)
            engine.warm_up(warm_up_calls)
        except Exception as failure:
            if engine is not None:
                engine.close()
            kind = "" if isinstance(failure, EngineError) else f"{type(failure).__name__}: "
            rejected.append(Rejection(name, kind + str(failure)))
            continue
        return Choice(engine, error, tuple(rejected))
    raise EngineError("no engine may be used: " + "; ".join(f"{one.name}: {one.reason}" for one in rejected))


def standard_loaders(
    model: bytes, plans: Mapping[Flavour, bytes], onnx: OnnxCfg | None = None, device: int = 0
) -> dict[str, Loader]:
    """Loaders for an ONNX graph and for the serialised engines that lie beside it."""
    precision = (onnx or OnnxCfg()).precision
    loaders: dict[str, Loader] = {"onnx": lambda: OnnxEngine(model, onnx)}
    for flavour, plan in plans.items():
        cfg = TensorRTCfg(flavour, device=device, batch=(onnx or OnnxCfg()).batch, precision=precision)
        loaders[flavour] = _plan_loader(plan, cfg)
    return loaders


def self_test(engine: Engine, golden: Golden) -> float:
    """The largest absolute error over the golden cases; an EngineError where it is above the tolerance, or not a number."""
    tolerance = golden.tolerance_by_engine.get(engine.name, golden.tolerance)
    if (golden.latents is not None) != engine.takes_latent:
        raise EngineError(
            f"golden latents are {'given' if golden.latents is not None else 'missing'}, unlike the graph's latent"
        )
    if golden.actions.shape[1] != engine.action_size:
        raise EngineError(f"golden actions have {golden.actions.shape[1]} elements, the engine's {engine.action_size}")
    errors = np.abs(compute(engine, golden).astype(np.float64) - golden.actions)
    worst = float(errors.max())
    if not worst <= tolerance:
        case, element = (int(index) for index in np.unravel_index(int(errors.argmax()), errors.shape))
        where = f"golden case {case}, action {element}"
        raise EngineError(
            f"{where} is off by {worst:.3g}, tolerance {tolerance:.3g}: this engine does not compute the policy"
        )
    return worst


def compute(engine: Engine, golden: Golden) -> Float32:
    """The engine's actions (cases, m), in chunks of its batch; the last is filled up with its own last case."""
    cases = len(golden.actions)
    rows = [np.minimum(np.arange(start, start + engine.batch), cases - 1) for start in range(0, cases, engine.batch)]
    latents = golden.latents
    chunks = [engine.infer(golden.observations[row], None if latents is None else latents[row]).copy() for row in rows]
    return np.concatenate(chunks)[:cases]


def _plan_loader(plan: bytes, cfg: TensorRTCfg) -> Loader:
    return lambda: TensorRTEngine(plan, cfg)
