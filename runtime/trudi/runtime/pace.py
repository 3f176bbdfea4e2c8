"""When a tick is due: on a grid of command periods that follows the arrivals of the robot's states.

A grid that knows nothing of the robot finds states that are anything up to a whole state period old. This one is moved a
little in each slot that begins a control step, so that a state arrives just when that slot is due, and its tick waits for it
within a window around that:

    slot k is due at        d_k = d_(k-1) + T
    states arrive at        p_n = phi + n S, phi smoothed over the arrivals
    in a control step       e = p_n - d_k for the n that comes nearest;  the grid moves by e / 8, at most T / 50
    the tick begins         when that state arrives, no sooner than d_k - T / 10 and no later than d_k + T / 10;
                            at d_k where none is expected within these bounds

with T the command period, S the state period. A state that does not come costs a tenth of a period, and two commands are
never closer or farther apart by more than a fifth. States that do not keep their period are neither followed nor awaited.
"""

from __future__ import annotations

WINDOW = 0.1
"""Part of the command period by which a tick may be early or late for the sake of a fresh state."""
GAIN = 0.125
SLEW = 0.02
"""Part of the command period by which the grid moves in a control step, at most."""
MOST_SPREAD = 0.15
"""Mean distance of arrivals from where they are expected, in state periods, beyond which nothing is expected of them.
Arrivals at random have 0.25."""
LOST_PERIODS = 3
"""State periods without a state after which none is expected."""


class Pace:
    """The grid of one loop. Times are CLOCK_MONOTONIC, ns."""

    def __init__(self, period_ns: int, start_ns: int, state_period_ns: int = 0) -> None:
        """Slot 0 is due at `start_ns`. `state_period_ns`: of a robot whose states are waited for; 0 for any other."""
        self._period_ns, self.state_period_ns = period_ns, state_period_ns
        self.window_ns = round(WINDOW * period_ns)
        self._slew_ns = round(SLEW * period_ns)
        self._origin_ns = start_ns
        self._arrived_ns = 0
        self._phase_ns = 0.0
        self._spread = 0.0

    def due_ns(self, slot: int) -> int:
        """When the slot is due, as the grid lies now."""
        return self._origin_ns + slot * self._period_ns

    def slot_at(self, now_ns: int) -> int:
        """The slot that was due last."""
        return (now_ns - self._origin_ns) // self._period_ns

    def note(self, arrived_ns: int) -> None:
        """A state arrived then; the one before may have been noted, or several may have come since."""
        state_ns = self.state_period_ns
        if not state_ns or arrived_ns <= self._arrived_ns:
            return
        if not self._arrived_ns or arrived_ns - self._arrived_ns > LOST_PERIODS * max(state_ns, self._period_ns):
            self._phase_ns, self._spread = float(arrived_ns), 0.0
        periods = round((arrived_ns - self._phase_ns) / state_ns)
        residual_ns = arrived_ns - self._phase_ns - periods * state_ns
        self._spread += GAIN * (abs(residual_ns) / state_ns - self._spread)
        self._phase_ns += periods * state_ns + GAIN * residual_ns
        self._arrived_ns = arrived_ns

    def expected_ns(self, due_ns: int) -> int | None:
        """When the state arrives that comes nearest to `due_ns`; None where none is expected."""
        state_ns = self.state_period_ns
        if not self._arrived_ns or self._spread > MOST_SPREAD:
            return None
        if due_ns - self._arrived_ns > LOST_PERIODS * max(state_ns, self._period_ns):
            return None
        return round(self._phase_ns + round((due_ns - self._phase_ns) / state_ns) * state_ns)

    def awaits(self, due_ns: int, expected_ns: int) -> bool:
        """Whether the tick that is due at `due_ns` waits for a state expected then."""
        return abs(expected_ns - due_ns) <= self.window_ns

    def follow(self, due_ns: int, expected_ns: int) -> None:
        """Moves the grid towards the states."""
        self._origin_ns += max(-self._slew_ns, min(round(GAIN * (expected_ns - due_ns)), self._slew_ns))
