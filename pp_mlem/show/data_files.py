"""What --data names: one table that fits in memory, or more than that, whose rows are read in chunks."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pp_mlem.base.free_memory import free_memory
from pp_mlem.base.lazy import pa, pa_parquet
from pp_mlem.data.stream import rows_in_chunk
from pp_mlem.show.options import Given, Output
from pp_mlem.sources import Column, Grouped, Source, open_source
from pp_mlem.sources.fields import OTHER, NotWhole
from pp_mlem.sources.files import COMPRESSED, FORMATS

VARIABLE = "PP_MLEM_STREAM"
SHARE = 4  # a table that takes more than this part (a quarter) of the free memory stays on disk
NUMBER = 8  # bytes
PARQUET = (".parquet", ".pq")
T = TypeVar("T")
Tell = Callable[[str], None]


def comes_in_chunks(given: Given) -> bool:
    """Whether the rows of --data stay on disk: where its files together are larger than a quarter of the free
    memory. A run remembers it of its own data; PP_MLEM_STREAM says it of all.

    Raises:
        ValueError: where that is neither always nor never.
    """
    wish = os.environ.get(VARIABLE, "").strip().lower()
    if wish not in ("", "always", "never"):
        raise ValueError(f"{VARIABLE}: received '{wish}', expected always or never.")
    if given.data is None:
        return False
    if wish or given.in_chunks is not None:
        return wish == "always" if wish else bool(given.in_chunks)
    return sum(map(_bytes_in_memory, _files(given.data))) > free_memory() / SHARE


def is_one_table(path: Path) -> bool:
    """Whether it is a file that is read whole, as a table."""
    if not path.is_file():
        return not path.is_dir() and not glob.has_magic(str(path))
    suffix = path.suffix.lower()
    return suffix not in COMPRESSED and FORMATS.get(suffix, "CSV") in ("CSV", "Parquet")


def _files(path: Path) -> list[Path]:
    """The files that a path, folder or glob names."""
    if path.is_dir():
        return [p for p in path.rglob("*") if p.is_file()]
    return [path] if path.exists() else [Path(p) for p in glob.iglob(str(path), recursive=True)]


def there_is(path: Path) -> bool:
    """Whether a path, folder or glob names anything."""
    return path.exists() or any(glob.iglob(str(path), recursive=True))


def _bytes_in_memory(path: Path) -> int:
    """Of a table once it is read; as much as the file where that does not tell."""
    if not path.is_file():
        return 0
    size = path.stat().st_size
    if path.suffix.lower() not in PARQUET:
        return size
    try:
        held = pa_parquet.read_metadata(path)
    except (ImportError, OSError, pa.ArrowException):  # what is wrong is told where it is read
        return size
    return max(size, NUMBER * held.num_rows * held.num_columns)


def opened(path: Path, **units: str) -> Source | Grouped:
    """Files as a source, with the option in the errors; `units` as `open_source` takes them."""
    try:
        return open_source(str(path), **units)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"--data: {error}") from None


@dataclass(frozen=True)
class OnDisk:
    """Columns of files, handed on as such; as arrays where the rows are to be `in_memory`. Those among `floats` are
    read as floats, and those that some file holds as integers and another one as floats."""

    source: Source | Grouped
    name: str
    in_memory: bool
    floats: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source.columns

    @property
    def is_array(self) -> bool:
        """Whether it is an array, whose columns have numbers for names."""
        return self.columns == tuple(map(str, range(len(self.columns))))

    def all(self) -> Any:
        return self._given(self.source[:])

    def numbers(self, columns: list[str]) -> Any:
        """(rows,) of one column, (rows, columns) of several."""
        return self._given(self.source[columns[0] if len(columns) == 1 else columns])

    def _given(self, column: Column) -> Any:
        if any(n in self.floats or self._differs(n) for n in column.names):
            column = column.float()
        return self.source.head((column,), self.source.count())[0] if self.in_memory else column

    def _differs(self, name: str) -> bool:
        """Whether files hold the column as numbers of several kinds."""
        rows = self.source.rows if isinstance(self.source, Grouped) else self.source
        parts = [p for p in rows.parts if p.known != 0 and name in p.fields]
        kinds = {p.fields[name].kind for p in parts}
        return len(kinds) > 1 and OTHER not in kinds


def with_floats(make: Callable[[frozenset[str]], T], tell: Tell) -> T:
    """What `make` makes, given the columns to read as floats: those of integers in which a cell turns out to be empty
    or to have decimals, as a table in memory has them."""
    floats: frozenset[str] = frozenset()
    while True:
        try:
            return make(floats)
        except NotWhole as error:
            if error.column in floats:
                raise
            floats |= {error.column}
            tell(f"Column '{error.column}' is read as floats: it has empty cells, or decimals.")


def tell_chunks(arguments: Mapping[str, Any], tell: Tell) -> None:
    """How many rows there are, and in how many chunks they come, where they do."""
    columns = [a for a in arguments.values() if isinstance(a, Column)]
    if not columns:
        return
    source: Source | Grouped = columns[0].source
    count = source.count()
    if isinstance(source, Grouped):
        tell(told_of_chunks(source, source.chunk_count, source.units))
        return
    rows = rows_in_chunk(count, sum(c.width or 1 for c in columns), source.chunk_rows)
    tell(told_of_chunks(source, -(-count // rows), rows))


def told_of_chunks(source: Source | Grouped, chunks: int, rows: int) -> str:
    """The data, and in how many chunks of how many rows (or groups) they come."""
    of = "up to " if isinstance(source, Grouped) else ""
    units = " groups" if isinstance(source, Grouped) else ""
    cut = f"{chunks:,} chunks of {of}{rows:,}{units}" if chunks > 1 else "one chunk"
    return f"Data in chunks: {source.describe()}, in {cut}"


def refuse_chunks(given: Given, what: str) -> None:
    """For what needs all rows at once."""
    if comes_in_chunks(given):
        refuse(given, what)


def refuse(given: Given, what: str) -> NoReturn:
    raise ValueError(
        f"{what} needs all rows at once, and those of {given.data} come in chunks. Fit a sample of the rows, as one "
        f"CSV or Parquet file, or all of them in memory, with {VARIABLE}=never in the environment."
    )


def parquet_of(data: str, output: Output) -> Path:
    """The Parquet file that labels of data in chunks go to."""
    if output.out is None or output.out.suffix.lower() not in PARQUET:
        told = "" if output.out is None else f" (received {output.out})"
        raise ValueError(
            f"--out: the rows of {data} come in chunks, and so do their labels; name a Parquet file for them, as "
            f"in --out labels.parquet{told}."
        )
    return output.out
