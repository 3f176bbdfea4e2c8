"""`trudi distill RUN`: a student of fewer denoising steps that does what the run's policy does."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, reports_errors, write_json
from trudi.train.commands.common import parse_arguments
from trudi.train.config import differences
from trudi.train.display import Display, distillation_status
from trudi.train.distill.gate import judge
from trudi.train.distill.loop import Distiller
from trudi.train.distill.settings import (
    RESUMABLE_CHANGES,
    DistillCfg,
    defaults_for,
    keep_teacher,
    kept_teacher,
    open_teacher,
    read_settings,
    run_config,
    write_settings,
)
from trudi.train.envs.registry import finish
from trudi.train.errors import TrainError
from trudi.train.runfolder import VERDICT, MetricsLog, RunFolder, require_free
from trudi.train.trained import TrainedRun

USAGE = "trudi distill RUN [--steps 1|2|4] [--out DIR] [options]   or   trudi distill --resume STUDENT [options]"


@dataclass(frozen=True)
class DistillArgs:
    """Distill a run's policy into one of fewer steps, and compare the two: exit code 1 where the student falls short."""

    cfg: Annotated[DistillCfg, tyro.conf.arg(name="")] = field(default_factory=DistillCfg)
    out: Path | None = None
    """Folder of the student's run; RUN with the method and the steps in its name by default."""
    resume: Path | None = None
    """Student's run to continue from its last checkpoint, or to measure again where it is finished."""
    json: Path | None = None
    """File for the verdict, as in the run's distill.json."""


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    args: DistillArgs
    teacher: TrainedRun
    folder: RunFolder | None
    """The student's run to go on with; None for a new one."""
    out: Path


def parse(argv: list[str]) -> Job | None:
    """The job, its defaults from the teacher's run or the resumed one; None where only --help was asked for."""
    named = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    rest = argv[1:] if named is not None else argv
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--resume", type=Path)
    early.add_argument("--checkpoint", default=DistillCfg.checkpoint)
    known, _ = early.parse_known_args(rest)
    if known.resume is not None:
        return _resumed(known.resume, named, rest)
    if named is None:
        if "-h" not in rest and "--help" not in rest:
            raise TrainError(f"no run given: {USAGE}")
        parse_arguments(DistillArgs, "trudi distill RUN", rest)
        return None
    teacher = open_teacher(named, known.checkpoint)
    default = DistillArgs(defaults_for(teacher.cfg, teacher.counters))
    args = parse_arguments(DistillArgs, "trudi distill RUN", rest, default)
    cfg = args.cfg
    name = f"{named.resolve().name}-{cfg.method}-{cfg.latent}-{cfg.steps}" + (f"-w{cfg.width}" if cfg.width else "")
    return Job(args, teacher, None, args.out or named.resolve().parent / name)


def _resumed(path: Path, named: Path | None, rest: list[str]) -> Job:
    folder = RunFolder.open(path)
    settings, teacher = read_settings(folder), kept_teacher(folder)
    if named is not None:
        task = RunFolder.open(named).config().task
        other = f", and {named} is of another task, {task}" if task != teacher.cfg.task else ""
        raise TrainError(f"{path} keeps its teacher (of {teacher.cfg.task}){other}: resume it without naming one")
    args = parse_arguments(DistillArgs, "trudi distill", rest, DistillArgs(settings))
    changed = {key: pair for key, pair in differences(settings, args.cfg).items() if key not in RESUMABLE_CHANGES}
    if changed:
        key, (old, new) = next(iter(changed.items()))
        allowed = ", ".join(sorted(one.removeprefix("gate.") for one in RESUMABLE_CHANGES))
        raise TrainError(f"a resumed student keeps its {key} ({old}, not {new}); only {allowed} may change")
    return Job(args, teacher, folder, path)


@reports_errors("distill")
def main(argv: list[str]) -> int:
    """Distills to the end or to a signal; at the end, the gate."""
    job = parse(argv)
    if job is None:
        return EXIT_OK
    settings, teacher, folder = job.args.cfg, job.teacher, job.folder
    cfg = run_config(settings, teacher.cfg, teacher.counters.iteration / teacher.cfg.max_iterations)
    if folder is None:
        require_free(job.out, "distill")
    distiller = Distiller(settings, cfg, teacher.agent, folder.load_checkpoint() if folder is not None else None)
    if folder is None:
        folder = RunFolder.create(job.out, cfg)
        keep_teacher(teacher, folder)
        write_settings(settings, folder)
    print(f"run folder: {folder.path}")
    log = MetricsLog(folder, distiller.counters.iteration)
    try:
        with Display(cfg.max_iterations, distiller.counters.iteration, distillation_status) as display:
            outcome = distiller.train(folder.checkpoints, log, display)
    finally:
        log.close()
        distiller.close()
    if outcome.interrupted:
        done = outcome.counters.iteration
        print(f"stopped after iteration {done}; go on with: trudi distill --resume {folder.path}")
        return EXIT_OK
    content, text = verdict(folder, settings, teacher)
    print(text)
    for path in (folder.path / VERDICT, job.args.json):
        write_json(path, content)
    if content["passed"]:  # the end of Isaac Sim's application would hide another exit code
        finish()
    return EXIT_OK if content["passed"] else EXIT_CHECK_FAILED


def verdict(folder: RunFolder, settings: DistillCfg, teacher: TrainedRun) -> tuple[dict[str, Any], str]:
    """Holds the last checkpoint of the student, which is what is exported, against the teacher."""
    started = time.monotonic()
    student = TrainedRun.open(folder.path)
    found = judge(teacher.agent.cpu(), student.agent, teacher.cfg.task, settings, teacher.cfg.sim)
    spent, before = student.counters.elapsed_s, teacher.counters.elapsed_s
    share = spent / before if before > 0.0 else float("nan")
    content = {
        "run": str(folder.path),
        "task": teacher.cfg.task,
        "method": settings.method,
        "steps": settings.steps,
        "latent": settings.latent,
        "width": student.cfg.policy.width,
        "teacher_run": teacher.folder.path.resolve().name,
        "teacher_iteration": teacher.counters.iteration,
        "teacher_steps": teacher.cfg.policy.steps,
        "teacher_width": teacher.cfg.policy.width,
        "iteration": student.counters.iteration,
        "env_steps": student.counters.env_steps,
        "elapsed_s": spent,
        "teacher_elapsed_s": before,
        "share_of_teacher_time": share,
        "gate_s": time.monotonic() - started,
        **found.to_plain(),
    }
    took = f"{student.counters.env_steps:,} steps in {spent:.0f} s, {share:.1%} of the teacher's {before:.0f} s"
    return content, f"{took}\n{found.text()}"
