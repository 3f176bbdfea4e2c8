"""What the operator and the system ask of a flight by signals, and a wait that they end early."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import Self

ENDING: Final[tuple[signal.Signals, ...]] = (signal.SIGTERM, signal.SIGHUP)
"""Damp at once: who sends these does not wait (a service manager, a terminal that is gone)."""
CAUGHT: Final[tuple[signal.Signals, ...]] = (*ENDING, signal.SIGINT, signal.SIGUSR1)


class Signals:
    """Counts signals from `with` to its end; for the main thread.

    A handler interrupts the main thread anywhere, a lock's own code included, so it takes none (threading.Event would):
    it counts, and writes to an eventfd. Waiting is on that, by the monotonic clock on every Python. SIGQUIT (Ctrl-\\) stays
    what it was, the way out where a disk hangs.
    """

    def __init__(self) -> None:
        self._counts = dict.fromkeys(CAUGHT, 0)
        self._previous: dict[signal.Signals, Any] = {}
        self._event = -1

    def __enter__(self) -> Self:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)
        for number in CAUGHT:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # under nohup
            self._previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._event)

    @property
    def ended(self) -> bool:
        """Whether a signal came that damps at once."""
        return any(self._counts[number] for number in ENDING)

    @property
    def interrupts(self) -> int:
        """How often Ctrl-C was pressed."""
        return self._counts[signal.SIGINT]

    @property
    def saves(self) -> int:
        """How often the flight so far was asked for, by SIGUSR1."""
        return self._counts[signal.SIGUSR1]

    @property
    def name(self) -> str:
        """The gravest signal that ended something; empty where none did."""
        return next((number.name for number in (*ENDING, signal.SIGINT) if self._counts[number]), "")

    def wait(self, seconds: float) -> None:
        """Waits, less long where a signal comes or has come since the last wait."""
        if self._poll.poll(seconds * 1e3):
            os.eventfd_read(self._event)

    def _count(self, number: int, _: FrameType | None) -> None:
        self._counts[signal.Signals(number)] += 1
        os.eventfd_write(self._event, 1)
