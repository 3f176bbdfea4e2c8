"""The other policy of a bundle beside the one that is sent: computed on the same observation and latent, and compared.

It rides along in a thread of its own, below the graph's and the loop's, and starts once the command is out. The loop never
waits for it. Where it is not expected to be ready in what is left of the period it is left out; its errors are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.contract import Contract
from trudi.runtime.controller import Controller
from trudi.runtime.engines.base import Engine, Float32
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.histogram import Histogram, LatencySummary
from trudi.runtime.inference import InferenceThread
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns
from trudi.runtime.recorder import FlightRecorder

Network = Literal["student", "teacher"]

READY_BY: Final = 0.8
"""Part of the period by which a shadow must be expected to be ready: Linux throttles real-time threads that fill a core."""
FIRST_CALLS: Final = 8
"""Calls that the expected latency is measured with before the loop starts."""
BELOW_GRAPH: Final = 2
"""Steps of real-time priority that it stays below the graph's thread: between the two are those of a ROS node's topics."""
CLOSE_S: Final = 1.0
"""How long the end waits for a shadow that still computes; s."""
DIFFERENCE_UNIT: Final = 1e-9
"""Of the histogram of differences, which counts integers."""


class ShadowOutcome(IntEnum):
    """What became of the shadow in a control step."""

    COMPARED = 0
    """Its action is there."""
    NO_ACTION = 1
    """Left out: the policy that is sent gave no action in time, or none that was obeyed."""
    NO_TIME = 2
    """Left out: it takes longer than what was left of the period."""
    BUSY = 3
    """Left out: it was still at an earlier step."""
    FAILED = 4
    """Its engine raised an error."""
    NOT_FINITE = 5
    """Its action is no number."""
    UNFINISHED = 6
    """It still computes, or did when the loop ended."""


class Expected:
    """The latency that a shadow is expected to have: it rises at once, and falls by an eighth of the way a step.

    A step that is left out brings it nearer to the shortest there ever was, so that a machine that once stood still does not
    leave out the rest of the flight, and a shadow that never was fast enough is never tried.
    """

    def __init__(self) -> None:
        self.ns = 0
        self._shortest_ns = 1 << 62

    def measured(self, latency_ns: int) -> None:
        """Takes note of a latency."""
        self._shortest_ns = min(self._shortest_ns, latency_ns)
        self.ns = latency_ns if latency_ns > self.ns else self.ns - (self.ns - latency_ns) // 8

    def left_out(self) -> None:
        """Takes note of a step for which there was no time."""
        self.ns -= (self.ns - self._shortest_ns + 7) // 8


@dataclass(frozen=True)
class ShadowSummary:
    """What a shadow showed. Actions are those before scale and offset; differences are absolute."""

    shadow: Network
    """The policy that rode along; the other one was sent."""
    compared: int
    """Control steps in which both actions are known."""
    left_out: dict[str, int]
    """The others, by reason: the names of `ShadowOutcome` in small letters."""
    action_rms: float
    """Root mean square difference of an element of the action; NaN where nothing was compared, and so are the others."""
    action_p99: float
    """Largest difference of any element, not exceeded in 99 % of the steps; at most 1/64 too large."""
    action_max: float
    """Largest difference of any element in any step."""
    rms_by_element: dict[str, float]
    """Root mean square difference of each element, by its name (a joint's)."""
    max_by_element: dict[str, float]
    """Largest difference of each element."""
    evaluation: dict[str, Any] | None
    """The contract's `student.divergence`: the same at the observations of the teacher's evaluation."""
    latency: LatencySummary
    """From the start of the shadow until its action is there; ms."""
    error: str
    """What its engine said when it failed last; empty where it did not."""


class Shadow:
    """Computes and compares. Its methods are the control thread's, but for `summary`, which any thread may call."""

    def __init__(self, network: Network, engine: Engine, controller: Controller, realtime: RealtimeCfg) -> None:
        """`engine` is this shadow's own, and warm. `network` is the policy that it computes."""
        self.network: Network = network
        self._contract: Contract = controller.contract
        self._unscaled: Callable[[Float32, NDArray[np.float64]], None] = controller.unscaled
        m = self._contract.action.size
        self._sent, self._made = np.zeros((1, m), np.float32), np.zeros((1, m), np.float32)
        self._a, self._b, self._away = np.zeros(m), np.zeros(m), np.zeros(m)
        self._squares, self._largest = np.zeros(m), np.zeros(m)
        self._furthest, self._latency = Histogram(), Histogram()
        self._counts = [0] * len(ShadowOutcome)
        self._expected = Expected()
        self._measure(engine)
        self._recorder: FlightRecorder | None = None
        self._row = 0
        self._submitted_ns = 0
        self._open = self._under_way = False
        self.error = ""
        """What went wrong last."""
        self.broken = False
        """Whether an error of this program ended it."""
        below = replace(realtime, priority=max(realtime.priority - BELOW_GRAPH, 1) if realtime.priority else 0)
        self.preempted = realtime.priority > BELOW_GRAPH + 1
        """Whether its thread asks for a priority below those of the loop and the graph."""
        self._thread = InferenceThread(engine, below, name="trudi-shadow")

    def _measure(self, engine: Engine) -> None:
        observation = np.zeros((1, engine.observation_size), np.float32)
        latent = np.zeros((1, engine.action_size), np.float32) if engine.takes_latent else None
        for _ in range(FIRST_CALLS):
            start_ns = monotonic_ns()
            engine.infer(observation, latent)
            self._expected.measured(monotonic_ns() - start_ns)

    def record(self, recorder: FlightRecorder) -> None:
        """Where each step is recorded from now on."""
        self._recorder = recorder

    # A control step. Each ends in exactly one outcome.

    def begin(self) -> None:
        """A control step begins; the one before, where it has no end yet, had no action."""
        if self._open:
            self._end(ShadowOutcome.NO_ACTION)
        self._open = True

    def leave_out(self) -> None:
        """The step has no action of the policy that is sent."""
        self._end(ShadowOutcome.NO_ACTION)

    def submit(self, observation: Float32, latent: Float32 | None, sent: Float32, until_ns: int) -> None:
        """The step's action is `sent` (1, m), the graph's output for observation (1, n) and latent (1, m): all are copied.

        The shadow is started, unless it is not expected to be ready by `until_ns` of the monotonic clock.
        """
        if self._thread.busy:
            self._end(ShadowOutcome.BUSY)
            return
        now_ns = monotonic_ns()
        if now_ns + self._expected.ns > until_ns:
            self._expected.left_out()
            self._end(ShadowOutcome.NO_TIME)
            return
        self._sent[:] = sent
        self._under_way = True
        self._end(ShadowOutcome.UNFINISHED)
        self._submitted_ns = now_ns
        self._thread.submit(observation, latent)

    def collect(self) -> None:
        """Takes the shadow's action, where it has come since the last time; never waits."""
        if self._under_way and self._thread.wait(0):
            self._under_way = False
            self._take()

    def give_up(self, error: str) -> None:
        """An error of this program: nothing more is compared."""
        self.error, self.broken = error, True

    def close(self) -> bool:
        """Takes what still comes and ends the thread, once the loop has ended; False where its graph does not return."""
        if not self.broken:
            with np.errstate(all="ignore"):  # as in the control thread
                self._finish()
        closed = self._thread.close()
        self._under_way &= not closed
        return closed

    def _finish(self) -> None:
        if self._under_way and self._thread.wait(monotonic_ns() + round(CLOSE_S * 1e9)):
            self._under_way = False
            self._take()
        if self._open:
            self._end(ShadowOutcome.NO_ACTION)

    def _end(self, outcome: ShadowOutcome) -> None:
        self._open = False
        self._counts[outcome] += 1
        if self._recorder is not None:
            row = self._recorder.shadow(outcome)
            if outcome is ShadowOutcome.UNFINISHED:
                self._row = row

    def _take(self) -> None:
        """The comparison; all its arrays are there."""
        thread = self._thread
        latency_ns = thread.finished_ns - self._submitted_ns
        self._expected.measured(latency_ns)
        outcome = ShadowOutcome.COMPARED
        self._made[:] = math.nan if thread.failed else thread.action
        self._unscaled(self._made, self._a)
        self._unscaled(self._sent, self._b)
        np.subtract(self._a, self._b, out=self._away)
        if thread.failed:
            outcome, self.error = ShadowOutcome.FAILED, thread.error
        elif not math.isfinite(float(self._a.sum())):
            outcome, self.error = ShadowOutcome.NOT_FINITE, "its action is no number"
        if self._recorder is not None:
            self._recorder.shadow_result(self._row, outcome, self._made, self._away, latency_ns)
        self._latency.record(latency_ns)
        if outcome is ShadowOutcome.COMPARED:
            np.abs(self._away, out=self._a)
            np.maximum(self._largest, self._a, out=self._largest)
            self._furthest.record(round(float(self._a.max()) / DIFFERENCE_UNIT))
            np.multiply(self._away, self._away, out=self._a)
            self._squares += self._a
        self._counts[outcome] += 1
        self._counts[ShadowOutcome.UNFINISHED] -= 1

    # For whoever looks.

    def summary(self) -> ShadowSummary:
        """What it showed so far."""
        counts = list(self._counts)
        compared = counts[ShadowOutcome.COMPARED]
        left_out = {outcome.name.lower(): counts[outcome] for outcome in ShadowOutcome if outcome.value}
        names = self._contract.action.names
        squares, largest = self._squares / max(compared, 1), self._largest.copy()
        if not compared:
            squares, largest = np.full(len(names), math.nan), np.full(len(names), math.nan)
        student = self._contract.student
        measured = None if student is None or student.divergence is None else student.divergence.model_dump(mode="json")
        return ShadowSummary(
            shadow=self.network,
            compared=compared,
            left_out=left_out,
            action_rms=float(np.sqrt(squares.mean())),
            action_p99=self._furthest.percentile(99) * DIFFERENCE_UNIT if compared else math.nan,
            action_max=float(largest.max()),
            rms_by_element=dict(zip(names, np.sqrt(squares).tolist(), strict=True)),
            max_by_element=dict(zip(names, largest.tolist(), strict=True)),
            evaluation=measured,
            latency=self._latency.summary(),
            error=self.error,
        )


def check_shadow(contract: Contract) -> None:
    """TrudiRuntimeError where a bundle has not two policies whose actions can be compared."""
    student, teacher = contract.student, contract.sampler
    if student is None:
        raise TrudiRuntimeError(
            "a shadow needs two policies, and the bundle has no student beside its own: export both with "
            "`trudi export RUN --student STUDENT`"
        )
    fixed = teacher.noise == "fixed" and teacher.latent_std != student.sampler.latent_std
    if (teacher.noise, teacher.seed) != (student.sampler.noise, student.sampler.seed) or fixed:
        raise TrudiRuntimeError(
            f"the policy's latents are {teacher.noise}, its student's {student.sampler.noise}, or drawn otherwise: actions "
            "from different latents cannot be compared; export both with `trudi export RUN --student STUDENT`"
        )


def other(network: Network) -> Network:
    """The policy that is sent where `network` rides along."""
    return "teacher" if network == "student" else "student"


LEFT_OUT: Final = {
    "no_time": "left out for want of time",
    "no_action": "without an action to compare with",
    "busy": "left out behind one that still computed",
    "failed": "failed",
    "not_finite": "no number",
    "unfinished": "unfinished",
}


def shadow_lines(found: ShadowSummary) -> list[str]:
    """For the page at the end of a run."""
    reasons = "".join(f", {found.left_out[name]} {words}" for name, words in LEFT_OUT.items() if found.left_out[name])
    total = found.compared + sum(found.left_out.values())
    lines = [
        f"shadow  {found.shadow} (sent: {other(found.shadow)}): {found.compared} of {total} control steps compared{reasons}"
    ]
    if found.compared:
        lines.append(f"        actions differ by {_distance(found.action_rms, found.action_p99, found.action_max)}")
    if (measured := found.evaluation) is not None:
        evaluation = _distance(measured["action_rms"], measured["action_p99"], measured["action_max"])
        lines.append(f"        in the evaluation  {evaluation}")
    if found.compared:
        width = max(map(len, found.rms_by_element))
        for name, rms in found.rms_by_element.items():
            lines.append(f"        {name:<{width}}  rms {rms:.3g}, at most {found.max_by_element[name]:.3g}")
    if found.error:
        lines.append(f"        it failed: {found.error.strip().splitlines()[-1]}")
    return lines


def _distance(rms: float, p99: float, largest: float) -> str:
    return f"rms {rms:.3g}, 99 % below {p99:.3g}, at most {largest:.3g}"
