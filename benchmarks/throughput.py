"""End-to-end training throughput and where the time goes, for several widths of the score network.

    python benchmarks/throughput.py [--task envpool:CartpoleSwingup-v1] [--widths 128 256 512] [--iterations 8]

Two measurements of each width in one run, in turn, several rounds; the median of the rounds is printed:
 - end to end: iterations as `trudi train` runs them, critic and actor side by side;
 - breakdown: the same parts one after the other, each timed alone (simulate, sample, targets, critic, actor).
The sum of the parts exceeds the time end to end where two of them overlap.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from trudi.train.config import load_config
from trudi.train.loop import Learner
from trudi.train.rollout import Batch
from trudi.train.update import draw, minibatches, update_actor, update_critic

HERE = Path(__file__).parent
PARTS = ("simulate", "sample", "targets", "critic", "actor")


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def end_to_end(learner: Learner, iterations: int) -> float:
    """Environment steps per second of whole iterations."""
    seconds = timed(lambda: [learner.iterate() for _ in range(iterations)])
    return iterations * learner.cfg.steps_per_iteration / seconds


def breakdown(learner: Learner) -> dict[str, float]:
    """Microseconds per environment step of each part, one after the other."""
    cfg, agent, generator = learner.cfg, learner.agent, learner.generator
    action = torch.zeros(cfg.num_envs, agent.policy.action_size)
    observation = torch.zeros(cfg.num_envs, agent.policy.observation_size)

    def simulate() -> None:
        for _ in range(cfg.rollout_steps):
            learner.env.step(action)

    @torch.no_grad()
    def sample() -> None:
        for _ in range(cfg.rollout_steps):
            agent.policy.sample(observation, agent.policy.draw_noise(cfg.num_envs, generator))

    seconds = {"simulate": timed(simulate), "sample": timed(sample)}
    rollout = learner.collector.collect(cfg.rollout_steps)
    batches: list[Batch] = []
    seconds["targets"] = timed(lambda: batches.append(rollout.to_batch(agent, cfg.gamma, cfg.lam)))
    batch = batches[0]
    indices = list(minibatches(len(batch), cfg.update, generator))

    def critic() -> None:
        for index in indices:
            update_critic(agent.critic, learner.optimizers, batch[index])

    def actor() -> None:
        agent.critic.requires_grad_(False)
        target = cfg.duals.entropy_target(cfg.algo) * agent.policy.action_size
        with ThreadPoolExecutor(1) as workers:
            for index in indices:
                part, draws = batch[index], draw(agent, len(index), cfg.trust_region, generator)
                update_actor(agent, learner.optimizers, agent.critic, part, draws, cfg.trust_region, target, workers, 1)
        agent.critic.requires_grad_(True)

    seconds["critic"], seconds["actor"] = timed(critic), timed(actor)
    agent.sync_old_policy()
    return {part: 1e6 * seconds[part] / cfg.steps_per_iteration for part in PARTS}


def measure(task: str, width: int, iterations: int, rounds: int) -> dict[str, float]:
    """The medians over the rounds for one width."""
    cfg = load_config(None, task)
    learner = Learner(replace(cfg, policy=replace(cfg.policy, width=width), max_iterations=10_000))
    end_to_end(learner, 1)
    speeds: list[float] = []
    parts: list[dict[str, float]] = []
    for _ in range(rounds):
        speeds.append(end_to_end(learner, iterations))
        parts.append(breakdown(learner))
    learner.close()
    medians = {part: statistics.median(row[part] for row in parts) for part in PARTS}
    return {
        "width": width,
        "steps_per_s": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
    } | medians


def main() -> None:
    """Prints the table and writes throughput.json and throughput.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="envpool:CartpoleSwingup-v1")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--iterations", type=int, default=2, help="iterations per round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = [measure(args.task, width, args.iterations, args.rounds) for width in args.widths]
    lines = [
        "# Throughput",
        "",
        f"`python benchmarks/throughput.py {' '.join(sys.argv[1:])}`, {args.task} with its preset; "
        f"medians of {args.rounds} rounds.",
        "Environment steps per second of whole training iterations, and microseconds per environment step of each part "
        "when it runs alone (critic and actor overlap in training).",
        "",
        "| width | steps/s (slowest to fastest) | " + " | ".join(f"{part} (us)" for part in PARTS) + " |",
        "|---|---|" + "---|" * len(PARTS),
    ]
    for row in rows:
        shares = " | ".join(f"{row[part]:.0f}" for part in PARTS)
        lines.append(
            f"| {row['width']} | {row['steps_per_s']:,.0f} ({row['slowest']:,.0f} to {row['fastest']:,.0f}) | {shares} |"
        )
    (HERE / "throughput.json").write_text(json.dumps(rows, indent=2) + "\n")
    (HERE / "throughput.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
