"""What a viewer is told of a session: where the supervisor stands and why, the commands, and how the loop keeps time."""

from __future__ import annotations

import math
import time
from typing import Any

from trudi.runtime.conduct import Course
from trudi.runtime.controller import Controller
from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.session import Session
from trudi.runtime.supervisor import Fault
from trudi.runtime.viewer.link import ViewerLink

PERIOD_S = 0.1
TIMES_PERIOD_S = 1.0
"""Time between two looks at the percentiles, which cost more than everything else together; s."""
SHOWN_TIMES = ("wake_up", "tick", "observation_to_command", "input_age")


class SessionTeller:
    """Tells a viewer of a session, ten times a second at most, from whichever thread draws."""

    def __init__(self, session: Session, title: str, link: ViewerLink) -> None:
        self._session, self._title, self._link = session, title, link
        self._next = self._next_times = 0.0
        self._times_ms: dict[str, list[float] | None] = {}

    def refresh(self, course: Course) -> None:
        """Tells, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PERIOD_S
        if now >= self._next_times:
            self._next_times = now + TIMES_PERIOD_S
            self._times_ms = {name: _percentiles(self._session, name) for name in SHOWN_TIMES}
        self.tell(course)

    def tell(self, course: Course) -> None:
        """Tells now."""
        facts = session_facts(self._session, course)
        self._link.tell("runtime", facts | {"title": self._title, "times_ms": self._times_ms})


def session_facts(session: Session, course: Course) -> dict[str, Any]:
    """Plain numbers and words, which `overlay` makes a page of."""
    controller, times, now_ns = session.controller, session.loop.times, monotonic_ns()
    supervisor = controller.supervisor
    return {
        "state": supervisor.state.name,
        "motors": supervisor.motors.name.lower(),
        "fault": _fault(supervisor.fault),
        "more_faults": supervisor.more_faults,
        "refusal": course.refusal,
        "ended": course.ended,
        "error": session.loop.error.strip().splitlines()[-1] if session.loop.error.strip() else "",
        "commands": _commands(controller, now_ns),
        "stale": controller.commands_stale,
        "halting": controller.halting,
        "measured": _measured(controller),
        "off": course.tracking,
        "state_age_s": controller.age_s(now_ns),
        "state_age_warn_s": controller.limits.state_age_warn_s,
        "rate_hz": controller.cfg.rate_hz,
        "policy_hz": 1.0 / controller.contract.control_period_s,
        "cycles": times.cycles,
        "misses": times.misses,
        "steps": times.steps,
        "late": times.late,
        "stale_ticks": times.stale,
        "out_of_range": controller.watches.out_of_range_total,
        "joints": _joints(controller),
    }


def _fault(fault: Fault | None) -> dict[str, Any] | None:
    if fault is None:
        return None
    found = fault.violation
    numbers = {"value": found.value, "threshold": found.threshold}
    return {"code": found.code.name, "sentence": found.sentence, "state": fault.state.name} | numbers


def _commands(controller: Controller, now_ns: int) -> list[dict[str, Any]]:
    """What is asked of the policy, and the age of that; under the policy it is neutral where nobody gave it in time."""
    active = controller.supervisor.state is State.ACTIVE
    values = controller.observer.commands if active else controller.commands
    given = zip(controller.contract.commands, values, controller.command_times_ns, strict=True)
    return [
        {
            "name": command.name,
            "elements": list(command.element_names),
            "units": list(command.units),
            "values": shown.tolist(),
            "age_s": None if at_ns is None else (now_ns - at_ns) * 1e-9,
            "timeout_s": command.timeout_s,
        }
        for command, shown, at_ns in given
    ]


def _measured(controller: Controller) -> dict[str, float]:
    """Of the base, where it is measured: m/s and rad/s in the sensor frame, m, rad."""
    robot, state = controller.robot, controller.states.latest
    found: dict[str, float] = {}
    if robot.has_linear_velocity and robot.has_imu:
        vx, vy = state.linear_velocity[:2].tolist()
        found |= {"vx": vx, "vy": vy, "wz": float(state.angular_velocity[2])}
    if robot.has_height:
        found["height"] = float(state.height[0])
    if robot.has_imu and robot.has_height:
        x, y = state.quaternion_xyzw[:2].tolist()
        found["tilt"] = math.acos(min(max(1.0 - 2.0 * (x * x + y * y), -1.0), 1.0))
    return found


def _percentiles(session: Session, name: str) -> list[float] | None:
    """Median, 99 % and maximum; ms."""
    summary = session.loop.times.histograms[name].summary()
    return [summary.p50_ms, summary.p99_ms, summary.max_ms] if summary.count else None


def _joints(controller: Controller) -> dict[str, Any]:
    state = controller.states.latest
    return {
        "names": list(controller.robot.joint_names),
        "position": state.joint_position.tolist(),
        "velocity": state.joint_velocity.tolist(),
        "effort": state.joint_effort.tolist(),
    }
