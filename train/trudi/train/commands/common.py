"""The command line of the subcommands that train and export."""

from __future__ import annotations

import contextlib
import io
from typing import TypeVar

import tyro

from trudi.train.errors import TrainError

Args = TypeVar("Args")


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
