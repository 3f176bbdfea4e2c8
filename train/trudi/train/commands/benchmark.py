"""`trudi benchmark SUITE`: a resumable grid of training runs."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro
import yaml
from rich.console import Console

from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_INTERRUPTED, EXIT_OK, reports_errors
from trudi.train.benchmark.board import Board, console, final_table, plan_table
from trudi.train.benchmark.calibrate import calibrate
from trudi.train.benchmark.engines import Engine, LocalEngine, SubmititEngine
from trudi.train.benchmark.grid import RESULTS, Grid, only_one
from trudi.train.benchmark.plan import Plan, make_plan, read_plan, write_plan
from trudi.train.benchmark.suite import Benchmark, Task, by_name, load_benchmark, parse_samplers
from trudi.train.commands.common import parse_arguments
from trudi.train.config import TrainCfg
from trudi.train.errors import TrainError

MANY = 1000


@dataclass(frozen=True)
class SlurmArgs:
    """What the cluster is told of a job."""

    partition: str | None = None
    """SLURM's partition."""
    timeout_min: int = 24 * 60
    """Minutes of a job. One that takes longer is queued again, and goes on."""
    gpus: int = 0
    """GPUs of a job."""
    parameters: tuple[str, ...] = ()
    """More, KEY=VALUE, as submitit's `update_parameters` takes them: mem_gb=8, slurm_account=me."""


