"""What a model says of every row, written to a Parquet file chunk by chunk instead of returned."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base import processes
from pp_mlem.marginal.units import unit_layout

SHARES = "rows-?????-of-?????.parquet"
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
        OSError: for a file that cannot be written.
        ValueError: where rows are not the units of the answers.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"out: {path} is a folder, as several processes write, and this one writes a file. Name another, or remove it."
        )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if _write(part, chunks, question):
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def write_share(
    folder: str | Path,
    chunks: Iterable[tuple[Any, int | None]],
    question: Callable[[Any], Mapping[str, Any]],
) -> Path:
    """The same of the rows of this process, a file in a folder that all processes fill:
    `rows-00000-of-00002.parquet` is that of the first of two. Readers of Parquet take the folder for one table, its rows
    in the order of the source. All files take their places together, after every process has written its own; those
    of an earlier call go.

    Raises:
        FileExistsError: where the folder is a file, or has other Parquet files, which readers would take for rows.
    """
    folder, step = Path(folder), f"writing {folder}"
    count = f"-of-{processes.count():05d}.parquet"
    name = f"rows-{processes.rank():05d}{count}"
    part = folder / f".{name}.part"
    try:
        with processes.telling():
            _check_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
            _write(part, chunks, question)
        processes.met(step)
        with processes.telling():
            if processes.rank() == 0:
                for old in (*folder.glob(SHARES), *folder.glob(f".{SHARES}.part")):
                    if not old.name.endswith(f"{count}.part"):
                        old.unlink()
        processes.met(step)
        with processes.telling():
            part.replace(folder / name)
        processes.met(step)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return folder


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"out: {folder} is a file, and {processes.count()} processes write a folder of files. Name another, or remove it."
        )
    others = sorted(set(folder.glob("*.parquet")) - set(folder.glob(SHARES)))
    if others:
        raise FileExistsError(
            f"out: the folder {folder} has other Parquet files ({others[0].name}), which readers would take for rows of the "
            "same table. Name a folder of its own."
        )


def _write(
    part: Path,
    chunks: Iterable[tuple[Any, int | None]],
    question: Callable[[Any], Mapping[str, Any]],
) -> bool:
    """Whether there were rows to write into this file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(
            "out: writing Parquet needs pyarrow, which is not installed: pip install pyarrow."
        ) from None
    writer = None
    try:
        for model, count in chunks:
            columns = _columns(model, question(model), count)
            arrays = {name: _arrow(pa, values) for name, values in columns.items()}
            table = pa.table(arrays)
            writer = writer or pq.ParquetWriter(part, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return writer is not None


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
