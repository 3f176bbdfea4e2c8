"""What a process that this one starts is given, and how its first words are read."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import IO


def environment() -> dict[str, str]:
    """This process's, such that the child finds `trudi` where this process found it, installed or not."""
    root = str(Path(__file__).parents[2])
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": root + (os.pathsep + others if others else "")}


def read_line(stream: IO[bytes], timeout_s: float) -> bytes | None:
    """A line, or what came before the end of the stream; None where neither came in time. Nothing behind it is taken."""
    deadline, line = time.monotonic() + timeout_s, b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        if not (byte := os.read(stream.fileno(), 1)):
            break
        line += byte
    return line
