"""Files are written whole or not at all, carry a checksum, and tell what is wrong with them."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pp_mlem.base.lazy import pd, xr

MARK = b"\npp_mlem-sha256:"
FOOTER = len(MARK) + 64 + 1
CHUNK = 1 << 22


def write_whole(path: str | Path, write: Callable[[Path], Any], what: str) -> Path:
    """Let `write` make a file beside `path`, then put it in its place in one step.

    A write that fails, or is interrupted, leaves the file that was there and nothing else.

    Raises:
        OSError: naming the file and the reason (a full disk, a folder that cannot be written).
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)):
            raise
        code = getattr(error, "errno", None)
        code = code if isinstance(code, int) and code > 0 else errno.EIO
        kept = " The file that was there is intact." if path.exists() else ""
        raise OSError(
            code, f"{what}: {path} could not be written ({_reason(path, error)}).{kept}"
        ) from error
    return path


def _reason(path: Path, error: BaseException) -> str:
    """Why a file could not be written: the library's words say little ("HDF error")."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} and it cannot be made: {error}"
    if path.is_dir():
        return "it is a folder"
    if not os.access(folder, os.W_OK):
        return f"the folder {folder} cannot be written by this user"
    free = shutil.disk_usage(folder).free
    told = f"{type(error).__name__}: {error}"
    return f"{told}; {free / 1e6:.1f} MB are free on its disk: is it full, or over a quota?"


def _remove_stale(path: Path) -> None:
    """Remove what a killed process left of the same file."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*-*.part"):
        owner = left.name[len(path.name) + 1 :].partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_text(path: str | Path, text: str, what: str) -> Path:
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), what)


def write_json(path: str | Path, value: Any, what: str) -> Path:
    return write_text(path, json.dumps(value), what)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object of our own; anything else is refused with the file's name."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{what}: {path} is damaged ({type(error).__name__}: {error}). Remove it."
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{what}: {path} is damaged (it holds no record). Remove it.")
    return found


def write_netcdf(path: str | Path, tree: xr.DataTree | xr.Dataset, what: str) -> Path:
    """netCDF with the SHA-256 of all its bytes appended. HDF5 ends where its superblock says, so
    that every reader of netCDF still opens the file."""

    def write(part: Path) -> None:
        tree.to_netcdf(part, engine="netcdf4")
        found = _sha256(part, part.stat().st_size)
        with part.open("ab") as file:
            file.write(MARK + found.encode() + b"\n")

    return write_whole(path, write, what)


def _sha256(path: Path, size: int) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            found.update(chunk)
            size -= len(chunk)
    return found.hexdigest()


def verified(path: Path, what: str) -> bool:
    """Whether the file carries its checksum, before any library parses it.

    Raises:
        FileNotFoundError, ValueError: for no file, or bytes that are not those that were written.
    """
    if not path.exists():
        raise FileNotFoundError(f"{what}: there is no file {path}.")
    if path.is_dir():
        raise ValueError(f"{what}: {path} is a folder, expected a file.")
    try:
        size = path.stat().st_size - FOOTER
        if size <= 0:
            return False
        with path.open("rb") as file:
            file.seek(size)
            footer = file.read(FOOTER)
        if not footer.startswith(MARK):
            return False
        sound = footer == MARK + _sha256(path, size).encode() + b"\n"
    except OSError as error:
        raise ValueError(f"{what}: {path} cannot be read ({error}).") from None
    if not sound:
        raise ValueError(
            f"{what}: {path} is damaged: its bytes do not have the checksum that was written with "
            "them. Take another copy, or make it again."
        )
    return True


def write_table(path: str | Path, frame: pd.DataFrame, what: str) -> Path:
    """A CSV file no cell of which a spreadsheet takes for a formula: text that begins with =, +,
    -, @, a tab or a line break gets an apostrophe before it; numbers stay as they are."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(plain(v) for v in value)
        formula = isinstance(value, str) and value.startswith(
            ("=", "+", "-", "@", "\t", "\r", "\n")
        )
        return f"'{value}" if formula else value

    def axis(index: pd.Index) -> pd.Index:
        found = index.map(plain) if len(index) else index
        return found.set_names([plain(n) for n in index.names])

    shown = frame.copy()
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
            shown.isetitem(place, column.map(plain))
    shown.index, shown.columns = axis(frame.index), axis(frame.columns)
    return write_whole(path, lambda part: shown.to_csv(part), what)
