"""Where the jobs of a benchmark run: on this machine, or on a cluster through submitit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trudi.train.benchmark.job import Job, in_a_process, killed_by
from trudi.train.benchmark.launch import launched
from trudi.train.errors import TrainError

PATIENCE_S = 30.0


class Engine(Protocol):
    """Runs jobs, some at a time. What they came to is in their files; the engine knows only of those that could not say."""

    slots: int
    """Jobs that it takes at once."""

    def start(self, job: Job) -> None:
        """Starts a job; called by the main thread, for a free slot."""
        ...

    def ended(self) -> dict[str, str]:
        """Names of the jobs that ended since it was asked before, with how their processes did."""
        ...

    def stop(self) -> None:
        """Ends all jobs at once, without asking them, and waits until they are gone."""
        ...


class LocalEngine:
    """A process a job, pinned to cores of its own as long as there are enough."""

    def __init__(self, slots: int | None, threads: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.slots = slots or max(1, len(cores) // threads)
        self._free = [tuple(cores[(slot * threads + i) % len(cores)] for i in range(threads)) for slot in range(self.slots)]
        self._running: dict[str, tuple[subprocess.Popen[bytes], tuple[int, ...]]] = {}

    def start(self, job: Job) -> None:
        cores = self._free.pop(0)
        with job.file(".log").open("ab") as log:
            process = subprocess.Popen(
                launched(in_a_process(job), cores),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for the benchmark alone
            )
        self._running[job.name] = (process, cores)

    def ended(self) -> dict[str, str]:
        gone = {name: code for name, (process, _) in self._running.items() if (code := process.poll()) is not None}
        for name in gone:
            self._free.append(self._running.pop(name)[1])
        return {
            name: f"its process was {killed_by(-code)}" if code < 0 else f"its process ended with exit code {code}"
            for name, code in gone.items()
        }

    def stop(self) -> None:
        for process, _ in self._running.values():
            process.kill()  # and with it what it started: see `launch`
        for process, _ in self._running.values():
            process.wait()
        self._running.clear()


class SubmititEngine:
    """A job of the scheduler each; where one is preempted or runs out of time it is queued again, and goes on."""

    def __init__(self, cluster: str, folder: Path, slots: int, parameters: Mapping[str, Any]) -> None:
        """`parameters` are those of submitit's `update_parameters`; TrainError where it does not know one."""
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise TrainError(f"this engine needs the package '{error.name}': pip install 'trudi[cluster]'") from None
        self.slots = slots
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=1000)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            raise TrainError(f"submitit, {cluster}: {error}") from None
        self._running: dict[str, Any] = {}

    def start(self, job: Job) -> None:
        self._running[job.name] = self._executor.submit(job)

    def ended(self) -> dict[str, str]:
        gone = {name: job for name, job in self._running.items() if job.done()}
        for name in gone:
            del self._running[name]
        return {name: f"its job {job.job_id} ended as {job.state}" for name, job in gone.items()}

    def stop(self) -> None:
        for job in self._running.values():
            job.cancel(check=False)
        until = time.monotonic() + PATIENCE_S
        while self._running and time.monotonic() < until:
            self.ended()
            time.sleep(0.1)
        self._running.clear()
