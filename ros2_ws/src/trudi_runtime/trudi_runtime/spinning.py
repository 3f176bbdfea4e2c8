"""Executors, threads and signals of a node that must keep time."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from rclpy.context import Context
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from trudi.runtime.realtime import above_normal

SPIN_S = 0.05
"""Longest that a spinning thread does not look whether it is to end; s."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def make_executor(context: Context) -> Executor:
    """The event-driven executor, which costs the least a message; the usual one where this rclpy has none."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def spin_while(executor: Executor, wanted: Callable[[], bool], on_error: Callable[[str], None]) -> None:
    """Spins until it is no longer `wanted`. A callback that raises is reported, and ends nothing."""
    while wanted():
        try:
            executor.spin_once(timeout_sec=SPIN_S)
        except ExternalShutdownException:
            return
        except Exception:
            on_error(traceback.format_exc())


class SpinningThread:
    """Spins one node in a thread of its own."""

    def __init__(self, node: Node, on_error: Callable[[str], None], realtime: bool) -> None:
        self._executor = make_executor(node.context)
        self._executor.add_node(node)
        self._ending = False
        self._on_error, self._realtime = on_error, realtime
        self._thread = threading.Thread(target=self._run, name="trudi-topics", daemon=True)
        self._thread.start()

    @property
    def native_id(self) -> int:
        """Of the thread, as the kernel knows it."""
        return self._thread.native_id or 0

    def close(self) -> None:
        """Ends the thread."""
        self._ending = True
        self._thread.join()
        self._executor.shutdown()

    def _run(self) -> None:
        with above_normal(self._realtime):
            spin_while(self._executor, lambda: not self._ending, self._on_error)


class Ending:
    """Whether a signal says that the process is to end. Handlers only take note, so that the robot is damped first."""

    def __init__(self) -> None:
        self.name = ""
        for number in ENDING:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # under nohup
            signal.signal(number, self._note)

    def ignore_more(self) -> None:
        """From now on the process ends by itself: a launcher sends every Ctrl-C twice."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name


def raise_threads(priority: int, *chosen: int) -> None:
    """Gives a real-time priority to the `chosen` threads, and to those that have none: the middleware's own, above all.

    A thread that carries the robot's messages waits otherwise for whatever else the machine does. What is not permitted is
    left as it is (the control thread has said so).
    """
    for entry in Path("/proc/self/task").iterdir():
        thread = int(entry.name)
        try:
            without = thread != os.getpid() and os.sched_getscheduler(thread) == os.SCHED_OTHER
            if thread in chosen or without:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        except OSError:
            continue


def quietly(call: Callable[[], Any]) -> None:
    """Runs what may fail because the other end is gone already."""
    try:
        call()
    except Exception:
        return
