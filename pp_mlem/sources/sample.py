"""A uniform sample of rows in one pass, their number unknown."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pp_mlem.sources.chunks import Chunk

OWN = 0x5EED  # of this sample alone
SLACK = 1 << 16  # rows held beyond twice those wanted, before the worst are let go


def drawn(chunks: Iterable[Chunk], rows: int, seed: int) -> tuple[np.ndarray, ...]:
    """That many rows, drawn without replacement, in their order: each row of the chunks gets a uniform
    random key, and those with the smallest keys are kept. Data that were simulated from the same seed have other
    random numbers."""
    rng = np.random.default_rng([seed, OWN])
    keys: list[np.ndarray] = []
    held: list[tuple[np.ndarray, ...]] = []
    total, bound = 0, np.inf
    for chunk in chunks:
        new = rng.random(chunk.count)
        chosen = np.flatnonzero(new < bound)
        keys.append(new[chosen])
        held.append(tuple(a[chosen] for a in chunk.arrays))
        total += len(chosen)
        if total > 2 * rows + SLACK:
            kept, arrays = _smallest(keys, held, rows)
            keys, held, total, bound = [kept], [arrays], rows, kept.max()
    return _smallest(keys, held, rows)[1]


def _smallest(
    keys: list[np.ndarray], held: list[tuple[np.ndarray, ...]], rows: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    every = np.concatenate(keys)
    arrays = tuple(np.concatenate(columns) for columns in zip(*held, strict=True))
    if len(every) <= rows:
        return every, arrays
    kept = np.sort(np.argpartition(every, rows - 1)[:rows])
    return every[kept], tuple(a[kept] for a in arrays)
