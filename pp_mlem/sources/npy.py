"""Arrays in `.npy` files, by memory map."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np

from pp_mlem.sources.fields import Field, checked_signed, field_of_dtype
from pp_mlem.sources.files import File
from pp_mlem.sources.parts import PIECE, From, Piece, rows_of


@dataclass(frozen=True)
class Npy:
    """Files of as many rows; each field is a file's array, or a column of it, `cells` (file, column)."""

    files: tuple[File, ...]
    fields: dict[str, Field]
    cells: dict[str, tuple[int, int | None]]
    known: int
    vector: bool = False

    @classmethod
    def of(cls, file: File) -> Npy:
        """One file, its columns named by position."""
        array = _mapped(file)
        if array is None:
            return cls((file,), {}, {}, 0)
        names = [str(j) for j in range(array.shape[1] if array.ndim == 2 else 1)]
        fields = {n: field_of_dtype(n, array.dtype) for n in names}
        cells = {n: (0, None if array.ndim == 1 else int(n)) for n in names}
        return cls((file,), fields, cells, len(array), array.ndim == 1)

    @classmethod
    def of_named(cls, files: Mapping[str, File]) -> Npy:
        """A file for each column.

        Raises:
            ValueError: where they differ in length.
        """
        arrays = {name: _mapped(file) for name, file in files.items()}
        lengths = {name: 0 if a is None else len(a) for name, a in arrays.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{n!r} {rows:,}" for n, rows in lengths.items())
            raise ValueError(f"columns of different lengths (rows: {told}); all must have as many.")
        fields = {
            n: field_of_dtype(n, a.dtype, a.shape[1] if a.ndim == 2 else None)
            for n, a in arrays.items()
            if a is not None
        }
        cells: dict[str, tuple[int, int | None]] = {n: (i, None) for i, n in enumerate(files)}
        return cls(tuple(files.values()), fields, cells, next(iter(lengths.values()), 0))

    @property
    def name(self) -> str:
        return ", ".join(f.name for f in self.files)

    def counted(self) -> int:
        return self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        """Each piece maps the files anew: pages that were read count as memory while their map lives."""
        used = sorted({self.cells[f.name][0] for f in fields})
        names = ", ".join(self.files[i].name for i in used)
        for start in range(begin, self.known, PIECE):
            stop = min(start + PIECE, self.known)
            maps = {i: self._map(i) for i in used}
            arrays = []
            for field in fields:
                number, column = self.cells[field.name]
                values = maps[number][start:stop]
                arrays.append(
                    checked_signed(values if column is None else values[:, column], field)
                )
            yield Piece(start, stop - start, tuple(arrays), From(rows_of(names), start))

    def _map(self, number: int) -> np.ndarray:
        self.files[number].check()
        array = _mapped(self.files[number])
        if array is None or len(array) != self.known:  # written anew between the two
            raise ValueError(f"{self.files[number].path} has changed since its source was opened.")
        return array


def _mapped(file: File) -> np.ndarray | None:
    """The array of a file; None for an empty file."""
    if not file.size:
        return None
    with file.reading():
        array = np.load(file.path, mmap_mode="r")
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) not in (1, 2) or 0 in shape[1:]:
        raise ValueError(
            f"{file.name} holds an array of shape {shape}, expected one value a row (rows,) or several "
            "(rows, columns)."
        )
    return array
