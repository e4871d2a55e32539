"""What a column holds: numbers of one kind, or what cannot be computed with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

UNKNOWN = 0  # the width of lists whose length no schema tells
DTYPES = {"float": np.float64, "integer": np.int64, "boolean": np.bool_}
KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "boolean"}  # by NumPy's letters
OTHER = "other"


class NotWhole(ValueError):
    """For a cell of a column of integers or booleans that only floats can hold; `column` names it."""

    def __init__(self, told: str, column: str) -> None:
        super().__init__(told)
        self.column = column


@dataclass(frozen=True)
class Field:
    """A column: its `kind` ("float", "integer", "boolean", or "other", which holds no numbers), its
    type in the words of its library (`told`), and the `width` of its lists (None: one value a row).
    One that is `loose` is read as floats, whatever kind of numbers it holds."""

    name: str
    kind: str
    told: str
    width: int | None = None
    loose: bool = False

    def as_float(self) -> Field:
        return replace(self, kind="float", loose=True)

    def takes(self, own: Field) -> bool:
        """Whether a part whose column is `own` can be read as this one, as far as widths are known."""
        kinds = own.kind != OTHER if self.loose else own.kind == self.kind
        lists = (self.width is None) == (own.width is None)
        return kinds and lists and (self.width == own.width or UNKNOWN in (self.width, own.width))


def field_of_dtype(name: str, dtype: Any, width: int | None = None) -> Field:
    """The field of an array of NumPy's, or of an extension dtype of pandas."""
    return Field(name, KINDS.get(dtype.kind, OTHER), str(dtype), width)


def result_dtype(fields: tuple[Field, ...]) -> np.dtype:
    """What holds all of them: float64 before int64 before bool."""
    return np.result_type(*(DTYPES[f.kind] for f in fields))


def refuse_other(field: Field, where: str) -> NoReturn:
    """For a column without numbers."""
    raise TypeError(
        f"{where}: column '{field.name}' is of type {field.told}, expected numbers. Encode it as "
        "integers first (pandas.factorize gives codes; a date can become days since another)."
    )


def refuse_null(field: Field, where: str) -> NoReturn:
    """For an empty cell among integers or booleans."""
    raise NotWhole(
        f"{where}: column '{field.name}' ({field.told}) is empty there, and only floats can be "
        f"missing. Read it as floats, source['{field.name}'].float(), or fill the gap.",
        field.name,
    )


def checked_signed(values: np.ndarray, field: Field) -> np.ndarray:
    """The values, if int64 can hold them."""
    if values.dtype == np.uint64 and field.kind == "integer" and values.size:
        largest = values.max()
        if largest > np.iinfo(np.int64).max:
            raise NotWhole(
                f"column '{field.name}' ({field.told}) holds {largest}, beyond the largest 64-bit "
                f"integer with a sign. Read it as floats, source['{field.name}'].float().",
                field.name,
            )
    return values
