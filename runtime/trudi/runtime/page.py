"""A bundle as a page to read: plain text, aligned tables, numbers exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import Contract, Graph, Sampler
from trudi.runtime.interface import Robot, Term

NONE = "-"


def bundle_page(bundle: Bundle) -> str:
    """Everything of a bundle, section by section."""
    contract = bundle.contract
    sections = [
        _head(bundle),
        _robot(contract),
        _action(contract),
        _observation(contract),
        _commands(contract),
        _sampler(contract),
        _safety(contract),
        _provenance(contract),
        _section(
            "files", _table(("file", "bytes", "sha256"), [(n, i.size, i.sha256) for n, i in sorted(bundle.files.items())])
        ),
    ]
    return "\n\n".join(sections)


def _head(bundle: Bundle) -> str:
    contract = bundle.contract
    robot = contract.robot.name if contract.robot else "none (actuators of the simulator)"
    rows = [
        ("bundle", bundle.path_given),
        ("content", f"sha256 {bundle.digest}"),
        ("signature", _signature(bundle)),
        ("schema", f"{contract.schema_version}, {contract.kind}"),
        ("task", f"{contract.task.backend}:{contract.task.id}"),
        ("robot", robot),
        ("control period", f"{contract.control_period_s} s ({1 / contract.control_period_s:g} Hz)"),
        ("sizes", f"{contract.observation_size} observations, {contract.action.size} actions"),
        ("quaternions", ", ".join(contract.quaternion_order)),
    ]
    if bundle.ignored_fields:
        rows.append(("newer fields", f"not understood and left out: {', '.join(bundle.ignored_fields)}"))
    return _pairs(rows)


def _signature(bundle: Bundle) -> str:
    if bundle.trusted_key is not None:
        return f"valid, by the trusted key {bundle.trusted_key}"
    return "present, not verified (give --trust KEY.pub)" if bundle.is_signed else "none"


def _robot(contract: Contract) -> str:
    if contract.robot is None:
        return _section("joints", "none: this task has no robot")
    units = {"revolute": "rad, N m", "prismatic": "m, N"}
    rows = [
        (
            j.name,
            units[j.type],
            j.default_position,
            j.stiffness,
            j.damping,
            _range(j.position_limit),
            _or_none(j.velocity_limit),
            _or_none(j.effort_limit),
        )
        for j in contract.robot.joints
    ]
    header = ("joint", "units", "default", "stiffness", "damping", "position limit", "velocity limit", "effort limit")
    passive = contract.robot.passive_joints
    more = f"\nobserved, not driven: {', '.join(passive)}" if passive else ""
    return _section("joints, in policy order", _table(header, rows) + more)


def _action(contract: Contract) -> str:
    action = contract.action
    clip, rate = action.clip or [None] * action.size, action.rate_limit or [None] * action.size
    columns = (action.names, action.units, action.scale, action.offset, map(_range, clip), map(_or_none, rate))
    table = _table(("action", "unit", "scale", "offset", "clip", "rate limit (unit/s)"), list(zip(*columns, strict=True)))
    if action.scale_offset_applied_by == "graph":
        says = "the GRAPH applies scale and offset: its output is the command; do not apply them again"
    else:
        says = "the RUNTIME applies scale and offset: the graph's output is in [-1, 1], not yet a command"
    return _section(f"action: {action.kind}", f"{says}\n{table}")


def _observation(contract: Contract) -> str:
    rows: list[Sequence[object]] = []
    start = 0
    for term in contract.observation:
        place = f"{start}..{start + term.total_size - 1}"
        what = (place, term.name, term.kind, _same(term.units), term.frame)
        change = (_offset(term, contract.robot), _range(term.clip), _same(term.scale), term.history, term.delay_steps)
        rows.append((*what, *change, _elements(term, contract.action.names)))
        start += term.total_size
    header = ("place", "term", "kind", "unit", "frame", "offset", "clip", "scale", "history", "delay (steps)", "elements")
    return _section("observation, in order: scale * clip(raw - offset), history oldest first", _table(header, rows))


def _elements(term: Term, actions: tuple[str, ...]) -> str:
    if term.element_names == actions:
        return f"the {len(actions)} of the action, in its order"
    return ", ".join(term.element_names) + (f" of {term.command}" if term.command else "")


def _offset(term: Term, robot: Robot | None) -> str:
    if robot is not None and term.joints == robot.joint_names:
        default = tuple(joint.default_position for joint in robot.joints)
        if term.offset == default:
            return "default position"
    return _same(term.offset)


def _commands(contract: Contract) -> str:
    rows = [
        (command.name, element, unit, command.frame, _range(limits), neutral, command.timeout_s)
        for command in contract.commands
        for element, unit, limits, neutral in zip(
            command.element_names, command.units, command.range, command.neutral, strict=True
        )
    ]
    table = _table(("command", "element", "unit", "frame", "range", "neutral", "timeout (s)"), rows)
    return _section("commands", table if rows else "none")


def _sampler(contract: Contract) -> str:
    parts = [(contract.sampler, contract.graph)]
    if contract.student is not None:
        parts.append((contract.student.sampler, contract.student.graph))
    tables = [_pairs(_sampler_rows(*part)) for part in parts]
    if contract.student is not None and (away := contract.student.divergence) is not None:
        far = f"rms {away.action_rms:.3g}, 99 % below {away.action_p99:.3g}, at most {away.action_max:.3g}"
        tables.append(_pairs([("student's actions from the teacher's", f"{far}, at {away.observations} observations")]))
    return _section("sampler", "\n\n".join(tables))


def _sampler_rows(sampler: Sampler, graph: Graph) -> list[tuple[str, Any]]:
    seed = f", seed {sampler.seed}" if sampler.seed is not None else ""
    given = [f"{tensor.name} {list(tensor.shape)}" for tensor in (*graph.inputs, *graph.outputs)]
    return [
        ("network", sampler.network),
        ("steps", f"{sampler.steps}, {'ODE (no noise between steps)' if sampler.ode else 'SDE (noise between steps)'}"),
        ("latent", f"{sampler.noise}{seed}, standard deviation {sampler.latent_std}"),
        ("graph", f"{graph.file}, opset {graph.opset}, {graph.precision}, batch {graph.batch}"),
        ("inputs, output", ", ".join(given)),
    ]


def _safety(contract: Contract) -> str:
    safety = contract.safety
    bounds = safety.observation_range
    if bounds is None:
        seen = NONE
    else:
        meaning = f"mean +- {bounds.sigmas} standard deviations" if bounds.sigmas else "extremes seen in training"
        seen = f"{len(bounds.low)} elements, {meaning}, from {min(bounds.low)} to {max(bounds.high)}"
    rows = [
        ("state age", f"warns at {safety.state_age_warn_s} s, lost at {safety.state_age_lost_s} s"),
        ("command age", f"lost at {safety.command_lost_s} s"),
        ("slew", f"{safety.command_slew_s} s across a command's range" if safety.command_slew_s is not None else NONE),
        ("overruns", f"{safety.max_overruns_in_row} in a row"),
        ("tilt", f"{safety.max_tilt_rad} rad" if safety.max_tilt_rad is not None else NONE),
        ("action rate", f"{safety.max_action_rate_per_s} 1/s" if safety.max_action_rate_per_s is not None else NONE),
        ("observation", seen),
    ]
    return _section("safety", _pairs(rows))


def _provenance(contract: Contract) -> str:
    made = contract.provenance
    dirty = " with uncommitted changes" if made.git_dirty else ""
    rows: list[tuple[str, Any]] = [
        ("run", f"{made.run}, seed {made.seed}"),
        ("iterations", _or_none(made.iteration)),
        ("environment steps", _or_none(made.env_steps)),
        ("git", f"{made.git_commit}{dirty}" if made.git_commit else NONE),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items()) or NONE),
    ]
    for score in made.evaluations:
        rows.append(
            (
                f"score ({score.sampler})",
                f"return {score.return_mean}, 95 % in {_range(score.return_ci95)}, std {score.return_std}, "
                f"{score.episodes} episodes, seed {score.seed}",
            )
        )
    return _section("provenance", _pairs(rows))


def _section(title: str, body: str) -> str:
    return f"{title}\n{'-' * len(title)}\n{body}"


def _pairs(rows: Iterable[tuple[str, object]]) -> str:
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in listed)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _range(limits: tuple[float, float] | None) -> str:
    return NONE if limits is None else f"[{limits[0]}, {limits[1]}]"


def _same(values: tuple[object, ...] | None) -> str:
    """One value for all elements, or the list of them."""
    if values is None:
        return NONE
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def _or_none(value: float | None) -> str:
    return NONE if value is None else str(value)
