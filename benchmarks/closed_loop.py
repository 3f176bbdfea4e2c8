"""The return of an exported policy in real time, against a robot in its own process, beside its return in training.

.venv/bin/python benchmarks/closed_loop.py RUN [RUN ...]        (100 s a run; writes closed_loop.md)

RUN is a training of a Control Suite task (`make demo` leaves one in runs/demo) with its bundle in RUN/bundle. Training's
return is the one that export measured with PyTorch in EnvPool, with the bundle's sampler, and wrote into the bundle.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

EPISODES = 10
STEPS = 1000


def fly(bundle: Path, episodes: int) -> dict:
    contract = json.loads((bundle / "bundle.json").read_text())
    seconds = (episodes * STEPS + 20) * contract["control_period_s"]
    rate = round(1 / contract["control_period_s"])
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.json"
        command = [sys.executable, "-m", "trudi.cli", "run", bundle, "--seconds", seconds, "--rate", rate, "--json", report]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=name)
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        return json.loads(report.read_text()) | {"contract": contract}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    args = parser.parse_args()
    lines = [
        "# The closed loop in real time",
        "",
        "`.venv/bin/python benchmarks/closed_loop.py RUN`: mean return and its standard error; the robot's process steps",
        "its physics against the wall clock, states and commands go through UDP, one command a control period.",
        "",
        "| task | in training (PyTorch, EnvPool) | in real time (bundle, robot's process) | difference "
        "| control steps | late | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in args.runs:
        flown = fly((run / "bundle").resolve(), args.episodes)
        contract, returns = flown["contract"], np.array(flown["returns"])
        trained = contract["provenance"]["evaluations"][0]
        error = trained["return_std"] / math.sqrt(trained["episodes"])
        difference = returns.mean() / trained["return_mean"] - 1
        cells = [
            contract["task"]["id"],
            f"{trained['return_mean']:.2f} +- {error:.2f} ({trained['episodes']} episodes)",
            f"{returns.mean():.2f} +- {returns.std(ddof=1) / math.sqrt(len(returns)):.2f} ({len(returns)} episodes)",
            f"{100 * difference:+.2f} %",
            *(str(flown[name]) for name in ("control_steps", "late", "misses")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
