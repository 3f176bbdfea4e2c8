"""What the subcommands of the base install share: exit codes, errors in one line, JSON output."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from trudi.runtime.errors import TrudiRuntimeError

EXIT_OK, EXIT_CHECK_FAILED, EXIT_BAD_INPUT = 0, 1, 2

Main = Callable[[list[str]], int]


def reports_errors(name: str) -> Callable[[Main], Main]:
    """Turns a TrudiRuntimeError into one line on stderr and exit code 2."""

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def wrapped(argv: list[str]) -> int:
            try:
                return main(argv)
            except TrudiRuntimeError as error:
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
        raise TrudiRuntimeError(f"--json {path} cannot be written: {error.strerror}") from None
