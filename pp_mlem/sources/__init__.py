"""Data larger than memory, read in chunks of one shape.

`open_source` makes a `Source` of what a user has; `source["x"]` is a `Column` of it, and
`source.chunks(columns, rows)` gives its rows as `Chunk`s. File by file, from the bottom: `fields` (what a
column holds), `parts` (what a source consists of), one file for each kind of part (`parquet`, `ipc`,
`csv_files`, `npy`, `arrays`, `tables`, `datasets`, `batches`), `chunks`, `ahead` (the reader thread),
`sample`, `source`, `grouped`, `opening`.
"""

from pp_mlem.sources.grouped import Grouped
from pp_mlem.sources.opening import open_source
from pp_mlem.sources.source import Chunk, Column, Source

__all__ = ["Chunk", "Column", "Grouped", "Source", "open_source"]
