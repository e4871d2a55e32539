"""Parquet files: row groups that lie before the first row wanted are passed over, none is held whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import accumulate

from pp_mlem.base.lazy import pa, pa_parquet
from pp_mlem.sources.arrow import fields_of, pieces_of
from pp_mlem.sources.fields import Field
from pp_mlem.sources.files import File
from pp_mlem.sources.parts import PIECE, Piece, check_distinct

BUFFER = 1 << 20  # bytes of a column read at once: else a row group's whole column is


@dataclass(frozen=True)
class Parquet:
    """A file, and where each of its row groups ends."""

    file: File
    fields: dict[str, Field]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, file: File) -> Parquet:
        if not file.size:
            return cls(file, {}, ())
        with file.reading(), pa_parquet.ParquetFile(file.path) as opened:
            schema, metadata = opened.schema_arrow, opened.metadata
            groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        check_distinct(schema.names, file.name)
        return cls(file, fields_of(schema), tuple(accumulate(groups)))

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def known(self) -> int:
        return self.ends[-1] if self.ends else 0

    def counted(self) -> int:
        return self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        first = bisect_right(self.ends, begin)
        at = self.ends[first - 1] if first else 0
        batches = self.file.read(self._batches([f.name for f in fields], first), at)
        return pieces_of(batches, fields, at, self._place)

    def _batches(self, names: list[str], first: int) -> Iterator[pa.RecordBatch]:
        opened = pa_parquet.ParquetFile(self.file.path, buffer_size=BUFFER, pre_buffer=False)
        with opened:
            groups = range(first, len(self.ends))
            yield from opened.iter_batches(
                PIECE, row_groups=groups, columns=[*dict.fromkeys(names)]
            )

    def _place(self, row: int) -> str:
        return f"{self.name}, row {row + 1:,} (row group {bisect_right(self.ends, row)})"
