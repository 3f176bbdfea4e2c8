"""Time and the scheduler: an absolute-deadline sleep, and what a control thread asks of Linux.

Only CLOCK_MONOTONIC is read: setting the machine's clock, by hand or by NTP, changes nothing here.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trudi.runtime.errors import TrudiRuntimeError

monotonic_ns = time.monotonic_ns

_TIMER_ABSTIME = 1
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_SWITCH_INTERVAL_S = 0.0002


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_libc = ctypes.CDLL(None, use_errno=True)


class Sleeper:
    """Sleeps until a point of CLOCK_MONOTONIC, so that periods do not add up their errors. One a thread."""

    def __init__(self) -> None:
        self._until = _Timespec()
        self._reference = ctypes.byref(self._until)

    def until(self, deadline_ns: int) -> None:
        """Returns at `deadline_ns` or as soon after it as the scheduler lets; at once where it has passed."""
        self._until.tv_sec, self._until.tv_nsec = divmod(deadline_ns, 1_000_000_000)
        while _libc.clock_nanosleep(time.CLOCK_MONOTONIC, _TIMER_ABSTIME, self._reference, None) == errno.EINTR:
            pass


@dataclass(frozen=True)
class RealtimeCfg:
    """What the control thread asks of the operating system. What is not permitted is reported and done without."""

    priority: int = 60
    """SCHED_FIFO priority, 1 to 99; 0 asks for none."""
    cpu: int | None = None
    """The core the control thread keeps to; None lets the scheduler choose."""
    lock_memory: bool = True
    """Whether the process's memory is locked, so that no page fault waits for a disk."""

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= 99:
            raise TrudiRuntimeError(f"priority {self.priority}: a SCHED_FIFO priority is 1 to 99, or 0 for none")
        cores = sorted(os.sched_getaffinity(0))
        if self.cpu is not None and self.cpu not in cores:
            raise TrudiRuntimeError(
                f"cpu {self.cpu} may not be used by this process; it may use {', '.join(map(str, cores))}"
            )


def enter_realtime(cfg: RealtimeCfg) -> list[str]:
    """Applies `cfg` to the calling thread (memory: to the process); returns a sentence for each thing not permitted."""
    notes: list[str] = []
    if cfg.lock_memory and _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        reason = os.strerror(ctypes.get_errno())
        notes.append(f"memory is not locked ({reason}): raise `memlock` in /etc/security/limits.conf, or grant CAP_IPC_LOCK")
    if cfg.cpu is not None:
        os.sched_setaffinity(0, {cfg.cpu})
    if cfg.priority:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(cfg.priority))
        except OSError as error:
            notes.append(
                f"no real-time priority {cfg.priority} ({error.strerror}): raise `rtprio` in /etc/security/limits.conf, "
                "or grant CAP_SYS_NICE; deadlines will be missed under load"
            )
    return notes


def try_realtime() -> list[str]:
    """What `enter_realtime` would not be permitted, for the default settings; the calling thread keeps its priority."""
    notes = enter_realtime(RealtimeCfg())
    _libc.munlockall()
    return notes


def process_age_s() -> float:
    """Time since this process was started, its interpreter's own start included; s, to a hundredth."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def above_normal(wanted: bool) -> Generator[None]:
    """The lowest real-time priority for the calling thread, where it is `wanted` and permitted.

    For every other Python thread of a process with a control thread: one that the scheduler sets aside for some other
    process while it holds the interpreter's lock would keep the control thread waiting as long.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        if wanted:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:  # `enter_realtime` has said so for the control thread.
        wanted = False
    try:
        yield
    finally:
        if wanted:
            os.sched_setscheduler(0, policy, parameters)


@contextmanager
def quiet_interpreter() -> Generator[None]:
    """No garbage collection, and short turns between threads, for as long as a control loop runs in this process.

    What exists is frozen out of the collector's sight. The loop makes no reference cycles, so nothing piles up; both
    settings return to what they were.
    """
    was_enabled, interval = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        if was_enabled:
            gc.enable()
