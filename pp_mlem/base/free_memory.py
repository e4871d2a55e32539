"""How much memory is free."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN = 4 << 30  # bytes that are taken for free where no system tells
MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that a process can take without the machine swapping, or beyond the limit of its container; where
    Linux does not tell, half of what the machine has."""
    found = [bytes_ for bytes_ in (_available(), _left_in_container()) if bytes_ is not None]
    return min(found) if found else _half_of_all()


def _available() -> int | None:
    kilobytes = _entry(MEMINFO, "MemAvailable:")
    return None if kilobytes is None else 1024 * kilobytes


def _left_in_container() -> int | None:
    """Up to the limit, of what the kernel would not give back by itself (pages of files that were read)."""
    try:
        limit, used = ((CONTAINER / f"memory.{n}").read_text().strip() for n in ("max", "current"))
    except OSError:
        return None
    given_back = _entry(CONTAINER / "memory.stat", "inactive_file") or 0
    return max(int(limit) - int(used) + given_back, 0) if limit.isdigit() else None


def _entry(path: Path, name: str) -> int | None:
    """The number behind a name, a line each."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)


def _half_of_all() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return UNKNOWN
