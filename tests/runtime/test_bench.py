"""Latency figures: who is called how often, and what the percentiles are of."""

import numpy as np
import pytest

from trudi.runtime import bench


def test_candidates_take_turns_and_every_counted_call_is_made(monkeypatch):
    monkeypatch.setattr(bench, "TURN_CALLS", 3)
    monkeypatch.setattr(bench, "WARM_UP_CALLS", 2)
    seen = []
    results = bench.measure({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, calls=5)
    # 2 warm-up calls each, then turns of 3 and 2 counted calls, each after one that is not counted
    assert "".join(seen) == "aabb" + "aaaa" + "bbbb" + "aaa" + "bbb"
    assert [one.calls for one in results.values()] == [5, 5]


def test_percentiles_are_those_of_the_times():
    one = bench._latency("x", np.arange(1, 1001) * 1000.0)  # 1, 2, ..., 1000 us
    assert one.p50_us == pytest.approx(500.5)
    assert one.p99_us == pytest.approx(990.01)
    assert one.max_us == 1000.0
    assert one.p50_us < one.p90_us < one.p99_us < one.p999_us < one.max_us


def test_the_table_gives_the_ratio_of_the_medians():
    one = bench._latency("ours", np.full(10, 150_000.0))
    assert bench.table({"ours": one}, floor_us=100.0).splitlines()[1].endswith("1.50")
