"""The graph in a thread of its own, so that the control loop can stop waiting for it.

A graph that takes ten times its budget, or never returns, then costs a held target or a stop, and not the commands
themselves. The two threads wake each other through event file descriptors: their timeouts are of the monotonic clock on
every Python, where those of Python 3.10's locks follow the wall clock.
"""

from __future__ import annotations

import math
import os
import select
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.engines.base import Engine, Float32
from trudi.runtime.errors import EngineError
from trudi.runtime.realtime import RealtimeCfg, enter_realtime, monotonic_ns

FD_SETSIZE = 1024
"""Largest descriptor that select takes; it has microseconds where poll has milliseconds."""

Infer = Callable[[Float32, "Float32 | None"], Float32]


class InferenceThread:
    """Computes one action at a time; the caller submits, then waits as long as it likes."""

    def __init__(
        self, engine: Engine, realtime: RealtimeCfg, spread_latents: Float32 | None = None, name: str = "trudi-inference"
    ) -> None:
        self._infer: Infer = engine.infer
        self._observation = np.zeros((1, engine.observation_size), np.float32)
        self._latent = np.zeros((1, engine.action_size), np.float32) if engine.takes_latent else None
        self._spread_latents = spread_latents
        """(k, m): latents of the spread; None measures none."""
        self.action = np.zeros((1, engine.action_size), np.float32)
        """(1, m), of the last action that came."""
        self.error = ""
        """What the engine said when it failed."""
        self.spread = math.nan
        """Largest standard deviation of an action's element over the latents, of an observation not long ago."""
        self.busy = False
        """Whether the graph still computes what was submitted last."""
        self.finished_ns = 0
        """When the last action that came was there; CLOCK_MONOTONIC."""
        self._failed = self._closing = False
        # Below the loop's own: of two equal priorities on one core, a graph that computes would keep the loop from waking.
        self._realtime = replace(realtime, priority=max(realtime.priority - 1, 1) if realtime.priority else 0)
        self._go, self._done = os.eventfd(0), os.eventfd(0)
        if self._done >= FD_SETSIZE:
            raise EngineError(f"more than {FD_SETSIZE} files are open in this process: make the session before opening them")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, observation: Float32, latent: Float32 | None) -> None:
        """Starts on an observation (1, n) and latent (1, m), which are copied. Not while `busy`."""
        assert not self.busy
        self._observation[:] = observation
        if self._latent is not None and latent is not None:
            self._latent[:] = latent
        self.busy = True
        os.eventfd_write(self._go, 1)

    def wait(self, until_ns: int) -> bool:
        """Waits until the action is there or `until_ns` of the monotonic clock; whether it is there (or has failed)."""
        if not self.busy:
            return False
        left_s = max((until_ns - monotonic_ns()) * 1e-9, 0.0)
        if not select.select([self._done], [], [], left_s)[0]:
            return False
        os.eventfd_read(self._done)
        self.busy = False
        return True

    @property
    def failed(self) -> bool:
        """Whether the last action that came is an error instead."""
        return self._failed

    def close(self, timeout_s: float = 1.0) -> bool:
        """Ends the thread; False where the graph does not return, and the thread stays behind with its descriptors."""
        if not self._closing:
            self._closing = True
            os.eventfd_write(self._go, 1)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        if self._go >= 0:
            os.close(self._go)
            os.close(self._done)
            self._go = self._done = -1
        return True

    def _run(self) -> None:
        enter_realtime(self._realtime)
        while True:
            os.eventfd_read(self._go)
            if self._closing:
                return
            try:
                np.copyto(self.action, self._infer(self._observation, self._latent))
                self._failed = False
            except Exception as error:  # Whatever the library raises must reach the supervisor, not end this thread.
                self.error, self._failed = f"{type(error).__name__}: {error}", True
            self.finished_ns = monotonic_ns()
            measure = self._spread_latents if not self._failed else None
            spread_of = None if measure is None else self._observation.copy()
            os.eventfd_write(self._done, 1)
            if measure is not None and spread_of is not None:
                self._measure_spread(spread_of, measure)

    def _measure_spread(self, observation: Float32, latents: NDArray[np.float32]) -> None:
        """After the action is handed over; the next one waits for it, so few latents are enough.

        NaN where the engine fails: it will fail at the next action, too, where that can be told from this one.
        """
        try:
            actions = np.array([self._infer(observation, latent[None]).copy() for latent in latents])
        except Exception:
            self.spread = math.nan
            return
        self.spread = float(actions.std(0).max())
