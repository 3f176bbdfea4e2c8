"""`trudi train TASK`: train a policy, or continue a run."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, cast

import tyro

from trudi.runtime.commands.common import EXIT_OK, reports_errors, write_json
from trudi.train.checkpoint import LAST, Checkpoint
from trudi.train.commands.common import parse_arguments
from trudi.train.config import RESUMABLE_CHANGES, TrainCfg, differences, load_config
from trudi.train.display import Display, ppo_status, training_status
from trudi.train.distributed import ALONE, Ranks, joined, require_alone
from trudi.train.envs.filming import Camera
from trudi.train.envs.manager_based import ManagerBasedEnv
from trudi.train.envs.registry import finish, prepare, split_task
from trudi.train.errors import TrainError
from trudi.train.init.loop import WarmStart
from trudi.train.loop import Learner, Loop
from trudi.train.runfolder import CHECKPOINTS, MetricsLog, RunFolder, require_free

VIDEOS = "videos"
USAGE = "trudi train TASK [--config PRESET_OR_FILE] [--out DIR] [options]   or   trudi train --resume RUN [options]"


@dataclass(frozen=True)
class TrainArgs:
    """Train a trust-region diffusion policy. Settings come from the task's preset, then from the command line."""

    cfg: Annotated[TrainCfg, tyro.conf.arg(name="")] = field(default_factory=lambda: TrainCfg(task="backend:name"))
    config: str | None = None
    """Preset name or YAML file to start from, instead of the task's own preset."""
    out: Path | None = None
    """Folder of the new run; runs/TASK/TIME by default."""
    resume: Path | None = None
    """Run folder to continue from its last checkpoint."""
    json: Path | None = None
    """File for a machine-readable summary."""
    distributed: bool = False
    """This is one of the processes that torchrun started, a GPU each: they train together (docs/training.md)."""
    video: bool = False
    """Film the training (Isaac Lab, mjlab), into the run's videos/."""
    video_length: int = 200
    """Steps of a film."""
    video_interval: int = 2000
    """Steps from the start of one film to that of the next."""
    headless: bool = True
    """Isaac Lab's own flag, as all of its AppLauncher's; no other simulator here opens a window."""


def spelled_out(argv: list[str]) -> list[str]:
    """The command line with the short forms `--init-from POLICY`, `--trust-region none` and `--steps N` in full."""
    full: list[str] = []
    for word in argv:
        if word == "none" and full[-1:] == ["--trust-region"]:
            full[-1:] = ["--trust-region.direction", word]
        elif word.split("=")[0] == "--init-from":
            full.append(word.replace("-from", ".policy", 1))
        elif word.startswith("--steps") and word[7:8] in ("", "="):
            full.append(f"--policy{word.replace('--', '.', 1)}")
        elif word == "--trust-region=none":
            full.append("--trust-region.direction=none")
        else:
            full.append(word)
    return full


def parse(argv: list[str]) -> tuple[TrainArgs, RunFolder | None]:
    """The arguments, with the preset or the resumed run's configuration as defaults."""
    task = argv[0] if argv and not argv[0].startswith("-") else None
    rest = argv[1:] if task is not None else argv
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    early.add_argument("--resume", type=Path)
    known, _ = early.parse_known_args(rest)
    folder = RunFolder.open(known.resume) if known.resume is not None else None
    if folder is not None and folder.is_student:
        raise TrainError(f"{folder.path} is a student's run: continue it with `trudi distill --resume {folder.path}`")
    wants_help = "-h" in rest or "--help" in rest
    if folder is not None:
        cfg = folder.config()
        if task is not None and task != cfg.task:
            raise TrainError(f"{folder.path} is a run of {cfg.task}, not of {task}: resume it without naming a task")
        if known.config is not None:
            raise TrainError("--config cannot be combined with --resume: a run keeps its configuration")
    elif task is None and known.config is None:
        if not wants_help:
            raise TrainError(f"no task given: {USAGE}")
        cfg = TrainCfg(task="backend:name")
    else:
        cfg = load_config(known.config, task)
    rest = spelled_out(rest)
    if folder is not None and any(word.split("=")[0] == "--init.policy" for word in rest):
        raise TrainError(
            "--init-from cannot be combined with --resume: the run has started, and goes on from its checkpoint"
        )
    if not wants_help:
        rest = prepare(cfg.task, rest)
    args = parse_arguments(TrainArgs, "trudi train TASK", rest, TrainArgs(cfg=cfg))
    return args, folder


