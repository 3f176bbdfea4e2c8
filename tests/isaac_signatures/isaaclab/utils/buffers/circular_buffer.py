"""The last few values of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class CircularBuffer:
    """The `max_len` last appended values. A row's first append after a reset fills all of that row."""

    def __init__(self, max_len: int, batch_size: int, device: str) -> None:
        if max_len < 1:
            raise ValueError(f"max_len is {max_len}; it must be at least 1")
        self._batch_size = batch_size
        self._device = device
        self._max_len = torch.full((batch_size,), max_len, dtype=torch.int, device=device)
        self._num_pushes = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._pointer = -1
        self._buffer: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def device(self) -> str:
        return self._device

    @property
    def max_length(self) -> int:
        return int(self._max_len[0])

    @property
    def current_length(self) -> Tensor:
        """Values held of each row (batch,)."""
        return torch.minimum(self._num_pushes, self._max_len)

    @property
    def buffer(self) -> Tensor:
        """A copy, oldest first (batch, max_len, ...)."""
        assert self._buffer is not None
        return torch.roll(self._buffer, self.max_length - 1 - self._pointer, dims=0).transpose(0, 1)

    def reset(self, batch_ids: Sequence[int] | Tensor | None = None) -> None:
        rows = slice(None) if batch_ids is None else batch_ids
        self._num_pushes[rows] = 0
        if self._buffer is not None:
            self._buffer[:, rows] = 0.0

    def append(self, data: Tensor) -> None:
        if data.shape[0] != self._batch_size:
            raise ValueError(f"data has {data.shape[0]} rows; the buffer has {self._batch_size}")
        if self._buffer is None:
            self._buffer = data.new_empty(self.max_length, *data.shape)
        self._pointer = (self._pointer + 1) % self.max_length
        self._buffer[self._pointer] = data
        first = self._num_pushes == 0
        self._buffer[:, first] = data[first]
        self._num_pushes += 1

    def __getitem__(self, key: Tensor) -> Tensor:
        """The value of `key` appends ago, one for each row (batch, ...); the oldest where there are fewer."""
        if self._buffer is None or bool((self._num_pushes == 0).any()):
            raise RuntimeError("nothing was appended yet")
        ago = torch.minimum(key, self._num_pushes - 1)
        return self._buffer[(self._pointer - ago) % self.max_length, torch.arange(self._batch_size)]
