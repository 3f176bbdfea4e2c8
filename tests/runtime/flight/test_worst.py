"""The worst cycles: which are kept, and what is blamed."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.histogram import Histogram
from trudi.runtime.flight.worst import Cycle, WorstCycles

STAGES = ("wake-up", "input age", "infer")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=60), st.integers(1, 8))
def test_the_slowest_are_kept(cycles, keep):
    worst = WorstCycles(STAGES, keep)
    for tick, stage_ns in enumerate(cycles):
        worst.offer(tick, 100 + tick, stage_ns, tick % 3)
    kept = worst.worst()
    assert [cycle.total_ns for cycle in kept] == sorted(map(sum, cycles), reverse=True)[:keep]
    assert len({cycle.tick for cycle in kept}) == len(kept)
    for cycle in kept:
        assert tuple(cycle.stage_ns.values()) == cycles[cycle.tick] and tuple(cycle.stage_ns) == STAGES
        assert (cycle.now_ns, cycle.missed) == (100 + cycle.tick, cycle.tick % 3)


def test_an_equal_cycle_replaces_none():
    worst = WorstCycles(STAGES, 1)
    for tick in range(3):
        worst.offer(tick, tick, [1, 2, 3], 0)
    assert worst.worst()[0].tick == 0


def histograms(**typical_ns):
    made = {name.replace("_", " " if "age" in name else "-"): Histogram() for name in typical_ns}
    for histogram, ns in zip(made.values(), typical_ns.values(), strict=True):
        histogram.record(ns)
    return made


@pytest.mark.parametrize(
    ("stage_ns", "cause"),
    [
        # Above the medians of 0.1, 2 and 4 ms by 3.0, 0 and 1 ms: not the longest stage is blamed.
        ([3_100_000, 2_000_000, 5_000_000], "wake-up 3.1 ms late"),
        # -0.1, 0, 0.2
        ([0, 2_000_000, 4_200_000], "infer took 4.2 ms (typically 4.0)"),
        ([100_000, 12_000_000, 6_000_000], "input 12.0 ms old (typically 2.0)"),
        ([100_000, 2_000_000, 4_000_000], "no stage above its median"),
    ],
)
def test_the_cause_is_the_stage_most_above_its_median(stage_ns, cause):
    worst = WorstCycles(STAGES)
    worst.offer(7, 70, stage_ns, 1)
    given_histograms = histograms(wake_up=100_000, input_age=2_000_000, infer=4_000_000)
    assert worst.worst(given_histograms) == [Cycle(7, 70, dict(zip(STAGES, stage_ns, strict=True)), sum(stage_ns), 1, cause)]


def test_without_histograms_the_longest_stage_is_named():
    worst = WorstCycles(("observe", "act"))
    worst.offer(1, 0, [30_000, 4_000], 0)
    assert worst.worst()[0].cause == "observe took 0.03 ms (typically 0.0)"


def test_the_sequence_offered_may_be_used_again():
    worst, stage_ns = WorstCycles(STAGES), [1, 2, 3]
    worst.offer(0, 0, stage_ns, 0)
    stage_ns[:] = [9, 9, 9]
    assert list(worst.worst()[0].stage_ns.values()) == [1, 2, 3]
    worst.clear()
    assert worst.worst() == []
    worst.offer(1, 0, stage_ns, 0)
    assert [cycle.tick for cycle in worst.worst()] == [1]


def test_no_memory_is_taken_for_a_cycle_that_is_not_kept():
    worst, stage_ns = WorstCycles(STAGES, 2), [1, 1, 1]
    for tick in range(2):
        worst.offer(tick, tick, [100, 100, 100], 0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            worst.offer(3, 3, stage_ns, 0)
        assert tracemalloc.get_traced_memory()[0] - before < 200
    finally:
        tracemalloc.stop()


def test_what_cannot_be_kept():
    for stages, keep in (((), 3), (("a", "a"), 3), (("a",), 0)):
        with pytest.raises(TrudiRuntimeError, match="at least one"):
            WorstCycles(stages, keep)
