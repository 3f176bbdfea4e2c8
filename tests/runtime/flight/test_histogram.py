"""Histograms: every bin by hand at its edges, percentiles against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.flight.histogram import LIMIT_NS, Histogram, LatencySummary

durations = st.lists(st.integers(0, 300) | st.integers(0, 10**8) | st.integers(0, LIMIT_NS - 1), min_size=1, max_size=200)


def filled(samples):
    histogram = Histogram()
    for ns in samples:
        histogram.record(ns)
    return histogram


@given(durations, st.integers(0, 1000))
def test_a_percentile_is_never_less_than_numpys_nor_a_64th_more(samples, permille):
    got = filled(samples).percentile(permille / 10)
    # The nearest rank lies between numpy's neighbours of its interpolated position.
    low, high = (int(np.percentile(samples, permille / 10, method=method)) for method in ("lower", "higher"))
    assert low <= got < high + max(high / 64, 1)


@given(durations, st.sampled_from([0, 12.5, 25, 50, 75, 100]))  # exact in binary, so that numpy's rank is the true one
def test_the_relative_error_is_below_a_64th(samples, q):
    true = int(np.percentile(samples, q, method="inverted_cdf"))
    assert 0 <= filled(samples).percentile(q) - true < max(true / 64, 1)


@given(durations)
def test_count_maximum_and_mean_are_exact(samples):
    histogram = filled(samples)
    assert (histogram.count, histogram.max_ns) == (len(samples), max(samples))
    assert histogram.mean_ns == sum(samples) / len(samples)
    assert histogram.percentile(100) == max(samples)


@pytest.mark.parametrize("ns", [0, 1, 63, 64, 127, 128, 129, 255, 256, 257, 999_999, 2**30 - 1, 2**30, LIMIT_NS - 1])
def test_the_bin_of_a_duration(ns):
    histogram = filled([ns, LIMIT_NS * 2])
    width = 1 if ns < 128 else 2 ** (ns.bit_length() - 7)
    assert histogram.percentile(50) == ns // width * width + width - 1


def test_percentiles_by_hand():
    histogram = filled([100] * 7 + [1000] * 92 + [5_000_000])
    # 7 of 100 samples are 100 ns: 7 % do not exceed it, and 0.07 * 100 > 7 in floats must not matter.
    assert histogram.percentile(7) == 100
    # 1000 has 10 bits: bins of 2^(10 - 7) = 8 ns, 1000 = 125 * 8 begins one, which ends at 1007.
    assert histogram.percentile(7.1) == histogram.percentile(99) == 1007
    assert histogram.percentile(99.9) == 5_000_000
    summary = histogram.summary()
    assert summary == LatencySummary(100, 0.001007, 0.001007, 0.001007, 5.0, 5.0, pytest.approx(0.050927))  # 5_092_700 / 100


def test_negative_durations_count_as_zero_and_the_longest_is_exact():
    histogram = filled([-5, LIMIT_NS, 10**30])
    assert (histogram.count, histogram.max_ns, histogram.percentile(1)) == (3, 10**30, 0)
    assert histogram.percentile(50) == 10**30
    assert histogram.mean_ns == (LIMIT_NS + 10**30) / 3


def test_an_empty_and_a_cleared_histogram():
    histogram = filled([3, 4])
    histogram.clear()
    for empty in (Histogram(), histogram):
        assert empty.summary() == LatencySummary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        assert (empty.percentile(99), empty.count, empty.max_ns) == (0, 0, 0)
    histogram.record(7)
    assert histogram.percentile(50) == 7


def test_a_percentile_outside_its_range():
    for q in (-1, 101, float("nan")):
        with pytest.raises(TrudiRuntimeError, match="a percentile is from 0 to 100"):
            Histogram().percentile(q)
