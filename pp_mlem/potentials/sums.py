"""A quadratic over all units of several latents, by the units and the pairs of units that meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

from pp_mlem.potentials.table import Table

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

    @property
    def axes(self) -> tuple[str, ...]:
        """None: it is over all units."""
        return ()

    def each(self, change: Callable[[Table], Table]) -> NoReturn:
        raise self._whole()

    def reduced(self, names: frozenset[str], sizes: Mapping[str, int]) -> NoReturn:
        raise self._whole()

    def gather(self, child: str, parent: str, index: jax.Array, size: int) -> NoReturn:
        raise self._whole()

    def _whole(self) -> RuntimeError:
        names = ", ".join(self.linear)
        return RuntimeError(
            f"{names} are summed over rows for a step that takes them out together."
        )
