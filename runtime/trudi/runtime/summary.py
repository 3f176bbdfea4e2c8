"""What a run showed: as a table that lives, as a page at the end, and as JSON."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from trudi.runtime.conduct import Course
from trudi.runtime.loop import SPANS, STAGES
from trudi.runtime.robots.base import RobotReport
from trudi.runtime.session import Session
from trudi.runtime.shadow import shadow_lines

REFRESH_S: Final = 0.5
EXPLAINED: Final = {
    "wake_up": "wake-up, behind the deadline",
    "observe": "reading and judging",
    "infer": "waiting for the graph",
    "act": "making the command",
    "publish": "sending it",
    "input_age": "age of the state when used",
    "tick": "deadline to command",
    "observation_to_command": "observation to its command",
    "state_to_command": "state's stamp to its command",
    "shadow": "the shadow's graph, aside",
}


class LiveTable:
    """A few lines, drawn over again on a terminal; elsewhere a line now and then."""

    def __init__(self, session: Session, title: str) -> None:
        self._session, self._title = session, title
        self._terminal = sys.stdout.isatty()
        self._next = 0.0
        self._drawn = 0
        self._last = ""
        sys.stdout.flush()  # What is drawn passes by the buffer.

    def refresh(self, course: Course) -> None:
        """Draws, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REFRESH_S
        if self._terminal:
            self._draw(course)
        else:
            self._say()

    def end(self) -> str:
        """What takes the table away: the page follows."""
        return f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""

    def _draw(self, course: Course) -> None:
        width = shutil.get_terminal_size().columns - 1  # A line that wraps would be two to the terminal and one to us.
        lines = [self._title, *overview(self._session), *tracking_lines(course), *stage_table(self._session)]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        emit(up + "".join(f"\x1b[2K{line[:width]}\n" for line in lines) + "\x1b[J")
        self._drawn = len(lines)

    def _say(self) -> None:
        """A change of state, for logs."""
        state = self._session.controller.supervisor.state.name
        if state != self._last:
            emit(f"{self._title}: {state}\n")
            self._last = state


def emit(text: str) -> None:
    """Writes to standard output without its lock, which a thread that a stalled terminal holds up would keep."""
    try:
        descriptor = sys.stdout.fileno()
    except io.UnsupportedOperation:  # no file, as in a notebook
        sys.stdout.write(text)
        return
    data = text.encode(sys.stdout.encoding or "utf-8", "replace")
    while data:
        data = data[os.write(descriptor, data) :]


def overview(session: Session) -> list[str]:
    """State, counts and the fault, if there is one."""
    controller, times = session.controller, session.loop.times
    supervisor = controller.supervisor
    stale = "  halting: neutral" if controller.halting else "  command stale: neutral" if controller.commands_stale else ""
    student = f", {times.students} by the student" if session.student is not None else ""
    outside, old_s = controller.watches.out_of_range_total, controller.limits.state_age_warn_s
    return [
        f"state   {supervisor.state.name} ({supervisor.motors.name.lower()}){stale}",
        f"rate    {controller.cfg.rate_hz:g} Hz commands, {1 / controller.contract.control_period_s:g} Hz policy",
        f"counts  {times.cycles} cycles, {times.misses} missed; {times.steps} control steps, {times.late} late{student}",
        f"warned  {times.stale} ticks with a state older than {old_s:g} s, {outside} observations out of training's range",
        f"fault   {supervisor.fault or 'none'}",
    ]


def tracking_lines(course: Course) -> list[str]:
    """How far the robot is off its commands; no line where that is not measured."""
    if not course.tracking:
        return []
    return ["off     " + ", ".join(f"{name} by {error:.3f}" for name, error in course.tracking.items()) + " on average"]


def stage_table(session: Session) -> list[str]:
    """A line a stage: percentiles in milliseconds."""
    head = f"{'ms':<32} {'p50':>8} {'p99':>8} {'p99.9':>8} {'max':>8}"
    lines = [head]
    stages = {name: session.loop.times.histograms[name].summary() for name in (*STAGES, *SPANS)}
    if session.shadow is not None:
        stages["shadow"] = session.shadow.summary().latency
    for name, times in stages.items():
        if times.count:
            cells = " ".join(f"{value:>8.3f}" for value in (times.p50_ms, times.p99_ms, times.p999_ms, times.max_ms))
            lines.append(f"{EXPLAINED[name]:<32} {cells}")
    return lines


