"""The grid of ticks: it comes to the robot's states, keeps its rate, and never waits long."""

import numpy as np
import pytest

from trudi.runtime.pace import WINDOW, Pace

MS = 1_000_000
START = 10**12


def ride(pace, period_ns, arrivals, ticks, decimation=1):
    """Times of ticks, and the age of the newest state at each control step."""
    times, ages = [], []
    for slot in range(ticks):
        due_ns = tick_ns = pace.due_ns(slot)
        if slot % decimation == 0:
            opens_ns = due_ns - pace.window_ns
            pace.note(int(arrivals[np.searchsorted(arrivals, opens_ns, side="right") - 1]))
            if (expected_ns := pace.expected_ns(due_ns)) is not None:
                pace.follow(due_ns, expected_ns)
                if pace.awaits(due_ns, expected_ns):
                    awaited = arrivals[np.searchsorted(arrivals, expected_ns - pace.state_period_ns // 2, side="right")]
                    tick_ns = min(max(int(awaited), opens_ns), due_ns + pace.window_ns)
            ages.append(tick_ns - int(arrivals[np.searchsorted(arrivals, tick_ns, side="right") - 1]))
        times.append(tick_ns)
    return np.array(times), np.array(ages)


def states(period_ns, first_ns, count=20_000, jitter_ns=None):
    """Times of arrivals; none overtakes another."""
    times = first_ns + period_ns * np.arange(count)
    return times if jitter_ns is None else np.maximum.accumulate(times + jitter_ns[:count].astype(int))


@pytest.mark.parametrize("rate_hz", [50, 200, 500])
@pytest.mark.parametrize("phase", [0.03, 0.3, 0.5, 0.77, 0.96])
def test_ticks_come_to_stand_where_states_arrive(rate_hz, phase):
    period_ns = round(1e9 / rate_hz)
    pace = Pace(period_ns, START, period_ns)
    times, ages = ride(pace, period_ns, states(period_ns, START - 100 * period_ns + round(phase * period_ns)), 400)
    # The grid moves by at most a fiftieth of a period each tick, and is at most half a period away.
    assert ages[100:].max() < 0.02 * period_ns
    np.testing.assert_allclose(np.diff(times[100:]), period_ns, rtol=0.01)
    assert np.diff(times).min() > 0.8 * period_ns
    assert np.diff(times).max() < 1.2 * period_ns


def test_without_following_states_are_as_old_as_chance_has_it():
    period_ns = 5 * MS
    pace = Pace(period_ns, START)  # the robot does not tell
    _, ages = ride(pace, period_ns, states(period_ns, START - 100 * period_ns + MS), 400)
    assert (ages == 4 * MS).all()


def test_jitter_of_states_stays_within_the_window():
    period_ns = 5 * MS
    jitter_ns = np.random.default_rng(0).exponential(0.2 * MS, 20_000)
    pace = Pace(period_ns, START, period_ns)
    times, ages = ride(pace, period_ns, states(period_ns, START - 100 * period_ns + 2 * MS, jitter_ns=jitter_ns), 3000)
    assert np.abs(np.diff(times[100:]) - period_ns).max() <= 2.1 * WINDOW * period_ns
    # One in 12 comes more than half a millisecond late, behind the window; one late state costs one tick, not two.
    assert np.mean(ages[100:] > 0.5 * period_ns) < 0.13
    assert np.median(ages[100:]) < 0.1 * MS
    assert abs((times[-1] - times[0]) / 2999 - period_ns) < 0.001 * period_ns


@pytest.mark.parametrize("state_ms, decimation", [(1, 4), (2, 4), (4, 4), (10, 4), (20, 4), (5, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("phase", [0.1, 0.45, 0.8])
def test_every_control_step_sees_a_state_that_has_just_come(state_ms, decimation, phase):
    """Faster states and slower ones, at 200 Hz, where a control step takes whole state periods; the rate is kept."""
    period_ns = 5 * MS
    pace = Pace(period_ns, START, state_ms * MS)
    arrivals = states(state_ms * MS, START - 100 * MS + round(phase * state_ms * MS))
    times, ages = ride(pace, period_ns, arrivals, 2400, decimation)
    assert ages[-200:].max() < 0.02 * period_ns
    assert np.abs(np.diff(times[-800:]) - period_ns).max() < 0.01 * period_ns
    assert np.abs(np.diff(times) - period_ns).max() <= 2.1 * WINDOW * period_ns


@pytest.mark.parametrize("state_ns", [2_000_000, 3_000_000, 3_100_000, 4_004_000])
def test_states_that_beat_with_the_control_steps_leave_the_rate_as_it_is(state_ns):
    period_ns = 5 * MS
    pace = Pace(period_ns, START, state_ns)
    times, _ = ride(pace, period_ns, states(state_ns, START - 97 * MS), 2000, 1)
    assert abs((times[-1] - times[0]) / 1999 - period_ns) < 0.003 * period_ns
    assert np.abs(np.diff(times) - period_ns).max() <= 2.1 * WINDOW * period_ns


@pytest.mark.parametrize("actual_ns", [400_000, 1_333_000, 1_777_000])
def test_states_at_another_rate_than_declared_are_not_followed(actual_ns):
    """Several times faster: where an arrival is expected says nothing any more, and the grid keeps its own rate."""
    period_ns = 5 * MS
    jitter_ns = np.random.default_rng(1).uniform(0.0, 0.3 * actual_ns, 60_000)
    pace = Pace(period_ns, START, 4 * MS)
    arrivals = states(actual_ns, START - 97 * MS, 30_000, jitter_ns)
    times, _ = ride(pace, period_ns, arrivals, 2000, 1)
    assert abs((times[-1] - times[0]) / 1999 - period_ns) < 0.003 * period_ns


def test_a_slow_clock_of_the_robot_is_followed():
    """200 ppm off, as two crystals are: the ticks go with the robot's clock and stay fresh."""
    period_ns = 5 * MS
    pace = Pace(period_ns, START, period_ns)
    arrivals = START - 500 * MS + np.cumsum(np.full(12_000, 5_001_000))
    times, ages = ride(pace, period_ns, arrivals, 8000)
    assert ages[200:].max() < 0.02 * period_ns
    assert abs((times[-1] - times[200]) / 7799 - 5_001_000) < 100


def test_a_state_that_was_lost_is_not_expected():
    pace = Pace(5 * MS, START, 5 * MS)
    due_ns = pace.due_ns(0)
    assert pace.expected_ns(due_ns) is None
    pace.note(due_ns - round(14.4 * MS))
    # 5, 10 and 15 ms after it; the last of these is the nearest.
    assert pace.expected_ns(due_ns) == due_ns + round(0.6 * MS)
    assert not pace.awaits(due_ns, due_ns + round(0.6 * MS))
    assert pace.awaits(due_ns, due_ns - round(0.5 * MS))
    assert pace.expected_ns(due_ns + MS) is None
    pace.note(due_ns + 100 * MS)  # back again, wherever its phase lies now
    assert pace.expected_ns(due_ns + 107 * MS) == due_ns + 105 * MS


def test_a_robot_that_does_not_tell_of_arrivals_leaves_the_grid_alone():
    pace = Pace(5 * MS, START)
    pace.note(START)
    assert pace.expected_ns(pace.due_ns(3)) is None
    assert [pace.due_ns(slot) for slot in (0, 1, 10)] == [START, START + 5 * MS, START + 50 * MS]
    assert pace.slot_at(START + 12 * MS) == 2
