"""Twenty SIGKILLs at random moments of a real training that saves every other iteration.

    python benchmarks/kills.py [--kills 20] [--seed 0]

After every kill each checkpoint that is left must load, and the run is resumed from its last one; at the end it is resumed
once more and left to finish. Writes kills.md.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trudi.train import checkpoint
from trudi.train.runfolder import METRICS, read_metrics

HERE = Path(__file__).parent
TASK = "envpool:CartpoleSwingup-v1"
SMALL = [
    "--num-envs",
    "8",
    "--rollout-steps",
    "8",
    "--save-every",
    "2",
    "--evaluation.every",
    "5",
    "--evaluation.episodes",
    "1",
]


def command(run: Path, iterations: int) -> list[str]:
    """Starts the run, or continues it where it has a checkpoint."""
    base = [sys.executable, "-m", "trudi.cli", "train"]
    if (run / "checkpoints" / "last").exists():
        return [*base, "--resume", str(run), "--max-iterations", str(iterations)]
    return [*base, TASK, "--out", str(run), "--max-iterations", str(iterations), *SMALL]


def load_everything(run: Path) -> int:
    """Loads every checkpoint that is left; returns how many."""
    folders = [*(run / "checkpoints").glob("iteration_*"), *(run / "checkpoints" / name for name in ("last", "best"))]
    present = [folder for folder in folders if folder.is_symlink() or folder.exists()]
    for folder in present:
        checkpoint.load(folder)
    return len(present)


def main() -> None:
    """Kills, checks, resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    loaded, reached = 0, []
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        for _ in range(args.kills):
            process = subprocess.Popen(command(run, 100_000), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            before = len(read_metrics(run / METRICS)) if (run / METRICS).exists() else 0
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:  # wait until it trains, so that it is hit there
                if (run / METRICS).exists() and len(read_metrics(run / METRICS)) > before:
                    break
                time.sleep(0.05)
            time.sleep(moments.uniform(0.0, 2.0))
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            assert process.returncode == -signal.SIGKILL, errors
            loaded += load_everything(run)
            if (run / "checkpoints" / "last").exists():
                reached.append(checkpoint.load(run / "checkpoints" / "last").counters.iteration)
        goal = reached[-1] + 2
        subprocess.run(command(run, goal), check=True, capture_output=True)
        assert checkpoint.load(run / "checkpoints" / "last").counters.iteration == goal
        iterations = [int(row["iteration"]) for row in read_metrics(run / METRICS)]
        assert iterations == list(range(1, goal + 1)), "metrics.jsonl has a gap or a repetition"
    assert reached == sorted(reached)
    lines = [
        "# Kills",
        "",
        f"`python benchmarks/kills.py --kills {args.kills} --seed {args.seed}`",
        "",
        f"- {args.kills} kills; {loaded} checkpoints were left in all, every one loaded.",
        f"- Last checkpoint after each kill: iteration {', '.join(map(str, reached))}.",
        f"- Resumed once more, it finished at iteration {goal}; its metrics have one line an iteration, without a gap.",
    ]
    (HERE / "kills.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
