"""A part of a source: one file, one table in memory, or one stream of batches; read piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from pp_mlem.base.near import did_you_mean
from pp_mlem.sources.fields import OTHER, Field

PIECE = 1 << 16  # rows that are decoded at once
SHOWN_COLUMNS = 30

Place = Callable[[int], str]  # where a row stands


@dataclass(frozen=True)
class Piece:
    """Some rows of a part, from its row `begin` on: an array (rows,) or (rows, m) for each field
    asked for, and where each row stands."""

    begin: int
    rows: int
    arrays: tuple[np.ndarray, ...]
    place: Place

    @property
    def end(self) -> int:
        return self.begin + self.rows

    def since(self, begin: int) -> Piece:
        """Its rows from the part's row `begin` on."""
        cut = begin - self.begin
        if cut <= 0:
            return self
        arrays = tuple(a[cut:] for a in self.arrays)
        return Piece(begin, self.rows - cut, arrays, From(self.place, cut))


class From:
    """Places of the rows of a part from its row `begin` on, without the rows themselves."""

    def __init__(self, place: Place, begin: int) -> None:
        self.place, self.begin = place, begin

    def __call__(self, row: int) -> str:
        return self.place(self.begin + row)


def rows_of(name: str) -> Place:
    """Places by the name of a part and the row in it, from 1."""
    return partial(_row, f"{name}, " if name else "")


def _row(prefix: str, row: int) -> str:
    return f"{prefix}row {row + 1:,}"


class Part(Protocol):
    """Rows in a fixed order, that can be read again."""

    @property
    def name(self) -> str:
        """What errors call it; empty where it is all there is."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """Its columns."""

    @property
    def known(self) -> int | None:
        """Its rows, where that takes no pass over them."""

    def counted(self) -> int:
        """Its rows, by a pass where it must be."""

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        """Its rows in order from `begin` on, or from some row before it where the format reaches no
        nearer."""


def require_names(part: Part, names: Iterable[str], first: str = "") -> None:
    """That the part has these columns; the part that is called `first` has them."""
    for name in names:
        if name not in part.fields:
            here = f"{part.name}: " if part.name else ""
            held = f", which {first} has" if first else ""
            raise ValueError(
                f"{here}there is no column '{name}'{held}.{did_you_mean(name, part.fields)} Its "
                f"columns are {shown(part.fields)}."
            )


def require_fields(part: Part, fields: Iterable[Field], first: str) -> None:
    """That the part has these columns and that they are of the types that they are in the part called
    `first`."""
    fields = tuple(fields)
    require_names(part, (f.name for f in fields), first)
    for field in fields:
        own = part.fields[field.name]
        if field.takes(own):
            continue
        numbers = own.kind != OTHER and own.as_float().takes(field.as_float())
        remedy = f"Read it as floats, source['{field.name}'].float(), or w" if numbers else "W"
        raise TypeError(
            f"{part.name}: column '{field.name}' is of type {own.told}, in {first} it is "
            f"{field.told}. {remedy}rite both with one type."
        )


def shown(names: Iterable[str]) -> str:
    """The names, or the first of many."""
    every = [repr(n) for n in names]
    more = len(every) - SHOWN_COLUMNS
    return ", ".join(every[:SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")


def check_distinct(names: Iterable[str], where: str) -> None:
    """That no two columns share a name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"{where}: two columns are named '{name}'. Give each a name of its own."
            )
        seen.add(name)
