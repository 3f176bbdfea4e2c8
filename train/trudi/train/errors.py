"""The base of every error that a user of `trudi.train` can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrainError(Exception):
    """Bad input or an environment that cannot do what was asked; its text says what to do about it."""


def near_matches(word: str, choices: Iterable[str], count: int = 3) -> str:
    """A half-sentence naming the `choices` nearest to `word`, or the first few of them when none is near."""
    ordered = sorted(choices)
    folded = {choice.lower(): choice for choice in ordered}
    close = difflib.get_close_matches(word.lower(), folded, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(folded[name] for name in close) + "?"
    shown = ", ".join(ordered[:8]) + (", ..." if len(ordered) > 8 else "")
    return f"available: {shown}" if shown else "none are available"
