"""Which viewer is wanted: the words of `--view`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from trudi.runtime.errors import quoted
from trudi.runtime.robots.base import RobotError

AUTO = "auto"
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080
MAX_PORT = 65_535
FORMS = "window, browser, browser:PORT, browser:HOST:PORT"
HELP = (
    "show the simulated robot: `browser[:[HOST:]PORT]` at a page of this machine (default port: 8080 or the next free one), "
    "`window` in MuJoCo's own; alone: the window where there is a display, else the browser (docs/viewer.md)"
)


@dataclass(frozen=True)
class ViewCfg:
    """A viewer."""

    kind: Literal["window", "browser"]
    """MuJoCo's own window, or a page for a browser."""
    host: str = DEFAULT_HOST
    """Address that the page is served at."""
    port: int | None = None
    """Port of the page; 0 takes any that is free. None: `DEFAULT_PORT`, or the next that is free."""


def parse_view(text: str) -> ViewCfg | None:
    """What `text` asks for; None for "". RobotError where it is no viewer."""
    if not text:
        return None
    text = str(text)  # of JSON, it may be anything
    if text == AUTO:
        return ViewCfg("window" if has_display() else "browser")
    kind, _, where = text.partition(":")
    if kind == "window" and text == kind:
        return ViewCfg("window")
    if kind != "browser" or (not where and text != kind):
        raise RobotError(f"view {quoted(text)}: available: {FORMS}")
    if not where:
        return ViewCfg("browser")
    host, colon, port = where.rpartition(":")
    if not (port.isascii() and port.isdigit()) or (colon and not host):
        raise RobotError(f"view {quoted(text)}: available: {FORMS}")
    if int(port[:6]) > MAX_PORT:
        raise RobotError(f"view {quoted(text)}: a port is at most {MAX_PORT}")
    return ViewCfg("browser", host or DEFAULT_HOST, int(port))


def has_display() -> bool:
    """Whether windows can be opened here."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def with_view(argv: list[str]) -> list[str]:
    """`argv` with a `--view` that stands alone spelled out, so that it never takes the word after it, a bundle, say."""
    words = list(argv)
    for place, word in enumerate(words):
        if word == "--":
            break
        following = words[place + 1] if place + 1 < len(words) else ""
        if word == "--view" and following.partition(":")[0] not in ("window", "browser", AUTO):
            words[place] = f"--view={AUTO}"
    return words
