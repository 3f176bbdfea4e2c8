"""`trudi replay FILE --bundle BUNDLE`: a recorded flight computed again, bit for bit."""

from __future__ import annotations

import argparse
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, check_writable, reports_errors, write_json
from trudi.runtime.engines.base import Engine
from trudi.runtime.replay import Replay, replay
from trudi.runtime.session import choose, load_student


@reports_errors("replay")
def main(argv: list[str]) -> int:
    """Computes a flight again from what was recorded of it; 1 where any bit of an action or a command differs."""
    parser = argparse.ArgumentParser(prog="trudi replay", description=main.__doc__)
    parser.add_argument("flight", type=Path, help="the .mcap that `trudi run` wrote")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle that was flown")
    parser.add_argument("--engine", action="append", help="engine (default: onnx; the one that flew gives the same bits)")
    parser.add_argument(
        "--video", type=Path, metavar="FILE.mp4", help="also draw the flight (needs trudi[mujoco,video]; legged robots)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for a machine-readable result")
    args = parser.parse_args(argv)
    for option in ("json", "video"):
        check_writable(f"--{option}", getattr(args, option))
    with Bundle.open(args.bundle) as bundle, open_engines(bundle, args.engine) as (teacher, student):
        result = replay(args.flight, bundle, teacher, student)
        print(page(result))
        write_json(args.json, asdict(result) | {"identical": result.identical})
        if args.video is not None:
            from trudi.runtime.film import film

            print(f"video     {args.video}, {film(args.flight, bundle, args.video)} frames")
    return EXIT_OK if result.identical else EXIT_CHECK_FAILED


@contextmanager
def open_engines(bundle: Bundle, preference: Sequence[str] | None) -> Generator[tuple[Engine, Engine | None], None, None]:
    """The engine of the policy, by preference or ONNX, and that of the student, None where the bundle has none."""
    with ExitStack() as stack:
        teacher = stack.enter_context(choose(bundle, tuple(preference or ("onnx",))).engine)
        student: Engine | None = None
        if bundle.contract.student is not None:
            student = stack.enter_context(load_student(bundle)[0])
        yield teacher, student


def page(result: Replay) -> str:
    """What the replay showed."""
    lines = [
        f"replayed  {result.ticks} ticks, {result.steps} control steps, {result.seconds:.2f} s"
        + (f", {result.shadows} actions of the shadow" if result.shadows else "")
        + (f" (from the first keyframe; {result.skipped} ticks lie before it)" if result.skipped else ""),
        f"fault     {result.fault or 'none'}",
    ]
    if result.identical:
        return "\n".join([*lines, "identical: every observation, action, command and state, to the last bit"])
    if result.note:
        lines.append(f"other     {result.note}")
    lines.append(f"DIFFERENT in {result.differences} fields, first:")
    lines += [f"  tick {one.tick}, {one.field}: flown {one.recorded}, computed {one.computed}" for one in result.first]
    return "\n".join(lines)
