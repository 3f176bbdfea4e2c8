"""The error that a user of `trudi.export` can cause."""

from __future__ import annotations

from trudi.runtime.errors import TrudiRuntimeError


class ExportError(TrudiRuntimeError):
    """A run that cannot be exported as asked; its text says what to do about it."""
