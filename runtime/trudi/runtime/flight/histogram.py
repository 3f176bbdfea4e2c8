"""Latency histograms cheap enough for a control loop: a few integer operations a sample, and no memory taken.

Log-linear bins, as HdrHistogram has them: every octave [2^e, 2^(e+1)) is cut into 64 bins of equal width, so that a bin is
at most 1/64 of the durations in it. Below 128 ns a bin is one nanosecond.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from trudi.runtime.errors import TrudiRuntimeError

_BITS = 6
_OCTAVES = 42
_TOP = (_OCTAVES - _BITS + 1) << _BITS
LIMIT_NS = 1 << _OCTAVES
"""Durations from here on, 73 minutes, share the top bin: their percentiles are the longest of them, `max_ns`."""


@dataclass(frozen=True)
class LatencySummary:
    """What a histogram says, in milliseconds; zeros where nothing was recorded."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    mean_ms: float


class Histogram:
    """Counts durations in nanoseconds. One thread records; any thread may read.

    `counts[i] += 1` is faster in a list than in an array('q') or a numpy array: those make an integer object from their
    storage and convert it back, a list hands out the one that it holds.
    """

    __slots__ = ("_counts", "_max_ns", "_sum_ns")

    def __init__(self) -> None:
        self._counts = [0] * (_TOP + 1)
        self._sum_ns = 0
        self._max_ns = 0

    def record(self, ns: int) -> None:
        """Counts one duration, a Python integer; a negative one counts as 0."""
        if ns < 128:
            ns = max(ns, 0)
            self._counts[ns] += 1
        else:
            shift = ns.bit_length() - (_BITS + 1)
            try:
                self._counts[(shift << _BITS) + (ns >> shift)] += 1
            except IndexError:
                self._counts[-1] += 1
        self._sum_ns += ns
        if ns > self._max_ns:  # noqa: PLR1730  (max() would cost 50 ns)
            self._max_ns = ns

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return sum(self._counts)

    @property
    def max_ns(self) -> int:
        """The longest duration, exact; 0 where nothing was recorded."""
        return self._max_ns

    @property
    def mean_ns(self) -> float:
        """The mean, exact; 0 where nothing was recorded."""
        return self._sum_ns / max(self.count, 1)

    def percentile(self, q: float) -> int:
        """The duration in nanoseconds that at least `q` percent of those recorded do not exceed; 0 where there are none.

        Rounded up to the end of its bin: never less than the true value x (nearest rank), and less than x / 64 more.
        TrudiRuntimeError where `q` is not within 0 to 100.
        """
        if not 0 <= q <= 100:
            raise TrudiRuntimeError(f"percentile {q}: a percentile is from 0 to 100")
        return self._percentile(self._counts.copy(), q)

    def clear(self) -> None:
        """Forgets everything. To be called from the recording thread, or while nothing records."""
        self._counts[:] = [0] * (_TOP + 1)
        self._sum_ns = 0
        self._max_ns = 0

    def summary(self) -> LatencySummary:
        """Percentiles, maximum and mean in milliseconds."""
        counts = self._counts.copy()
        p50, p90, p99, p999 = (self._percentile(counts, q) / 1e6 for q in (50, 90, 99, 99.9))
        return LatencySummary(sum(counts), p50, p90, p99, p999, self._max_ns / 1e6, self.mean_ns / 1e6)

    def _percentile(self, counts: list[int], q: float) -> int:
        # A fraction, since 100 * 0.07 is more than 7 in floats, which would take the sample after the right one.
        rank = max(1, math.ceil(sum(counts) * Fraction(str(q)) / 100))
        index = bisect_left(list(accumulate(counts)), rank)
        return min(_last_of_bin(index), self._max_ns) if index < _TOP else self._max_ns


def _last_of_bin(index: int) -> int:
    """The longest duration that is counted in a bin, in nanoseconds."""
    if index < 128:
        return index
    shift = (index >> _BITS) - 1
    return ((index - (shift << _BITS) + 1) << shift) - 1
