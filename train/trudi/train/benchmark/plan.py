"""What is run for how long: decided once, and kept beside the results.

OUT/plan.yaml          every cell of the grid: a task with a variant, its length, the time that was measured for it
OUT/configs/CELL.yaml  its settings, whole: a preset that changes later changes no benchmark
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from trudi.train.benchmark.job import Job
from trudi.train.benchmark.suite import Benchmark, merged
from trudi.train.config import TrainCfg, differences, load_config, parse_values, read_yaml, write_config
from trudi.train.errors import TrainError
from trudi.train.results import Scale
from trudi.train.suites import as_options

PLAN, CONFIGS, RUNS = "plan.yaml", "configs", "runs"
SAVES = 5
"""Periodic checkpoints of a run. Its simulator starts over at each, so there are not more of them."""
UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}

Measure = Callable[["dict[str, TrainCfg]"], "dict[str, float | None]"]
"""Seconds of an iteration by cell; None where it is not known."""


@dataclass(frozen=True)
class Budget:
    """The length of a run: one of the two."""

    steps: float | None = None
    """Environment steps."""
    seconds: float | None = None


@dataclass(frozen=True)
class Cell:
    """A task with a variant."""

    name: str
    """Of its files, unique."""
    task: str
    variant: str
    seeds: int
    iterations: int
    env_steps: int
    seconds_per_iteration: float | None
    """Processor time (on a GPU, wall-clock) of an iteration, evaluations left out; None where it was not measured."""
    seconds_per_step: float | None
    options: tuple[str, ...]
    """Of `trudi train`, beyond task, seed and folder."""

    @property
    def seconds(self) -> float | None:
        """Expected time of one run, evaluations left out."""
        return self.iterations * self.seconds_per_iteration if self.seconds_per_iteration is not None else None

    def run_name(self, seed: int) -> str:
        """Of one of its runs."""
        return f"{self.name}--{seed}"


@dataclass(frozen=True)
class Plan:
    """The grid."""

    title: str
    budget: str
    samplers: tuple[str, ...]
    episodes: int
    """Of the final evaluation, by each sampler."""
    cells: tuple[Cell, ...]
    scales: dict[str, Scale] = field(default_factory=dict[str, Scale])

    def order(self) -> list[tuple[Cell, int]]:
        """All runs, seed by seed, so that an early stop leaves a balanced table."""
        seeds = max(cell.seeds for cell in self.cells)
        return [(cell, seed) for seed in range(seeds) for cell in self.cells if seed < cell.seeds]

    def job(self, out: Path, cell: Cell, seed: int, cfg: TrainCfg) -> Job:
        """A run of the grid as a job; `cfg` is its cell's."""
        return Job(
            name=cell.run_name(seed),
            folder=str(out.absolute() / RUNS),
            config=str(config_path(out, cell.name).absolute()),
            task=cell.task,
            seed=seed,
            iterations=cfg.max_iterations,
            save_every=cfg.save_every,
            device=cfg.device,
            threads=cfg.threads,
            samplers=self.samplers,
            episodes=self.episodes,
        )


def config_path(out: Path, cell: str) -> Path:
    """Of a cell's settings."""
    return out / CONFIGS / f"{cell}.yaml"


