"""What a chain of denoising steps costs: TruDi beside REPPO, which differs from it in the policy alone.

    python benchmarks/cost.py [--rounds 7] [--iterations 2]

Both train in turn in one process, for each task with small networks (the preset dmc_cpu) and with those of the preset
cheetah_run, on one core and on two, where the critic learns beside the actor. The ratio is of wall-clock for the same
environment steps, after `--warm` iterations of each, when some states have reached the bound. Parts are timed one after the
other on one core, as in throughput.py; their sum exceeds the time on two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from throughput import PARTS, breakdown

from trudi.train.config import load_config
from trudi.train.loop import Learner
from trudi.train.runfolder import machine

HERE = Path(__file__).parent
ALGOS = ("trudi", "reppo")
CASES = [
    (task, preset)
    for preset in ("dmc_cpu", "cheetah_run")
    for task in ("envpool:PendulumSwingup-v1", "envpool:CheetahRun-v1", "envpool:WalkerWalk-v1")
]


def measure(task: str, preset: str, warm: int, rounds: int, iterations: int) -> dict[str, object]:
    """Microseconds per environment step of both in each round, and medians of their parts."""
    learners: dict[str, Learner] = {}
    for algo in ALGOS:
        learners[algo] = Learner(replace(load_config(preset, task), algo=algo))
        for _ in range(warm):
            learners[algo].iterate()
    spent: dict[str, list[float]] = {algo: [] for algo in ALGOS}
    outside: dict[str, float] = {}
    for _ in range(rounds):
        for algo, learner in learners.items():
            started = time.perf_counter()
            metrics = [learner.iterate() for _ in range(iterations)]
            seconds = time.perf_counter() - started
            spent[algo].append(1e6 * seconds / (iterations * learner.cfg.steps_per_iteration))
            outside[algo] = metrics[-1]["actor/outside_fraction"]
    parts: dict[str, dict[str, float]] = {}
    if len(os.sched_getaffinity(0)) == 1:
        for algo, learner in learners.items():
            rows = [breakdown(learner) for _ in range(rounds)]
            parts[algo] = {part: statistics.median(row[part] for row in rows) for part in PARTS}
    for learner in learners.values():
        learner.close()
    return {"us": spent, "parts": parts, "outside": outside}


def measured(task: str, preset: str, cores: int, args: argparse.Namespace) -> dict[str, object]:
    """`measure` in a process that has so many cores from its start on, before its simulator makes threads."""
    available = sorted(os.sched_getaffinity(0))
    command = [sys.executable, __file__, "--case", task, preset]
    command += [f"--{name}={getattr(args, name)}" for name in ("warm", "rounds", "iterations")]
    done = subprocess.run(
        command,
        preexec_fn=lambda: os.sched_setaffinity(0, available[-cores:]),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    ratios = [ours / theirs for ours, theirs in zip(*(found["us"][algo] for algo in ALGOS), strict=True)]
    row = {"task": task, "preset": preset, "cores": cores, **found, "ratio": statistics.median(ratios)}
    row |= {"lowest": min(ratios), "highest": max(ratios)}
    print(f"{task} {preset} {cores} core(s): {row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})", flush=True)
    return row


def table(rows: list[dict], args: argparse.Namespace) -> str:
    lines = [
        "# Cost of the chain",
        "",
        f"`python benchmarks/cost.py {' '.join(sys.argv[1:])}`, {machine()}. Medians of {args.rounds} rounds of "
        f"{args.iterations} iterations of each in turn, after {args.warm}; in brackets the lowest and the highest round.",
        "",
        "| task | preset | cores | TruDi (us a step) | REPPO | ratio | TruDi's states outside |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = (statistics.median(row["us"][algo]) for algo in ALGOS)
        lines.append(
            f"| {row['task']} | {row['preset']} | {row['cores']} | {ours:.0f} | {theirs:.0f} | "
            f"**{row['ratio']:.2f}** ({row['lowest']:.2f} to {row['highest']:.2f}) | {row['outside']['trudi']:.0%} |"
        )
    lines += [
        "",
        "Where the time goes on one core (us per environment step, each part alone):",
        "",
        "| task | preset | | " + " | ".join(PARTS) + " |",
        "|---|---|---|" + "---|" * len(PARTS),
    ]
    for row in rows:
        for algo, parts in row["parts"].items():
            cells = " | ".join(f"{parts[part]:.0f}" for part in PARTS)
            lines.append(f"| {row['task']} | {row['preset']} | {algo} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the table and writes cost.json and cost.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm", type=int, default=20, help="iterations of each before anything is timed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=2, help="of each in a round")
    parser.add_argument("--case", nargs=2, metavar=("TASK", "PRESET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(*args.case, args.warm, args.rounds, args.iterations)))
        return
    rows = [measured(task, preset, cores, args) for task, preset in CASES for cores in (1, 2)]
    (HERE / "cost.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    (HERE / "cost.md").write_text(table(rows, args))
    print(table(rows, args))


if __name__ == "__main__":
    main()
