"""What a benchmark compares: tasks and variants, from a file of `configs/benchmarks`, a suite of the paper, or one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from pydantic import TypeAdapter

from trudi.train.config import (
    TrainCfg,
    load_config,
    parse_config,
    parse_values,
    presets,
    presets_folder,
    read_yaml,
    to_plain,
)
from trudi.train.envs.registry import split_task
from trudi.train.errors import TrainError, near_matches
from trudi.train.evaluation import Sampler
from trudi.train.results import Scale
from trudi.train.suites import load_suite, suites

EVERY_OTHER = "*"
RESERVED = ("task", "algo", "seed", "max_iterations", "threads")
SUITE_SCALES = {"dmc": Scale(0.0, 1000.0, "1000 steps, rewards from 0 to 1")}
BASELINES = ("trudi", "reppo", "ppo")


@dataclass(frozen=True)
class Variant:
    """An algorithm with settings."""

    algo: str = "trudi"
    """As `trudi train --algo`."""
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings beyond the preset's and the task's, nested as in a preset."""
    as_long_as: str | None = None
    """The variant whose time on the same task it gets, in place of the budget."""


@dataclass(frozen=True)
class Task:
    """A task with its settings."""

    preset: str | None = None
    """A preset's name or file; the task's own by default."""
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class BenchmarkFile:
    """What a benchmark's file says."""

    title: str
    tasks: dict[str, dict[str, Any]]
    """Settings beyond the preset's by `backend:name`, nested as in a preset."""
    preset: str | None = None
    """Settings of all runs: a preset's name; each task's own by default."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    """`algo`, `overrides` and `as_long_as` by name; trudi, reppo and ppo by default."""
    seeds: int = 3
    """How many: 0, 1, ..."""
    budget: str = "1M"
    """Of each run: environment steps (1M, 500k, 2e6), or time (90s, 10min, 2h)."""
    samplers: tuple[Sampler, ...] = ("ode",)
    """Of the final evaluation."""
    scales: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    """Returns that count as 0 and 1, `low` and `high`, by task; `*` for every other."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, checked."""

    title: str
    tasks: Mapping[str, Task]
    variants: Mapping[str, Variant]
    seeds: int
    budget: str
    samplers: tuple[Sampler, ...]
    scales: Mapping[str, Scale]

    def __post_init__(self) -> None:
        if not self.tasks or not self.variants or not self.samplers:
            raise TrainError(f"{self.title}: a benchmark needs tasks, variants and samplers")
        if self.seeds < 1:
            raise TrainError(f"seeds is {self.seeds}; it must be at least 1")
        for name, variant in self.variants.items():
            other = variant.as_long_as
            if other is not None and (other not in self.variants or self.variants[other].as_long_as is not None):
                usable = [key for key, one in self.variants.items() if one.as_long_as is None]
                raise TrainError(
                    f"variant '{name}' is as long as '{other}', which has no budget here; {near_matches(other, usable)}"
                )

    def with_equal_time(self) -> Benchmark:
        """The same, where every variant with a budget, but for the first, comes a second time, as long as the first."""
        first, *others = [name for name, variant in self.variants.items() if variant.as_long_as is None]
        twins = {f"{name}, as long as {first}": replace(self.variants[name], as_long_as=first) for name in others}
        return replace(self, variants={**self.variants, **twins})

    def configuration(self, task: str, variant: str, threads: int) -> TrainCfg:
        """The settings of a run, but for its seed and length; TrainError names what is wrong with them."""
        own, chosen = self.tasks[task], self.variants[variant]
        plain = to_plain(load_config(own.preset, task))
        for overrides, where in ((own.overrides, task), (chosen.overrides, f"variant '{variant}'")):
            for name in RESERVED:
                if name in overrides:
                    raise TrainError(f"{where}: '{name}' is the benchmark's, and cannot be among the overrides")
            plain = merged(plain, overrides)
        return parse_config(plain | {"algo": chosen.algo, "threads": threads}, f"{task}, variant '{variant}'")


def benchmarks() -> dict[str, Path]:
    """All benchmark files by name."""
    return {path.stem: path for path in sorted((presets_folder() / "benchmarks").glob("*.yaml"))}


