"""What the runtime says of itself: the supervisor's state, latencies, ages of what it hears, as diagnostic messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.qos import qos_policy_name_from_kind

from trudi.runtime.loop import SPANS, STAGES
from trudi.runtime.realtime import monotonic_ns
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.session import Session
from trudi.runtime.shadow import Shadow
from trudi_runtime.topics import RosRobot

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
STALE_TOPIC_S = 0.5


@dataclass
class Links:
    """What the middleware says of the topics; written in their thread."""

    report: Callable[[str], object]
    """Where what is wrong is logged."""
    incompatible: dict[str, str] = field(default_factory=dict[str, str])
    """Topic -> the quality of service on which this node and another disagreed, so that nothing passes between them."""
    publishers: dict[str, int] = field(default_factory=dict[str, int])
    subscribers: int = 0
    """Of the commands."""
    command_topics: list[str] = field(default_factory=list[str])
    commanders: int = 0
    """Publishers on the command topic that has most, this node included."""
    velocity_topic: str = ""
    velocity_publishers: int = 0
    velocity_ns: int = 0
    """When cmd_vel was heard last; CLOCK_MONOTONIC, 0 before."""
    joy_ns: int = 0
    velocity_reason: str = ""
    """Why the last command on cmd_vel was not passed on."""

    def disagree(self, topic: str, policy: Any, advice: str) -> None:
        """Notes that somebody on `topic` asks for another quality of service."""
        name = qos_policy_name_from_kind(policy).lower()
        sentence = f"another node asks for another quality of service ({name}), and nothing passes between the two: {advice}"
        self.incompatible[topic] = sentence
        self.report(f"{topic}: {sentence}")


def supervisor_status(name: str, session: Session | None) -> DiagnosticStatus:
    """`message` is the state; the fault, where one is latched, is among the values."""
    status = DiagnosticStatus(name=f"{name}: supervisor", hardware_id="", level=OK, message=State.UNCONFIGURED.name)
    if session is None:
        return status
    controller = session.controller
    supervisor, fault = controller.supervisor, controller.supervisor.fault
    status.message, status.hardware_id = supervisor.state.name, controller.robot.name
    values: dict[str, object] = {"motors": supervisor.motors.name.lower()}
    if supervisor.state is State.STAND:
        values["stands_in_s"] = f"{controller.ramp_left_s(monotonic_ns()):.2f}"
    if fault is not None:
        status.level = ERROR
        values |= {"fault": fault.violation.code.name, "fault_code": int(fault.violation.code)}
        values |= {"reason": fault.violation.sentence, "arose_in": fault.state.name, "more_faults": supervisor.more_faults}
        values["value"], values["threshold"] = fault.violation.value, fault.violation.threshold
    elif controller.halting:
        values["commands"] = "halting: the policy is shown neutral ones and blended out, then the robot stands"
    elif controller.commands_stale and supervisor.state is State.ACTIVE:
        status.level = WARN
        values["commands"] = "stale: the policy is shown neutral ones"
    if session.loop.error:
        values["error"] = session.loop.error.strip().splitlines()[-1]
    status.values = key_values(values)
    return status


def timing_status(name: str, session: Session) -> DiagnosticStatus:
    """p50, p99, p99.9 and maximum of each stage and span, and what was missed."""
    times = session.loop.times
    status = DiagnosticStatus(name=f"{name}: timing", hardware_id=session.controller.robot.name, level=OK)
    values: dict[str, object] = {
        "cycles": times.cycles,
        "missed": times.misses,
        "control_steps": times.steps,
        "late_actions": times.late,
        "student_actions": times.students,
        "stale_states": times.stale,
        "rate_hz": f"{session.controller.cfg.rate_hz:g}",
    }
    for stage in (*STAGES, *SPANS):
        summary = times.histograms[stage].summary()
        percentiles = (("p50", summary.p50_ms), ("p99", summary.p99_ms), ("p999", summary.p999_ms), ("max", summary.max_ms))
        for key, number in percentiles:
            values[f"{stage}_{key}_ms"] = f"{number:.3f}"
    for place, note in enumerate(session.loop.notes):
        values[f"note_{place}"] = note
    status.values = key_values(values)
    status.message = f"{times.misses} of {times.cycles} periods missed, {times.late} actions late"
    if session.loop.notes:
        status.level, status.message = WARN, status.message + "; " + session.loop.notes[0]
    return status


def inputs_status(name: str, robot: RosRobot, links: Links) -> DiagnosticStatus:
    """Ages, counts and what is wrong with each topic."""
    status = DiagnosticStatus(name=f"{name}: inputs", hardware_id=robot.describe().name, level=OK)
    now_ns, problems = monotonic_ns(), list[str]()
    values: dict[str, object] = {}
    for topic, facts in robot.facts.items():
        age_s = (now_ns - facts.received_ns) * 1e-9 if facts.received_ns else math.inf
        values[f"{topic}_age_s"] = f"{age_s:.3f}"
        values[f"{topic}_count"], values[f"{topic}_rejected"] = facts.count, facts.rejected
        values[f"{topic}_publishers"] = links.publishers.get(topic, 0)
        if not facts.count:
            problems.append(f"nothing was heard on {topic}")
        elif age_s > STALE_TOPIC_S:
            problems.append(f"{topic} is silent for {age_s:.1f} s")
        if links.publishers.get(topic, 0) > 1:
            problems.append(f"{links.publishers[topic]} publishers on {topic}")
        if facts.reason:
            values[f"{topic}_reason"] = facts.reason
    for topic, at_ns in (("cmd_vel", links.velocity_ns), ("joy", links.joy_ns)):
        if at_ns:
            values[f"{topic}_age_s"] = f"{(now_ns - at_ns) * 1e-9:.3f}"
    values["joint_states_ignored"], values["command_subscribers"] = robot.ignored, links.subscribers
    values["cmd_vel_publishers"] = links.velocity_publishers
    if not links.subscribers:
        problems.append("nobody listens to the commands")
    if links.velocity_reason:
        values["cmd_vel_ignored"] = links.velocity_reason
        problems.append(links.velocity_reason)
    problems += [f"{topic}: {text}" for topic, text in list(links.incompatible.items())]
    status.values = key_values(values)
    status.level, status.message = (WARN, "; ".join(problems)) if problems else (OK, "all topics are heard")
    return status


def shadow_status(name: str, session: Session, shadow: Shadow) -> DiagnosticStatus:
    """How far the actions of the policy that rides along are from those that are sent; a warning where it fails."""
    status = DiagnosticStatus(name=f"{name}: shadow", hardware_id=session.controller.robot.name, level=OK)
    found = shadow.summary()
    values: dict[str, object] = {"shadow": found.shadow, "sent": session.sent, "compared": found.compared}
    values |= {f"left_out_{reason}": count for reason, count in found.left_out.items()}
    values |= {"action_rms": found.action_rms, "action_p99": found.action_p99, "action_max": found.action_max}
    values |= {f"evaluation_{key}": value for key, value in (found.evaluation or {}).items()}
    for element, rms in found.rms_by_element.items():
        values[f"{element}_rms"], values[f"{element}_max"] = rms, found.max_by_element[element]
    latency = found.latency
    for key, number in (("p50", latency.p50_ms), ("p99", latency.p99_ms), ("max", latency.max_ms)):
        values[f"latency_{key}_ms"] = f"{number:.3f}"
    status.message = f"{found.shadow}: {found.compared} steps compared, actions differ by {found.action_rms:.3g} (rms)"
    if found.error:
        values["error"] = found.error.strip().splitlines()[-1]
        status.level, status.message = WARN, f"{status.message}; it failed: {values['error']}"
    status.values = key_values(values)
    return status


def bundle_status(name: str, session: Session, digest: str, path: str) -> DiagnosticStatus:
    """Which policy runs, and by what."""
    contract = session.controller.contract
    student = contract.student if session.sent == "student" else None
    values = {
        "path": path,
        "digest": digest,
        "task": f"{contract.task.backend}:{contract.task.id}",
        "run": contract.provenance.run,
        "sent": session.sent,
        "engine": session.engine.info.described,
        "denoising_steps": (student or contract).sampler.steps,
    }
    status = DiagnosticStatus(name=f"{name}: bundle", hardware_id=session.controller.robot.name, level=OK)
    status.values, status.message = key_values(values), f"{contract.task.id}, {digest[:12]}"
    return status


def key_values(values: Mapping[str, object]) -> list[KeyValue]:
    """As diagnostics carry them."""
    return [
        KeyValue(key=key, value=f"{value:.6g}" if isinstance(value, float) else str(value)) for key, value in values.items()
    ]
