"""`open_source`: what the forms of data that a user has become."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pp_mlem.base.checks import check_counts
from pp_mlem.base.lazy import pa_dataset
from pp_mlem.sources import datasets
from pp_mlem.sources.batches import Batches
from pp_mlem.sources.csv_files import Csv, Dialect
from pp_mlem.sources.files import File, files_at, named_files
from pp_mlem.sources.grouped import Grouped
from pp_mlem.sources.ipc import Ipc
from pp_mlem.sources.memory import is_frame, is_table, memory_part
from pp_mlem.sources.npy import Npy
from pp_mlem.sources.parquet import Parquet
from pp_mlem.sources.parts import Part
from pp_mlem.sources.sequences import sequences_of
from pp_mlem.sources.source import Source, shortened

EXPECTED = (
    "a path, folder or glob of Parquet, CSV, Arrow/Feather or .npy files (or a list of them), a dict of "
    "arrays or of .npy files by column, a DataFrame, a pyarrow Table or Dataset, or a function that "
    "starts an iterator of such tables"
)


def open_source(
    what: Any,
    *,
    sep: str | None = None,
    decimal: str | None = None,
    chunk_rows: int | None = None,
    groups: str | None = None,
    sequences: str | None = None,
    fill: Mapping[str, float] | None = None,
) -> Source | Grouped:
    """Data to be read in chunks, from what holds them.

    Args:
        what: a path, folder or glob of Parquet, CSV, Arrow/Feather or `.npy` files (a folder with all below
            it, sorted by path) or a list of them, in its order; a dict of `.npy` files by column; a pyarrow
            Dataset or Table, a DataFrame, a dict of arrays; a function without arguments that starts an
            iterator of record batches, tables, DataFrames or dicts of arrays, the same at each call.
        sep, decimal: of CSV files, the separator and what stands before decimals; by default they are found from
            the first lines of the first file (the separator is a comma, semicolon, tab or bar, of `.tsv` files a tab).
        chunk_rows: rows that a fit takes at a time; by default so many that a chunk is a few megabytes.
        groups: a column by which the rows are sorted: chunks then hold whole groups, which are the units of a fit, and
            `source[groups]` is the number of a row's group within its chunk; see `Grouped`.
        sequences: a column by which the rows, one for each step, are sorted: `source["y"]` is then (sequences, longest), the
            sequences are the units of a fit, and `source["n_steps"]` (sequences,) the steps of each.
        fill: with `sequences`, by column what follows the end of a shorter sequence, in place of NaN.

    Raises:
        ValueError: for a path that matches nothing, files that cannot be read, no rows at all, columns of
            one name or of different lengths.
        TypeError: for anything else.
        ImportError: where pyarrow is needed and not installed.
    """
    if sequences is not None:
        if groups is not None:
            raise ValueError("groups, sequences: received both; the units are one or the other.")
        if chunk_rows is not None:
            check_counts(chunk_rows=chunk_rows)
        steps = open_source(what, sep=sep, decimal=decimal, groups=sequences)
        if not isinstance(steps, Grouped):
            raise TypeError("sequences: expected a source of rows.")
        return replace(sequences_of(steps, dict(fill or {})), chunk_rows=chunk_rows)
    if fill is not None:
        raise ValueError(
            "fill: it says what follows the end of sequences; give sequences=, the column that tells them apart."
        )
    if groups is not None:
        found = open_source(what, sep=sep, decimal=decimal, chunk_rows=chunk_rows)
        if not isinstance(found, Source):
            raise ValueError(f"groups: the source is grouped by '{found.by}' already.")
        found[groups]
        return Grouped(found, groups)
    if chunk_rows is not None:
        check_counts(chunk_rows=chunk_rows)
        return replace(open_source(what, sep=sep, decimal=decimal), chunk_rows=chunk_rows)
    if isinstance(what, Source):
        return what
    if _is_files(what):
        source = _of_files(what, sep, decimal)
    elif sep is not None or decimal is not None:
        raise ValueError(f"sep, decimal: they are for CSV files, received {type(what).__name__}.")
    else:
        source = _of_memory(what)
    if all(part.known == 0 for part in source.parts):
        source.refuse_empty()
    return source


def _of_memory(what: Any) -> Source:
    if isinstance(what, Mapping) and any(isinstance(v, (str, os.PathLike)) for v in what.values()):
        return _of_arrays_on_disk(what)
    if is_frame(what) or is_table(what) or isinstance(what, Mapping):
        part = memory_part(what)
        if part is None or not part.fields:
            raise ValueError("received a table without columns.")
        told = "arrays in memory" if isinstance(what, Mapping) else "a table in memory"
        return Source((part,), told, partial(_identity, part))
    if "pyarrow" in sys.modules and isinstance(what, pa_dataset.Dataset):
        return _of_dataset(what)
    if isinstance(what, Iterator) or hasattr(what, "read_next_batch"):
        raise TypeError(
            f"received a {type(what).__name__}, which can be read once only. Pass a function that starts "
            "it anew: open_source(lambda: ...)."
        )
    if callable(what):
        batches = Batches.of(what)
        return Source((batches,), f"batches of {batches.name}", partial(_identity, batches))
    raise TypeError(f"received {type(what).__name__}, expected {EXPECTED}.")


def _identity(part: Any) -> dict[str, str]:
    if isinstance(part, Batches):
        return {"first batch": part.first_digest}
    return {"rows": str(part.known), "values": part.digest()}


def _is_files(what: Any) -> bool:
    def is_path(one: Any) -> bool:
        return isinstance(one, (str, os.PathLike))

    return is_path(what) or (isinstance(what, (list, tuple)) and all(map(is_path, what)))


def _of_files(what: Any, sep: str | None, decimal: str | None) -> Source:
    kind, files = files_at(what)
    if kind != "CSV" and (sep is not None or decimal is not None):
        raise ValueError(f"sep, decimal: they are for CSV files, received {kind} files.")
    if kind != ".npy":
        _need_pyarrow(files[0].name)
    parts: tuple[Part, ...]
    if kind == "Parquet":
        parts = tuple(Parquet.of(f) for f in files)
    elif kind == "Arrow":
        parts = tuple(Ipc.of(f) for f in files)
    elif kind == "CSV":
        parts = _csv_parts(files, sep, decimal)
    else:
        parts = tuple(Npy.of(f) for f in files)
    vector = kind == ".npy" and all(getattr(p, "vector", False) for p in parts if p.known)
    return Source(parts, _told(what, files), partial(_identity_of, files), vector)


def _csv_parts(files: Sequence[File], sep: str | None, decimal: str | None) -> tuple[Csv, ...]:
    """All read as the first with rows."""
    parts: list[Csv] = []
    known: Dialect | None = None
    for file in files:
        dialect = known or Dialect.of(file, sep, decimal)
        parts.append(Csv.of(file, dialect))
        known = known if parts[-1].empty else dialect
    first = next((p for p in parts if not p.empty), None)
    return tuple(p if first is None or p is first else p.of_types(first) for p in parts)


def _of_arrays_on_disk(what: Mapping[str, Any]) -> Source:
    files = {}
    for name, path in what.items():
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(
                f"column '{name}': received {type(path).__name__} beside paths of .npy files, expected "
                "paths or arrays alone."
            )
        kind, found = files_at(path)
        if kind != ".npy" or len(found) != 1:
            raise ValueError(f"column '{name}': received {path}, expected one .npy file.")
        files[str(name)] = found[0]
    named = named_files([f.path for f in files.values()])
    part = Npy.of_named(dict(zip(files, named, strict=True)))
    return Source((part,), _told(list(what.values()), named), partial(_identity_of, named))


def _of_dataset(dataset: pa_dataset.Dataset) -> Source:
    parts = datasets.parts_of(dataset)
    files = tuple(f for f in (getattr(p, "file", None) for p in parts) if f is not None)
    if len(files) == len(parts):
        return Source(parts, _told([f.path for f in files], files), partial(_identity_of, files))
    return Source(parts, "a dataset", partial(_identity_of_dataset, dataset))


def _identity_of_dataset(dataset: pa_dataset.Dataset) -> dict[str, str]:
    return {"first rows": datasets.first_digest(dataset)}


def _identity_of(files: Sequence[File]) -> dict[str, str]:
    return {
        "files": shortened(", ".join(f.name for f in files)),
        "sizes": shortened(", ".join(str(f.size) for f in files)),
        "modified": shortened(", ".join(str(f.changed) for f in files)),
    }


def _told(what: Any, files: Sequence[File]) -> str:
    if len(files) == 1:
        return f"file '{files[0].name}'"
    if isinstance(what, (str, os.PathLike)):
        return f"{len(files)} files '{what}'"
    return f"{len(files)} files '{files[0].name}' to '{files[-1].name}'"


def _need_pyarrow(name: str) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(f"{name} needs pyarrow, which is not installed: pip install pyarrow.")
