"""The errors that a user of `trudi.runtime` can cause."""

from __future__ import annotations


class TrudiRuntimeError(Exception):
    """Bad input or a machine that cannot do what was asked; its text says what to do about it."""


class EngineError(TrudiRuntimeError):
    """An engine that cannot be loaded, does not keep the contract, or was given an array that does not fit."""
