"""Executors, threads and signals of a node that must keep time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import rclpy
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from trudi.runtime.errors import TrudiRuntimeError, one_line
from trudi.runtime.realtime import above_normal

NodeT = TypeVar("NodeT", bound=Node)

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


def spin_while(executor: Executor, wanted: Callable[[], bool], on_error: Callable[[str], object]) -> None:
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

    def __init__(self, node: Node, on_error: Callable[[str], object], realtime: bool) -> None:
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


def run_node(make: Callable[[], NodeT], run: Callable[[NodeT, Executor, Ending], int], argv: list[str] | None) -> int:
    """A node's process from its start to its end: `run` gives the exit code; 2, and why in a line, where it cannot start."""
    ending = Ending()
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
    except (TrudiRuntimeError, ParameterException, RuntimeError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = make_executor(node.context)
    executor.add_node(node)
    try:
        return run(node, executor, ending)
    finally:
        ending.ignore_more()
        for step in (executor.shutdown, node.destroy_node, rclpy.try_shutdown):
            with contextlib.suppress(Exception):  # the middleware may be gone already
                step()
