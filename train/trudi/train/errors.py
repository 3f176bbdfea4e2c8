"""The base of every error that a user of `trudi.train` can cause."""

from __future__ import annotations

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.errors import near_matches as near_matches  # noqa: PLC0414 - imported from here by all of trudi.train


class TrainError(TrudiRuntimeError):
    """Bad input or an environment that cannot do what was asked; its text says what to do about it."""
