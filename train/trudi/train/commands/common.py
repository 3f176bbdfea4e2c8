"""What the subcommands share: exit codes and JSON output."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

from trudi.train.errors import TrainError

EXIT_OK, EXIT_CHECK_FAILED, EXIT_BAD_INPUT = 0, 1, 2

Main = Callable[[list[str]], int]
Args = TypeVar("Args")


def reports_errors(name: str) -> Callable[[Main], Main]:
    """Turns a TrainError into one line on stderr and exit code 2."""

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def wrapped(argv: list[str]) -> int:
            try:
                return main(argv)
            except TrainError as error:
                print(f"trudi {name}: error: {error}", file=sys.stderr)
                return EXIT_BAD_INPUT

        return wrapped

    return decorate


def write_json(path: Path | None, content: object) -> None:
    """Writes machine-readable results where `--json FILE` asked for them."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise TrainError(f"--json {path} cannot be written: {error.strerror}") from None


def parse_arguments(args: type[Args], prog: str, argv: list[str], default: Args | None = None) -> Args:
    """The command line as `args`; TrainError says in one line what is wrong with it, where tyro would draw a box."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return (
                tyro.cli(args, prog=prog, args=argv)
                if default is None
                else tyro.cli(args, prog=prog, args=argv, default=default)
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise TrainError(f"{unboxed(told.getvalue())} (`{prog} --help` explains every option)") from None


def unboxed(text: str) -> str:
    """The complaint in a box of tyro's, and the first option that it suggests, as one line."""
    sections: list[list[str]] = [[]]
    for line in text.splitlines()[1:]:  # after the title
        words = line.strip("\u2502 ")  # the box's sides
        if set(words) <= set("-\u2500\u2570\u256f"):  # a rule, or nothing
            sections.append([])
        else:
            sections[-1].append(words)
    complaint, *others = [section for section in sections if section] or [["unreadable command line"]]
    hints = [
        f"; did you mean {section[1].split()[0]}?" for section in others if section[0].startswith("Perhaps") and section[1:]
    ]
    return " ".join(complaint) + "".join(hints[:1])
