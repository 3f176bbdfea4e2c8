"""mjlab's pole on a cart from training to a robot, on a CPU: train, export, verify, and fly episodes in real time.

.venv/bin/python benchmarks/mjlab_cartpole.py [--runs DIR] [--only NAME] [--episodes N]     (trudi[train,export,mjlab])

DIR (runs/mjlab) keeps the runs: DIR/balance and DIR/swingup, trained by the presets; a finished one is taken as it is, one
that was interrupted is continued. The checkpoint with the best evaluation is exported and verified, and `trudi run` flies
it, 50 s of wall clock an episode: MuJoCo in double precision in a process of its own, where mjlab trained in single.
Writes mjlab_cartpole.json and .md; rows of tasks that were not asked for stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import t as student_t

from trudi.train.runfolder import ABOUT, CONFIG, METRICS, read_metrics

RESULT = Path(__file__).with_suffix(".json")
TASKS = ("balance", "swingup")
EPISODE_S, PERIOD_S = 50.0, 0.05


def trudi(*argv: object, may_fail: bool = False) -> str:
    """A `trudi` command; what it printed."""
    command = [sys.executable, "-m", "trudi.cli", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"trudi {' '.join(map(str, argv))}: {done.returncode}", flush=True)
    if done.returncode and not may_fail:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def iterations(run: Path) -> int:
    rows = read_metrics(run / METRICS) if (run / METRICS).exists() else []
    return int(rows[-1]["iteration"]) if rows else 0


def train(name: str, run: Path) -> None:
    """A finished run, from the preset; one that was stopped goes on."""
    if not run.exists():
        trudi("train", "--config", f"mjlab_cartpole_{name}", "--out", run)
    elif iterations(run) < yaml.safe_load((run / CONFIG).read_text())["max_iterations"]:
        trudi("train", "--resume", run)


def fly(bundle: Path, episodes: int, folder: Path) -> dict:
    """Episodes one after the other under the supervisor; the policy drives from the first moment on, as in training."""
    seconds, report = episodes * EPISODE_S + 1.0, folder / "flight.json"
    options = ("--fade-in", 0, "--rate", round(1 / PERIOD_S), "--record-seconds", 10)
    trudi("run", bundle, "--seconds", seconds, *options, "--json", report, may_fail=True)
    return json.loads(report.read_text())


def interval(returns: np.ndarray) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t)."""
    error = returns.std(ddof=1) / np.sqrt(len(returns))
    return float(returns.mean()), float(student_t.ppf(0.975, len(returns) - 1) * error)


def measure(name: str, run: Path, episodes: int) -> dict:
    """The task's row."""
    train(name, run)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        trudi("export", run, "--checkpoint", "best", "--out", bundle)
        verified = [" ".join(line.split()) for line in trudi("verify", bundle).splitlines() if line.strip()]
        flown = fly(bundle, episodes, Path(folder))
        contract = json.loads((bundle / "bundle.json").read_text())
    rows = read_metrics(run / METRICS)
    evaluation = contract["provenance"]["evaluations"][0]
    mean, half = interval(np.array(flown["returns"]))
    return {
        "task": contract["task"]["id"],
        "env_steps": int(rows[-1]["time/env_steps"]),
        "minutes": round(rows[-1]["time/elapsed_s"] / 60, 1),
        "curve": [[int(row["iteration"]), round(row["eval/return_mean"], 2)] for row in rows if "eval/return_mean" in row],
        "exported_iteration": contract["provenance"]["iteration"],
        "evaluation": {key: evaluation[key] for key in ("return_mean", "return_ci95", "episodes")},
        "verified": verified,
        "returns": [round(value, 3) for value in flown["returns"]],
        "return_mean": round(mean, 3),
        "return_half95": round(half, 3),
        **{key: flown[key] for key in ("control_steps", "late", "misses", "expired", "faults")},
        "unsafe": flown["robot"]["violation_count"] - flown["expired"],
        "commit": json.loads((run / ABOUT).read_text())["git_commit"][:7],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/mjlab"), help="where the runs are kept")
    parser.add_argument("--only", choices=TASKS, action="append", help="this task (again for another)")
    parser.add_argument("--episodes", type=int, default=5, help="flown; 50 s each")
    args = parser.parse_args()
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in args.only or TASKS:
        rows[name] = measure(name, args.runs / name, args.episodes)
        RESULT.write_text(json.dumps(rows, indent=2) + "\n")
        RESULT.with_suffix(".md").write_text(page([rows[name] for name in TASKS if name in rows]))


def page(rows: list[dict]) -> str:
    lines = [
        "# mjlab's pole on a cart, from training to a robot",
        "",
        "`.venv/bin/python benchmarks/mjlab_cartpole.py`. A perfect episode (1000 steps of 0.05 s) would earn 50.",
        "Evaluation: by `trudi export`, with mjlab and PyTorch. Flown: by `trudi run` in real time",
        "against the simulated robot. Both with 95 % intervals. Minutes and misses depend on what else the machine did",
        "(README.md).",
        "",
        "| task | steps | minutes | exported | evaluation | flown | control steps | late | missed | unsafe | faults |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        trained = row["evaluation"]
        low, high = trained["return_ci95"]
        cells = [
            row["task"],
            f"{row['env_steps']:,}",
            row["minutes"],
            f"iteration {row['exported_iteration']}",
            f"{trained['return_mean']:.2f} [{low:.2f}, {high:.2f}] ({trained['episodes']} episodes)",
            f"{row['return_mean']:.2f} +- {row['return_half95']:.2f} ({len(row['returns'])} episodes)",
            *(row[name] for name in ("control_steps", "late", "misses", "unsafe")),
            len(row["faults"]),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "Evaluations during the training (iteration: return of 10 episodes; of 2048 steps an iteration):", ""]
    lines += [f"- {row['task']}: " + ", ".join(f"{at}: {value}" for at, value in row["curve"]) for row in rows]
    lines += ["", "`trudi verify`:", "", *(f"- {row['task']}: {'; '.join(row['verified'])}" for row in rows)]
    lines += ["", *sorted({f"Machine: {row['machine']}; trained at commit {row['commit']}." for row in rows})]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
