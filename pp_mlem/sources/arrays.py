"""Arrays and data frames in memory."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pp_mlem.base.fingerprint import digest
from pp_mlem.base.lazy import pd
from pp_mlem.sources.fields import (
    DTYPES,
    OTHER,
    Field,
    checked_signed,
    field_of_dtype,
    refuse_null,
)
from pp_mlem.sources.parts import PIECE, From, Piece, check_distinct, rows_of


@dataclass(frozen=True)
class Arrays:
    """Columns of as many rows: arrays of NumPy's or columns of a data frame."""

    columns: Mapping[str, Any]
    fields: Mapping[str, Field]
    known: int
    name: str = ""

    @classmethod
    def of(cls, columns: Mapping[Any, Any], name: str = "") -> Arrays:
        """Raises TypeError and ValueError for what is no column, and columns of different lengths."""
        check_distinct((str(n) for n in columns), name or "the arrays")
        held = {str(n): _column(str(n), values, name) for n, values in columns.items()}
        lengths = {n: len(values) for n, values in held.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{n!r} {rows:,}" for n, rows in lengths.items())
            where = f"{name}: " if name else ""
            raise ValueError(
                f"{where}columns of different lengths (rows: {told}); all must have as many."
            )
        fields = {n: _field(n, values) for n, values in held.items()}
        return cls(held, fields, next(iter(lengths.values()), 0), name)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, name: str = "") -> Arrays:
        check_distinct((str(c) for c in frame.columns), name or "the data frame")
        series = {str(c): frame.iloc[:, place] for place, c in enumerate(frame.columns)}
        return cls.of(series, name)

    def counted(self) -> int:
        return self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        for start in range(begin, self.known, PIECE):
            stop = min(start + PIECE, self.known)
            place = From(rows_of(self.name), start)
            arrays = tuple(
                _numbers(_rows(self.columns[f.name], start, stop), f, place) for f in fields
            )
            yield Piece(start, stop - start, arrays, place)

    def digest(self) -> str:
        return digest({n: _plain(values) for n, values in self.columns.items()})


def _is_series(values: Any) -> bool:
    return "pandas" in sys.modules and isinstance(values, pd.Series)


def _rows(values: Any, start: int, stop: int) -> Any:
    return values.iloc[start:stop] if _is_series(values) else values[start:stop]


def _column(name: str, values: Any, where: str) -> Any:
    if _is_series(values):
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"column '{name}': received a masked array, expected one with NaN where values are "
            "missing: array.filled(numpy.nan)."
        )
    array = np.asarray(values)
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        here = f"{where}: " if where else ""
        raise ValueError(
            f"{here}column '{name}': received shape {array.shape}, expected (rows,) or (rows, m)."
        )
    return array


def _field(name: str, values: Any) -> Field:
    if _is_series(values):
        return field_of_dtype(name, values.dtype)
    return field_of_dtype(name, values.dtype, values.shape[1] if values.ndim == 2 else None)


def _numbers(values: Any, field: Field, place: From) -> np.ndarray:
    if not _is_series(values):
        return checked_signed(values, field)
    if isinstance(values.dtype, np.dtype):
        return checked_signed(values.to_numpy(), field)
    empty = values.isna().to_numpy()
    if not empty.any():
        return values.to_numpy(DTYPES[field.kind])
    if field.kind != "float":
        refuse_null(field, place(int(np.argmax(empty))))
    return values.to_numpy(np.float64, na_value=np.nan)


def _plain(values: Any) -> Any:
    """Arrays that are equal where the values are."""
    if not _is_series(values) or isinstance(values.dtype, np.dtype):
        return np.asarray(values)
    kind = _field("", values).kind
    if kind == OTHER:
        return values.to_numpy(object)
    return values.isna().to_numpy(), values.to_numpy(DTYPES[kind], na_value=0)
