"""Latency of one call: candidates take turns in one process, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]

WARM_UP_CALLS: Final = 200
TURN_CALLS: Final = 250


@dataclass(frozen=True)
class Latency:
    """Percentiles of one candidate; microseconds."""

    name: str
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    calls: int


def measure(candidates: Mapping[str, Call], calls: int = 20_000) -> dict[str, Latency]:
    """Times `calls` calls of every candidate, in turns of 250, after warming each up."""
    times = {name: np.empty(calls) for name in candidates}
    for call in candidates.values():
        for _ in range(WARM_UP_CALLS):
            call()
    for start in range(0, calls, TURN_CALLS):
        for name, call in candidates.items():
            _turn(call, times[name][start : start + TURN_CALLS])
    return {name: _latency(name, values) for name, values in times.items()}


def table(results: Mapping[str, Latency], floor_us: float | None) -> str:
    """A line a candidate; the ratio is that of the medians to the floor."""
    width = max(map(len, results))
    head = f"{'':<{width}} {'p50 us':>9} {'p90':>9} {'p99':>9} {'p99.9':>9} {'max':>9} {'x floor':>8}"
    lines = [head]
    for one in results.values():
        ratio = "-" if floor_us is None else f"{one.p50_us / floor_us:.2f}"
        cells = " ".join(f"{value:>9.1f}" for value in (one.p50_us, one.p90_us, one.p99_us, one.p999_us, one.max_us))
        lines.append(f"{one.name:<{width}} {cells} {ratio:>8}")
    return "\n".join(lines)


def _turn(call: Call, out: NDArray[np.float64]) -> None:
    clock = time.perf_counter_ns
    call()  # brings its own weights back into the caches, as they are in a loop that runs this alone
    for index in range(len(out)):
        begin = clock()
        call()
        out[index] = clock() - begin


def _latency(name: str, nanoseconds: NDArray[np.float64]) -> Latency:
    p50, p90, p99, p999 = (float(value) for value in np.percentile(nanoseconds, (50, 90, 99, 99.9)) / 1e3)
    return Latency(name, p50, p90, p99, p999, float(nanoseconds.max()) / 1e3, len(nanoseconds))


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
