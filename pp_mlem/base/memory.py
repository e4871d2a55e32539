"""Gives back what JAX keeps of data shapes that are gone, and lets the collector rest meanwhile."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax._src import util as jax_util

from pp_mlem.base.precision import PROGRAM

SHAPES = 6  # new shapes between two releases; each leaves some 5 MB of traces behind
_SEEN: set[Hashable] = set()
_LOCK = threading.Lock()


class _Pauses:
    """How many blocks run without the collector, on all threads, and whether it ran before them."""

    count = 0
    was_on = False


@contextmanager
def collector_paused() -> Iterator[None]:
    """Within the block Python's cycle collector rests. Tracing makes so many objects that live on that
    it looks through all of JAX's again and again, a sixth to a third of the time of a first fit."""
    with _LOCK:
        if not _Pauses.count:
            _Pauses.was_on = gc.isenabled()
            gc.disable()
        _Pauses.count += 1
    try:
        yield
    finally:
        with _LOCK:
            _Pauses.count -= 1
            if not _Pauses.count and _Pauses.was_on:
                gc.enable()


def note_shapes(arrays: tuple[Any, ...]) -> None:
    """Tell that a program is about to be read on arrays of these shapes.

    JAX keeps the trace of every library function for every shape it has met. After every `SHAPES`
    new ones those traces are dropped; compiled functions that are in use stay as they are.
    """
    shapes = tuple((tuple(a.shape), str(a.dtype)) for a in arrays)
    with _LOCK:
        known = shapes in _SEEN
        full = not known and len(_SEEN) >= SHAPES
        if full:
            _SEEN.clear()
        _SEEN.add(shapes)
    if full:
        release()


def release() -> None:
    """Drop JAX's traces and hand free memory back to the system."""
    gc.collect()
    with PROGRAM:
        getattr(jax_util, "clear_all_caches", jax.clear_caches)()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library: it decides by itself
            pass
