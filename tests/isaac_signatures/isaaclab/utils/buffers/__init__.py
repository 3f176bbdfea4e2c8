"""Buffers over time."""

from .circular_buffer import CircularBuffer

__all__ = ["CircularBuffer"]
