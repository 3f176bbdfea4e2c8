"""Robot files: what an array of numbers does not say of a task's robot, as YAML with the contract's own parts.

A file states joints, gains, limits, default pose, the action's meaning and the observation's terms for the tasks it
names. Simulators that know all this write one into the run (`trudi.train.envs.robot_description`); `configs/robots/` holds
this project's, for those that do not; docs/robots.md says how to write one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from trudi.export.errors import ExportError
from trudi.export.robot_shorthand import spell_out
from trudi.runtime.consistency import check_interface
from trudi.runtime.contract import Safety
from trudi.runtime.errors import near_matches
from trudi.runtime.interface import Action, Command, Robot, Term
from trudi.runtime.model import MAX_ELEMENTS, MAX_ITEMS, Model, Name, Positive
from trudi.runtime.reading import Values, explain, split_unknown
from trudi.train.config import presets_folder, read_yaml
from trudi.train.envs.robot_description import ROBOT_FILE
from trudi.train.errors import TrainError
from trudi.train.runfolder import TEACHER, RunFolder


class RobotFile(Model):
    """The parts of a contract that a policy cannot tell."""

    tasks: Annotated[tuple[Name, ...], Field(max_length=MAX_ITEMS, fail_fast=True)] = ()
    """Tasks that the file describes, as `trudi tasks` names them; none for a robot of which no simulator knows."""
    robot: Robot | None
    """The machine; null for tasks that have actuators only."""
    action: Action
    """What the policy's output means."""
    observation: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    """The terms of the observation, in order."""
    commands: Annotated[tuple[Command, ...], Field(max_length=MAX_ITEMS, fail_fast=True)] = ()
    """What may be asked of the policy."""
    control_period_s: Positive
    """Time between two actions; s."""
    safety: Safety = Safety()
    """Thresholds of the supervisor."""

    @property
    def observation_size(self) -> int:
        """Elements of the observation that the terms add up to."""
        return sum(term.total_size for term in self.observation)

    @model_validator(mode="after")
    def _consistent(self) -> RobotFile:
        check_interface(self)
        return self


def robot_presets() -> dict[str, Path]:
    """The files in `configs/robots/` by name."""
    return {path.stem: path for path in sorted((presets_folder() / "robots").glob("*.yaml"))}


def load_robot_file(name_or_path: str | Path) -> RobotFile:
    """The robot file of that name, or at that path; ExportError says in one line what is wrong with it."""
    known = robot_presets()
    path = known.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise ExportError(f"no robot file or preset '{name_or_path}'; {near_matches(str(name_or_path), known)}")
    return parse_robot_file(_read(path), str(path))


def find_robot_file(task: str) -> RobotFile | None:
    """The project's own robot file for a task (`backend:name`), if there is one."""
    for path in robot_presets().values():
        values = _read(path)
        tasks = values.get("tasks")
        if isinstance(tasks, list) and task in tasks:
            return parse_robot_file(values, str(path))
    return None


def run_robot_file(folder: RunFolder, task: str) -> tuple[RobotFile, Path] | None:
    """(file, its path): what the simulator told of its own robot when the run, or a student's teacher, was trained.

    None where it told nothing. ExportError where the file is damaged, or says that it is another task's.
    """
    for path in (folder.path / ROBOT_FILE, folder.path / TEACHER / ROBOT_FILE):
        if path.is_file():
            robot = parse_robot_file(_read(path), str(path))
            if robot.tasks and task not in robot.tasks:
                raise ExportError(
                    f"{path} is for {', '.join(robot.tasks)}, the run is of {task}: name the robot file with --robot"
                )
            return robot, path
    return None


def generic_robot_file(task: str, observation_size: int, action_size: int, control_period_s: float) -> RobotFile:
    """What can be said of a task without a robot file: sizes and the period.

    The names are invented, and say so: a runtime must fill the observation by position.
    """
    sizes = {"observations": observation_size, "actions": action_size}
    if bad := [f"{size} {what}" for what, size in sizes.items() if not 1 <= size <= MAX_ELEMENTS]:
        raise ExportError(f"{task} has {' and '.join(bad)}; a bundle describes 1 to {MAX_ELEMENTS} of each")
    observation: Values = {
        "name": "unnamed_observation",
        "kind": "custom",
        "element_names": [f"obs_{index}" for index in range(observation_size)],
        "units": "unknown",
        "frame": "none",
    }
    values: Values = {
        "tasks": [task],
        "robot": None,
        "action": {"kind": "actuator", "names": [f"action_{index}" for index in range(action_size)]}
        | {"units": "1", "scale": 1.0, "offset": 0.0, "clip": [-1.0, 1.0]},
        "observation": [observation],
        "control_period_s": control_period_s,
        "safety": {"max_tilt_rad": None},
    }
    return parse_robot_file(values, f"the generic description of {task}")


def parse_robot_file(values: Values, where: str) -> RobotFile:
    """The robot file that plain values in the files' shorthand spell; `where` is named in errors."""
    try:
        known, unknown = split_unknown(RobotFile, spell_out(values), "")
    except ExportError as error:
        raise ExportError(f"{where}: {error}") from None
    if unknown:
        raise ExportError(f"{where}: {unknown[0].explain()}")
    try:
        return RobotFile.model_validate(known)
    except ValidationError as error:
        raise ExportError(f"{where}: {explain(error)}") from None


def with_safety(robot: RobotFile, given: Sequence[str]) -> RobotFile:
    """`robot` with thresholds of the supervisor from KEY=VALUE; ExportError says in one line what is wrong with one."""
    thresholds = robot.safety.model_dump()
    for one in given:
        key, equals, text = one.partition("=")
        if not equals:
            raise ExportError(f"--safety takes KEY=VALUE, such as state_age_warn_s=0.03; not '{one}'")
        if key not in thresholds or key == "observation_range":
            known = [name for name in thresholds if name != "observation_range"]
            raise ExportError(f"--safety: there is no '{key}'; {near_matches(key, known)}")
        try:
            thresholds[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ExportError(f"--safety: '{text}' for {key} is not a number or null") from None
    try:
        return RobotFile.model_validate(robot.model_dump() | {"safety": thresholds})
    except ValidationError as error:
        raise ExportError(f"--safety: {explain(error)}") from None


def _read(path: Path) -> Values:
    try:
        return read_yaml(path)
    except TrainError as error:
        raise ExportError(str(error)) from None
