"""Timing of the control loop: wake-ups, observation to command, misses, with and without a load on the other core.

.venv/bin/python benchmarks/control_loop.py                       (an hour: 600 s for each rate and load)
.venv/bin/python benchmarks/control_loop.py --rates 200 --loads idle --seconds 600

A policy of 8 denoising steps, 3 layers of 512, at 50 Hz, drives the simulated Go1 in its own process through `trudi run`.
The loop and its graph keep to one core; the robot's process may use either; the load keeps to the other core. Rows that were
measured before stay in control_loop.json until they are measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from trudi.runtime.bench import processor

HERE = Path(__file__).parent
RESULT = HERE / "control_loop.json"
TASK = "envpool:MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
RATES, LOADS = (50, 200, 500), ("idle", "load")
LOOP_CORE, LOAD_CORE = 0, 1
SPANS = {"wake_up": "wake-up", "observation_to_command": "observation to command", "state_to_command": "state to command"}
LOAD = """
import os, numpy as np
os.sched_setaffinity(0, {%d})
a = np.random.rand(600, 600)
while True:
    a = a @ a
    a /= abs(a).max()
"""


def trudi(*argv: object) -> None:
    subprocess.run([sys.executable, "-m", "trudi.cli", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def wide_bundle(folder: Path) -> Path:
    """A bundle of the size that the figures are for; its weights are hardly trained, which costs the same time."""
    bundle = folder / "bundle"
    if not bundle.exists():
        size = ("--policy.width", 512, "--policy.layers", 3, "--num-envs", 16, "--max-iterations", 1)
        trudi("train", TASK, *size, "--out", folder / "run")
        trudi("export", folder / "run", "--out", bundle)
    return bundle


@contextmanager
def load(kind: str):
    """A process that multiplies matrices on the other core, at normal priority."""
    if kind == "idle":
        yield
        return
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", LOAD % LOAD_CORE], env=environment)
    try:
        time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.wait()


def steal_s() -> float:
    """Time that the machine below this one took for others, since it started; s over all cores."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def fly(bundle: Path, rate: int, seconds: float, *options: object) -> dict:
    """One flight's JSON, with the time that was stolen meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.json"
        argv = [sys.executable, "-m", "trudi.cli", "run", bundle, "--rate", rate, "--seconds", seconds, "--json", report]
        argv += ["--command", "vx=0.3", "--cpu", LOOP_CORE, *options]
        before = steal_s()
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False, cwd=name)
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        return json.loads(report.read_text()) | {"exit_code": done.returncode, "stolen_s": steal_s() - before}


def row(rate: int, kind: str, seconds: float, flown: dict) -> dict:
    keep = ("state", "faults", "cycles", "misses", "control_steps", "late", "notes", "exit_code", "stolen_s", "worst")
    kept = {name: flown[name] for name in keep} | {"worst": flown["worst"][:3]}
    robot = flown["robot"]
    return {"rate_hz": rate, "load": kind, "seconds": seconds, "stages": flown["stages"], **kept} | {
        "unsafe": robot["violation_count"],
        "machine": f"{os.cpu_count()} cores, {processor()}, Python {platform.python_version()}",
        "commit": subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=HERE).strip(),
    }


def write(rows: list[dict]) -> None:
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "# The control loop's timing",
        "",
        "`.venv/bin/python benchmarks/control_loop.py`; 8 denoising steps, 3 x 512, 50 Hz.",
        "Milliseconds: p50 / p99 / p99.9 / max.",
        "Stolen: time in which the machine below gave the cores to others (a miss in it is not the loop's).",
        "",
        "| commands | load | wake-up behind its deadline | observation to its command | state's stamp to its command "
        "| cycles | missed | late actions | stolen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        cells = [" / ".join(f"{one['stages'][span][key]:.3g}" for key in PERCENTILES) for span in SPANS]
        counts = [one["cycles"], one["misses"], one["late"], f"{one['stolen_s']:.2f} s"]
        lines.append("| " + " | ".join(map(str, (f"{one['rate_hz']} Hz", one["load"], *cells, *counts))) + " |")
    lines += ["", "Worst cycles:", ""]
    for one in rows:
        causes = "; ".join(cycle["cause"] for cycle in one["worst"])
        lines.append(f"- {one['rate_hz']} Hz, {one['load']}, {one['seconds']:g} s ({one['commit']}): {causes}")
    lines += ["", f"Machine: {rows[-1]['machine']}.", ""]
    RESULT.with_suffix(".md").write_text("\n".join(lines))


PERCENTILES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS)
    parser.add_argument("--bundle", type=Path, help="a bundle that was made for an earlier call")
    args = parser.parse_args()
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else []
    with tempfile.TemporaryDirectory() as name:
        bundle = args.bundle.resolve() if args.bundle else wide_bundle(Path(name))
        for kind in args.loads:
            for rate in args.rates:
                with load(kind):
                    flown = fly(bundle, rate, args.seconds)
                rows = [one for one in rows if (one["rate_hz"], one["load"]) != (rate, kind)]
                rows.append(row(rate, kind, args.seconds, flown))
                rows.sort(key=lambda one: (LOADS.index(one["load"]), one["rate_hz"]))
                write(rows)
                print(f"{rate} Hz, {kind}: {flown['misses']} missed of {flown['cycles']}", flush=True)


if __name__ == "__main__":
    main()
