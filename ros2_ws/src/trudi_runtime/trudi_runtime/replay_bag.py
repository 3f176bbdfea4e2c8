"""A recorded bag computed again: the same states, commands, requests and times, through the same bundle, tick by tick.

    replay_bag walk --bundle BUNDLE

What was commanded, on `joint_commands` and `joint_gains`, is compared to the last bit. Needs no ROS. Exit codes: 0
identical, 1 something differs or is missing, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, check_writable, reports_errors, write_json
from trudi.runtime.commands.replay import open_engines
from trudi.runtime.replay import MAX_SHOWN
from trudi_runtime.bag_player import BagReplay, replay


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return run(sys.argv[1:] if argv is None else argv)


@reports_errors("replay_bag")
def run(argv: list[str]) -> int:
    """Computes a recorded bag again; 1 where any bit of a command differs, or a message of the flight is missing."""
    parser = argparse.ArgumentParser(prog="replay_bag", description=run.__doc__)
    parser.add_argument("bag", type=Path, help="the folder that record_bag wrote, or its .mcap file")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle that was flown")
    parser.add_argument("--runtime", help="name of the runtime node, with its namespace, where the bag has several")
    parser.add_argument("--engine", action="append", help="engine (default: onnx; the one that flew gives the same bits)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for a machine-readable result")
    args = parser.parse_args(argv)
    check_writable("--json", args.json)
    with Bundle.open(args.bundle) as bundle, open_engines(bundle, args.engine) as (teacher, student):
        result = replay(args.bag, bundle, teacher, student, args.runtime)
    print("\n".join(page(result)))
    write_json(args.json, result.to_json())
    return EXIT_OK if result.identical else EXIT_CHECK_FAILED


def page(result: BagReplay) -> Iterator[str]:
    """What a replay showed, line by line."""
    several = f", {result.runs} runs" if result.runs > 1 else ""
    yield f"replayed  {result.ticks} ticks, {result.steps} control steps, {result.seconds:.2f} s{several}"
    if result.skipped:
        yield f"skipped   {result.skipped} ticks at the ends of the bag"
    yield f"compared  {result.commands} commands"
    yield f"fault     {result.fault or 'none'}"
    yield from (f"note      {note}" for note in result.notes)
    if result.identical:
        yield "identical: every command and its gains, to the last bit"
        return
    yield f"exact     for {result.exact_ticks} ticks, {result.exact_s:.2f} s"
    if result.missing:
        yield f"MISSING in {len(result.missing)} places, {result.unjudged} ticks behind them are not compared; first:"
        yield from (f"  tick {one.tick}: {one}" for one in result.missing[:MAX_SHOWN])
    if differences := result.comparison.differences:
        yield f"DIFFERENT in {differences} fields, first:"
        first = result.comparison.first
        yield from (f"  tick {one.tick}, {one.field}: flown {one.recorded}, computed {one.computed}" for one in first)


if __name__ == "__main__":
    sys.exit(main())
