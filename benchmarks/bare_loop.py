"""What the machine itself does to a loop: one that only sleeps until its deadlines, at the highest real-time priority.

.venv/bin/python benchmarks/bare_loop.py --seconds 600        (beside control_loop.py or soak.py; writes bare_loop.md)

It reads no state and computes nothing, so whatever it misses, no control loop on this machine could have kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from control_loop import LOOP_CORE, steal_s

from trudi.runtime.bench import processor
from trudi.runtime.flight.histogram import Histogram
from trudi.runtime.realtime import RealtimeCfg, Sleeper, enter_realtime, monotonic_ns, quiet_interpreter


def run(seconds: float, rate_hz: int, cpu: int) -> tuple[Histogram, int]:
    """Wake-up errors, and periods that passed without a wake-up."""
    for note in enter_realtime(RealtimeCfg(priority=99, cpu=cpu)):
        print(note)
    sleeper, errors, period_ns = Sleeper(), Histogram(), round(1e9 / rate_hz)
    missed, slot, start_ns = 0, 0, monotonic_ns() + period_ns
    with quiet_interpreter():
        while slot < seconds * rate_hz:
            sleeper.until(start_ns + slot * period_ns)
            late_ns = monotonic_ns() - start_ns - slot * period_ns
            errors.record(late_ns)
            skipped = late_ns // period_ns
            missed += skipped
            slot += skipped + 1
    return errors, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--cpu", type=int, default=LOOP_CORE)
    parser.add_argument("--beside", default="nothing else", help="what else the machine did, for the record")
    args = parser.parse_args()
    before = steal_s()
    errors, missed = run(args.seconds, args.rate, args.cpu)
    one = errors.summary()
    lines = [
        "# A loop that does nothing",
        "",
        f"`.venv/bin/python benchmarks/bare_loop.py --seconds {args.seconds:g}`: {args.rate} Hz, SCHED_FIFO 99,",
        f"{processor()}.",
        f"Beside it: {args.beside}.",
        "",
        "| wake-ups | missed periods | wake-up error p50 / p99 / p99.9 / max, ms | stolen by the machine below |",
        "|---|---|---|---|",
        f"| {one.count} | {missed} | {one.p50_ms:.3g} / {one.p99_ms:.3g} / {one.p999_ms:.3g} / {one.max_ms:.3g} "
        f"| {steal_s() - before:.2f} s |",
        "",
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
