"""Commands that the policy sees: what they ask for, and the ranges that they are drawn from over a whole training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from trudi.runtime.interface import Command
from trudi.train.envs.robot_description.parts import Undescribed, own_name

VELOCITY = {"vx": "lin_vel_x", "vy": "lin_vel_y", "wz": "ang_vel_z"}
"""Elements as a runtime knows them (a Twist, an operator's `vx=0.5`), and as the simulators do."""
TIMEOUT_S = 0.5
Range = tuple[float, float]


def describe_command(env: Any, name: str, control_steps: int | None, notes: list[str], *, is_first: bool) -> Command:
    """The velocity command that the simulator calls `name`; Undescribed where it is another, or its range is not bounded.

    The first one is called `velocity`, as runtimes expect it. Where a curriculum lists its ranges by control steps, they are
    those of the first `control_steps` of an environment; of the steps that it took so far where that is None.
    """
    steps = int(getattr(env, "common_step_counter", 0)) if control_steps is None else control_steps
    term = env.command_manager.get_term(name)
    own = {own_name(kind, ".") for kind in type(term).__mro__}
    if "UniformVelocityCommand" not in own or "NormalVelocityCommand" in own:
        raise Undescribed(f"the command {name} ({type(term).__name__}) is no velocity from a range")
    for label, cfg in _curricula(env, name):
        if not any(True for element in VELOCITY.values() for _ in _stages(cfg, element)):
            notes.append(
                f"The curriculum {label} may move the ranges of {name}; stated is what they were at the time of writing."
            )
    ranges = [_range(env, term.cfg.ranges, name, element, steps, notes) for element in VELOCITY.values()]
    if getattr(term.cfg, "heading_command", False):
        notes.append(
            f"For {getattr(term.cfg, 'rel_heading_envs', 1.0):.0%} of the robots, ang_vel_z of {name} was "
            f"{getattr(term.cfg, 'heading_control_stiffness', 1.0):g} 1/s times the error of a wanted heading, in its range."
        )
    notes.append(f"{'velocity' if is_first else name} is the simulator's {name}: {', '.join(VELOCITY.values())}.")
    return Command(
        name="velocity" if is_first else name,
        element_names=tuple(VELOCITY),
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
    """(name, configuration) of the curricula that name a command, alone or in a path; but for those of the ground."""
    manager: Any = getattr(env, "curriculum_manager", None)
    names: list[str] = list(getattr(manager, "active_terms", ()))
    cfgs: list[Any] = list(getattr(manager, "_term_cfgs", ()))  # absent where there is no curriculum
    return [
        (str(term), cfg)
        for term, cfg in zip(names, cfgs, strict=False)
        if "terrain" not in str(term) and any(name in str(value).split(".") for value in cfg.params.values())
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
