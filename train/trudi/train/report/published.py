"""Figures of the literature, from configs/published: to stand beside ours, never as the same experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trudi.train.config import parse_values, presets_folder, read_yaml
from trudi.train.errors import TrainError

FOLDER = "published"
SAME_AS = "same_as"


@dataclass(frozen=True)
class Figure:
    """Mean, and standard deviation where it was published."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:g}" if self.std is None else f"{self.mean:g} \u00b1 {self.std:g}"


@dataclass(frozen=True)
class PublishedFile:
    """A file of configs/published as it is written."""

    title: str
    source: str
    """Who published it, and where in it."""
    simulator: str
    budget: int
    """Environment steps of a run."""
    columns: dict[str, str]
    """Algorithms: their keys in `tasks`, and their names."""
    same_as: list[str]
    """Our names of its tasks, with `{name}` for theirs; none where no task of ours is the same."""
    tasks: dict[str, dict[str, Any]]
    """By their names: for each column [mean, standard deviation] or [mean]; `same_as`."""


@dataclass(frozen=True)
class Published:
    """The results of one source."""

    about: PublishedFile
    figures: Mapping[str, Mapping[str, Figure]]
    """By task, then by column."""

    def named(self, task: str) -> str | None:
        """Their name of our `task`, where they have it."""
        return next((name for name in self.figures if task in self.ours(name)), None)

    def ours(self, name: str) -> list[str]:
        """Our names of their task."""
        return [pattern.format(name=name) for pattern in self.about.tasks[name].get(SAME_AS, self.about.same_as)]


def read_published(folder: Path | None = None) -> list[Published]:
    """Every file of configs/published, or of another folder; TrainError names what is wrong with one."""
    return [_read(path) for path in sorted((folder or presets_folder() / FOLDER).glob("*.yaml"))]


def listing(published: list[Published]) -> str:
    """All of them as text."""
    lines: list[str] = []
    for one in published:
        about = one.about
        lines += [about.title, f"  {about.source}; {about.budget:,} steps; {about.simulator}"]
        width = max(map(len, one.figures))
        for name, row in one.figures.items():
            cells = ", ".join(f"{about.columns[key]} {figure}" for key, figure in row.items())
            lines.append(f"  {name:<{width}}  {cells}")
    return "\n".join(lines)


def _read(path: Path) -> Published:
    about = parse_values(PublishedFile, read_yaml(path), str(path))
    figures: dict[str, dict[str, Figure]] = {}
    for task, row in about.tasks.items():
        if unknown := set(row) - set(about.columns) - {SAME_AS}:
            raise TrainError(f"{path}: {task} has {', '.join(sorted(unknown))}, which columns does not name")
        figures[task] = {key: _figure(row[key], f"{path}: {task}: {key}") for key in about.columns if key in row}
    return Published(about, figures)


def _figure(value: Any, where: str) -> Figure:
    try:
        return Figure(*map(float, value))
    except (TypeError, ValueError):
        raise TrainError(f"{where} is {value!r}; it must be [mean, standard deviation] or [mean]") from None
