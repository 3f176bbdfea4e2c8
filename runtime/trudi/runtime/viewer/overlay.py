"""What is known of the robot and of who drives it, as HTML for the page's panel."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

OLD_S = 1.0
"""Age of news that the panel warns of; s."""
COLOURS = {"STANDBY": "#6b7280", "STAND": "#2563eb", "ACTIVE": "#15803d", "FAULT": "#b91c1c"}
IDLE_COLOUR, WARNING_COLOUR = "#9ca3af", "#b45309"
EXPLAINED = {
    "wake_up": "wake-up, late by",
    "tick": "deadline to command",
    "observation_to_command": "observation to command",
    "input_age": "age of the state used",
}


def overlay(robot: dict[str, Any], runtime: dict[str, Any] | None, robot_age_s: float, runtime_age_s: float) -> str:
    """The panel, of what the robot's process and the runtime told last, and how long ago; None: no runtime told anything."""
    if runtime is None:
        badge, parts = _badge(robot.get("supervisor", "no commands"), "as its commands say"), []
    else:
        badge = _badge(runtime["state"], runtime["motors"])
        parts = [_reasons(runtime), _commands(runtime), _base(runtime), _ages(runtime, runtime_age_s), _loop(runtime)]
    parts.append(_robot(robot, robot_age_s))
    return f'<div data-trudi="overlay" style="font-size:0.8em;line-height:1.45;padding:0 10px">{badge}{"".join(parts)}</div>'


def joint_table(joints: dict[str, Any]) -> str:
    """Position, velocity and effort of every joint."""
    rows = zip(joints["names"], joints["position"], joints["velocity"], joints["effort"], strict=True)
    cells = [(name, f"{q:+.3f}", f"{dq:+.2f}", f"{effort:+.2f}") for name, q, dq, effort in rows]
    return _table([("joint", "position", "velocity", "effort"), *cells], head=True)


def _badge(state: str, motors: str) -> str:
    colour = COLOURS.get(state, IDLE_COLOUR)
    style = f"background:{colour};color:white;border-radius:4px;padding:2px 8px;font-weight:700;font-size:1.2em"
    return f'<div style="padding:2px 0 6px"><span style="{style}">{_text(state)}</span> {_text(motors)}</div>'


def _reasons(runtime: dict[str, Any]) -> str:
    """Why the robot is where it is: a fault, a refusal, an error, an end."""
    lines: list[str] = []
    if (fault := runtime["fault"]) is not None:
        more = f" ({runtime['more_faults']} more since)" if runtime["more_faults"] else ""
        lines.append(f"{fault['code']} in {fault['state']}: {fault['sentence']}{more}")
        if math.isfinite(fault["value"]):
            lines.append(f"value {fault['value']:.6g}, threshold {fault['threshold']:.6g}")
    lines += [f"{name}: {runtime[key]}" for name, key in (("refused", "refusal"), ("error", "error")) if runtime[key]]
    colour = COLOURS["FAULT"]
    said = "".join(f'<div style="color:{colour};font-weight:600">{_text(line)}</div>' for line in lines)
    return said + (f"<div>ended {_text(runtime['ended'])}</div>" if runtime["ended"] else "")


def _commands(runtime: dict[str, Any]) -> str:
    """A row an element: what is asked for, what is measured, and how far off the robot was on average."""
    rows: list[tuple[str, ...]] = []
    for command in runtime["commands"]:
        elements = zip(command["elements"], command["units"], command["values"], strict=True)
        for element, unit, value in elements:
            measured, off = runtime["measured"].get(element), runtime["off"].get(element)
            rows.append((str(element), f"{value:+.2f}", _number(measured, "+.2f"), _number(off, ".3f"), str(unit)))
    if not rows:
        return ""
    told = "halting" if runtime["halting"] else "command stale" if runtime["stale"] else ""
    warning = _warning(f"{told}: the policy is told neutral") if told else ""
    return _table([("command", "asked", "measured", "off, mean", ""), *rows], head=True) + warning


def _base(runtime: dict[str, Any]) -> str:
    measured = runtime["measured"]
    words = [f"{measured['height']:.3f} m high"] if "height" in measured else []
    words += [f"{math.degrees(measured['tilt']):.1f}\N{DEGREE SIGN} tilt"] if "tilt" in measured else []
    return _table([("base", ", ".join(words))]) if words else ""


def _ages(runtime: dict[str, Any], runtime_age_s: float) -> str:
    age_s, warn_s = runtime["state_age_s"], runtime["state_age_warn_s"]
    rows = [("state's age", _age(age_s) + (" (old)" if age_s > warn_s else ""))]
    for command in runtime["commands"]:
        given = "never given" if command["age_s"] is None else _age(command["age_s"])
        rows.append((f"age of {command['name']}", f"{given} of {command['timeout_s']:g} s"))
    return _table(rows) + _news("the runtime", runtime_age_s)


def _loop(runtime: dict[str, Any]) -> str:
    rate_hz = runtime["rate_hz"]
    rows = [
        ("loop", f"every {1e3 / rate_hz:.3g} ms ({rate_hz:g} Hz), policy {runtime['policy_hz']:g} Hz"),
        ("cycles", f"{runtime['cycles']}, {runtime['misses']} missed"),
        ("actions", f"{runtime['steps']}, {runtime['late']} late"),
        ("warned", f"{runtime['stale_ticks']} old states, {runtime['out_of_range']} out of range"),
    ]
    times = [("ms", "p50", "p99", "max")]
    for name, values in runtime["times_ms"].items():
        if values is not None:
            p50, p99, longest = (f"{value:.2f}" for value in values)
            times.append((EXPLAINED.get(name, str(name)), p50, p99, longest))
    return _table(rows) + (_table(times, head=True) if len(times) > 1 else "")


def _robot(robot: dict[str, Any], age_s: float) -> str:
    if not robot:
        return _warning("nothing from the robot yet")
    how = "waits for ACTIVE" if robot["held"] else "obeys commands" if robot["obeying"] else "damps by itself"
    rows = [("robot", f"{how}, {robot['time_s']:.1f} s"), ("commands", f"{robot['commands']}, {robot['unsafe']} unsafe")]
    if robot["returns"]:
        rows.append(("episodes", f"{robot['returns']}, last return {robot['last_return']:.1f}"))
    return _table(rows) + _news("the robot", age_s)


def _news(who: str, age_s: float) -> str:
    """A warning where news is late."""
    return _warning(f"no news from {who} for {age_s:.0f} s") if age_s > OLD_S else ""


def _warning(text: str) -> str:
    return f'<div style="color:{WARNING_COLOUR};font-weight:600">{_text(text)}</div>'


def _table(rows: Iterable[tuple[str, ...]], *, head: bool = False) -> str:
    """The first column left, the others right; with `head`, the first row is one."""
    lines: list[str] = []
    for index, row in enumerate(rows):
        weight = "font-weight:600;opacity:0.7;" if head and index == 0 else ""
        first = f'<td style="{weight}">{_text(row[0])}</td>'
        others = f'<td style="{weight}padding-left:8px;text-align:right">'
        cells = first + "".join(f"{others}{_text(cell)}</td>" for cell in row[1:])
        lines.append(f"<tr>{cells}</tr>")
    return f'<table style="width:100%;border-collapse:collapse;margin:4px 0"><tbody>{"".join(lines)}</tbody></table>'


def _age(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if math.isfinite(seconds) else "none yet"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _text(text: str) -> str:
    return html.escape(text)
