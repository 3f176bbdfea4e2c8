"""How long an iteration takes: a few of each cell's, one cell after the other, pinned as the runs are."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import yaml

from trudi.train.benchmark.engines import Engine
from trudi.train.benchmark.job import Job
from trudi.train.benchmark.plan import file_name
from trudi.train.config import TrainCfg, to_plain, write_config
from trudi.train.runfolder import METRICS, read_metrics

CALIBRATION = "calibration"
POLL_S = 0.1


def calibrate(
    drafts: dict[str, TrainCfg], out: Path, engine: Engine, iterations: int, say: Callable[[str], None]
) -> dict[str, float | None]:
    """Seconds of an iteration by cell: processor time (on a GPU, wall-clock), the median of all but the first.

    What was measured before in `out` with the same settings is taken as it is. None where a run failed.
    """
    return {name: _seconds(name, cfg, out, engine, iterations, say) for name, cfg in drafts.items()}


def _seconds(
    name: str, draft: TrainCfg, out: Path, engine: Engine, iterations: int, say: Callable[[str], None]
) -> float | None:
    evaluation = replace(draft.evaluation, every=0, episodes=1)
    cfg = replace(draft, max_iterations=iterations + 1, save_every=iterations + 1, evaluation=evaluation)
    folder = (out / CALIBRATION).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(yaml.safe_dump(to_plain(cfg)).encode()).hexdigest()[:8]
    measured = f"{file_name(cfg.task)}--{key}"  # not by the cell's name: variants that differ in length alone share it
    config = folder / f"{measured}.yaml"
    job = Job(measured, str(folder), str(config), cfg.task, cfg.seed, cfg.max_iterations, cfg.save_every)
    job = replace(job, device=cfg.device, threads=cfg.threads)
    if not job.is_done and job.failure is None:
        write_config(cfg, config)
        engine.start(job)
        while not (ended := engine.ended()):
            time.sleep(POLL_S)
        if not job.is_done and job.failure is None:
            job.fail(ended[job.name])
    if job.failure is not None:
        say(f"measuring {name} failed: {job.failure}")
        job.file(".failed").unlink()  # tried again where it is needed again
        return None
    seconds = iteration_seconds(job.run, cfg.device)
    say(f"{name}: {seconds:.3g} s per iteration, {cfg.steps_per_iteration / seconds:,.0f} steps/s")
    return seconds


def iteration_seconds(run: Path, device: str) -> float:
    """The median over a run's iterations but the first; what is done between two of them counts for the second."""
    column = "time/cpu_s" if device == "cpu" else "time/elapsed_s"
    spent = [row[column] for row in read_metrics(run / METRICS)]
    return median(after - before for before, after in pairwise(spent))
