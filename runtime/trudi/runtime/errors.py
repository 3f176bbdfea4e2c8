"""The base of every error that a user can cause; those of training and export derive from it too."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_MESSAGE = 600
MOST_SHOWN = 12
"""Choices that an error lists where none is near."""


class TrudiRuntimeError(Exception):
    """Bad input or an environment that cannot do what was asked; its text is one line that says what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class BundleError(TrudiRuntimeError):
    """A bundle that is not read: damaged, altered, unsafe, from the future, or at odds with itself."""


class EngineError(TrudiRuntimeError):
    """An engine that cannot be loaded, does not keep the contract, or was given an array that does not fit."""


def one_line(text: str) -> str:
    """`text` without line breaks, control characters or more than MAX_MESSAGE characters: it may quote a hostile file."""
    plain = "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)
    return plain if len(plain) <= MAX_MESSAGE else plain[: MAX_MESSAGE - 3] + "..."


def quoted(value: object, limit: int = 60) -> str:
    """A short ASCII form of a value from a file."""
    text = ascii(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def near_matches(word: str, choices: Iterable[str], count: int = 3) -> str:
    """A half-sentence naming the `choices` nearest to `word`, or the first few of them when none is near."""
    ordered = sorted(choices)
    folded = {choice.lower(): choice for choice in ordered}
    close = difflib.get_close_matches(word[:200].lower(), folded, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(folded[name] for name in close) + "?"
    shown = ", ".join(ordered[:MOST_SHOWN]) + (", ..." if len(ordered) > MOST_SHOWN else "")
    return f"available: {shown}" if shown else "none are available"
