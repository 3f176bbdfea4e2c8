"""The main job, end to end: train on CartpoleSwingup, measure, export, prove and time the policy, and let it drive a robot.

make demo        (about ten minutes on two cores; TRUDI_DEMO_ITERATIONS=6 for a quick look)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from trudi.train.runfolder import METRICS, read_metrics

TASK = "envpool:CartpoleSwingup-v1"


def trudi(*args: str) -> None:
    """Runs one `trudi` command and shows it."""
    print(f"\n$ trudi {' '.join(args)}", flush=True)
    subprocess.run([sys.executable, "-m", "trudi.cli", *args], check=True)


def draw_curve(run: Path, picture: Path) -> None:
    """Evaluation returns over environment steps, with the training policy's (under SDE noise) beside them."""
    matplotlib.use("Agg")
    rows = read_metrics(run / METRICS)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for key, label, style in [
        ("rollout/return_mean", "training (SDE)", "-"),
        ("eval/return_mean", "evaluation (ODE)", "o-"),
    ]:
        points = [(row["time/env_steps"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=TASK, ylim=(0, 1000))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Trains, evaluates, draws, exports, verifies, times, flies, and computes the flight again."""
    run = Path("runs") / "demo" / time.strftime("%Y-%m-%d_%H-%M-%S")
    iterations = os.environ.get("TRUDI_DEMO_ITERATIONS")
    trudi("train", TASK, "--out", str(run), *(["--max-iterations", iterations] if iterations else []))
    trudi("eval", str(run), "--json", str(run / "evaluation.json"))
    picture = run / "learning_curve.png"
    draw_curve(run, picture)
    bundle = run / "bundle"
    trudi("export", str(run), "--out", str(bundle), "--engine", "tensorrt-rtx")
    trudi("inspect", str(bundle))
    trudi("verify", str(bundle), "--run", str(run))
    trudi("bench", str(bundle), "--run", str(run), "--calls", "5000", "--picture", str(run / "latency.png"))
    flight = run / "flight.mcap"  # real time: the robot is a process of its own, behind a UDP port
    trudi("run", str(bundle), "--seconds", "20", "--record", str(flight), "--json", str(run / "flight.json"))
    trudi("replay", str(flight), "--bundle", str(bundle))
    print(f"\nlearning curve: {picture}\nlatency: {run / 'latency.png'}\nbundle: {bundle}\nflight: {flight}")


if __name__ == "__main__":
    main()
