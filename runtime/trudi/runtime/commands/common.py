"""What the subcommands of the base install share: exit codes, errors in one line, JSON output."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from trudi.runtime.errors import TrudiRuntimeError

EXIT_OK, EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

Main = Callable[[list[str]], int]


def reports_errors(name: str) -> Callable[[Main], Main]:
    """Turns a TrudiRuntimeError into one line on stderr and exit code 2, and Ctrl-C into a line and 130."""

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def wrapped(argv: list[str]) -> int:
            try:
                return main(argv)
            except TrudiRuntimeError as error:
                print(f"trudi {name}: error: {error}", file=sys.stderr)
                return EXIT_BAD_INPUT
            except KeyboardInterrupt:
                print(f"trudi {name}: interrupted", file=sys.stderr)
                return EXIT_INTERRUPTED

        return wrapped

    return decorate


def check_writable(option: str, path: Path | None) -> None:
    """Makes the folder of a file that will be written, and tries it: TrudiRuntimeError where that will not be possible."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.exists() and not path.is_file():  # /dev/stdout, say
            return
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, "the file that is there may not be overwritten")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TrudiRuntimeError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def write_json(path: Path | None, content: object) -> None:
    """Writes machine-readable results where `--json FILE` asked for them; what is no finite number is null."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_strict(content), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise TrudiRuntimeError(f"--json {path} cannot be written: {error.strerror}") from None


def say(text: str) -> None:
    """Prints, and never fails: a result does not depend on whether somebody still reads it."""
    try:
        print(text, flush=True)
    except (OSError, ValueError, KeyboardInterrupt):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The interpreter flushes at its end.
        except (io.UnsupportedOperation, OSError, ValueError):
            return


def _strict(content: object) -> object:
    """`content` as JSON has it: it knows neither NaN nor infinity."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _strict(value) for key, value in cast("Mapping[Any, object]", content).items()}
    if isinstance(content, (list, tuple)):
        return [_strict(value) for value in cast("list[object]", content)]
    return content
