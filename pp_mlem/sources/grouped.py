"""A source whose units are groups of rows: chunks hold whole groups, and number them from zero."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.sources.chunks import Chunk
from pp_mlem.sources.sample import OWN
from pp_mlem.sources.source import Column, Source

ROWS = 2**17  # of a chunk, unless the largest group has more
PIECE = 2**16
ROW, NUMBER, GROUP = "row", "number", "group"


@dataclass(frozen=True)
class GroupColumn(Column):
    """A column of every row; the number of a row's group within its chunk; or one value for each group."""

    kind: str = ROW


@dataclass(frozen=True, eq=False, repr=False)
class Grouped:
    """Rows of a source that are sorted by group, `by` a column.

    Counts are of groups, as in `Source` they are of rows: `count()`, chunks of so many groups, samples. In the arrays of
    a chunk the column `by` is the number of each row's group within the chunk, from 0. All chunks have one shape: rows that
    fill up belong to a group that fills up, the last one.
    """

    rows: Source
    by: str
    chunk_rows: int | None = None  # what a chunk holds follows from the groups
    held: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Grouped({self.describe()})"

    def __getitem__(self, key: str | list[str] | slice) -> GroupColumn:
        """A column by its name, several as a matrix by a list of names, all by [:]; `by` is the number of a row's group."""
        column = self.rows[key]
        kind = NUMBER if column.names == (self.by,) and not column.matrix else ROW
        return GroupColumn(self, column.names, column.matrix, kind=kind)  # type: ignore[arg-type]

    def per_group(self, key: str | list[str]) -> GroupColumn:
        """A column with one value for each group, that of its first row."""
        column = self.rows[key]
        return GroupColumn(self, column.names, column.matrix, kind=GROUP)  # type: ignore[arg-type]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rows.columns

    def count(self) -> int:
        """How many groups there are."""
        return len(self.starts) - 1

    def fingerprint(self) -> dict[str, str]:
        return {**self.rows.fingerprint(), "groups": self.by}

    def describe(self) -> str:
        return f"{self.rows.describe()}, grouped by '{self.by}'"

    @cached_property
    def starts(self) -> np.ndarray:
        """(groups + 1,): the first row of every group, and the number of all rows; by one pass, remembered.

        Raises:
            ValueError: where rows of a group do not follow one another.
        """
        if "starts" not in self.held:
            first, names, last, row = [], [], None, 0
            with contextlib.closing(self.rows.chunks((self.rows[self.by],), PIECE)) as chunks:
                for chunk in chunks:
                    own = chunk.arrays[0][: chunk.count]
                    new = np.flatnonzero(own[1:] != own[:-1]) + 1
                    if last is None or own[0] != last:
                        new = np.concatenate([[0], new])
                    first.append(row + new)
                    names.append(own[new])
                    last, row = own[-1], row + chunk.count
            every = np.concatenate(names)
            kinds, counts = np.unique(every, return_counts=True)
            if len(kinds) < len(every):
                raise ValueError(
                    f"the rows of group {kinds[counts > 1][0]} of '{self.by}' do not follow one another. Sort the data by "
                    f"'{self.by}', or put every group into one row (a list column)."
                )
            self.held["starts"] = np.concatenate([*first, [row]])
        return self.held["starts"]

    @cached_property
    def cuts(self) -> np.ndarray:
        """(chunks + 1,): the first group of every chunk; each has as many groups as fit into its rows."""
        starts, most, found = self.starts, self.chunk_length, [0]
        while found[-1] < self.count():
            beyond = np.searchsorted(starts, starts[found[-1]] + most, side="right") - 1
            found.append(int(min(beyond, self.count())))
        return np.array(found)

    @property
    def chunk_length(self) -> int:
        """Rows of a chunk."""
        wanted = ROWS if self.rows.chunk_rows is None else self.rows.chunk_rows
        return int(min(max(wanted, np.diff(self.starts).max()), self.starts[-1]))

    @property
    def units(self) -> int:
        """Groups of a chunk, that which fills up included."""
        return int(np.diff(self.cuts).max()) + 1

    @property
    def chunk_count(self) -> int:
        return len(self.cuts) - 1

    def chunks(
        self, columns: Sequence[Column], rows: int, begin: int = 0, end: int | None = None,
        ahead: int = 2,
    ) -> Generator[Chunk, None, None]:  # fmt: skip
        """Chunks `begin` to `end` (excluded), each of `units` groups; `rows` is that number."""
        end = self.chunk_count if end is None else min(end, self.chunk_count)
        ranges = [(int(self.cuts[i]), int(self.cuts[i + 1])) for i in range(begin, end)]
        parts = self.spans(columns, ranges, ahead)
        for i, (own, (first, last)) in enumerate(zip(parts, ranges, strict=True), begin):
            arrays, place = own
            padded = tuple(
                self._padded(a, c, last - first) for a, c in zip(arrays, columns, strict=True)
            )
            yield Chunk(i, padded, last - first, place)

    def _padded(self, array: np.ndarray, column: Column, groups: int) -> np.ndarray:
        """An array of a chunk in the shape of all, its last entry repeated; rows that fill up are of the last group."""
        kind = getattr(column, "kind", ROW)
        length = self.units if kind == GROUP else self.chunk_length
        fill = np.repeat(array[-1:], length - len(array), 0)
        if kind == NUMBER:
            fill = np.full_like(fill, self.units - 1)
        return np.concatenate([array, fill])

    def between(self, columns: Sequence[Column], first: int, last: int) -> tuple[np.ndarray, ...]:
        """The groups from one number to another (excluded), nothing filled up."""
        (found, _), *_ = self.spans(columns, [(first, last)], 0)
        return found

    def head(self, columns: Sequence[Column], groups: int) -> tuple[np.ndarray, ...]:
        return self.between(columns, 0, min(groups, self.count()))

    def sample(self, columns: Sequence[Column], rows: int, seed: int) -> tuple[np.ndarray, ...]:
        """Groups drawn at random, with that many rows in all, about; in their order."""
        check_counts(rows=rows)
        check_seed(seed)
        mean = self.starts[-1] / self.count()
        wanted = int(np.clip(np.ceil(rows / mean), 1, self.count()))
        rng = np.random.default_rng([seed, OWN])
        chosen = np.sort(rng.choice(self.count(), wanted, replace=False))
        ranges = [(int(g), int(g) + 1) for g in chosen]
        held = [arrays for arrays, _ in self.spans(columns, ranges, 2)]
        found = [np.concatenate(a) for a in zip(*held, strict=True)]
        sizes = np.diff(self.starts)[chosen]
        for i, column in enumerate(columns):
            if getattr(column, "kind", ROW) == NUMBER:
                found[i] = np.repeat(np.arange(wanted), sizes)
        return tuple(found)

    def units_of(self, columns: Sequence[Column], arrays: Sequence[np.ndarray]) -> int:
        """How many groups these arrays have."""
        for column, array in zip(columns, arrays, strict=True):
            kind = getattr(column, "kind", ROW)
            if kind != ROW:
                return int(array.max()) + 1 if kind == NUMBER else len(array)
        raise ValueError(
            f"groups: the program reads no column that tells the groups; pass source['{self.by}'], which numbers them."
        )

    def spans(
        self, columns: Sequence[Column], ranges: list[tuple[int, int]], ahead: int
    ) -> Generator[tuple[tuple[np.ndarray, ...], Callable[[int], str]], None, None]:
        """For every range of groups, in increasing order, the arrays of its rows, and where each row stands."""
        if not ranges:
            return
        plain = [Column(self.rows, c.names, c.matrix, c.as_float) for c in columns]
        begin = int(self.starts[ranges[0][0]]) // PIECE
        held: list[Chunk] = []
        with contextlib.closing(self.rows.chunks(plain, PIECE, begin, None, ahead)) as chunks:
            for first, last in ranges:
                low, high = int(self.starts[first]), int(self.starts[last])
                held = [c for c in held if c.number * PIECE + c.count > low]
                while not held or held[-1].number * PIECE + held[-1].count < high:
                    chunk = next(chunks)
                    if chunk.number * PIECE + chunk.count > low:
                        held.append(chunk)
                yield self._cut(columns, held, first, last, low, high)

    def _cut(
        self,
        columns: Sequence[Column],
        held: list[Chunk],
        first: int,
        last: int,
        low: int,
        high: int,
    ) -> tuple[tuple[np.ndarray, ...], Callable[[int], str]]:
        base = held[0].number * PIECE
        found = []
        for i, column in enumerate(columns):
            rows = np.concatenate([c.arrays[i][: c.count] for c in held])[low - base : high - base]
            kind = getattr(column, "kind", ROW)
            own = self.starts[first : last + 1] - low
            if kind == NUMBER:
                rows = np.repeat(np.arange(last - first), np.diff(own))
            found.append(rows[own[:-1]] if kind == GROUP else rows)
        pieces = list(held)

        def place(row: int) -> str:
            at = low + min(row, high - low - 1)
            chunk = next(c for c in pieces if at < c.number * PIECE + c.count)
            return chunk.place(at - chunk.number * PIECE)

        return tuple(found), place
