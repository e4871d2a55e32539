"""A quadratic over all units of several latents, by the units and the pairs of units that meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

Pair = tuple[str, str]  # two latents


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Units of two latents that meet, each pair once: `one` and `two` (pairs,); and the edges of a pattern
    between them (pairs, size of the second), where there is one."""

    one: Any
    two: Any
    edges: Any


@dataclass(frozen=True)
class Sums:
    """exp(linear . u - u' precision u / 2): `linear` (units, size) and `own` precision (units, size, size) of each
    latent; the precision `between` the `pairs` of two, (pairs, size of the first, size of the second)."""

    linear: dict[str, jax.Array]
    own: dict[str, jax.Array]
    between: dict[Pair, jax.Array]
    pairs: dict[Pair, Pairs]
