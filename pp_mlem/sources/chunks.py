"""Pieces of any length put together as chunks of one shape."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pp_mlem.sources.fields import Field, result_dtype
from pp_mlem.sources.parts import Piece, Place


@dataclass(frozen=True)
class Chunk:
    """Rows `number` * rows to (`number` + 1) * rows of a source: an array (rows,) or (rows, m) for each
    column asked for. The last chunk of a source has `count` rows of its own, and repeats the last of
    them up to its length. `place(row)` tells where a row stands: "b.parquet, row 1,234 (row group 3)",
    rows and batches from 1, row groups from 0 as Parquet's tools count them."""

    number: int
    arrays: tuple[np.ndarray, ...]
    count: int
    place: Callable[[int], str]


@dataclass(frozen=True)
class Slot:
    """How the fields of one column lie in its array: `cells` (which field, where in the last axis)."""

    dtype: np.dtype
    width: int | None
    cells: tuple[tuple[int, int | slice | None], ...]

    @classmethod
    def of(cls, fields: tuple[Field, ...], matrix: bool, every: tuple[Field, ...]) -> Slot:
        """Fields side by side as a matrix, or one alone; `every` is what pieces hold."""
        places = [every.index(f) for f in fields]
        dtype = result_dtype(fields)
        if not matrix:
            return cls(dtype, fields[0].width, ((places[0], None),))
        cells: list[tuple[int, int | slice | None]] = []
        at = 0
        for place, field in zip(places, fields, strict=True):
            cells.append((place, at if field.width is None else slice(at, at + field.width)))
            at += field.width or 1
        return cls(dtype, at, tuple(cells))

    def empty(self, rows: int) -> np.ndarray:
        return np.empty((rows,) if self.width is None else (rows, self.width), self.dtype)

    def fill(self, array: np.ndarray, at: int, piece: Piece, first: int, rows: int) -> None:
        """Copy `rows` rows of a piece, from its row `first` on, to the row `at` and after."""
        for field, where in self.cells:
            target = array[at : at + rows] if where is None else array[at : at + rows, where]
            target[...] = piece.arrays[field][first : first + rows]


class _Places:
    """Where the rows of a chunk stand: from each row in `begins` on, as the place there says."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.shifts: list[int] = []
        self.places: list[Place] = []
        self.count = 0

    def add(self, rows: int, place: Place, first: int) -> None:
        self.begins.append(self.count)
        self.shifts.append(first - self.count)
        self.places.append(place)
        self.count += rows

    def __call__(self, row: int) -> str:
        row = min(int(row), self.count - 1)  # what pads a chunk repeats its last row
        span = bisect_right(self.begins, row) - 1
        return self.places[span](row + self.shifts[span])


def chunked(
    pieces: Iterable[Piece], slots: tuple[Slot, ...], rows: int, number: int
) -> Iterator[Chunk]:
    """Chunks of `rows` rows, counted from `number` on."""
    arrays = tuple(slot.empty(rows) for slot in slots)
    places = _Places()
    for piece in pieces:
        first = 0
        while first < piece.rows:
            take = min(rows - places.count, piece.rows - first)
            for slot, array in zip(slots, arrays, strict=True):
                slot.fill(array, places.count, piece, first, take)
            places.add(take, piece.place, first)
            first += take
            if places.count == rows:
                yield Chunk(number, arrays, rows, places)
                number += 1
                arrays = tuple(slot.empty(rows) for slot in slots)
                places = _Places()
    if places.count:
        for array in arrays:
            array[places.count :] = array[places.count - 1]
        yield Chunk(number, arrays, places.count, places)
