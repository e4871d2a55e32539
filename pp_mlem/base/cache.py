"""Compiled once: what is compiled inside pp_mlem's own entries is kept on disk for later processes.

JAX's persistent compilation cache is one object for the whole process, so it cannot be switched on
for some calls only. Three functions inside JAX are wrapped instead: on a thread that is inside one
of our entries they read and write our folder, everywhere else they do what JAX does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib
import platformdirs

from pp_mlem.base.machine import cores

LOG = logging.getLogger("pp_mlem")
LIMIT = 2**28  # bytes, of all machines and versions together: some hundred models
HOUR = 3600.0
OFF = ("off", "0", "false", "no")
PROCESSOR = (
    "vendor_id", "cpu family", "model", "model name", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip


def _processor() -> list[str]:
    """What machine code depends on beyond JAX's own key, which does not tell processors apart."""
    found = [platform.machine(), os.environ.get("PROCESSOR_IDENTIFIER", "")]  # the second: Windows
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        found.append(subprocess.run(asked, capture_output=True, text=True, check=False).stdout)
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found += sorted({x for x in lines if x.partition(":")[0].strip() in PROCESSOR})
    return [*found, str(cores())]  # XLA cuts loops into as many pieces


def root_folder() -> Path | None:
    """The folder that PP_MLEM_CACHE names, or the user's cache folder; None if it says off."""
    told = os.environ.get("PP_MLEM_CACHE", "").strip()
    if told.lower() in OFF:
        return None
    return Path(told).expanduser() if told else platformdirs.user_cache_path("pp_mlem")


class Kernels:
    """Compiled functions in files, with the two methods of JAX's cache. They never raise.

    Each entry is one file, put in its place in one step, with a digest in front: processes need no
    lock, and a broken file is compiled and written anew.
    """

    def __init__(self, root: Path, limit: int = LIMIT) -> None:
        self.root, self.limit = root, limit
        digest = hashlib.blake2b("\n".join(_processor()).encode(), digest_size=8).hexdigest()
        self.folder = root / f"jaxlib-{jaxlib.__version__}-{digest}"
        self.writable = True
        self.unchecked: int | None = None  # bytes written since the size was last looked at

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[-120:]}.kernel"  # the digest is at the end of the key

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        value = content[16:]
        if _digest(value) != content[:16]:
            LOG.debug("cache: %s is broken and is compiled anew", path)
            return None
        with contextlib.suppress(OSError):  # the time of the last use, by which entries go
            if time.time() - path.stat().st_mtime > HOUR:
                os.utime(path)
        return value

    def put(self, key: str, value: bytes) -> None:
        if not self.writable or len(value) > self.limit // 16:
            return
        path = self._path(key)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(value))
            part.write_bytes(_digest(value) + value)
            part.replace(path)
        except OSError as error:  # no leave to write, a full disk: one try a process is enough
            self.writable = False
            LOG.debug("cache: nothing more is written to %s: %s", self.folder, error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """At the first entry that a process writes, and now and then, drop what was used least
        recently."""
        if self.unchecked is None or self.unchecked > self.limit // 8:
            self.unchecked = 0
            _prune(self.root, self.limit)
        self.unchecked += size


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def _prune(root: Path, limit: int) -> None:
    """Where entries exceed the limit, remove the oldest until they fill three quarters of it."""
    files = []
    for folder in root.glob("jaxlib-*"):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".kernel", ".part")):
                    state = entry.stat()
                    files.append((state.st_mtime, state.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    if total <= limit:
        return
    for _, size, path in sorted(files):
        if total <= 0.75 * limit:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size
    LOG.debug("cache: %s held more than %d bytes; the oldest entries are gone", root, limit)


class _Here(threading.local):
    """What this thread keeps its kernels in while it is inside one of our entries."""

    kernels: Kernels | None = None


HERE = _Here()


def _wrapped(original: Callable[..., Any], inside: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is `inside(original, ...)` on threads inside our entries."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if HERE.kernels is None:
            return original(*args, **kwargs)
        return inside(original, *args, **kwargs)

    return wrapper


def _quietly(otherwise: Any) -> Callable[..., Any]:
    """Call a function of JAX; where it fails (XLA refuses an entry, say), `otherwise`."""

    def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:  # whatever it is, JAX then compiles
            LOG.debug("cache: %s: %s: %s", original.__name__, type(error).__name__, error)
            return otherwise

    return call


@functools.cache
def _shortest() -> Any:
    """Once a process: wrap what JAX reads and writes its cache by. Returns JAX's setting of the
    shortest compilation that is kept, None if this version has not what it takes."""
    try:
        from jax._src import compilation_cache as module
        from jax._src.config import persistent_cache_min_compile_time_secs as shortest

        here = {
            "_get_cache": lambda original, *args, **kwargs: HERE.kernels,
            "get_executable_and_time": _quietly((None, None)),
            "put_executable_and_time": _quietly(None),
        }
        wrapped = {name: _wrapped(getattr(module, name), inside) for name, inside in here.items()}
    except (ImportError, AttributeError) as error:
        LOG.debug("cache: this version of JAX cannot keep what we compile: %s", error)
        return None
    for name, function in wrapped.items():
        setattr(module, name, function)
    return shortest


@functools.cache
def _kernels() -> Kernels | None:
    """Once a process: our cache; None if it is switched off or JAX has not what it takes."""
    root = root_folder()
    if root is None or _shortest() is None:
        return None
    kernels = Kernels(root)
    LOG.debug("cache: %s", kernels.folder)
    return kernels


def _left_to_jax() -> bool:
    """Whether the user has set JAX's own cache, or switched it off: then theirs holds. And the
    processes of a cluster must compile the same together, whatever each of them finds on disk."""
    config: Any = jax.config
    own = bool(config.jax_compilation_cache_dir) or not config.jax_enable_compilation_cache
    return own or jax.distributed.is_initialized()


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Within the block, and on this thread, what is compiled is kept for later processes."""
    kernels = _kernels()
    if kernels is None or HERE.kernels is not None or _left_to_jax():
        yield
        return
    HERE.kernels = kernels
    try:
        with _shortest()(0.0):
            yield
    finally:
        HERE.kernels = None
