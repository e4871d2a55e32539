"""Data that come in chunks: the arguments of a program whose rows are never all there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pp_mlem.base.machine import machine
from pp_mlem.sources import Column, Grouped, Source

FEWEST_ROWS = 2**10  # of a chunk


@dataclass(frozen=True)
class Part:
    """A chunk of the rows: the program's arrays, of which the first `count` rows are data and the others fill
    up, and where each row stands."""

    number: int
    arrays: tuple[np.ndarray, ...]
    count: int
    place: Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Stream:
    """The arrays of a program, some of them columns of a source, in chunks of `rows`.

    `columns` has the column of each array, None where it is the same `whole` for all rows. `begin` and `end` are
    the chunks that this process reads. Of a grouped source rows are groups, here as in `Part.count`.
    """

    source: Source | Grouped
    columns: tuple[Column | None, ...]
    whole: tuple[np.ndarray | None, ...]
    dtypes: tuple[np.dtype, ...]
    rows: int
    count: int
    begin: int = 0
    end: int | None = None

    @property
    def chunks(self) -> int:
        """How many there are, of all processes together."""
        if isinstance(self.source, Grouped):
            return self.source.chunk_count
        return -(-self.count // self.rows)

    @property
    def asked(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c is not None)

    def parts(self) -> Iterator[Part]:
        """The chunks of this process, in order."""
        for chunk in self.source.chunks(self.asked, self.rows, self.begin, self.end):
            yield Part(chunk.number, self.filled(chunk.arrays), chunk.count, chunk.place)

    def filled(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """All arrays of the program, those of the columns given."""
        own = iter(arrays)
        return tuple(
            np.asarray(next(own) if whole is None else whole).astype(dtype, copy=False)
            for whole, dtype in zip(self.whole, self.dtypes, strict=True)
        )


def rows_in_chunk(count: int, numbers: int, wanted: int | None) -> int:
    """Rows of a chunk: as many as were asked for, or so many that a chunk is some megabytes; all where there are
    no more. `numbers` are those of a row."""
    if wanted is not None:
        return min(wanted, count)
    suits = machine()
    rows = np.clip(suits.chunk_numbers // max(numbers, 1), FEWEST_ROWS, suits.chunk_rows)
    return min(int(rows), count)


@dataclass
class Seen:
    """What the columns were seen to hold where chunks were looked at in full: the range of each. A chunk within it, with
    all values in their supports, needs no such look."""

    low: dict[int, np.ndarray] = field(default_factory=dict)
    high: dict[int, np.ndarray] = field(default_factory=dict)

    def knows(self, arrays: tuple[Any, ...]) -> bool:
        """Whether all numbers are finite and within the ranges."""
        for i, array in enumerate(arrays):
            if array.dtype.kind not in "fiu" or not array.ndim:
                continue
            low, high = array.min(0), array.max(0)
            if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
                return False
            if i not in self.low or np.any(low < self.low[i]) or np.any(high > self.high[i]):
                return False
        return True

    def note(self, arrays: tuple[Any, ...]) -> None:
        """That these were looked at in full."""
        for i, array in enumerate(arrays):
            if array.dtype.kind in "fiu" and array.ndim and len(array):
                low, high = np.nanmin(array, 0), np.nanmax(array, 0)
                self.low[i] = np.minimum(low, self.low.get(i, low))
                self.high[i] = np.maximum(high, self.high.get(i, high))
