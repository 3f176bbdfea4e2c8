"""An engine that fails on schedule, to see what the control loop does about it. Only `trudi run --faults` makes one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trudi.runtime.engines.base import Engine, Float32
from trudi.runtime.errors import EngineError
from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.injection import Fault


class FaultyEngine(Engine):
    """Passes everything to another engine, except for what a schedule says; `at_s` counts from its first call."""

    def __init__(self, engine: Engine, faults: Sequence[Fault], budget_s: float) -> None:
        self._engine, self._budget_s = engine, budget_s
        self._faults = tuple(fault for fault in faults if fault.kind in ("inference_slow", "engine_error", "action_nan"))
        self._begin_ns: int | None = None
        self._spoilt = np.full((engine.batch, engine.action_size), np.nan, np.float32)
        super().__init__(engine.info, engine.buffers)

    def infer(self, observation: Float32, latent: Float32 | None = None) -> Float32:
        now_ns = monotonic_ns()
        self._begin_ns = self._begin_ns or now_ns
        now_s = (now_ns - self._begin_ns) * 1e-9
        action = self._engine.infer(observation, latent)
        for fault in self._faults:
            if not fault.lasts(now_s):
                continue
            if fault.kind == "engine_error":
                raise EngineError("an injected failure")
            if fault.kind == "action_nan":
                action = self._spoilt
            else:
                action = self._slowly(fault.number * self._budget_s, observation, latent)
        return action

    def _slowly(self, seconds: float, observation: Float32, latent: Float32 | None) -> Float32:
        """The action after computing it for `seconds`: a slow graph takes a core, where a sleep would yield it."""
        end_ns = monotonic_ns() + round(seconds * 1e9)
        action = self._engine.infer(observation, latent)
        while monotonic_ns() < end_ns:
            action = self._engine.infer(observation, latent)
        return action

    def _run(self) -> None:
        raise AssertionError("infer is passed on whole")

    def _release(self) -> None:
        self._engine.close()
