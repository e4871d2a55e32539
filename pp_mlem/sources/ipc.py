"""Arrow and Feather files: batch by batch; those that are not compressed by memory map."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pp_mlem.base.lazy import pa, pa_dataset, pa_fs, pa_ipc
from pp_mlem.sources.arrow import fields_of, pieces_of
from pp_mlem.sources.fields import Field
from pp_mlem.sources.files import File
from pp_mlem.sources.parts import PIECE, Piece, check_distinct, rows_of

MAPPED = 1 << 25  # bytes read through one memory map: its pages count as memory while it lives


@dataclass(frozen=True)
class Ipc:
    """A file and its rows."""

    file: File
    fields: dict[str, Field]
    known: int

    @classmethod
    def of(cls, file: File) -> Ipc:
        if not file.size:
            return cls(file, {}, 0)
        with file.reading():
            with pa.memory_map(str(file.path)) as mapped, pa_ipc.open_file(mapped) as opened:
                schema = opened.schema
            rows = _rows_by_metadata(file)
        check_distinct(schema.names, file.name)
        return cls(file, fields_of(schema), rows)

    @property
    def name(self) -> str:
        return self.file.name

    def counted(self) -> int:
        return self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        names = list(dict.fromkeys(f.name for f in fields))
        return pieces_of(self.file.read(self._batches(names)), fields, 0, rows_of(self.name))

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        mapped = self._is_mapped(names)
        fields = None if mapped else [list(self.fields).index(n) for n in names]
        number = row = 0
        while True:
            with self._opened(fields) as opened:
                left = MAPPED
                while left > 0 and number < opened.num_record_batches:
                    batch = opened.get_batch(number).select(names)
                    rows = batch.slice(row, PIECE) if mapped else batch
                    yield rows
                    left -= rows.nbytes
                    row += rows.num_rows
                    if row >= batch.num_rows:
                        number, row = number + 1, 0
                if number == opened.num_record_batches:
                    return

    def _is_mapped(self, names: list[str]) -> bool:
        """Whether columns are read where they lie. They are not where the file is compressed, nor,
        whatever it is, where some of its columns only are asked for."""
        with self._opened(None) as opened:
            batch = opened.get_batch(0).select(names)
        return any(b is not None and not b.is_mutable for c in batch.columns for b in c.buffers())

    @contextmanager
    def _opened(self, fields: list[int] | None) -> Iterator[pa_ipc.RecordBatchFileReader]:
        options = pa_ipc.IpcReadOptions(included_fields=fields)
        with pa.memory_map(str(self.file.path)) as mapped:
            with pa_ipc.open_file(mapped, options=options) as opened:
                yield opened


def _rows_by_metadata(file: File) -> int:
    """The sum of what the head of each batch says; by memory map, which passes over the rest."""
    disk = pa_fs.LocalFileSystem(use_mmap=True)
    return pa_dataset.IpcFileFormat().make_fragment(str(file.path), filesystem=disk).count_rows()
