"""What the presets learn and how long it takes: one training after the other, each on the whole machine.

    python benchmarks/learning.py [--only NAME ...]

Skips what is done, continues what was interrupted, and writes benchmarks/learning.json and benchmarks/learning.md; rows of
runs that are not in `--runs` stay as they were, with the commit they were measured at. The
score is the mean of a run's last five evaluations (ODE, 10 episodes), so a peak that is lost again does not count; the score
in time is that of the last five within the entry's minutes, and is what the goal is held against.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from trudi.train.runfolder import ABOUT, METRICS, machine, read_metrics

HERE = Path(__file__).parent
LAST_EVALUATIONS = 5


@dataclass(frozen=True)
class Entry:
    """One training of the benchmark."""

    name: str
    task: str
    seed: int
    goal: float
    """Score to reach."""
    limit_min: float
    """Wall-clock minutes it should take on two idle cores."""
    options: tuple[str, ...] = ()


ENTRIES = [
    *(Entry(f"cartpole_swingup_{seed}", "envpool:CartpoleSwingup-v1", seed, 800.0, 10.0) for seed in range(3)),
    *(Entry(f"cheetah_run_{seed}", "envpool:CheetahRun-v1", seed, 680.0, 15.0) for seed in range(3)),
    *(Entry(f"walker_walk_{seed}", "envpool:WalkerWalk-v1", seed, 600.0, 20.0) for seed in range(2)),
    Entry("cheetah_run_long_0", "envpool:CheetahRun-v1", 0, 750.0, 45.0, ("--max-iterations", "1000")),
]


def is_done(summary: Path) -> bool:
    """Whether a training wrote its summary, and came to its end."""
    return summary.exists() and not json.loads(summary.read_text())["interrupted"]


def train(entry: Entry, runs: Path) -> Path:
    """Trains or continues one entry; returns its run folder."""
    folder = runs / entry.name
    done = runs / f"{entry.name}.json"
    if is_done(done):
        return folder
    command = [sys.executable, "-m", "trudi.cli", "train"]
    if (folder / "checkpoints" / "last").exists():
        command += ["--resume", str(folder)]
    else:
        if folder.exists():  # It was stopped before its first checkpoint; nothing to continue from, nothing is lost.
            folder.rename(folder.with_name(f"{folder.name}.stopped.{os.getpid()}"))
        command += [entry.task, "--out", str(folder), "--seed", str(entry.seed), *entry.options]
    subprocess.run([*command, "--json", str(done)], check=True)
    if not is_done(done):
        raise SystemExit(f"{entry.name} was interrupted; run this script again to continue it")
    return folder


def summarise(entry: Entry, folder: Path) -> dict[str, object]:
    """The entry's row."""
    rows = read_metrics(folder / METRICS)
    measured = [row for row in rows if "eval/return_mean" in row]
    scores = [row["eval/return_mean"] for row in measured]
    in_time = [row["eval/return_mean"] for row in measured if row["time/elapsed_s"] <= 60 * entry.limit_min]
    held = scores[-LAST_EVALUATIONS:]
    score, minutes = mean(held), rows[-1]["time/elapsed_s"] / 60
    at_limit = mean(in_time[-LAST_EVALUATIONS:]) if len(in_time) >= LAST_EVALUATIONS else 0.0
    return {
        "name": entry.name,
        "task": entry.task,
        "seed": entry.seed,
        "env_steps": int(rows[-1]["time/env_steps"]),
        "minutes": round(minutes, 2),
        "limit_min": entry.limit_min,
        "score": round(score, 1),
        "last_evaluations": [round(value, 1) for value in held],
        "peak": round(max(scores), 1),
        "score_at_limit": round(at_limit, 1),
        "goal": entry.goal,
        "reached": at_limit >= entry.goal,
        "options": list(entry.options),
        "commit": json.loads((folder / ABOUT).read_text())["git_commit"][:7],
        "machine": machine(),
    }


def main() -> None:
    """Runs what is missing and writes the table of everything that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="train only entries whose name starts with one of these")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"), help="where the runs are kept")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    for entry in ENTRIES:
        if not args.only or any(entry.name.startswith(prefix) for prefix in args.only):
            train(entry, args.runs)
            write_table([(e, args.runs / e.name) for e in ENTRIES if is_done(args.runs / f"{e.name}.json")])


def write_table(done: list[tuple[Entry, Path]]) -> None:
    """learning.json for machines, learning.md for people."""
    fresh = [summarise(entry, folder) for entry, folder in done]
    names = [entry.name for entry in ENTRIES]
    before = json.loads((HERE / "learning.json").read_text())["runs"] if (HERE / "learning.json").exists() else []
    kept = [row for row in before if row["name"] in names and row["name"] not in {row["name"] for row in fresh}]
    rows = sorted(fresh + kept, key=lambda row: names.index(row["name"]))
    (HERE / "learning.json").write_text(json.dumps({"runs": rows}, indent=2) + "\n")
    lines = [
        "# Learning",
        "",
        "`python benchmarks/learning.py`; whatever else ran on a machine at the time counts in the minutes (see README.md).",
        "Score: mean of the last five evaluations (ODE, 10 episodes each); in time: of the last five within the limit,",
        "which is what the goal is held against. Time includes the evaluations.",
        "",
        "| run | seed | steps | minutes (limit) | score | in time (goal) | last five evaluations | peak | commit | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['seed']} | {row['env_steps']:,} | {row['minutes']} ({row['limit_min']:g}) | "
            f"{row['score']} | {row['score_at_limit']} ({row['goal']:g}) | {row['last_evaluations']} | {row['peak']} | "
            f"{row['commit']} | {'reached' if row['reached'] else 'missed'} |"
        )
    machines = sorted({f"- commit {row['commit']}: {row['machine']}" for row in rows})
    lines += ["", "Machines:", "", *machines]
    (HERE / "learning.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