@dataclass(frozen=True)
class BenchmarkArgs:
    """Train every variant on every task with every seed, a process each. Stopped or killed, the same command goes on."""

    suite: Annotated[str, tyro.conf.Positional]
    """A benchmark of configs/benchmarks, a benchmark's YAML file, a suite (dmc, ...), or a task `backend:name`."""
    algos: tuple[str, ...] = ()
    """Variants of the file, or algorithms as they are; all of the file's by default, or trudi, reppo and ppo."""
    seeds: int | None = None
    """How many seeds: 0, 1, ...; the file's, or 3, by default."""
    budget: str | None = None
    """Of each run: environment steps (1M, 500k, 2e6), or time (90s, 10min, 2h); the file's, or 1M, by default."""
    equal_time: bool = False
    """Every variant but the first a second time, as long as the first takes on the same task."""
    config: str | None = None
    """Preset or YAML file with the settings of all runs, in place of the suite's."""
    out: Path | None = None
    """Folder of the benchmark; runs/benchmarks/SUITE by default."""
    final_episodes: int = 32
    """Episodes of each run's final evaluation, by each sampler."""
    samplers: tuple[str, ...] = ()
    """Of the final evaluation; the file's, or `ode`, by default."""
    engine: Literal["local", "slurm", "submitit-local"] = "local"
    """Where runs run: on this machine, as jobs of SLURM (through submitit), or of submitit's on this machine."""
    jobs: int | None = None
    """Runs at a time; a core's worth of threads each by default, on SLURM all of them."""
    threads: int = 1
    """Cores of each run, and the threads of its actor's update (`trudi train --threads`)."""
    calibration_iterations: int = 5
    """Iterations of each task and variant that are timed before anything is planned; 0 plans without times."""
    retry_failed: bool = False
    """Also runs again what had failed."""
    dry_run: bool = False
    """Says what would be run, and runs nothing but the calibration."""
    slurm: SlurmArgs = field(default_factory=SlurmArgs)

    def __post_init__(self) -> None:
        for name in ("seeds", "final_episodes", "jobs", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise TrainError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        if self.calibration_iterations < 0:
            raise TrainError(f"--calibration-iterations is {self.calibration_iterations}; it may not be negative")


@reports_errors("benchmark")
def main(argv: list[str]) -> int:
    """Runs the grid; the exit code is 1 where a run failed, 130 where it was stopped."""
    args = parse_arguments(BenchmarkArgs, "trudi benchmark", argv)
    screen = console()
    benchmark = requested(args)
    out = args.out or Path("runs") / "benchmarks" / Path(args.suite.replace(":", "-").replace("/", "-")).stem
    with only_one(out), StopRequest().listening() as stop:
        engine = make_engine(args, out)
        try:
            plan, configs = planned(args, benchmark, out, engine, screen)
        except Stopped:
            engine.stop()
            return EXIT_INTERRUPTED
        if args.dry_run:
            for cell in plan.cells:
                screen.print(shlex.join(["trudi", "train", cell.task, *cell.options]))
            screen.print(plan_table(plan, min(engine.slots, len(plan.order()))))
            return EXIT_OK
        write_plan(plan, configs, out)
        grid = Grid(out, plan, configs, about(args, argv, plan))
        if args.retry_failed:
            grid.forget_failures()
        stop.is_patient = True
        slots = min(engine.slots, len(grid.runs))
        with Board(grid, slots) as board:
            grid.work(engine, lambda: stop.is_received, board)
    screen.print(final_table(grid))
    for run in grid.of("failed"):
        screen.print(f"failed: {run.job.name}: {run.result.reason} ({run.job.file('.log')})")
    screen.print(f"results: {out / RESULTS}")
    if grid.of("waiting", "interrupted"):
        screen.print("stopped; the same command goes on")
        return EXIT_INTERRUPTED
    return EXIT_CHECK_FAILED if grid.of("failed") else EXIT_OK


class Stopped(Exception):
    """A signal asked for the end."""


class StopRequest:
    """SIGINT and SIGTERM: raises where nothing is lost by it, and is only remembered once it `is_patient`."""

    def __init__(self) -> None:
        self.is_received = self.is_patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.is_received = True
        if not self.is_patient:
            raise Stopped

    @contextmanager
    def listening(self) -> Generator[StopRequest]:
        """Handles both inside the block."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def requested(args: BenchmarkArgs) -> Benchmark:
    """The benchmark of the suite with what the command line says."""
    benchmark = load_benchmark(args.suite)
    benchmark = replace(
        benchmark,
        variants=by_name(args.algos, benchmark.variants),
        seeds=args.seeds or benchmark.seeds,
        budget=args.budget or benchmark.budget,
        samplers=parse_samplers(args.samplers) or benchmark.samplers,
    )
    if args.config is not None:
        benchmark = replace(
            benchmark, tasks={name: Task(args.config, task.overrides) for name, task in benchmark.tasks.items()}
        )
    return benchmark.with_equal_time() if args.equal_time else benchmark


def make_engine(args: BenchmarkArgs, out: Path) -> Engine:
    """Where the jobs run."""
    if args.engine == "local":
        return LocalEngine(args.jobs, args.threads)
    given = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.slurm.parameters)}
    parameters: dict[str, Any] = {"timeout_min": args.slurm.timeout_min, "cpus_per_task": args.threads}
    parameters |= {"gpus_per_node": args.slurm.gpus} if args.slurm.gpus else {}
    if args.engine == "submitit-local":
        slots = args.jobs or LocalEngine(None, args.threads).slots
        return SubmititEngine("local", out / "submitit", slots, parameters | given)
    parameters |= {"slurm_partition": args.slurm.partition} if args.slurm.partition else {}
    return SubmititEngine("slurm", out / "submitit", args.jobs or MANY, parameters | {"name": "trudi"} | given)


def planned(
    args: BenchmarkArgs, benchmark: Benchmark, out: Path, engine: Engine, screen: Console
) -> tuple[Plan, dict[str, TrainCfg]]:
    """The plan of the folder, extended; measures what is new in it."""

    def measure(drafts: dict[str, TrainCfg]) -> dict[str, float | None]:
        if args.calibration_iterations == 0:
            return dict.fromkeys(drafts)
        return calibrate(drafts, out, engine, args.calibration_iterations, screen.print)

    how = {"episodes": args.final_episodes, "threads": args.threads}
    return make_plan(benchmark, read_plan(out), out, **how, measure=measure)


def about(args: BenchmarkArgs, argv: list[str], plan: Plan) -> Mapping[str, Any]:
    """What a results file says of the benchmark."""
    return {
        "title": plan.title,
        "command": shlex.join(["trudi", "benchmark", *argv]),
        "budget": plan.budget,
        "samplers": list(plan.samplers),
        "final_episodes": plan.episodes,
        "threads": args.threads,
        "engine": args.engine,
        "seconds_per_step": {cell.name: cell.seconds_per_step for cell in plan.cells},
    }