def algorithms() -> tuple[str, ...]:
    """What `algo` may be."""
    return get_args(get_type_hints(TrainCfg)["algo"])


def load_benchmark(suite: str) -> Benchmark:
    """A benchmark by its name, its file, a suite's name or a task's; TrainError names near matches and unknown keys."""
    if suite in (known := benchmarks()) or suite.endswith((".yaml", ".yml")):
        return _from_file(known.get(suite, Path(suite)))
    if suite in suites():
        title, tasks = _from_suite(suite)
        scales = dict.fromkeys(tasks, SUITE_SCALES[suite]) if suite in SUITE_SCALES else {}
    elif ":" in suite:
        title, tasks, scales = suite, {suite: Task()}, {}
    else:
        raise TrainError(f"unknown benchmark '{suite}'; {near_matches(suite, [*known, *suites()])}")
    for task in tasks:
        split_task(task)
    return Benchmark(title, tasks, by_name((), {}), 3, "1M", ("ode",), scales)


def by_name(names: Sequence[str], variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """The variants that `--algos` names, or algorithms as they are; without names all of the file's, or the baselines."""
    if not names and variants:
        return dict(variants)
    chosen: dict[str, Variant] = {}
    for name in names or [name for name in BASELINES if name in algorithms()]:
        if name not in variants and name not in algorithms():
            raise TrainError(
                f"unknown algorithm or variant '{name}'; {near_matches(name, dict.fromkeys((*variants, *algorithms())))}"
            )
        chosen[name] = variants.get(name, Variant(algo=name))
    return chosen


def merged(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with some of them replaced."""
    result = dict(values)
    for key, value in overrides.items():
        before = result.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            value = merged(cast("dict[str, Any]", before), cast("dict[str, Any]", value))  # noqa: PLW2901
        result[key] = value
    return result


def _from_file(path: Path) -> Benchmark:
    if not path.is_file():
        raise TrainError(f"no benchmark file '{path}'; {near_matches(path.stem, benchmarks())}")
    content = parse_values(BenchmarkFile, read_yaml(path), str(path))
    if content.preset is not None and content.preset not in (known := presets()) and not Path(content.preset).is_file():
        raise TrainError(f"{path}: no preset '{content.preset}'; {near_matches(content.preset, known)}")
    for task in content.tasks:
        split_task(task)
    variants = {name: parse_values(Variant, own, f"{path}: variants.{name}") for name, own in content.variants.items()}
    for name, variant in variants.items():
        if variant.algo not in algorithms():
            raise TrainError(
                f"{path}: variants.{name}: unknown algo '{variant.algo}'; {near_matches(variant.algo, algorithms())}"
            )
    scales = {name: parse_values(Scale, own, f"{path}: scales.{name}") for name, own in content.scales.items()}
    for name in scales:
        if name != EVERY_OTHER and name not in content.tasks:
            raise TrainError(f"{path}: scales.{name} is of no task; {near_matches(name, content.tasks)}")
    other = scales.pop(EVERY_OTHER, None)
    return Benchmark(
        title=content.title,
        tasks={name: Task(content.preset, own) for name, own in content.tasks.items()},
        variants=by_name((), variants),
        seeds=content.seeds,
        budget=content.budget,
        samplers=content.samplers,
        scales=scales | ({name: other for name in content.tasks if name not in scales} if other else {}),
    )


def _from_suite(name: str) -> tuple[str, dict[str, Task]]:
    suite, tasks = load_suite(name)
    chosen = [(task, candidate) for task in tasks if (candidate := task.chosen()) and candidate.available == "installed"]
    if not chosen:
        raise TrainError(f"no task of the suite '{name}' can be run here: `trudi tasks --suite {name}` says why")
    return suite.title, {candidate.task: Task(task.preset, task.overrides) for task, candidate in chosen}


def parse_samplers(names: Sequence[str]) -> tuple[Sampler, ...]:
    """Samplers by name."""
    unknown = [name for name in names if name not in get_args(Sampler)]
    if unknown:
        raise TrainError(f"unknown sampler '{unknown[0]}'; {near_matches(unknown[0], get_args(Sampler))}")
    return TypeAdapter(tuple[Sampler, ...]).validate_python(tuple(names))
