"""The ring of rows: order, wrapping, reading beside a writer, and no page fault while writing."""

import resource
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.ring import RowRing

ROW = np.dtype([("tick", "<i8"), ("x", "<f4", (3,)), ("state", "S4")])


@given(st.integers(2, 9), st.integers(0, 40))
def test_the_last_rows_oldest_first(capacity, written):
    ring = RowRing(ROW, capacity)
    for tick in range(written):
        i = ring.claim()
        ring.columns["tick"][i] = tick
        ring.columns["x"][i] = [tick, tick + 0.5, -tick]
        ring.array["state"][i] = b"RUN"
    expected = list(range(max(0, written - capacity), written))
    rows = ring.rows()
    assert rows["tick"].tolist() == expected
    assert rows["x"].tolist() == [[t, t + 0.5, -t] for t in expected]
    assert (ring.total, len(ring)) == (written, len(expected))
    # Beside a writer, the newest row may not be finished.
    assert ring.snapshot()["tick"].tolist() == expected[:-1]
    ring.commit()
    assert ring.snapshot()["tick"].tolist() == expected
    ring.claim()
    assert ring.snapshot()["tick"].tolist() == (expected[1:] if written >= capacity else expected)


def test_rows_are_a_copy():
    ring = RowRing(ROW, 2)
    ring.columns["tick"][ring.claim()] = 5
    rows = ring.rows()
    rows["tick"] = 6
    assert ring.rows()["tick"].tolist() == [5] and rows.dtype == ROW


def test_copies_of_more_than_one_piece():
    ring = RowRing([("tick", "<i8"), ("pad", "u1", (1000,))], 1000)
    for tick in range(1700):
        ring.columns["tick"][ring.claim()] = tick
    assert ring.rows()["tick"].tolist() == list(range(700, 1700))


@pytest.mark.parametrize("commits", [False, True])
def test_a_snapshot_beside_a_writer_holds_whole_rows_in_order(commits):
    ring = RowRing([("a", "<i8"), ("b", "<i8", (50,)), ("c", "<i8")], 500)
    first, middle, last = ring.columns.values()
    stop = threading.Event()

    def write():
        tick = 0
        while not stop.is_set():
            i = ring.claim()
            first[i] = tick
            middle[i] = tick
            last[i] = tick
            tick += 1
            if commits:
                ring.commit()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(150):
            rows = ring.snapshot()
            assert (rows["a"] == rows["c"]).all() and (rows["b"] == rows["a"][:, None]).all()
            assert (np.diff(rows["a"]) == 1).all()
    finally:
        stop.set()
        thread.join()
    assert ring.total > 0


def test_no_page_is_touched_first_while_writing():
    ring = RowRing([("x", "<f8", (1024,))], 4096)  # 32 MiB: 8192 pages of 4 KiB
    column, value = ring.columns["x"], np.ones(1024)
    column[ring.claim()] = value
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4095):
        column[ring.claim()] = value
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 200


def test_what_is_no_ring():
    with pytest.raises(TrudiRuntimeError, match="float64 has none"):
        RowRing(np.float64, 5)
    with pytest.raises(TrudiRuntimeError, match="capacity 1: "):
        RowRing(ROW, 1)
