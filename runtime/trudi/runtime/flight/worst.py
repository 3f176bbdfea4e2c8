"""The slowest cycles of a control loop, kept with what made each of them slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.histogram import Histogram

_EMPTY = -1


@dataclass(frozen=True)
class Cycle:
    """One cycle of the loop, durations in nanoseconds."""

    tick: int
    now_ns: int
    """When it began, on the clock that the loop reads."""
    stage_ns: dict[str, int]
    total_ns: int
    missed: int
    """How many periods it made the loop skip."""
    cause: str
    """The stage that took most above its median, in words."""


class WorstCycles:
    """Keeps the `keep` cycles with the longest sum over their stages; one equal to the least of them is not kept."""

    def __init__(self, stages: tuple[str, ...], keep: int = 16) -> None:
        if not stages or len(set(stages)) != len(stages):
            raise TrudiRuntimeError(f"stages {stages}: at least one is needed, each with its own name")
        if keep < 1:
            raise TrudiRuntimeError(f"keep {keep}: at least one cycle is kept")
        self._stages = stages
        self._totals = [_EMPTY] * keep
        self._ticks = [0] * keep
        self._times = [0] * keep
        self._missed = [0] * keep
        self._stage_ns = [[0] * len(stages) for _ in range(keep)]
        self._least = _EMPTY

    def offer(self, tick: int, now_ns: int, stage_ns: Sequence[int], missed: int) -> None:
        """Considers a cycle; `stage_ns` has one duration for each stage, in their order, and is copied if it is kept."""
        total = sum(stage_ns)
        if total > self._least:
            self._keep(total, tick, now_ns, stage_ns, missed)

    def _keep(self, total: int, tick: int, now_ns: int, stage_ns: Sequence[int], missed: int) -> None:
        slot = self._totals.index(self._least)
        self._totals[slot] = total
        self._ticks[slot] = tick
        self._times[slot] = now_ns
        self._missed[slot] = missed
        self._stage_ns[slot][:] = stage_ns
        self._least = min(self._totals)

    def worst(self, histograms: Mapping[str, Histogram] | None = None) -> list[Cycle]:
        """The cycles kept, the slowest first. What is typical is the median of a stage's histogram; without one, 0."""
        given = histograms or {}
        typical = [given[stage].percentile(50) if stage in given else 0 for stage in self._stages]
        order = sorted(range(len(self._totals)), key=lambda slot: (-self._totals[slot], self._ticks[slot]))
        return [self._cycle(slot, typical) for slot in order if self._totals[slot] != _EMPTY]

    def clear(self) -> None:
        """Forgets every cycle."""
        self._totals[:] = [_EMPTY] * len(self._totals)
        self._least = _EMPTY

    def _cycle(self, slot: int, typical: list[int]) -> Cycle:
        took = self._stage_ns[slot]
        stage_ns = dict(zip(self._stages, took, strict=True))
        excess, index = max((took[i] - typical[i], -i) for i in range(len(took)))
        cause = _words(self._stages[-index], took[-index], typical[-index]) if excess > 0 else "no stage above its median"
        return Cycle(self._ticks[slot], self._times[slot], stage_ns, self._totals[slot], self._missed[slot], cause)


def _words(stage: str, took_ns: int, typical_ns: int) -> str:
    took, typical = _ms(took_ns), _ms(typical_ns)
    plain = stage.replace("_", "-").replace(" ", "-")
    if plain in ("wake-up", "wakeup"):
        return f"wake-up {took} ms late"
    if plain == "input-age":
        return f"input {took} ms old (typically {typical})"
    return f"{stage} took {took} ms (typically {typical})"


def _ms(ns: int) -> str:
    """Milliseconds with one digit after the point, or with two significant digits where that would read 0.0."""
    return f"{ns / 1e6:.1f}" if ns >= 50_000 or ns == 0 else f"{ns / 1e6:.2g}"
