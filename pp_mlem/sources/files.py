"""Which files a path, folder or glob means, and whether they are still what they were."""

from __future__ import annotations

import collections
import contextlib
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pp_mlem.base.lazy import pa
from pp_mlem.base.near import did_you_mean

UNREADABLE = (ValueError, OSError, EOFError, KeyError, NotImplementedError)  # as libraries tell it

FORMATS = {
    ".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV", ".tsv": "CSV",
    ".arrow": "Arrow", ".feather": "Arrow", ".ipc": "Arrow", ".npy": ".npy",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".zst")  # of CSV only: Arrow unpacks them on its way
EXPECTED = f"expected one of {', '.join(FORMATS)} (CSV also as .csv.gz, .csv.bz2, .csv.zst)"


@dataclass(frozen=True)
class File:
    """A file as it was when its source was opened: its size in bytes and time of change in ns."""

    path: Path
    name: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path, name: str) -> File:
        stat = path.stat()
        return cls(path, name, stat.st_size, stat.st_mtime_ns)

    def check(self) -> None:
        """Raises ValueError where the file is another, or gone."""
        try:
            now = File.of(self.path, self.name)
        except OSError as error:
            raise ValueError(
                f"{self.path} is gone since its source was opened ({error.strerror}). Open the "
                "source again, and leave its files as they are until the fit is done."
            ) from None
        if now != self:
            raise ValueError(
                f"{self.path} has changed since its source was opened: it had {self._state()}, it has "
                f"{now._state()}. Open the source again, and leave its files as they are until the "
                "fit is done."
            )

    def _state(self) -> str:
        time = datetime.fromtimestamp(self.changed / 1e9).isoformat(" ", "milliseconds")
        return f"{self.size:,} bytes of {time}"

    @contextlib.contextmanager
    def reading(
        self, told: Callable[[Exception], ValueError] | None = None, rows: int = 0
    ) -> Iterator[None]:
        """Within the block what a library says of the file, of which `rows` were read, becomes an error
        with its name, that of `told` if given."""
        try:
            yield
        except UNREADABLE as error:
            self.check()
            raise (told(error) if told else ValueError(self._told(error, rows))) from None

    def read(
        self, batches: Iterator[pa.RecordBatch], rows: int = 0,
        told: Callable[[Exception], ValueError] | None = None,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        """The batches of the file that follow its first `rows`; it must not change meanwhile."""
        self.check()
        while True:
            with self.reading(told, rows):
                batch = next(batches, None)
            if batch is None:
                break
            rows += batch.num_rows
            yield batch
        self.check()

    def _told(self, error: Exception, rows: int) -> str:
        after = f" after row {rows:,}" if rows else ""
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        return f"{self.name} cannot be read{after}: {reason or type(error).__name__}."


def files_at(what: str | os.PathLike | Sequence[str | os.PathLike]) -> tuple[str, tuple[File, ...]]:
    """The format and the files of a path, folder or glob, in sorted order; of a list, one after another.

    Raises:
        ValueError: where nothing is there, for unknown suffixes, several formats, a file named twice.
    """
    every = [what] if isinstance(what, (str, os.PathLike)) else what
    paths = [p for one in every for p in _expanded(one)]
    twice = [p for p, times in collections.Counter(paths).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice. Name each file once.")
    if not paths:
        raise ValueError("received an empty list of files.")
    formats = collections.Counter(_format(p) for p in paths)
    if len(formats) > 1:
        held = ", ".join(f"{n} {kind}" for kind, n in sorted(formats.items()))
        raise ValueError(
            f"files of several formats ({held}). Name those of one, as in 'folder/*.parquet'."
        )
    return next(iter(formats)), named_files(paths)


def named_files(paths: Sequence[Path]) -> tuple[File, ...]:
    """The files, named from the folder on that holds all of them."""
    folder = Path(os.path.commonpath([p.parent for p in paths]))
    return tuple(File.of(p, p.relative_to(folder).as_posix()) for p in paths)


def _expanded(what: str | os.PathLike) -> list[Path]:
    path = Path(what).expanduser().absolute()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if _is_data(p, path))
        if not found:
            raise ValueError(f"the folder {path} holds no file to read: {EXPECTED}.")
        return found
    if glob.has_magic(str(what)):
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        found = [p for p in found if p.is_file()]
        if not found:
            raise ValueError(f"'{what}' matches no file.{_near(path)}")
        return found
    raise ValueError(f"there is no file or folder {path}.{_near(path)}")


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent}." if not glob.has_magic(str(path.parent)) else ""
    return did_you_mean(path.name, (p.name for p in path.parent.iterdir()))


def _is_data(path: Path, folder: Path) -> bool:
    """Whether a folder's file is one of its tables; what begins with a dot or an underscore is not."""
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    return not hidden and _suffix(path) in FORMATS and path.is_file()


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner if FORMATS.get(inner) == "CSV" else suffix


def _format(path: Path) -> str:
    if _suffix(path) not in FORMATS:
        raise ValueError(f"{path} is of no known format: {EXPECTED}.")
    return FORMATS[_suffix(path)]
