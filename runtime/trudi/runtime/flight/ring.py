"""The flight recorder's memory: the last rows of a control loop, in storage that is made once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trudi.runtime.errors import TrudiRuntimeError

_COPY_BYTES = 1 << 18


class RowRing:
    """The last `capacity` rows of a structured dtype. One thread writes; `snapshot` may be called from any other.

    `columns["x"][i] = value` writes a field of row i; it is the fastest way: `array["x"][i]` makes the field's view each
    time, and `array[i]["x"]` makes a row's.
    """

    def __init__(self, dtype: DTypeLike, capacity: int) -> None:
        form = np.dtype(dtype)
        if form.names is None:
            raise TrudiRuntimeError(f"a ring holds rows with named fields, and {form} has none")
        if capacity < 2:
            raise TrudiRuntimeError(f"capacity {capacity}: a ring has at least 2 rows")
        self.array: NDArray[Any] = np.empty(capacity, form)
        """The storage, (capacity,) rows; the oldest is not first once it is full."""
        # np.zeros would only promise these pages: each would be fetched by a fault in the middle of a cycle.
        self._bytes = self.array.view(np.uint8)
        self._bytes[:] = 0
        self.columns: dict[str, NDArray[Any]] = {name: self.array[name] for name in form.names}
        """A view of each field, (capacity, ...)."""
        self.total = 0
        """How many rows were ever claimed."""
        self._whole = 0
        self._capacity = capacity

    def __len__(self) -> int:
        return min(self.total, self._capacity)

    def claim(self) -> int:
        """The index of the row to write next. It holds what the oldest row held, so every field is to be written."""
        index = self.total % self._capacity
        self.total += 1
        return index

    def commit(self) -> None:
        """Says that the row claimed last is written. Without it, `snapshot` takes it as whole once the next is claimed."""
        self._whole = self.total

    def rows(self) -> NDArray[Any]:
        """A copy of the rows, oldest first: for the writing thread, or once that one has stopped."""
        return self._copy(self.total - len(self), self.total)

    def snapshot(self) -> NDArray[Any]:
        """A copy of the rows, oldest first, while another thread goes on writing.

        Without a row claimed and not committed, which may be half written, and without those that were overwritten while
        copying. The copy is made in small pieces, between which the writer may take its turn.
        """
        end = max(self._whole, self.total - 1)
        start = max(0, self.total - self._capacity)
        copy = self._copy(start, end)
        lost = self.total - self._capacity - start
        return copy[max(0, lost) :]

    def _copy(self, start: int, end: int) -> NDArray[Any]:
        """Rows `start` to `end`, counted from the first ever claimed."""
        out = np.empty(max(0, end - start), self.array.dtype)
        size = self.array.dtype.itemsize
        into = out.view(np.uint8)  # as bytes, which are copied at once and not field by field
        row = start
        while row < end:
            index = row % self._capacity
            count = min(max(1, _COPY_BYTES // size), end - row, self._capacity - index)
            into[(row - start) * size : (row - start + count) * size] = self._bytes[index * size : (index + count) * size]
            row += count
        return out