@reports_errors("train")
def main(argv: list[str]) -> int:
    """Trains to the end or to a signal."""
    args, folder = parse(argv)
    split_task(args.cfg.task)
    if args.distributed and args.cfg.algo == "ppo":
        raise TrainError("--algo ppo trains in one process: leave out --distributed")
    if args.distributed and args.cfg.init.policy is not None:
        raise TrainError("--init-from clones in one process: leave out --distributed")
    if args.distributed:
        with joined(args.cfg.device) as ranks:
            train(args, folder, ranks)
    else:
        require_alone()
        train(args, folder, ALONE)
    finish()
    return EXIT_OK


def train(args: TrainArgs, folder: RunFolder | None, ranks: Ranks) -> None:
    """Starts or continues a run; of several ranks, the first one writes it."""
    cfg, resume = args.cfg, None
    out = args.out or default_folder(cfg.task)
    if folder is None:
        require_free(out)
    else:
        changed = {key: pair for key, pair in differences(folder.config(), cfg).items() if key not in RESUMABLE_CHANGES}
        if changed:
            key, (old, new) = next(iter(changed.items()))
            allowed = ", ".join(sorted(RESUMABLE_CHANGES))
            raise TrainError(f"a resumed run keeps its {key} ({old}, not {new}); only {allowed} may change")
        resume = None if is_unstarted(folder, cfg) else folder.load_checkpoint()
        if resume is not None and resume.task != cfg.task:
            raise TrainError(f"the checkpoint in {folder.path} is of {resume.task}, the run's config.yaml says {cfg.task}")
    films = args.video and ranks.is_first
    learner = make_learner(replace(cfg, sim=replace(cfg.sim, render=films)), resume, ranks)
    if not ranks.is_first:
        with closing(learner):
            learner.train(out / CHECKPOINTS, None, lambda _: None)
        return
    if folder is None:
        folder = RunFolder.create(out, cfg)
    if isinstance(learner, WarmStart) and learner.given is not None:
        folder.write_init(asdict(learner.given.source))
    folder.write_robot(learner.env.robot_file(cfg.max_iterations * cfg.rollout_steps))
    print(f"run folder: {folder.path}")
    for note in learner.env.notes:
        print(note)
    if films:
        steps, period_s = learner.counters.iteration * cfg.rollout_steps, learner.env.control_period_s
        camera = Camera(folder.path / VIDEOS, args.video_length, args.video_interval, period_s, steps)
        cast("ManagerBasedEnv", learner.env).camera = camera
    log = MetricsLog(folder, learner.counters.iteration)
    try:
        status = ppo_status if cfg.algo == "ppo" else training_status
        with Display(cfg.max_iterations, learner.counters.iteration, status) as display:
            outcome = learner.train(folder.checkpoints, log, display)
    finally:
        log.close()
        learner.close()
    counters = outcome.counters
    if outcome.interrupted:
        command = f"trudi train --resume {folder.path}"
        if ranks.size > 1:
            command = f"torchrun --nproc-per-node {ranks.size} -m trudi.train --resume {folder.path} --distributed"
        print(f"stopped after iteration {counters.iteration}; go on with: {command}")
    best = "none" if counters.best_return is None else f"{counters.best_return:.1f} at iteration {counters.best_iteration}"
    print(f"{counters.env_steps:,} steps in {counters.elapsed_s:.0f} s; best evaluation: {best}")
    summary = {"run": str(folder.path), "task": cfg.task, "interrupted": outcome.interrupted}
    write_json(args.json, summary | vars(counters))


def is_unstarted(folder: RunFolder, cfg: TrainCfg) -> bool:
    """Whether a run was ended while it cloned its first policy: it starts over."""
    return cfg.init.policy is not None and not (folder.checkpoints / LAST).exists()


def make_learner(cfg: TrainCfg, resume: Checkpoint | None, ranks: Ranks) -> Loop:
    """The loop of the configuration's algorithm."""
    if cfg.init.policy is not None:
        return WarmStart(cfg, resume)
    if cfg.algo != "ppo":
        return Learner(cfg, resume, ranks)
    from trudi.train.ppo.loop import PpoLearner

    return PpoLearner(cfg, resume)


def default_folder(task: str) -> Path:
    """runs/NAME/TIME for a task."""
    name = task.replace(":", "-").replace("/", "-")
    return Path("runs") / name / time.strftime("%Y-%m-%d_%H-%M-%S")
