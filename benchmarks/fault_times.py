"""How long from a fault to its detection, and from there to a safe command: every row of the fault matrix, real time.

.venv/bin/python benchmarks/fault_times.py            (five minutes: each row three times; writes fault_times.md)

Both times are read off one clock: the robot's process notes when it injected the fault and when the first safe command (no
stiffness, no effort) arrived; the runtime notes the tick that found the fault. The robot looks for commands once a physics
step (4 ms), which is in the second time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fault_matrix import MATRIX, QUICK
from flights import fly, made_bundle

RATE = 200


def times(case, bundle: Path) -> tuple[float, float, float] | None:
    """ms: fault to detection, detection to a safe command, and how many commands were unsafe; None where none was needed."""
    with tempfile.TemporaryDirectory() as name:
        options = ("--seconds", 1.6, "--rate", RATE, "--command", "vx=0.2", *case.options)
        _, report, said = fly(bundle, Path(name), *options, faults=case.faults, site_file=QUICK | case.site_file)
    assert report, said
    found = [fault["code"] for fault in report["faults"]]
    assert found == ([case.code] if case.code else []), said
    if not found or report["robot"] is None:
        return None
    (injected,) = report["robot"]["injected"]
    began = injected["at_monotonic_s"]
    detected = report["faults"][0]["at_ns"] * 1e-9
    safe = began + injected["safe_s"] - injected["at_s"]
    return 1e3 * (detected - began), 1e3 * (safe - detected), report["robot"]["violation_count"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    lines = [
        "# Times of the fault matrix",
        "",
        f"`.venv/bin/python benchmarks/fault_times.py`: {RATE} Hz commands (a period is {1e3 / RATE:g} ms), 50 Hz policy,",
        f"Go1, each row {args.repeats} times; median and, in brackets, the longest, in ms.",
        "",
        "| fault | latched | fault to detection | detection to safe command | unsafe commands |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        plain, pair = made_bundle(Path(name) / "plain"), made_bundle(Path(name) / "pair", student=True)
        for case in MATRIX:
            measured = [times(case, pair if case.student else plain) for _ in range(args.repeats)]
            rows = [one for one in measured if one is not None]
            cells = ["-", "-", "-"]
            if rows:
                detection, safe, unsafe = zip(*rows, strict=True)
                cells = [f"{statistics.median(one):.1f} ({max(one):.1f})" for one in (detection, safe)] + [f"{sum(unsafe)}"]
            lines.append(f"| {case.name} | {case.code or 'none: ' + case.final} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
