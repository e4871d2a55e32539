"""Arrow's columns as NumPy's arrays: without a copy where nothing is missing."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np

from pp_mlem.base.lazy import pa, pa_compute
from pp_mlem.sources.fields import OTHER, UNKNOWN, Field, checked_signed, refuse_null
from pp_mlem.sources.parts import PIECE, From, Piece, Place


def field_of(name: str, kind: pa.DataType) -> Field:
    """The field of a column of this Arrow type. A column of nulls only counts as floats."""
    lists = pa.types.is_fixed_size_list(kind), pa.types.is_list(kind), pa.types.is_large_list(kind)
    if any(lists):
        width = kind.list_size if lists[0] else UNKNOWN
        return Field(name, _kind(kind.value_type), str(kind), width)
    return Field(name, _kind(kind), str(kind))


def fields_of(schema: pa.Schema) -> dict[str, Field]:
    return {f.name: field_of(f.name, f.type) for f in schema}


def _kind(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        return "float"
    if types.is_integer(kind):
        return "integer"
    return "boolean" if types.is_boolean(kind) else OTHER


def numbers(array: pa.Array, field: Field, place: Place) -> np.ndarray:
    """A column as (rows,), or (rows, m) where it holds lists; null is NaN.

    Raises:
        ValueError: for a null where the field is not of floats, for lists of several lengths, with
            the place of the first such row.
    """
    if field.width is None:
        return _scalars(array, field, place)
    return _lists(array, field, place)


def _scalars(array: pa.Array, field: Field, place: Place) -> np.ndarray:
    kind = array.type
    if array.null_count and field.kind != "float":
        refuse_null(field, place(int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))))
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_decimal(kind) or (pa.types.is_boolean(kind) and array.null_count):
        array = array.cast(pa.float64())
    if array.null_count or pa.types.is_boolean(kind):
        return array.to_numpy(zero_copy_only=False)
    return checked_signed(np.from_dlpack(array), field)  # to_numpy would load pandas


def _lists(array: pa.Array, field: Field, place: Place) -> np.ndarray:
    lengths = pa_compute.list_value_length(array).to_numpy(zero_copy_only=False)  # NaN: no list
    rows = np.flatnonzero(lengths == lengths)
    width = field.width or int(lengths[rows[0]] if len(rows) else 0)
    if not width:
        where = place(int(rows[0]) if len(rows) else 0)
        raise ValueError(
            f"{where}: column '{field.name}' holds no values there, expected a list of numbers."
        )
    ragged = rows[lengths[rows] != width]
    if len(ragged):
        raise ValueError(
            f"{place(int(ragged[0]))}: column '{field.name}' holds a list of "
            f"{int(lengths[ragged[0]])}, before it lists of {width}. All must be of one length."
        )
    if array.null_count:
        if field.kind != "float":
            refuse_null(field, place(int(np.argmax(lengths != lengths))))
        array = array.drop_null()
    within = _scalars(array.flatten(), field, lambda i: place(int(rows[i // width])))
    if len(rows) == len(lengths):
        return within.reshape(-1, width)
    values = np.full((len(lengths), width), np.nan)
    values[rows] = within.reshape(-1, width)
    return values


def pieces_of(
    batches: Iterable[pa.RecordBatch], fields: tuple[Field, ...], begin: int, place: Place
) -> Generator[Piece, None, None]:
    """Batches that follow each other from the row `begin` on; `place` tells where a row of the part
    stands."""
    for batch in batches:
        for first in range(0, batch.num_rows, PIECE):
            part = batch.slice(first, PIECE)
            where = From(place, begin + first)
            arrays = tuple(numbers(part.column(f.name), f, where) for f in fields)
            yield Piece(begin + first, part.num_rows, arrays, where)
        begin += batch.num_rows
