"""Work that may take long, a disk's or a terminal's, done beside the thread that commands a robot."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from trudi.runtime.realtime import above_normal

POLL_S = 0.01


class Aside:
    """Does jobs one after the other in a thread of its own, which never keeps the process from ending."""

    def __init__(self, name: str, realtime: bool) -> None:
        """`realtime`: the thread is not set aside by other processes while it holds the interpreter's lock."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._realtime = realtime
        self._given = self._done = 0
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a job is under way or waits."""
        return self._done != self._given

    def do(self, job: Callable[[], None]) -> None:
        """Takes on a job; from one thread only. It is to deal with its own errors."""
        self._given += 1
        self._jobs.put(job)

    def wait(self, timeout_s: float = math.inf) -> bool:
        """Waits until every job is done; False where that takes longer."""
        end = time.monotonic() + timeout_s
        while self.busy and time.monotonic() < end:
            time.sleep(POLL_S)  # a lock's timeout follows the wall clock in Python 3.10
        return not self.busy

    def close(self) -> None:
        """Ends the thread, once its jobs are done."""
        self._jobs.put(None)

    def _run(self) -> None:
        with above_normal(self._realtime):
            while (job := self._jobs.get()) is not None:
                with suppress(Exception):
                    job()
                self._done += 1
