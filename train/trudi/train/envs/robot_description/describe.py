"""The levels of a description (see the package), from the most that can be said down to sizes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from trudi.runtime.consistency import check_interface
from trudi.runtime.contract import Safety
from trudi.runtime.interface import Action, Command, Robot, Term
from trudi.runtime.model import MAX_ELEMENTS
from trudi.runtime.reading import explain
from trudi.train.envs.robot_description.actions import action_parts, joint_action, plain_action, raw_action
from trudi.train.envs.robot_description.parts import Machine, RawAction, Undescribed
from trudi.train.envs.robot_description.readers import Context
from trudi.train.envs.robot_description.terms import JOINT_KINDS, TermSource, describe_terms
from trudi.train.envs.robot_description.text import (
    Values,
    action_values,
    command_values,
    robot_values,
    term_values,
)

ROBOT_FILE = "robot.yaml"
"""Its name in a run's folder."""


def describe_robot(
    env: Any,
    task: str,
    actor_groups: Sequence[str],
    action_low: Sequence[float],
    action_high: Sequence[float],
    *,
    control_steps: int | None = None,
) -> dict[str, Any] | None:
    """What a robot file says of the task, in the file's short forms, with `notes` for its header (see `robot_yaml`).

    `env` is the simulator's own environment, `task` its name with the backend, `actor_groups` the observation groups that
    the actor sees, side by side. The policy's a in [-1, 1] is the raw action from `action_low` to `action_high` (actions,).
    `control_steps` is how many steps each environment takes in the whole training, on which curricula of commands depend;
    those that it took so far by default. None where the actor sees no vectors, or more than a bundle describes, or where
    raw actions have no range. Nothing in the simulator is changed, and nothing is drawn at random.
    """
    raw = RawAction.between(action_low, action_high)
    try:
        sources = _sources(env, actor_groups)
    except Undescribed:
        return None
    size = sum(source.size * source.frames for source in sources)
    if not 1 <= size <= MAX_ELEMENTS or not 1 <= len(raw.half) <= MAX_ELEMENTS:
        return None
    if not (np.isfinite(raw.half).all() and (raw.half > 0.0).all()):
        return None
    why: list[str] = []
    if hasattr(env, "action_manager") and hasattr(env, "observation_manager"):
        for attempt in (_with_robot, _with_actuators):
            try:
                return attempt(env, raw, sources, control_steps, why).values(env, task)
            # A simulator of another version may lack whatever is read here: the run goes on, and the header says so.
            except (Undescribed, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                why.append(f"{_LEVELS[attempt]} {_one_line(error)}.")
    return _sizes_only(env, size, raw, why).values(env, task)


@dataclass(frozen=True)
class _Draft:
    """The parts of a robot file (what `trudi export` reads), checked against each other when it is made."""

    robot: Robot | None
    action: Action
    observation: tuple[Term, ...]
    commands: tuple[Command, ...]
    safety: Safety
    notes: list[str]

    def __post_init__(self) -> None:
        check_interface(self)

    @property
    def observation_size(self) -> int:
        """Elements of all terms."""
        return sum(term.total_size for term in self.observation)

    def values(self, env: Any, task: str) -> Values:
        """The file, in its short forms."""
        package = task.partition(":")[0]
        with suppress(PackageNotFoundError):
            package += f" {version(package)}"
        title = f"{self.robot.name if self.robot else 'Actuators'} of {task}, as {package} has it; written by `trudi train`."
        use = "`trudi export` takes this file: edit it, or give it another with --robot, where the machine is another one."
        values: Values = {
            "notes": [title, use, *dict.fromkeys(self.notes)],
            "tasks": [task],
            "control_period_s": float(env.step_dt),
            "robot": robot_values(self.robot),
            "action": action_values(self.action, self.robot),
            "observation": [term_values(term, self.robot) for term in self.observation],
        }
        if self.commands:
            values["commands"] = [command_values(command) for command in self.commands]
        if self.safety != Safety():
            values["safety"] = self.safety.model_dump(mode="json", exclude_defaults=True)
        return values


def _with_robot(env: Any, raw: RawAction, sources: list[TermSource], control_steps: int | None, why: list[str]) -> _Draft:
    machines = _machines(env)
    action, machine = joint_action(action_parts(env.action_manager, machines), raw)
    kind = cast("Any", action.kind)
    joints = tuple(machine.joint(name, kind) for name in action.names)
    notes = [f"The policy's a in [-1, 1] is the simulator's raw action {_span(raw)}; scale and offset hold it.", *why]
    context = Context(env, machine, action.names, raw, control_steps, notes)
    terms = describe_terms(context, sources, has_robot=True)
    observed = [name for term in terms if term.kind in JOINT_KINDS for name in term.joints or ()]
    robot = Robot(
        name=machine.name,
        joints=joints,
        passive_joints=tuple(dict.fromkeys(name for name in observed if name not in action.names)),
    )
    notes += [*machine.notes(action.names), *machine.doubts, *_beyond(action, robot)]
    if context.commands:
        notes.append("timeout_s of the commands is the deployer's choice; the simulator has none.")
    safety = Safety(max_tilt_rad=None) if machine.is_fixed_base else Safety()
    return _Draft(robot, action, tuple(terms), tuple(context.commands.values()), safety, notes)


def _with_actuators(
    env: Any, raw: RawAction, sources: list[TermSource], control_steps: int | None, why: list[str]
) -> _Draft:
    manager = env.action_manager
    action = raw_action(manager, raw)
    entities = [
        str(getattr(manager.get_term(name).cfg, "entity_name", None) or manager.get_term(name).cfg.asset_name)
        for name in manager.active_terms
    ]
    machine = _machines(env)(entities[0])
    notes = [*why, "The actions are the simulator's raw ones: what they do to joints is not said here.", *machine.doubts]
    context = Context(env, machine, action.names, raw, control_steps, notes)
    terms = describe_terms(context, sources, has_robot=False)
    safety = Safety(max_tilt_rad=None) if machine.is_fixed_base else Safety()
    return _Draft(None, action, tuple(terms), tuple(context.commands.values()), safety, notes)


def _sizes_only(env: Any, size: int, raw: RawAction, why: list[str]) -> _Draft:
    names = tuple(f"obs_{index}" for index in range(size))
    term = Term(
        name="unnamed_observation", kind="custom", size=size, element_names=names, units=("unknown",) * size, frame="none"
    )
    action = plain_action([f"action_{index}" for index in range(len(raw.half))], raw)
    notes = [*why, "Names are invented: elements are told by their place alone.", *_joint_notes(env)]
    return _Draft(None, action, (term,), (), Safety(max_tilt_rad=None), notes)


_LEVELS: dict[Callable[..., _Draft], str] = {
    _with_robot: "No robot is described, since",
    _with_actuators: "Actuators and terms are not described, since",
}


def _joint_notes(env: Any) -> list[str]:
    """The joints of every articulation in the scene, to complete the file by hand."""
    found: list[str] = []
    for name in getattr(getattr(env, "scene", None), "articulations", None) or ():
        try:
            machine = _machines(env)(str(name))
            joints = ", ".join(f"{joint} {machine.default_position[joint]:g}" for joint in machine.joint_names)
        except (Undescribed, AttributeError, IndexError, KeyError, TypeError, ValueError):
            continue
        found.append(f"Joints of {name} in the simulator's order, with their default positions: {joints}.")
    return found


def _machines(env: Any) -> Callable[[str], Machine]:
    """The scene's articulations by name, read once each."""

    @cache
    def machine_of(entity: str) -> Machine:
        if hasattr(getattr(env, "sim", None), "mj_model"):
            from trudi.train.envs.robot_description.mjlab import MjlabMachine

            return MjlabMachine(env, entity)
        from trudi.train.envs.robot_description.isaac import IsaacMachine

        return IsaacMachine(env, entity)

    return machine_of


def _sources(env: Any, groups: Sequence[str]) -> list[TermSource]:
    """The actor's terms in order; Undescribed where they are images, or frames that lie between those of other terms."""
    manager = getattr(env, "observation_manager", None)
    if manager is None:
        shapes = [tuple(env.single_observation_space.spaces[group].shape) for group in groups]
        if any(len(shape) > 1 for shape in shapes):
            raise Undescribed("the actor sees images")
        return [TermSource(group, None, math.prod(shape), 1) for group, shape in zip(groups, shapes, strict=True)]
    found: list[TermSource] = []
    for group in groups:
        cfgs, shapes = manager._group_obs_term_cfgs[group], manager.group_obs_term_dim[group]
        if any(len(shape) > 2 for shape in shapes):
            raise Undescribed("the actor sees images")
        if any(len(shape) == 2 for shape in shapes) and manager.group_obs_concatenate[group] and len(shapes) > 1:
            raise Undescribed("the frames of several terms are stacked together")
        prefix = f"{group}." if len(groups) > 1 else ""
        for name, cfg, shape in zip(manager.active_terms[group], cfgs, shapes, strict=True):
            frames = max(1, int(getattr(cfg, "history_length", 0) or 0))
            found.append(TermSource(prefix + name, cfg, int(math.prod(shape)) // frames, frames))
    return found


def _span(raw: RawAction) -> str:
    low, high = raw.middle - raw.half, raw.middle + raw.half
    if (low == low[0]).all() and (high == high[0]).all():
        return f"from {low[0]:g} to {high[0]:g}"
    return "from the least to the largest that each of its terms takes"


def _beyond(action: Action, robot: Robot) -> list[str]:
    """Joints whose targets reach past their limits: the simulator lets them, a runtime does not."""
    if action.kind != "joint_position":
        return []
    reached: list[str] = []
    for index, joint in enumerate(robot.joints):
        reach = abs(action.scale[index])
        low, high = action.offset[index] - reach, action.offset[index] + reach
        if action.clip is not None:
            low, high = max(low, action.clip[index][0]), min(high, action.clip[index][1])
        if joint.position_limit is not None and (low < joint.position_limit[0] or high > joint.position_limit[1]):
            reached.append(f"{joint.name} [{low:.4g}, {high:.4g}]")
    if not reached:
        return []
    return [f"Targets reach past joint limits, where a runtime holds them and the simulator did not: {', '.join(reached)}."]


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return explain(error)
    text = " ".join(str(error).split())
    return text if isinstance(error, Undescribed) else f"{type(error).__name__}: {text}"
