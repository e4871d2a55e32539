"""A source: rows larger than memory, read in chunks of one shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.fingerprint import digest
from pp_mlem.sources.ahead import ahead as read_ahead
from pp_mlem.sources.chunks import Chunk, Slot, chunked
from pp_mlem.sources.fields import OTHER, UNKNOWN, Field, refuse_other, result_dtype
from pp_mlem.sources.parts import PIECE, Part, Piece, require_fields, require_names
from pp_mlem.sources.sample import drawn

LONG = 200  # characters of a fingerprint, beyond which it is a digest


@dataclass(frozen=True)
class Column:
    """One column of a source, (rows,) or (rows, m) where it holds lists; as a `matrix` several, (rows,
    columns). A matrix is of floats where one of its columns is."""

    source: Source
    names: tuple[str, ...]
    matrix: bool
    as_float: bool = False

    def float(self) -> Column:
        """The same as floats: integers and booleans that are missing (null) become NaN."""
        return replace(self, as_float=True)

    @property
    def fields(self) -> tuple[Field, ...]:
        own = tuple(self.source.field(name) for name in self.names)
        return tuple(f.as_float() for f in own) if self.as_float else own

    @property
    def dtype(self) -> np.dtype:
        """float64, int64 or bool."""
        return result_dtype(self.fields)

    @property
    def width(self) -> int | None:
        """The length of the last axis of (rows, m); None of (rows,)."""
        widths = [f.width for f in self.fields]
        return sum(w or 1 for w in widths) if self.matrix else widths[0]


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Rows in a fixed order, in parts (files, tables) that follow one another. `learned` holds the rows
    of parts that a pass has counted, `widths` the length of lists that a look at the first has told; `chunk_rows` how
    many rows a fit is to take at a time, None where it chooses."""

    parts: tuple[Part, ...]
    told: str
    identify: Callable[[], dict[str, str]]
    vector: bool = False
    learned: dict[int, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    chunk_rows: int | None = None
    units: str = "rows"

    def __repr__(self) -> str:
        return f"Source({self.describe()})"

    def __getitem__(self, key: str | list[str] | slice) -> Column:
        """A column by its name, several as a matrix by a list of names, all as a matrix by [:] (of an
        .npy file that holds a vector: the vector).

        Raises:
            ValueError: for a column that is not there, with the nearest.
            TypeError: for a column that holds no numbers.
        """
        if isinstance(key, slice):
            if key != slice(None):
                raise TypeError(f"received [{key!r}], expected a name, a list of names, or [:].")
            column = Column(self, self.columns, not self.vector)
        elif isinstance(key, str):
            column = Column(self, (key,), False)
        elif isinstance(key, (list, tuple)) and key and all(isinstance(n, str) for n in key):
            column = Column(self, tuple(key), True)
        else:
            raise TypeError(f"received [{key!r}], expected a name, a list of names, or [:].")
        self._check_names(column.names)
        for name in column.names:
            self.field(name)
        return column

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.fields)

    @property
    def fields(self) -> Mapping[str, Field]:
        """What the columns hold, by their names; see `field` for widths that no schema tells."""
        return self._first.fields

    @property
    def _first(self) -> Part:
        """The first part with rows, whose columns are those of the source."""
        return next(p for p in self.parts if p.known != 0)

    def field(self, name: str) -> Field:
        """What a column holds."""
        own = self._first.fields[name]
        if own.kind == OTHER:
            refuse_other(own, self._first.name or self.told)
        if own.width != UNKNOWN:
            return own
        if name not in self.widths:
            with contextlib.closing(self._pieces((own,), 0)) as pieces:
                self.widths[name] = next(pieces).arrays[0].shape[1]
        return replace(own, width=self.widths[name])

    def count(self) -> int:
        """The rows of the source: by its metadata, else by one pass, remembered."""
        for number, part in enumerate(self.parts):
            if self._rows(number) is None:
                self.learned[number] = part.counted()
        return sum(self._rows(number) or 0 for number in range(len(self.parts)))

    def _rows(self, number: int) -> int | None:
        """The rows of a part, if known."""
        return self.learned.get(number, self.parts[number].known)

    def fingerprint(self) -> dict[str, str]:
        """What identifies the data, by name: of files their names, sizes and times of change, of arrays
        a digest; and the columns."""
        fields = self._first.fields.values()
        return {
            **self.identify(),
            "columns": shortened(", ".join(f"{f.name}: {f.told}" for f in fields)),
        }

    def describe(self) -> str:
        """In a line: "3 files 'folder/*.parquet', 12,000,000 rows" (the rows where they are known)."""
        rows = [self._rows(number) for number in range(len(self.parts))]
        known = [r for r in rows if r is not None]
        return f"{self.told}, {sum(known):,} {self.units}" if len(known) == len(rows) else self.told

    def chunks(
        self, columns: Sequence[Column], rows: int, begin: int = 0, end: int | None = None,
        ahead: int = 2,
    ) -> Generator[Chunk, None, None]:  # fmt: skip
        """Chunks `begin` to `end` (excluded; None: to the last) of `rows` rows each, in order; `ahead` of
        them are made in advance in a thread, which ends with the iterator (0: without a thread).

        Raises:
            ValueError, TypeError: for columns that are not all of one type in all files; while it runs,
                with file and row, for what cannot be read and data that have changed.
        """
        check_counts(rows=rows)
        check_counts(0, begin=begin, ahead=ahead, end=begin if end is None else end)
        fields, slots = self._layout(columns)
        start = partial(self._chunks, fields, slots, rows, begin, end)
        return read_ahead(start, ahead) if ahead else start()

    def sample(self, columns: Sequence[Column], rows: int, seed: int) -> tuple[np.ndarray, ...]:
        """That many rows drawn uniformly without replacement, in the order of the source, in one pass; all
        where it has fewer."""
        check_counts(rows=rows)
        check_seed(seed)
        with contextlib.closing(self.chunks(columns, PIECE)) as chunks:
            return drawn(chunks, rows, seed)

    def head(self, columns: Sequence[Column], rows: int) -> tuple[np.ndarray, ...]:
        """The first rows; all where the source has fewer."""
        check_counts(rows=rows)
        length = min(rows, PIECE)
        with contextlib.closing(self.chunks(columns, length, 0, -(-rows // length), 0)) as chunks:
            held = [tuple(array[: chunk.count] for array in chunk.arrays) for chunk in chunks]
        return tuple(np.concatenate(arrays)[:rows] for arrays in zip(*held, strict=True))

    def between(self, columns: Sequence[Column], first: int, last: int) -> tuple[np.ndarray, ...]:
        """The rows from one number to another (excluded), among the first ones."""
        return tuple(array[first:] for array in self.head(columns, last))

    def units_of(self, columns: Sequence[Column], arrays: Sequence[np.ndarray]) -> int:
        """How many rows these arrays have."""
        return len(arrays[0])

    def _check_names(self, names: Sequence[str]) -> None:
        first = self._first
        require_names(first, names)
        for part in self.parts:
            if part.known != 0:
                require_names(part, names, first.name)

    def _layout(self, columns: Sequence[Column]) -> tuple[tuple[Field, ...], tuple[Slot, ...]]:
        """The fields to read, each once, and how they make up the columns."""
        columns = (columns,) if isinstance(columns, Column) else tuple(columns)
        if not columns:
            raise ValueError("columns: received none.")
        for column in columns:
            if not isinstance(column, Column) or column.source is not self:
                raise TypeError(
                    f"columns: received {column!r}, expected columns of this source, as source['x'] is."
                )
        fields = tuple(dict.fromkeys(f for column in columns for f in column.fields))
        for part in self.parts:
            if part.known != 0:
                require_fields(part, fields, self._first.name)
        return fields, tuple(Slot.of(c.fields, c.matrix, fields) for c in columns)

    def _chunks(
        self,
        fields: tuple[Field, ...],
        slots: tuple[Slot, ...],
        rows: int,
        begin: int,
        end: int | None,
    ) -> Generator[Chunk, None, None]:
        if end is not None and begin >= end:
            return
        with contextlib.closing(self._pieces(fields, begin * rows)) as pieces:
            for chunk in chunked(pieces, slots, rows, begin):
                yield chunk
                if chunk.number + 1 == end:
                    return

    def _pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        """The rows from `begin` on; parts known to lie before it are passed over."""
        from_start, found = not begin, 0
        for number, part in enumerate(self.parts):
            known = self._rows(number)
            if known is not None and begin >= known:
                begin -= known
                continue
            end = 0
            with contextlib.closing(part.pieces(fields, begin)) as pieces:
                for piece in pieces:
                    end = piece.end
                    self._check_rows(part, known, end, done=False)
                    if end > begin:
                        yield piece.since(begin)
                    del piece
            self._check_rows(part, known, end, done=True)
            self.learned[number] = end
            begin = max(begin - end, 0)
            found += end
        if from_start and not found:
            self.refuse_empty()

    def refuse_empty(self) -> NoReturn:
        raise ValueError(f"{self.told}: there are no rows in it.")

    def _check_rows(self, part: Part, known: int | None, found: int, done: bool) -> None:
        """That a part still has the rows that it had."""
        if known is None or found == known or (found < known and not done):
            return
        told = f"{found:,} rows" if done else f"more than {known:,} rows"
        raise ValueError(
            f"{part.name or self.told} gives {told}, and gave {known:,} in an earlier pass. All passes "
            "must meet the same rows in the same order."
        )


def shortened(text: str) -> str:
    """A text for a fingerprint."""
    return text if len(text) <= LONG else digest(text)
