"""Datasets of pyarrow's: their local Parquet files as such, else what they scan, in order."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pp_mlem.base.lazy import pa, pa_dataset, pa_fs
from pp_mlem.sources.arrow import fields_of, pieces_of
from pp_mlem.sources.fields import Field
from pp_mlem.sources.files import File, named_files
from pp_mlem.sources.parquet import Parquet
from pp_mlem.sources.parts import PIECE, Part, Piece, check_distinct, rows_of
from pp_mlem.sources.tables import Table

FIRST_ROWS = 1000  # by which a dataset that is no local files is known again


@dataclass(frozen=True)
class Scan:
    """A dataset, or one fragment of it. `known`: its rows where metadata tell; `file`: where it is one
    of this machine."""

    scanned: pa_dataset.Dataset | pa_dataset.Fragment
    schema: pa.Schema
    fields: dict[str, Field]
    known: int | None
    name: str
    file: File | None = None

    def counted(self) -> int:
        return self.scanned.count_rows() if self.known is None else self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        batches = self._batches([*dict.fromkeys(f.name for f in fields)])
        if self.file is not None:
            batches = self.file.read(batches)
        return pieces_of(batches, fields, 0, rows_of(self.name))

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        fragment = not isinstance(self.scanned, pa_dataset.Dataset)
        schema = {"schema": self.schema} if fragment else {}
        scanner = self.scanned.scanner(
            columns=names, batch_size=PIECE, batch_readahead=2, fragment_readahead=1, **schema
        )
        return scanner.to_batches()


def parts_of(dataset: pa_dataset.Dataset) -> tuple[Part, ...]:
    """The fragments of a dataset in its order; the whole as one part where it is filtered."""
    check_distinct(dataset.schema.names, "the dataset")
    fields = fields_of(dataset.schema)
    try:
        fragments = list(dataset.get_fragments())
    except ValueError:  # filtered: what is left of a fragment only the dataset tells
        return (Scan(dataset, dataset.schema, fields, None, "the filtered dataset"),)
    files = _local_files(fragments)
    if files and _is_plain_parquet(dataset, fragments):
        return tuple(Parquet.of(f) for f in files)
    return tuple(
        Scan(fragment, dataset.schema, fields, _rows(fragment), name, file)
        for fragment, name, file in zip(
            fragments, _names(fragments, files), files or [None] * len(fragments), strict=True
        )
    )


def first_digest(dataset: pa_dataset.Dataset) -> str:
    return Table.of(dataset.head(FIRST_ROWS)).digest()


def _local_files(fragments: Sequence[Any]) -> tuple[File, ...]:
    """The files of this machine that the fragments are; none where some are not."""
    local = all(
        isinstance(getattr(f, "filesystem", None), pa_fs.LocalFileSystem) and f.path
        for f in fragments
    )
    return named_files([Path(f.path).absolute() for f in fragments]) if local and fragments else ()


def _is_plain_parquet(dataset: pa_dataset.Dataset, fragments: Sequence[Any]) -> bool:
    """Whether the dataset says nothing but what its Parquet files do: no columns from names of
    folders, no other types, all row groups."""
    return all(
        isinstance(f, pa_dataset.ParquetFileFragment)
        and dataset.schema.equals(f.physical_schema)
        and f.num_row_groups == f.metadata.num_row_groups
        for f in fragments
    )


def _rows(fragment: Any) -> int | None:
    told = (pa_dataset.ParquetFileFormat, pa_dataset.IpcFileFormat)
    return fragment.count_rows() if isinstance(getattr(fragment, "format", None), told) else None


def _names(fragments: Sequence[Any], files: Sequence[File]) -> list[str]:
    if files:
        return [f.name for f in files]
    return [getattr(f, "path", "") or f"fragment {i + 1}" for i, f in enumerate(fragments)]
