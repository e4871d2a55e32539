"""Several processes that fit one model together, by JAX's own runtime (`jax.distributed`).

Each has its share of the rows. What they tell one another is small: sums of a pass, and words about what went
wrong. Without `jax.distributed.initialize()` there is one process, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

WORDS = 4000  # bytes of a message about what went wrong


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def rank() -> int:
    """Which of them this is; the first one prints and writes."""
    return jax.process_index()


def share(chunks: int) -> tuple[int, int]:
    """The chunks of this process, from one number to another, of so many."""
    own, every = rank(), count()
    return own * chunks // every, (own + 1) * chunks // every


def summed(tree: Any, join: Callable[[Any, Any], Any]) -> Any:
    """The sum of what all processes have, the same bits in each: joined in the order of their ranks."""
    if count() == 1:
        return tree
    total, *others = _of_all(tree)
    for own in others:
        total = join(total, own)
    return total


def of_first(tree: Any) -> Any:
    """What the first process has, in every one: those of other machines may differ in the last digit."""
    return tree if count() == 1 else _of_all(tree)[0]


def raise_together(error: Exception | None) -> None:
    """Raise this process's error, or say what another one's was: none waits for one that has ended.

    Raises:
        RuntimeError: where another process has failed.
    """
    if count() == 1:
        if error is not None:
            raise error
        return
    told = np.zeros(WORDS, np.float64)
    words = b"" if error is None else f"{type(error).__name__}: {error}".encode()[:WORDS]
    told[: len(words)] = np.frombuffer(words, np.uint8)
    every = _gathered(told)
    if error is not None:
        raise error
    for other, codes in enumerate(every):
        text = codes[codes > 0].astype(np.uint8).tobytes().decode(errors="replace")
        if text:
            raise RuntimeError(f"process {other} of {count()} has failed: {text}")


def _gathered(flat: np.ndarray) -> np.ndarray:
    """(processes, size) of the vectors of all."""
    with jax.enable_x64(True):
        return np.asarray(multihost_utils.process_allgather(flat), np.float64).reshape(count(), -1)


def _of_all(tree: Any) -> list[Any]:
    """What every process has, by rank; all of one structure."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(a) for a in leaves]
    flat = np.concatenate([np.ravel(a).astype(np.float64) for a in arrays] or [np.zeros(0)])
    return [jax.tree.unflatten(structure, _cut(own, arrays)) for own in _gathered(flat)]


def _cut(flat: np.ndarray, like: list[np.ndarray]) -> list[np.ndarray]:
    """The pieces of a vector in the shapes and kinds of these arrays."""
    ends = np.cumsum([a.size for a in like])
    pieces = np.split(flat, ends[:-1])
    return [p.reshape(a.shape).astype(a.dtype) for p, a in zip(pieces, like, strict=True)]
