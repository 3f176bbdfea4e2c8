"""`trudi eval RUN`: measure the policy of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from trudi.runtime.commands.common import EXIT_OK, reports_errors, write_json
from trudi.train.commands.common import parse_arguments
from trudi.train.devices import configure_cpu, pick_device
from trudi.train.envs.registry import finish, make_env
from trudi.train.evaluation import Act, EvalCfg, Sampler, make_act, run_episodes
from trudi.train.runfolder import RunFolder
from trudi.train.trained import agent_of
from trudi.train.video import VideoCfg, check_video, record_episode


@dataclass(frozen=True)
class EvalArgs:
    """Measure a run's policy over whole episodes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    checkpoint: str = "last"
    """`last`, `best` or an iteration's number."""
    sampler: Sampler | None = None
    """`ode` from seeded random latents, `zero` from the zero latent, `sde`, or the `best` of several by the critic; what the
    run was evaluated by while it trained by default (`ode`; a student's own latent)."""
    best_of: int = 8
    """Candidates of the `best` sampler."""
    episodes: int = 10
    """Episodes, all in parallel."""
    seed: int = 1_000_000
    """Seed of the first episode; the others follow."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    video: Path | None = None
    """Also films one episode from the same first seed, as an MP4 (needs the `video` extra)."""
    json: Path | None = None
    """File for the machine-readable result."""


@reports_errors("eval")
def main(argv: list[str]) -> int:
    """Prints mean, standard deviation and the 95 % bootstrap interval of the return."""
    args = parse_arguments(EvalArgs, "trudi eval", argv)
    folder = RunFolder.open(args.run)
    cfg = folder.config()
    device = pick_device(args.device)
    configure_cpu()
    sampler = args.sampler or cfg.evaluation.sampler
    settings = EvalCfg(episodes=args.episodes, sampler=sampler, best_of=args.best_of, seed=args.seed)
    saved = folder.load_checkpoint(args.checkpoint)
    if args.video is not None:
        check_video(cfg.task)
    env = make_env(cfg.task, settings.episodes, settings.seed, device=device, stagger=False, sim=cfg.sim)
    agent = agent_of(cfg, env, saved.tensors)

    def fresh_act() -> Act:
        generator = torch.Generator(device=device).manual_seed(settings.seed)
        return make_act(agent, settings.sampler, settings.best_of, generator)

    result = run_episodes(env, fresh_act())
    low, high = result.confidence_interval()
    print(
        f"{cfg.task}  {args.checkpoint} (iteration {saved.counters.iteration})  sampler {sampler}  "
        f"return {result.mean:.1f} +- {result.std:.1f}  95 % interval [{low:.1f}, {high:.1f}]  {args.episodes} episodes"
    )
    variation, jumps = result.steadiness()
    print(f"action variation {variation:.2f} per second, {jumps:.2f} jumps by more than half the range per second")
    if args.video is not None:
        filmed = record_episode(cfg.task, settings.seed, fresh_act(), args.video, VideoCfg(), device=device)
        print(f"video of one episode, return {filmed.mean:.1f}: {args.video}")
    content = {
        "run": str(args.run),
        "task": cfg.task,
        "checkpoint": args.checkpoint,
        "iteration": saved.counters.iteration,
        "sampler": sampler,
        "seed": args.seed,
        "episodes": args.episodes,
        "return_mean": result.mean,
        "return_std": result.std,
        "return_ci95": [low, high],
        "action_variation_per_s": variation,
        "action_jumps_per_s": jumps,
        "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(),
    }
    write_json(args.json, content)
    finish()
    return EXIT_OK
