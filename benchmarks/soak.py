"""An hour of the control loop at 200 Hz: memory of both processes every ten seconds, misses, percentiles; 1 if not flat.

.venv/bin/python benchmarks/soak.py              (an hour; --seconds 120 for a try)

The same flight as in control_loop.py, at a higher priority (80), so that other work may run beside it. Memory counts as
flat where, from the tenth minute on (the flight recorder's two minutes are full long before), the resident size never
differs from its median by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from control_loop import LOOP_CORE, PERCENTILES, SPANS, steal_s, wide_bundle

from trudi.runtime.bench import processor

RESULT = Path(__file__).with_name("soak.json")
EVERY_S = 10.0


def resident_kb(pid: int) -> int:
    """Resident memory of a process; kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def watch(process: subprocess.Popen, log: Path) -> list[tuple[float, int, int]]:
    """Seconds, kB of the runtime, kB of the robot, while the policy is active."""
    while "ACTIVE" not in log.read_text().replace("INACTIVE", ""):
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.5)
    begin, samples = time.monotonic(), []
    robot = children(process.pid)[0]
    while process.poll() is None:
        try:
            samples.append((time.monotonic() - begin, resident_kb(process.pid), resident_kb(robot)))
        except (FileNotFoundError, IndexError):
            break
        try:
            process.wait(EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return [sample for sample in samples if sample[1] and sample[2]]


def deviation(kb: np.ndarray) -> float:
    """Largest difference from the median, relative to it."""
    return float(np.abs(kb / np.median(kb) - 1).max())


def write(flown: dict, samples: list, args: argparse.Namespace, stolen_s: float) -> None:
    seconds = args.seconds
    times, runtime, robot = np.array(samples, float).T
    settled = times >= min(600.0, seconds / 6)
    settled &= times <= seconds - 1.0  # the flight's end writes and frees
    flat = [deviation(kb[settled]) for kb in (runtime, robot)]
    kept = {
        name: flown[name] for name in ("state", "faults", "cycles", "misses", "control_steps", "late", "notes", "stages")
    }
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=RESULT.parent).strip()
    facts = {
        "seconds": seconds,
        "stolen_s": stolen_s,
        "beside": args.beside,
        "deviation": flat,
        "commit": commit,
        "machine": processor(),
        **kept,
    }
    facts |= {
        "unsafe": flown["robot"]["violation_count"],
        "commands": flown["robot"]["commands"],
        "worst": flown["worst"][:5],
    }
    facts["resident_kb"] = [[round(at), int(one), int(two)] for at, one, two in samples]
    RESULT.write_text(json.dumps(facts, indent=None, separators=(",", ":")) + "\n")
    lines = [
        "# Soak",
        "",
        f"`.venv/bin/python benchmarks/soak.py`: {seconds:g} s at 200 Hz, policy of 8 steps, 3 x 512, at 50 Hz ({commit}).",
        f"Beside it: {args.beside}.",
        "",
        "| | |",
        "|---|---|",
        f"| final state, faults | {flown['state']}, {len(flown['faults'])} |",
        f"| cycles, missed | {flown['cycles']}, {flown['misses']} |",
        f"| control steps, late | {flown['control_steps']}, {flown['late']} |",
        f"| commands received by the robot, unsafe | {flown['robot']['commands']}, {flown['robot']['violation_count']} |",
        f"| runtime's memory | {np.median(runtime[settled]) / 1e3:.1f} MB, at most {100 * flat[0]:.3f} % from it |",
        f"| robot's memory | {np.median(robot[settled]) / 1e3:.1f} MB, at most {100 * flat[1]:.3f} % from it |",
        f"| stolen by the machine below | {stolen_s:.2f} s |",
        "",
        "| ms | p50 | p99 | p99.9 | max |",
        "|---|---|---|---|---|",
    ]
    for span, words in SPANS.items():
        lines.append(f"| {words} | " + " | ".join(f"{flown['stages'][span][key]:.3f}" for key in PERCENTILES) + " |")
    lines += ["", "Worst cycles: " + "; ".join(cycle["cause"] for cycle in flown["worst"][:5]) + ".", ""]
    RESULT.with_suffix(".md").write_text("\n".join(lines))
    print("\n".join(lines))
    passed = max(flat) <= 0.01 and not flown["misses"] and not flown["faults"] and not flown["robot"]["violation_count"]
    sys.exit(0 if passed else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--bundle", type=Path, help="a bundle that was made for an earlier call")
    parser.add_argument("--cpu", type=int, default=LOOP_CORE, help="core of the loop")
    parser.add_argument("--beside", default="nothing else", help="what else the machine did, for the record")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = args.bundle.resolve() if args.bundle else wide_bundle(folder)
        log, report = folder / "log", folder / "report.json"
        argv = [sys.executable, "-m", "trudi.cli", "run", bundle, "--rate", 200, "--seconds", args.seconds, "--json", report]
        argv += ["--command", "vx=0.3", "--cpu", args.cpu, "--priority", 80]
        before = steal_s()
        with log.open("w") as out:
            process = subprocess.Popen(list(map(str, argv)), stdout=out, stderr=subprocess.STDOUT, cwd=folder)
            samples = watch(process, log)
            process.wait()
        if not report.exists():
            raise SystemExit(log.read_text())
        write(json.loads(report.read_text()), samples, args, steal_s() - before)


if __name__ == "__main__":
    main()