def page(session: Session, course: Course, report: RobotReport | None, sending: Mapping[str, int]) -> str:
    """The summary at the end; `sending` counts what did not reach the robot."""
    lines = [*overview(session), "", *stage_table(session), ""]
    lines[0] = f"state   {course.final_state.name}, then at rest"
    if course.fault is not None:
        found = course.fault.violation
        lines.append(f"FAULT   {course.fault}; value {found.value:.6g}, threshold {found.threshold:.6g}")
    if course.refusal:
        lines.append(f"refused {course.refusal}")
    if session.loop.error:
        lines.append(f"error   {session.loop.error.strip().splitlines()[-1]}")
    lines.append(f"ended   {course.ended}")
    worst = session.loop.times.worst.worst(session.loop.times.histograms)
    if worst:
        lines.append("worst   " + "; ".join(cycle.cause for cycle in worst[:3]))
    lines += tracking_lines(course)
    if session.shadow is not None:
        lines += shadow_lines(session.shadow.summary())
    if report is not None:
        lines += robot_lines(report)
    if any(sending.values()):
        lines.append(f"unsent  {sending['unsent']} commands; {sending['refused']} times nobody listened at the robot's port")
    lines += [f"note    {note}" for note in session.loop.notes]
    lines += [f"flight  {path}" for path in course.saved]
    if course.unsaved:
        lines.append(f"flight  not written: {course.unsaved}")
    return "\n".join(lines)


def robot_lines(report: RobotReport) -> list[str]:
    """What the robot's own process saw."""
    late = expired(report)
    lines = [f"robot   {report.commands} commands, {report.violation_count - late} unsafe"]
    lines[0] += f", {late} expired on arrival and not obeyed" if late else ""
    lines += [f"unsafe  {sentence}" for sentence in report.violations if not is_expired(sentence)][:5]
    for fault in report.injected:
        lines.append("fault   " + ", ".join(f"{name} {value}" for name, value in fault.items() if value is not None))
    if report.returns:
        mean = sum(report.returns) / len(report.returns)
        lines.append(f"return  {mean:.2f} on average over {len(report.returns)} episodes")
    return lines + [f"robot   {note}" for note in report.notes]


def expired(report: RobotReport) -> int:
    """Commands that came too late to be obeyed: the checker counts them, and the robot was in no danger of them."""
    return sum(map(is_expired, report.violations))


def is_expired(sentence: str) -> bool:
    """Whether a sentence of the checker's says that a command came too late."""
    return sentence.endswith(": expired")


def facts(session: Session, course: Course, report: RobotReport | None, sending: Mapping[str, int]) -> dict[str, Any]:
    """The same for machines."""
    times, fault = session.loop.times, course.fault
    worst = times.worst.worst(times.histograms)
    found: list[dict[str, Any]] = []
    if fault is not None:
        violation = fault.violation
        numbers = {"value": violation.value, "threshold": violation.threshold}
        found.append({"code": violation.code.name, "number": int(violation.code), "sentence": violation.sentence, **numbers})
        found[0] |= {"state": fault.state.name, "at_ns": fault.at_ns}
    returns = report.returns if report is not None else ()
    return {
        "state": course.final_state.name,
        "faults": found,
        "refusal": course.refusal,
        "ended": course.ended,
        "interrupted": course.interrupted,
        "sent": session.sent,
        "engine": asdict(session.engine.info),
        "engine_choice": session.log_lines(),
        "configured_s": session.configured_s,
        "rate_hz": session.controller.cfg.rate_hz,
        "cycles": times.cycles,
        "misses": times.misses,
        "control_steps": times.steps,
        "late": times.late,
        "stale": times.stale,
        "students": times.students,
        "shadow": None if session.shadow is None else asdict(session.shadow.summary()),
        "out_of_range": session.controller.watches.out_of_range_total,
        "active_s": course.active_s,
        "stages": {name: asdict(one.summary()) for name, one in times.histograms.items() if one.count},
        "worst": [asdict(cycle) for cycle in worst],
        "tracking": course.tracking,
        "return_mean": sum(returns) / len(returns) if returns else None,
        "returns": list(returns),
        "robot": None if report is None else asdict(report),
        "expired": 0 if report is None else expired(report),
        "sending": dict(sending),
        "notes": session.loop.notes,
        "error": session.loop.error,
        "recordings": [str(path) for path in course.saved],
        "recording_error": course.unsaved,
    }
