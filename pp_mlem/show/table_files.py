"""Tables on disk as people have them: CSV of any separator and decimal sign, Parquet; and arguments from them."""

from __future__ import annotations

import csv
import inspect
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.base.near import did_you_mean
from pp_mlem.show.options import names_in

SEPARATORS = ",;\t|"
SAMPLE_LINES = 200
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")
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
    lines = [line for line in text[: 1 << 20].splitlines() if line.strip()][:SAMPLE_LINES]
    separator = found_separator(lines)
    single = len(next(csv.reader(lines, delimiter=separator))) == 1
    return pd.read_csv(
        io.BytesIO(raw.rstrip()), sep=separator, decimal=found_decimal(lines, separator),
        encoding=encoding, skipinitialspace=True, low_memory=False,
        skip_blank_lines=not single,  # in a single column an empty line is a missing value
    )  # fmt: skip


def found_separator(lines: list[str]) -> str:
    """The separator that splits header and rows alike, into the most fields."""
    best, most = ",", 1
    for separator in SEPARATORS:
        try:
            counts = {len(row) for row in csv.reader(lines, delimiter=separator) if row}
        except csv.Error:
            continue
        if len(counts) == 1 and (fields := counts.pop()) > most:
            best, most = separator, fields
    if most == 1:  # rows of different lengths: what splits the header, so that the reader can tell
        best = max(SEPARATORS, key=lambda s: len(next(csv.reader(lines[:1], delimiter=s), [])))
    return best


def found_decimal(lines: list[str], separator: str) -> str:
    """A comma where numbers have one and none has a point."""
    if separator == ",":
        return "."
    cells = [c for row in csv.reader(lines[1:], delimiter=separator) for c in row]
    commas = sum(DECIMAL_COMMA.fullmatch(c) is not None for c in cells)
    points = sum(DECIMAL_POINT.fullmatch(c) is not None for c in cells)
    return "," if commas > points else "."


def arguments_from_table(
    program: Callable[..., Any],
    table: pd.DataFrame,
    mapping: Mapping[str, str],
    source: str,
    settings: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Arguments of the program from the columns of a table.

    A column goes to the argument of its name; `mapping` sends other columns (several make a
    matrix) to an argument. What is in `settings` needs none.

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
    arguments = {}
    for name, parameter in parameters.items():
        if name in mapping:
            columns = names_in(mapping[name], table.columns)
        else:
            columns = [name] if name in table.columns and name not in settings else []
        if not columns:
            _refuse_absent(name, parameter, table, source, settings)
            continue
        values = numbers_in(table, columns, source)
        arguments[name] = values[:, 0] if len(columns) == 1 else values
    return arguments


def _refuse_absent(
    name: str, parameter: inspect.Parameter, table: pd.DataFrame, source: str, settings: Mapping
) -> None:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = parameter.default is inspect.Parameter.empty and parameter.kind not in several
    if needed and name not in settings:
        raise ValueError(
            f"{source}: no column for argument '{name}'.{did_you_mean(name, table.columns)} Its columns "
            f"are {_shown(table)}; map one with --column {name}=COLUMN (several, separated by commas, make "
            f"a matrix), or give a value with --set {name}=VALUE.{_headless(table)}"
        )


def _shown(table: pd.DataFrame) -> str:
    more = len(table.columns) - SHOWN_COLUMNS
    shown = ", ".join(repr(c) for c in table.columns[:SHOWN_COLUMNS])
    return f"{shown} and {more} more" if more > 0 else shown


def _headless(table: pd.DataFrame) -> str:
    """Whether the header looks like a row of numbers."""

    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    numbers = all(is_number(c) for c in table.columns)
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
                f"columns are {_shown(table)}."
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
