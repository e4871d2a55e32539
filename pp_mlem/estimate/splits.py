"""Starts from a smaller fit: one value of a latent split in two.

A latent with K values has been fitted, and the next model has more. A value's units are divided between two
of their own, chosen at random, each going to the nearer one (Verbeek, Vlassis & Krose 2003,
doi:10.1162/089976603762553004); where nothing observed tells a distance, at random. The M-step from that
posterior is a start. So the search goes on from a solution instead of from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FLOORS = (1e-2, 1e-5)  # in turn: least responsibility; the larger keeps scales from collapsing
SMALLEST_SHARE = 0.02  # of a value's units; less is no split


@dataclass(frozen=True)
class Split:
    """What `init` takes: so many starts, the last ones, are split from the posterior of latents (units...,
    values) of a fit with fewer values; the others are those of "mixed"."""

    posterior: Mapping[str, np.ndarray]
    count: int


def is_larger(shape: tuple[int, ...], size: int, posterior: np.ndarray) -> bool:
    """Whether a latent over plates of this shape, with so many values, is one of a posterior with fewer."""
    return posterior.shape[:-1] == shape and 0 < posterior.shape[-1] < size


def split_logs(
    posterior: np.ndarray,
    size: int,
    features: np.ndarray | None,
    turn: int,
    rng: np.random.Generator,
    ordered: bool = False,
) -> np.ndarray:
    """Log responsibilities (units, size) of a posterior (units, values) of which values are split until there
    are `size`; the first is the one whose turn it is. `features` (units, columns) tell distances; along them
    values are put in order where the program wants it."""
    shares = np.where(np.isfinite(posterior), posterior, 1 / posterior.shape[-1])
    which = turn % shares.shape[1]
    while shares.shape[1] < size:
        side = _side(shares[:, which], features, rng)
        halves = np.stack([shares[:, which] * side, shares[:, which] * ~side], 1)
        shares = np.concatenate([shares[:, :which], halves, shares[:, which + 1 :]], 1)
        which = int(shares.sum(0).argmax())
    if ordered and features is not None:
        means = shares.T @ features / np.maximum(shares.sum(0)[:, None], 1e-300)
        shares = shares[:, means[:, means.std(0).argmax()].argsort()]
    floor = FLOORS[turn // posterior.shape[-1] % len(FLOORS)]
    shares = np.maximum(shares, floor)
    return np.log(shares / shares.sum(1, keepdims=True))


def _side(share: np.ndarray, features: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Which units go to one side (units,)."""
    total = share.sum()
    if features is not None and np.count_nonzero(share) > 1:
        pair = rng.choice(len(share), 2, replace=False, p=share / total)
        one, other = (((features - features[i]) ** 2).sum(1) for i in pair)
        side = np.asarray(one < other)
        if SMALLEST_SHARE * total < share[side].sum() < (1 - SMALLEST_SHARE) * total:
            return side
    return rng.uniform(size=len(share)) < 0.5
