"""Batches of rows from an iterator that a function starts anew for each pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pp_mlem.sources.arrays import Arrays
from pp_mlem.sources.fields import Field
from pp_mlem.sources.memory import memory_part
from pp_mlem.sources.parts import Piece, require_fields
from pp_mlem.sources.tables import Table

EXPECTED = "an iterable of tables (pyarrow RecordBatch or Table, DataFrame, or dict of arrays)"


@dataclass(frozen=True)
class Batches:
    """What a function starts, and the first batch with rows as it was when the source was opened: its
    columns, its place and its digest."""

    start: Callable[[], Iterable[Any]]
    fields: Mapping[str, Field]
    first: str
    first_digest: str
    name: str
    known: None = None

    @classmethod
    def of(cls, start: Callable[[], Iterable[Any]]) -> Batches:
        """Raises TypeError and ValueError where it cannot be started twice, or gives no rows."""
        name = f"{getattr(start, '__name__', type(start).__name__)}()"
        _check_fresh(start, name)
        part = cls(start, {}, "", "", name)
        with contextlib.closing(part._tables()) as tables:
            first = next(tables, None)
        if first is None:
            raise ValueError(f"{name} gives no rows.")
        return replace(part, fields=first.fields, first=first.name, first_digest=first.digest())

    def counted(self) -> int:
        with contextlib.closing(self._tables()) as tables:
            return sum(table.known for table in tables)

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        at = 0
        with contextlib.closing(self._tables()) as tables:
            for number, table in enumerate(tables):
                if number == 0:
                    self._check_first(table)
                require_fields(table, fields, self.first)
                for piece in table.pieces(fields, 0):
                    yield replace(piece, begin=at + piece.begin)
                at += table.known
        if not at:
            self._refuse_other()

    def _tables(self) -> Generator[Arrays | Table, None, None]:
        """Each batch with rows, named by its number from 1."""
        batches = _started(self.start, self.name)
        try:
            for number, batch in enumerate(batches, 1):
                table = memory_part(batch, f"batch {number:,}")
                if table is None:
                    raise TypeError(
                        f"{self.name}: batch {number:,} is of type {type(batch).__name__}, expected "
                        f"{EXPECTED}."
                    )
                if table.known:
                    yield table
        finally:
            _close(batches)

    def _check_first(self, table: Arrays | Table) -> None:
        if (table.name, table.digest()) != (self.first, self.first_digest):
            self._refuse_other()

    def _refuse_other(self) -> NoReturn:
        raise ValueError(
            f"{self.name} begins with other rows than when its source was opened, or has none left. Each "
            "call must start the same rows in the same order; one that hands on an iterator used before, "
            "or shuffles, does not."
        )


def _started(start: Callable[[], Iterable[Any]], name: str) -> Iterator[Any]:
    found = start()
    if not isinstance(found, Iterable) or memory_part(found) is not None:
        raise TypeError(f"{name}: received {type(found).__name__}, expected {EXPECTED}.")
    return iter(found)


def _check_fresh(start: Callable[[], Iterable[Any]], name: str) -> None:
    """That two calls give two iterators."""
    one, other = _started(start, name), _started(start, name)
    if one is other:
        raise ValueError(
            f"{name} gives the same iterator at each call, which a first pass uses up. Write a function "
            "that makes a new one, as in `def batches(): yield from read()`."
        )
    _close(one)
    _close(other)


def _close(batches: Any) -> None:
    if hasattr(batches, "close"):
        batches.close()
