"""Commands that the policy sees: what they ask for, and the ranges that they are drawn from over a whole training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from trudi.runtime.interface import Command
from trudi.train.envs.robot_description.parts import Undescribed, own_name

VELOCITY = ("lin_vel_x", "lin_vel_y", "ang_vel_z")
TIMEOUT_S = 0.5
Range = tuple[float, float]


def describe_command(env: Any, name: str, control_steps: int | None, notes: list[str]) -> Command:
    """The velocity command of that name; Undescribed where it is another, or its range is not bounded.

    Where a curriculum moves its ranges by the number of control steps, they are those of the first `control_steps` of an
    environment; of the steps that it took so far where that is None.
    """
    steps = int(getattr(env, "common_step_counter", 0)) if control_steps is None else control_steps
    term = env.command_manager.get_term(name)
    own = {own_name(kind, ".") for kind in type(term).__mro__}
    if "UniformVelocityCommand" not in own or "NormalVelocityCommand" in own:
        raise Undescribed(f"the command {name} ({type(term).__name__}) is no velocity from a range")
    for label, cfg in _curricula(env, name):
        if not any(True for element in VELOCITY for _ in _stages(cfg, element)):
            notes.append(
                f"The curriculum {label} may move the ranges of {name}; stated is what they were at the time of writing."
            )
    ranges = [_range(env, term.cfg.ranges, name, element, steps, notes) for element in VELOCITY]
    if getattr(term.cfg, "heading_command", False):
        notes.append(
            f"For {getattr(term.cfg, 'rel_heading_envs', 1.0):.0%} of the robots, ang_vel_z of {name} was "
            f"{getattr(term.cfg, 'heading_control_stiffness', 1.0):g} 1/s times the error of a wanted heading, in its range."
        )
    return Command(
        name=name,
        element_names=VELOCITY,
        units=("m/s", "m/s", "rad/s"),
        frame="base",
        range=tuple(ranges),
        neutral=tuple(min(max(0.0, low), high) for low, high in ranges),
        timeout_s=TIMEOUT_S,
    )


def _range(env: Any, ranges: Any, name: str, element: str, steps: int, notes: list[str]) -> Range:
    """What an element is drawn from in the first `steps`."""
    stages = sorted(stage for _, cfg in _curricula(env, name) for stage in _stages(cfg, element))
    reached = [(step, drawn) for step, drawn in stages if step <= steps]
    if len({drawn for _, drawn in stages}) > 1:
        text = ", ".join(f"{list(drawn)} from control step {step}" for step, drawn in stages)
        notes.append(f"A curriculum draws {name} {element} from {text}; the range stated is that of the first {steps}.")
    drawn = [pair for _, pair in reached]
    if not reached or reached[0][0] > 0:
        drawn.append(_pair(getattr(ranges, element)))
    return min(low for low, _ in drawn), max(high for _, high in drawn)


def _curricula(env: Any, name: str) -> list[tuple[str, Any]]:
    """(name, configuration) of the curricula that are about a command, but for those of the ground."""
    manager = getattr(env, "curriculum_manager", None)
    entries = zip(getattr(manager, "active_terms", None) or (), getattr(manager, "_term_cfgs", None) or (), strict=False)
    return [
        (str(term), cfg) for term, cfg in entries if cfg.params.get("command_name") == name and "terrain" not in str(term)
    ]


def _stages(cfg: Any, element: str) -> Iterator[tuple[int, Range]]:
    """(control step from which it holds, range) of an element, where the curriculum lists stages."""
    for value in cfg.params.values():
        for stage in cast("list[Any]", value) if isinstance(value, (list, tuple)) else ():
            if isinstance(stage, Mapping) and "step" in stage and stage.get(element) is not None:
                yield int(cast("Any", stage["step"])), _pair(stage[element])


def _pair(value: Any) -> Range:
    low, high = value
    return float(low), float(high)
