"""What an affine site says of its latents, summed over the rows once and for all.

The mean of row r is a fixed combination of those of a few rows, its pivots: what its value leaves is
e_r + Q_r h + sum_j phi_rj b_j u, with known numbers Q_r (orthonormal over the rows) and phi_r, and h and b
functions of the parameters, read off the pivots. So log Z sees sums of products of e, Q and phi over the rows
of a unit, and of Q and e none but sums of squares: as in a least squares fit, where nothing cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.laid import Laid
from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates, Quadratic
from pp_mlem.potentials.sums import Pairs, Sums
from pp_mlem.potentials.table import Table

Name = str


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Basis:
    """A basis (rows, functions) of what rows make of the parameters; the numbers of as many rows, its
    `pivots`, and the matrix that takes what is seen there to the coefficients of the basis."""

    columns: Any
    pivots: Any
    solver: Any

    def coefficients(self, rows: jax.Array) -> jax.Array:
        """Of functions (rows, ...) in the basis: (functions, ...)."""
        return jnp.tensordot(self.solver, rows[self.pivots], 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Features:
    """Of every row: the basis of its fixed part and one for each coordinate of the latents; which unit of
    each latent it reads, and which of the `pairs` of units of two latents (the number of the pair)."""

    fixed: Basis
    loads: tuple[Basis, ...]
    units: dict[Name, Any]
    pairs: dict[tuple[Name, Name], Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Summed:
    """Sums over the rows of an affine site, entries D in C columns: `centre` (K, C, D) is the least squares fit
    of the values by the fixed features, e what it leaves; `count` of the rows; `squares` (C, D, D) of e e';
    for each feature of a coordinate, by units, those of phi e (`values`, (units, C, D)) and phi Q (`means`,
    (units, K)); and of two features phi phi' by units or `met` pairs of units (`products`).

    `axes` are the plates of the units where all latents share them, else None: they are crossed.
    """

    features: Features
    centre: Any
    count: Any
    squares: Any
    values: tuple[Any, ...]
    means: tuple[Any, ...]
    products: dict[tuple[int, int], Any]
    met: dict[tuple[Name, Name], Pairs]
    coordinates: Coordinates = field(metadata={"static": True})
    axes: tuple[str, ...] | None = field(metadata={"static": True})
    shape: tuple[int, ...] = field(metadata={"static": True})

    @property
    def owners(self) -> tuple[tuple[Name, int], ...]:
        """The latent of each feature and its coordinate's number among all of the site's."""
        names = [n for n, size in self.coordinates for _ in range(size)]
        counts = [b.columns.shape[1] for b in self.features.loads]
        return tuple((names[i], i) for i, n in enumerate(counts) for _ in range(n))

    def compact(self, at_zero: jax.Array, moves: jax.Array) -> jax.Array:
        """(C, D, K + J): h and b, from what the value leaves at the rows (rows, C, D) and (rows, C, D, L)."""
        parts = [self.centre + self.features.fixed.coefficients(at_zero)]
        parts += [b.coefficients(moves[..., i]) for i, b in enumerate(self.features.loads)]
        return jnp.moveaxis(jnp.concatenate(parts), 0, -1)

    def potentials(self, eta: jax.Array) -> tuple[jax.Array, Quadratic | Sums]:
        """(a constant, a quadratic over the units) of natural parameters (C, F), see `natural`."""
        both, normaliser, weighed, precision = split(eta, self.size)
        k = self.fixed
        constant = -(precision * self.squares).sum() / 2 - (normaliser * self.count).sum()
        constant -= jnp.trace(both[:, :k, :k], axis1=1, axis2=2).sum() / 2
        lines = []
        for j, (value, mean) in enumerate(zip(self.values, self.means, strict=True)):
            line = jnp.tensordot(value, weighed[:, :, k + j], 2)
            lines.append(-line - mean @ both[:, k + j, :k].sum(0))
        square = both[:, k:, k:].sum(0)
        return constant, self._joined(lines, square) if self.axes is not None else self._crossed(
            lines, square
        )

    @property
    def size(self) -> int:
        """How many features there are."""
        return self.fixed + len(self.owners)

    @property
    def fixed(self) -> int:
        """How many features are fixed."""
        return int(self.centre.shape[0])

    def _joined(self, lines: list[jax.Array], square: jax.Array) -> Quadratic:
        """Over the units of all latents together."""
        axes, size = self.axes or (), sum(n for _, n in self.coordinates)
        units = int(np.prod(self.shape))
        linear = jnp.zeros((units, size), square.dtype)
        precision = jnp.zeros((units, size, size), square.dtype)
        owners = self.owners
        for j, (_, a) in enumerate(owners):
            linear = linear.at[:, a].add(lines[j])
        for (i, j), product in self.products.items():
            a, b = owners[i][1], owners[j][1]
            precision = precision.at[:, a, b].add(square[i, j] * product)
            if i != j:
                precision = precision.at[:, b, a].add(square[j, i] * product)
        zero = jnp.zeros((), square.dtype)
        return Quadratic(
            Table(zero, ()),
            Table(linear.reshape(*self.shape, size), (*axes, ROW)),
            Table(precision.reshape(*self.shape, size, size), (*axes, ROW, COLUMN)),
            self.coordinates,
        )

    def _crossed(self, lines: list[jax.Array], square: jax.Array) -> Sums:
        """Over the units of each latent and the pairs that meet."""
        sizes = dict(self.coordinates)
        first = {}
        for i, (n, size) in enumerate(self.coordinates):
            first[n] = sum(s for _, s in self.coordinates[:i])
            del size
        linear = {n: jnp.zeros((self._units(n), s), square.dtype) for n, s in sizes.items()}
        own = {n: jnp.zeros((self._units(n), s, s), square.dtype) for n, s in sizes.items()}
        between = {
            (a, b): jnp.zeros((p.one.shape[0], sizes[a], sizes[b]), square.dtype)
            for (a, b), p in self.met.items()
        }
        for j, (n, a) in enumerate(self.owners):
            linear[n] = linear[n].at[:, a - first[n]].add(lines[j])
        for (i, j), product in self.products.items():
            (n, a), (m, b) = self.owners[i], self.owners[j]
            a, b = a - first[n], b - first[m]
            if n != m:
                between[n, m] = between[n, m].at[:, a, b].add(square[i, j] * product)
                continue
            own[n] = own[n].at[:, a, b].add(square[i, j] * product)
            if i != j:
                own[n] = own[n].at[:, b, a].add(square[j, i] * product)
        return Sums(linear, own, between, self.met)

    def _units(self, latent: Name) -> int:
        j = next(j for j, (n, _) in enumerate(self.owners) if n == latent)
        return int(self.values[j].shape[0])

    def of_values(self, laid: Laid) -> Summed:
        """The same with the sums of other values. Traceable."""
        value = laid.value if laid.shift_rows is None else laid.value - laid.shift_rows
        value = value.reshape(self.squares.shape[1], -1, value.shape[-1])
        if laid.mask is not None:
            value = jnp.where(laid.mask.reshape(-1, value.shape[-1]), value, 0.0)
        basis = self.features.fixed.columns
        centre = jnp.einsum("dcr,rk->kcd", value, basis)
        left = value - jnp.einsum("kcd,rk->dcr", centre, basis)
        squares = jnp.einsum("dcr,ecr->cde", left, left)
        rows = jnp.moveaxis(left, -1, 0).swapaxes(1, 2)  # (rows, C, D)
        values, j = [], 0
        for i, load in enumerate(self.features.loads):
            unit = self.features.units[self._coordinate_names[i]]
            for k in range(load.columns.shape[1]):
                weighed = load.columns[:, k, None, None] * rows
                zero = jnp.zeros((self.means[j].shape[0], *rows.shape[1:]), rows.dtype)
                values.append(zero.at[unit].add(weighed))
                j += 1
        return replace(self, centre=centre, squares=squares, values=tuple(values))

    @property
    def _coordinate_names(self) -> list[Name]:
        return [n for n, size in self.coordinates for _ in range(size)]


def natural(features: jax.Array, precision: jax.Array, normaliser: jax.Array) -> jax.Array:
    """Natural parameters (C, F) of what the value leaves as x + `features` @ (Q, phi u)."""
    weighed = precision @ features
    both = jnp.swapaxes(features, -1, -2) @ weighed
    parts = [both, normaliser, weighed, precision]
    return jnp.concatenate([p.reshape(len(features), -1) for p in parts], -1)


def split(eta: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The parts of `natural` with so many features: (C, size, size), (C,), (C, D, size) and (C, D, D)."""
    rest = eta.shape[-1] - size**2 - 1  # D size + D D
    event = next(d for d in range(1, rest + 1) if d * (size + d) == rest)
    ends = np.cumsum([size**2, 1, event * size])
    both, normaliser, weighed, precision = jnp.split(eta, ends, -1)
    count = len(eta)
    return (
        both.reshape(count, size, size), normaliser[:, 0], weighed.reshape(count, event, size),
        precision.reshape(count, event, event),
    )  # fmt: skip
