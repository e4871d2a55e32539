"""What a model says of every row, written to a Parquet file chunk by chunk instead of returned."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.marginal.units import unit_layout

Table = dict[str, np.ndarray]  # columns (rows,) or (rows, several)


def write_rows(
    path: str | Path,
    chunks: Iterable[tuple[Any, int | None]],
    question: Callable[[Any], Mapping[str, Any]],
) -> Path:
    """The answers to a question of the rows of every model (its first ones, so many), one table in a file; the
    file is there only when it is whole.

    Raises:
        ImportError: without pyarrow.
        ValueError: where rows are not the units of the answers.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(
            "out: writing Parquet needs pyarrow, which is not installed: pip install pyarrow."
        ) from None
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer = None
    try:
        for model, count in chunks:
            columns = _columns(model, question(model), count)
            arrays = {name: _arrow(pa, values) for name, values in columns.items()}
            table = pa.table(arrays)
            writer = writer or pq.ParquetWriter(part, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
            part.replace(path)
    except BaseException:
        if writer is not None:
            writer.close()
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return path


def _arrow(pa: Any, values: np.ndarray) -> Any:
    """A column of numbers, or of lists of one length."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _columns(model: Any, answers: Mapping[str, Any], count: int | None) -> Table:
    """The answers by row: `z` where a latent has one number, `z[0]`, `z[1]`, ... where it has one for each value; lists
    along a scan."""
    found: Table = {}
    for name, own in answers.items():
        parts = {name: own}
        if hasattr(own, "covariance"):
            parts = {f"{name} mean": own.mean, f"{name} sd": own.sd}
        for column, values in parts.items():
            array = by_row(model, name, np.asarray(values))[:count]
            if array.ndim == 2:
                found |= {f"{column}[{i}]": array[:, i] for i in range(array.shape[1])}
            else:
                found[column] = array
    return found


def by_row(model: Any, name: str, array: np.ndarray) -> np.ndarray:
    """What is told of a latent, as (rows, ...)."""
    plates, _ = unit_layout(model.marginal, model.data)[0]
    site = model.reading.sites.get(name)
    if site is None:
        return array
    if len(plates) != 1 or plates[0] not in site.dims:
        raise ValueError(
            f"out: '{name}' is no latent of the rows, so it has no column; ask a model in memory for it."
        )
    order = sorted(site.dims, key=site.dims.__getitem__)
    return np.moveaxis(array, order.index(plates[0]), 0)
