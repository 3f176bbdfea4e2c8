"""One run of a benchmark as a job: trains, or goes on training, then evaluates; whatever is done already is left alone.

    python -m trudi.train.benchmark.job JOB_AS_JSON

Of a run NAME the folder has:

    NAME/        the run's own folder           NAME.log               what its commands printed
    NAME.json    its summary, once trained      NAME.final.ODE.json    the final evaluation, by sampler
    NAME.failed  why it failed, in one line     NAME.lock              held while a process works at it

Importing this takes no torch: a job waits for the processes that need it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trudi.train.benchmark.launch import launched

LONGEST_REASON = 300
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class JobFailedError(Exception):
    """The run failed; the text says why, in one line."""


@dataclass(frozen=True)
class Job:
    """What a job does, in plain values: it travels to other processes and machines."""

    name: str
    folder: str
    """Where the run's files are, an absolute path."""
    config: str
    """The configuration's file, an absolute path."""
    task: str
    seed: int
    iterations: int
    save_every: int
    device: str = "cpu"
    threads: int = 1
    samplers: tuple[str, ...] = ()
    """Of the final evaluation; none leaves it out."""
    episodes: int = 0
    """Of the final evaluation, by each sampler."""

    def file(self, suffix: str) -> Path:
        """NAME and a suffix, in the folder."""
        return Path(self.folder) / f"{self.name}{suffix}"

    @property
    def run(self) -> Path:
        """The run's own folder."""
        return self.file("")

    @property
    def is_trained(self) -> bool:
        """Whether the training came to its end."""
        return not _json(self.file(".json")).get("interrupted", True)

    def final(self) -> dict[str, tuple[float, ...]]:
        """Returns of the final evaluation, an episode each, by the samplers that are done."""
        found = {sampler: _json(self._final(sampler)).get("returns") for sampler in self.samplers}
        return {sampler: tuple(returns) for sampler, returns in found.items() if returns is not None}

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_trained and len(self.final()) == len(self.samplers)

    @property
    def failure(self) -> str | None:
        """Why it failed, where it did."""
        path = self.file(".failed")
        return path.read_text().strip() or "unknown" if path.exists() else None

    def fail(self, reason: str) -> None:
        """Remembers a failure."""
        self.file(".failed").write_text(reason[:LONGEST_REASON] + "\n")

    def __call__(self) -> None:
        """Does what is left to do; raises JobFailedError."""
        with self._alone() as lock:
            try:
                if not self.is_trained:
                    self._train(lock)
                for sampler in self.samplers:
                    if sampler not in self.final():
                        self._command(lock, "eval", str(self.run), *self._evaluation(sampler))
            except JobFailedError as error:
                self.fail(str(error))
                raise

    def checkpoint(self) -> Any:
        """What submitit calls where a job is preempted: the same again, which goes on from the last periodic checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _train(self, lock: int) -> None:
        summary = ("--json", str(self.file(".json")))
        if (last := self.resumable()) is not None:
            _point(self.run / "checkpoints" / "last", last.name)
            self._command(lock, "train", "--resume", str(self.run), *summary)
        else:  # Nothing there to go on from; nothing is lost.
            shutil.rmtree(self.run, ignore_errors=True)
            where = ("--config", self.config, "--seed", str(self.seed), "--out", str(self.run))
            self._command(lock, "train", self.task, *where, *summary)
        if not self.is_trained:
            raise JobFailedError("a signal from outside stopped it before its end")

    def resumable(self) -> Path | None:
        """The last checkpoint that the run would have written in any case; others are where somebody asked it to stop."""
        due: dict[int, Path] = {}
        for path in (self.run / "checkpoints").glob("iteration_*"):
            found = re.fullmatch(r"iteration_(\d+)_\w+", path.name)
            if found and (int(found[1]) % self.save_every == 0 or int(found[1]) == self.iterations):
                due[int(found[1])] = path
        return due[max(due)] if due and (self.run / "config.yaml").exists() else None

    def _evaluation(self, sampler: str) -> tuple[str, ...]:
        how = ("--sampler", sampler, "--episodes", str(self.episodes), "--device", self.device)
        return (*how, "--json", str(self._final(sampler)))

    def _final(self, sampler: str) -> Path:
        return self.file(f".final.{sampler}.json")

    def _command(self, lock: int, *words: str) -> None:
        """Runs `trudi WORDS`, which holds the lock too; JobFailedError says how it ended."""
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        with self.file(".log").open("ab") as log:
            start = log.tell()
            # On any exception here, a preemption's too, it is killed.
            ended = subprocess.run(
                launched([sys.executable, "-m", "trudi.cli", *words]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=(lock,),
                check=False,
            )
        if ended.returncode < 0:
            raise JobFailedError(f"trudi {words[0]} was {killed_by(-ended.returncode)}")
        if ended.returncode > 0:
            with self.file(".log").open("rb") as log:
                log.seek(start)
                raise JobFailedError(_last_line(log.read().decode(errors="replace"), words[0], ended.returncode))

    @contextmanager
    def _alone(self) -> Generator[int]:
        """Waits until no process works at the run, such as one on a cluster whose benchmark was killed."""
        lock = os.open(self.file(".lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)


def killed_by(number: int) -> str:
    """`killed by SIGKILL`, with the usual cause."""
    hint = ", by hand or for want of memory" if number == signal.SIGKILL else ""
    return f"killed by {signal.Signals(number).name}{hint}"


def in_a_process(job: Job) -> list[str]:
    """The command line of a process that does the job."""
    return [sys.executable, "-m", "trudi.train.benchmark.job", json.dumps(asdict(job))]


def _last_line(text: str, command: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[-1].removeprefix(f"trudi {command}: error: ") if lines else "it said nothing"
    return f"{said} (trudi {command}, exit code {code})"


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _json(path: Path) -> dict[str, Any]:
    """The content of a file that may not be there, or cut short."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def main(argv: list[str]) -> int:
    """Does a job; the exit code is 1 where it failed."""
    content = json.loads(argv[0])
    try:
        Job(**content | {"samplers": tuple(content["samplers"])})()
    except JobFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
