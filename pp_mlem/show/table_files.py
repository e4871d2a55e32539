"""Tables on disk as people have them: CSV of any separator and decimal sign, Parquet; and arguments from them."""

from __future__ import annotations

import csv
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from pp_mlem.base.csv_signs import first_lines, found_decimal, found_separator
from pp_mlem.base.lazy import pd
from pp_mlem.base.near import did_you_mean
from pp_mlem.show.options import names_in

SHOWN_COLUMNS = 30
FEW = 5  # cells that are no numbers, up to which they are slips and not a column of words


def read_table(path: Path, option: str = "--data") -> pd.DataFrame:
    """A CSV or Parquet file. Of a CSV file the separator (comma, semicolon, tab, bar) and the decimal
    sign are found from its first lines."""
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, there)
        raise ValueError(f"{option}: there is no file {path}.{near}")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path, option)
    try:
        table = _read_csv(path)
    except ValueError as error:
        raise ValueError(f"{option}: {path} cannot be read as a table: {error}") from None
    table.columns = [str(c) for c in table.columns]
    if not len(table):
        raise ValueError(f"{option}: {path} has a header ({', '.join(table.columns)}) but no rows.")
    return table


def _read_parquet(path: Path, option: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise ValueError(
            f"{option}: {path} needs pyarrow, which is not installed: pip install pyarrow, or save "
            "the table as CSV."
        ) from None
    except Exception as error:
        told = str(error).splitlines()[0]
        raise ValueError(f"{option}: {path} cannot be read as Parquet: {told}") from None


def _read_csv(path: Path) -> pd.DataFrame:
    raw = path.read_bytes()
    try:
        text, encoding = raw.decode("utf-8-sig"), "utf-8-sig"
    except UnicodeDecodeError:
        text, encoding = raw.decode("latin-1"), "latin-1"
    if not text.strip():
        raise ValueError("it is empty.")
    if "\0" in text[:4096]:
        raise ValueError("it is no text; CSV and Parquet can be read.")
    lines = first_lines(text)
    separator = found_separator(lines)
    single = len(next(csv.reader(lines, delimiter=separator))) == 1
    return pd.read_csv(
        io.BytesIO(raw.rstrip()), sep=separator, decimal=found_decimal(lines, separator),
        encoding=encoding, skipinitialspace=True, low_memory=False,
        skip_blank_lines=not single,  # in a single column an empty line is a missing value
    )  # fmt: skip


class Data(Protocol):
    """Named columns of numbers."""

    @property
    def name(self) -> str:
        """What errors call them all."""

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def is_array(self) -> bool:
        """Whether they are an array, whose columns have numbers for names."""

    def all(self) -> Any:
        """All as one array."""

    def numbers(self, columns: list[str]) -> Any:
        """(rows,) of one column, (rows, columns) of several."""


@dataclass(frozen=True)
class Table:
    """A table in memory."""

    table: pd.DataFrame
    name: str
    is_array: bool = False

    @property
    def columns(self) -> Sequence[str]:
        return list(self.table.columns)

    def all(self) -> np.ndarray:
        return self.numbers(list(self.columns))

    def numbers(self, columns: list[str]) -> np.ndarray:
        values = numbers_in(self.table, columns, self.name)
        return values[:, 0] if len(columns) == 1 else values


def arguments_from(
    program: Callable[..., Any],
    data: Data,
    mapping: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of the program from columns.

    A column goes to the argument of its name; `mapping` sends other columns (several make a
    matrix) to an argument. What is in `settings` needs none. An array goes as a whole to the one argument that
    needs data.

    Raises:
        ValueError: for columns and arguments that are not there, and cells that are no numbers.
    """
    parameters = inspect.signature(program).parameters
    known = list(parameters)
    for name in mapping:
        if name not in parameters:
            raise ValueError(
                f"--column: the program has no argument '{name}'.{did_you_mean(name, known)} Its "
                f"arguments are {', '.join(known)}."
            )
    needed = [n for n, p in parameters.items() if n not in settings and _is_needed(p)]
    if data.is_array and not mapping and len(needed) == 1:
        return {needed[0]: data.all()}
    arguments = {}
    for name in parameters:
        if name in mapping:
            columns = names_in(mapping[name], data.columns)
        else:
            columns = [name] if name in data.columns and name not in settings else []
        if columns:
            arguments[name] = data.numbers(columns)
        elif name in needed:
            _refuse_absent(name, data)
    return arguments


def _is_needed(parameter: inspect.Parameter) -> bool:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in several


def _refuse_absent(name: str, data: Data) -> NoReturn:
    raise ValueError(
        f"{data.name}: no column for argument '{name}'.{did_you_mean(name, data.columns)} Its columns "
        f"are {_shown(data.columns)}; map one with --column {name}=COLUMN (several, separated by commas, make "
        f"a matrix), or give a value with --set {name}=VALUE.{_headless(data)}"
    )


def _shown(columns: Sequence[str]) -> str:
    more = len(columns) - SHOWN_COLUMNS
    shown = ", ".join(repr(c) for c in columns[:SHOWN_COLUMNS])
    return f"{shown} and {more} more" if more > 0 else shown


def _headless(data: Data) -> str:
    """Whether the header looks like a row of numbers."""

    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    numbers = not data.is_array and all(is_number(c) for c in data.columns)
    return " The first line, which should name the columns, holds numbers." if numbers else ""


def numbers_in(table: pd.DataFrame, columns: list[str], source: str) -> np.ndarray:
    """The columns (rows, columns) as numbers.

    Raises:
        ValueError: for a column that is not there, with the nearest; for cells that are no numbers,
            the first with its row and column.
    """
    for column in columns:
        if column not in table.columns:
            raise ValueError(
                f"{source}: there is no column '{column}'.{did_you_mean(column, table.columns)} Its "
                f"columns are {_shown(list(table.columns))}."
            )
        _check_numbers(table[column], column, source)
    return table[columns].to_numpy()


def _check_numbers(values: pd.Series, column: str, source: str) -> None:
    if pd.api.types.is_numeric_dtype(values):
        return
    bad = pd.to_numeric(values, errors="coerce").isna() & values.notna()
    rows = np.flatnonzero(bad.to_numpy())
    first = f"row {rows[0] + 1} (line {rows[0] + 2} of the file)" if len(rows) else ""
    if 0 < len(rows) <= FEW and len(rows) < len(values) / 2:
        others = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise ValueError(
            f"{source}: column '{column}', {first}: {values.iloc[rows[0]]!r} is not a number{others}. "
            "Correct it, or leave the cell empty where the value is missing."
        )
    raise ValueError(
        f"{source}: column '{column}' is not numeric: {first or 'its first row'} holds "
        f"{values.iloc[rows[0] if len(rows) else 0]!r}. Encode it as numbers first."
    )
