"""Arrow's tables in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass

from pp_mlem.base.lazy import pa
from pp_mlem.sources.arrow import fields_of, pieces_of
from pp_mlem.sources.fields import Field
from pp_mlem.sources.parts import PIECE, Piece, check_distinct, rows_of


@dataclass(frozen=True)
class Table:
    """A table in memory."""

    table: pa.Table
    fields: dict[str, Field]
    name: str = ""

    @classmethod
    def of(cls, table: pa.Table | pa.RecordBatch, name: str = "") -> Table:
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        check_distinct(table.schema.names, name or "the table")
        return cls(table, fields_of(table.schema), name)

    @property
    def known(self) -> int:
        return self.table.num_rows

    def counted(self) -> int:
        return self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        names = [*dict.fromkeys(f.name for f in fields)]
        batches = self.table.select(names).slice(begin).to_batches(PIECE)
        return pieces_of(batches, fields, begin, rows_of(self.name))

    def digest(self) -> str:
        """Of its contents, however they are cut into batches."""
        found = hashlib.sha256(self.table.schema.remove_metadata().to_string().encode())
        for start in range(0, self.known, PIECE):
            for batch in self.table.slice(start, PIECE).combine_chunks().to_batches():
                found.update(batch.serialize())
        return found.hexdigest()[:32]
