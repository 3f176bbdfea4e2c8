"""Working off a plan: starts what is waiting, notes what ended, and keeps OUT/results.json true at all times."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trudi.train.benchmark.engines import Engine
from trudi.train.benchmark.job import Job
from trudi.train.benchmark.plan import RUNS, Cell, Plan
from trudi.train.config import TrainCfg
from trudi.train.errors import TrainError
from trudi.train.results import Results, RunResult, State, result_of
from trudi.train.runfolder import CONFIG, RunFolder

RESULTS, LOCK = "results.json", ".lock"
POLL_S, REFRESH_S = 0.25, 15.0
UNFINISHED: frozenset[State] = frozenset({"waiting", "interrupted"})


@dataclass
class Run:
    """A run of the grid and where it stands."""

    cell: Cell
    job: Job
    result: RunResult

    @property
    def state(self) -> State:
        """As the results say."""
        return self.result.state


class Grid:
    """The runs of a plan in a folder."""

    def __init__(self, out: Path, plan: Plan, configs: Mapping[str, TrainCfg], about: Mapping[str, Any]) -> None:
        self.out, self.plan, self.about = out, plan, about
        (out / RUNS).mkdir(parents=True, exist_ok=True)
        self.runs: dict[str, Run] = {}
        for cell, seed in plan.order():
            job = plan.job(out, cell, seed, configs[cell.name])
            self.runs[job.name] = Run(cell, job, _result(cell, job, _state(job)))

    def forget_failures(self) -> None:
        """Failed runs wait again; they go on from their last periodic checkpoint, or start over."""
        for run in self.runs.values():
            if run.state == "failed":
                run.job.file(".failed").unlink(missing_ok=True)
                self._set(run, _state(run.job))

    def of(self, *states: State) -> list[Run]:
        """The runs in these states, in order."""
        return [run for run in self.runs.values() if run.state in states]

    def work(self, engine: Engine, is_stopped: Callable[[], bool], tell: Callable[[Run | None], None]) -> None:
        """Runs what is unfinished, until all ended or `is_stopped`; `tell` hears of each change, and of none in between."""
        self.write()
        try:
            self._work(engine, is_stopped, tell)
        finally:
            engine.stop()
            for run in self.of("running"):  # one may have come to its end in the very moment
                self._set(run, _state(run.job))
            self.write()

    def _work(self, engine: Engine, is_stopped: Callable[[], bool], tell: Callable[[Run | None], None]) -> None:
        refreshed = time.monotonic()
        while not is_stopped() and (self.of("running") or self.of(*UNFINISHED)):
            changed: list[Run] = []
            for run in self.of(*UNFINISHED)[: engine.slots - len(self.of("running"))]:
                engine.start(run.job)
                self._set(run, "running")
                changed.append(run)
            for name, how in engine.ended().items():
                run = self.runs[name]
                if not run.job.is_done and run.job.failure is None:
                    run.job.fail(how)
                self._set(run, _state(run.job))
                changed.append(run)
            if changed or time.monotonic() - refreshed > REFRESH_S:
                for run in self.of("running"):
                    self._set(run, "running")
                self.write()
                refreshed = time.monotonic()
            for run in changed or (None,):
                tell(run)
            if not changed:
                time.sleep(POLL_S)

    def results(self) -> Results:
        """What there is to show."""
        return Results(tuple(run.result for run in self.runs.values()), self.plan.scales, self.about)

    def write(self) -> None:
        """Writes results.json."""
        self.results().write(self.out / RESULTS)

    def _set(self, run: Run, state: State) -> None:
        run.result = _result(run.cell, run.job, state)


@contextmanager
def only_one(out: Path) -> Generator[None]:
    """Holds the folder; TrainError where another benchmark does. It is free again when the process ends, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out / LOCK, os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(f"another benchmark runs in {out}: wait for it, stop it, or use another --out") from None
        yield
    finally:
        os.close(lock)


def _state(job: Job) -> State:
    if job.failure is not None:
        return "failed"
    if job.is_done:
        return "done"
    return "interrupted" if job.run.exists() else "waiting"


def _result(cell: Cell, job: Job, state: State) -> RunResult:
    reason = (job.failure or "") if state == "failed" else ""
    if (job.run / CONFIG).exists():
        try:
            return result_of(
                RunFolder.open(job.run),
                name=job.name,
                variant=cell.variant,
                state=state,
                reason=reason,
                options=cell.options,
                final=job.final(),
            )
        except TrainError as error:
            if state == "done":  # else its folder may just be being written
                state, reason = "failed", str(error)
    return RunResult(job.name, cell.task, cell.variant, job.seed, state, reason=reason, options=cell.options)
