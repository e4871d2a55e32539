"""Observations of real latents, row by row: what a precise one says keeps its digits only so.

The canonical form of y ~ N(u, s) has y² / s² in its constant. Where s is far below the spread of u, the
likelihood is a difference of such numbers, and nothing is left of it; of the rows (y - u) / s it is a product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates, Quadratic, product_of
from pp_mlem.potentials.table import Table

COLUMNS = "\0columns"  # an axis of rows that one unit has of its own: no plate's name


@dataclass(frozen=True)
class Rows:
    """exp(constant - |left - slope @ u|² / 2), u the real `coordinates`, times a quadratic `further`.

    `left` and `slope` have rows in their axis `COLUMNS` and in those of plates, `slope` the axis `COLUMN`
    of the coordinates besides.
    """

    left: Table
    slope: Table
    constant: Table
    further: Quadratic

    @property
    def coordinates(self) -> Coordinates:
        return self.further.coordinates

    @property
    def axes(self) -> tuple[str, ...]:
        own = (*self.left.axes, *self.slope.axes, *self.constant.axes, *self.further.axes)
        return tuple(dict.fromkeys(a for a in own if a not in (COLUMNS, COLUMN)))

    def each(self, change: Callable[[Table], Table]) -> Quadratic:
        """Every part of its canonical form changed in the same way."""
        return self.canonical().each(change)

    def reduced(self, names: frozenset[str], sizes: Mapping[str, int]) -> Quadratic:
        """Multiplied over these plates."""
        return self.canonical().reduced(names, sizes)

    def gather(self, child: str, parent: str, index: jax.Array, size: int) -> Quadratic:
        """See `Table.gather`."""
        return self.canonical().gather(child, parent, index, size)

    def canonical(self) -> Quadratic:
        """The same as a quadratic."""
        order, fixed = self.left.axes, self.slope.axes
        lanes = tuple(dict.fromkeys(a for a in (*order, *fixed) if a not in (COLUMNS, COLUMN)))
        left, slope = (
            self.left.aligned((*lanes, COLUMNS)),
            self.slope.aligned((*lanes, COLUMNS, COLUMN)),
        )
        own = tuple(a for a in lanes if a in fixed)
        alone = self.slope.aligned((*own, COLUMNS, COLUMN))
        square = Quadratic(
            Table(-(left**2).sum(-1) / 2, lanes),
            Table((left[..., None] * slope).sum(-2), (*lanes, ROW)),
            Table(jnp.swapaxes(alone, -1, -2) @ alone, (*own, ROW, COLUMN)),
            self.coordinates,
        )
        return product_of([square, self.further, self.constant])

    def of(
        self, order: tuple[str, ...], surplus: tuple[str, ...], sizes: Mapping[str, int]
    ) -> tuple[jax.Array, jax.Array]:
        """`left` (rows, *order) and `slope` (rows, coordinates, *order), the rows of the plates `surplus` and
        of `COLUMNS` one after the other."""
        left = self.left.aligned((*surplus, COLUMNS, *order))
        slope = self.slope.aligned((*surplus, COLUMNS, COLUMN, *order))
        count = len(surplus)
        rows = (*(sizes[p] for p in surplus), max(left.shape[count], slope.shape[count]))
        left = jnp.broadcast_to(left, (*rows, *left.shape[count + 1 :]))
        slope = jnp.broadcast_to(slope, (*rows, *slope.shape[count + 1 :]))
        return (
            left.reshape(-1, *left.shape[count + 1 :]),
            slope.reshape(-1, *slope.shape[count + 1 :]),
        )