def parse_budget(text: str) -> Budget:
    """`1M`, `500k`, `2e6` are steps, `90s`, `10min`, `2h` time; TrainError says so."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?) ?([a-zA-Z]*)", text.strip())
    value, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if not found or unit not in UNITS_S | MULTIPLES or not 0.0 < value < math.inf:
        raise TrainError(f"the budget '{text}' is neither steps (1M, 500k, 2e6) nor time (90s, 10min, 2h)")
    return Budget(seconds=value * UNITS_S[unit]) if unit in UNITS_S else Budget(steps=value * MULTIPLES[unit])


def make_plan(
    benchmark: Benchmark, before: Plan | None, out: Path, *, episodes: int, threads: int, measure: Measure
) -> tuple[Plan, dict[str, TrainCfg]]:
    """The plan and its cells' settings, with what is there `before` as it is; TrainError names what would change.

    `measure` is asked for the cells that are new.
    """
    _require_same(benchmark, before, episodes)
    known = {cell.name: cell for cell in before.cells} if before else {}
    drafts, named = _drafts(benchmark, threads)
    times = {name: cell.seconds_per_iteration for name, cell in known.items()}
    times |= measure({name: cfg for name, cfg in drafts.items() if name not in known})
    budget = parse_budget(benchmark.budget)
    lengths: dict[str, int] = {}
    for name, cfg in sorted(drafts.items(), key=lambda item: benchmark.variants[named[item[0]][1]].as_long_as is not None):
        task, variant = named[name]
        other = benchmark.variants[variant].as_long_as
        if other is not None:
            first = cell_name(task, other)
            own = Budget(seconds=lengths[first] * _required(times, first))
        else:
            own = budget
        lengths[name] = _iterations(own, cfg, name, times)
    cells: list[Cell] = []
    configs: dict[str, TrainCfg] = {}
    for name, draft in drafts.items():
        task, variant = named[name]
        cfg = replace(draft, max_iterations=lengths[name])
        if not _says(benchmark, task, variant, "save_every"):
            cfg = replace(cfg, save_every=-(-cfg.max_iterations // SAVES))
        configs[name] = cfg
        seeds = max(benchmark.seeds, known[name].seeds if name in known else 0)
        cells.append(_cell(benchmark, name, task, variant, seeds, cfg, times[name]))
    for name, cell in known.items():
        frozen = load_config(config_path(out, name), None)
        if name in configs:
            _require_same_settings(name, frozen, configs[name])
        else:
            cells.append(cell)
        configs[name] = frozen
    scales = (before.scales if before else {}) | dict(benchmark.scales)
    return Plan(benchmark.title, benchmark.budget, benchmark.samplers, episodes, tuple(cells), scales), configs


def write_plan(plan: Plan, configs: Mapping[str, TrainCfg], out: Path) -> None:
    """Writes the settings, and then the plan that names them, each in one step."""
    (out / CONFIGS).mkdir(parents=True, exist_ok=True)
    for name, cfg in configs.items():
        if not config_path(out, name).exists():
            _replace(config_path(out, name), lambda path, cfg=cfg: write_config(cfg, path))
    text = yaml.safe_dump(_plain(asdict(plan)), sort_keys=False, width=120)
    _replace(out / PLAN, lambda path: path.write_text(text))


def read_plan(out: Path) -> Plan | None:
    """The plan in a benchmark's folder, if there is one."""
    path = out / PLAN
    return parse_values(Plan, read_yaml(path), str(path)) if path.exists() else None


def cell_name(task: str, variant: str) -> str:
    """The name of a cell's files."""
    return f"{file_name(task)}--{file_name(variant)}"


def _drafts(benchmark: Benchmark, threads: int) -> tuple[dict[str, TrainCfg], dict[str, tuple[str, str]]]:
    """Settings without lengths, and (task, variant), by cell."""
    drafts: dict[str, TrainCfg] = {}
    named: dict[str, tuple[str, str]] = {}
    for task in benchmark.tasks:
        for variant in benchmark.variants:
            name = cell_name(task, variant)
            if name in named:
                raise TrainError(f"{named[name]} and {(task, variant)} would have the same files, {name}: rename one")
            named[name] = (task, variant)
            drafts[name] = benchmark.configuration(task, variant, threads)
    return drafts, named


def _iterations(budget: Budget, cfg: TrainCfg, name: str, times: Mapping[str, float | None]) -> int:
    if budget.steps is not None:
        return max(1, round(budget.steps / cfg.steps_per_iteration))
    return max(1, round((budget.seconds or 0.0) / _required(times, name)))


def _required(times: Mapping[str, float | None], name: str) -> float:
    seconds = times.get(name)
    if seconds is None:
        raise TrainError(f"{name}: its length follows from its speed, which was not measured (--calibration-iterations)")
    return seconds


def _says(benchmark: Benchmark, task: str, variant: str, key: str) -> bool:
    return key in benchmark.tasks[task].overrides or key in benchmark.variants[variant].overrides


def _cell(
    benchmark: Benchmark, name: str, task: str, variant: str, seeds: int, cfg: TrainCfg, seconds: float | None
) -> Cell:
    own, chosen = benchmark.tasks[task], benchmark.variants[variant]
    preset = ["--config", own.preset] if own.preset else []
    length = {"max_iterations": cfg.max_iterations, "save_every": cfg.save_every, "threads": cfg.threads}
    options = [*preset, "--algo", chosen.algo, *as_options(merged(own.overrides, chosen.overrides) | length)]
    per_step = seconds / cfg.steps_per_iteration if seconds is not None else None
    steps = cfg.max_iterations * cfg.steps_per_iteration
    return Cell(name, task, variant, seeds, cfg.max_iterations, steps, seconds, per_step, tuple(options))


def _require_same(benchmark: Benchmark, before: Plan | None, episodes: int) -> None:
    if before is None:
        return
    pairs = {
        "budget": (before.budget, benchmark.budget),
        "final evaluation's samplers": (" ".join(before.samplers), " ".join(benchmark.samplers)),
        "final evaluation's episodes": (before.episodes, episodes),
    }
    for what, (old, new) in pairs.items():
        if old != new:
            raise TrainError(f"the benchmark in this folder has {what} {old}, not {new}: use another --out")


def _require_same_settings(name: str, frozen: TrainCfg, wanted: TrainCfg) -> None:
    for key, (old, new) in differences(frozen, wanted).items():
        raise TrainError(f"{name} in this folder has {key} {old}, not {new}: use another --out")


def file_name(text: str) -> str:
    """`text` as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "-"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    temporary.replace(path)
