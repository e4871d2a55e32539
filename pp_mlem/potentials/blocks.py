"""A quadratic over all units of crossed latents, block by block, while it is put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.potentials.crossed import Crossed, Pattern, log_integral
from pp_mlem.potentials.modes import Draw, Mode
from pp_mlem.potentials.quadratic import COLUMN, ROW, Quadratic, inverse_root, value_of
from pp_mlem.potentials.sums import Sums
from pp_mlem.potentials.table import Table

WHOLE = "\0all units"


class Cells(NamedTuple):
    """A quadratic of every cell of some plates: the `places` of its coordinates (cells, coordinates), its
    parts (cells, coordinates) and (cells, coordinates, coordinates); which coordinates are the first latent's
    (`mine`), and the edges of a pattern between these and the others (cells, others)."""

    places: jax.Array
    linear: jax.Array
    precision: jax.Array
    mine: np.ndarray
    edges: jax.Array | None


@dataclass(frozen=True)
class Square:
    """A square matrix as a sum: `whole`, if there is one, and entries at rows and columns."""

    size: int
    whole: jax.Array | None = None
    entries: tuple[tuple[Any, Any, jax.Array], ...] = ()

    def plus(self, rows: Any, columns: Any, values: jax.Array) -> Square:
        shape = jnp.broadcast_shapes(jnp.shape(rows), jnp.shape(columns), values.shape)
        r, c, v = (jnp.broadcast_to(a, shape).reshape(-1) for a in (rows, columns, values))
        return replace(self, entries=(*self.entries, (r, c, v)))

    def scaled(self, by: jax.Array) -> Square:
        """Rows and columns times a vector."""
        entries = tuple((r, c, v * by[r] * by[c]) for r, c, v in self.entries)
        whole = None if self.whole is None else self.whole * by[:, None] * by
        return replace(self, whole=whole, entries=entries)

    def dense(self) -> jax.Array:
        whole = jnp.zeros((self.size, self.size)) if self.whole is None else self.whole
        if not self.entries:
            return whole
        rows, columns, values = (jnp.concatenate(a) for a in zip(*self.entries, strict=True))
        return whole.at[rows, columns].add(values)

    def times(self, vector: jax.Array) -> jax.Array:
        product = jnp.zeros(self.size) if self.whole is None else self.whole @ vector
        for rows, columns, values in self.entries:
            product = product.at[rows].add(values * vector[columns])
        return product


@dataclass(frozen=True)
class Blocks:
    """A quadratic over all units: the first latent's own precision, block by block (units, size, size), for
    no two of its units meet; `cross`, see `Crossed`; and the others'."""

    constant: jax.Array
    linear: jax.Array
    own: jax.Array
    cross: jax.Array
    others: Square
    pattern: Pattern | None

    @classmethod
    def zero(cls, units: int, size: int, total: int, pattern: Pattern | None) -> Blocks:
        rest = total - units * size
        whole = units * size, rest
        edges = whole if pattern is None else (pattern.unit.shape[0], size)
        return cls(
            jnp.zeros(()), jnp.zeros(total), jnp.zeros((units, size, size)), jnp.zeros(edges),
            Square(rest), pattern,
        )  # fmt: skip

    @property
    def first(self) -> int:
        """How many numbers are the first latent's."""
        return self.own.shape[0] * self.own.shape[1]

    def plus(self, constant: jax.Array) -> Blocks:
        return replace(self, constant=self.constant + constant)

    def with_cells(self, cells: Cells) -> Blocks:
        """With a quadratic of every cell added."""
        places, linear, precision, mine, edges = cells
        a, b = np.flatnonzero(mine), np.flatnonzero(~mine)
        size, first = self.own.shape[1], self.first
        new = replace(self, linear=self.linear.at[places].add(linear))
        if a.size:
            unit = places[:, a[0]] // size
            new = replace(new, own=new.own.at[unit].add(precision[:, a[:, None], a]))
        if b.size:
            rows, columns = places[:, b][:, :, None] - first, places[:, b][:, None, :] - first
            new = replace(new, others=new.others.plus(rows, columns, precision[:, b[:, None], b]))
        if a.size and b.size and edges is not None:
            met = new.cross.at[edges].add(precision[:, b[:, None], a])
            new = replace(new, cross=met)
        elif a.size and b.size:
            rows, columns = places[:, a][:, :, None], places[:, b][:, None, :] - first
            new = replace(new, cross=new.cross.at[rows, columns].add(precision[:, a[:, None], b]))
        return new

    def with_sums(self, sums: Sums, begins: Mapping[str, int]) -> Blocks:
        """With a quadratic over all units added; `begins` says where the numbers of each latent begin."""
        new, first = self, next(n for n, begin in begins.items() if begin == 0)
        places = dict[str, jax.Array]()
        for name, linear in sums.linear.items():
            units, size = linear.shape
            begin = begins[name]
            at = slice(begin, begin + units * size)
            new = replace(new, linear=new.linear.at[at].add(linear.reshape(-1)))
            places[name] = begin - self.first + jnp.arange(units * size).reshape(units, size)
            if name == first:
                new = replace(new, own=new.own + sums.own[name])
                continue
            rows, columns = places[name][:, :, None], places[name][:, None, :]
            new = replace(new, others=new.others.plus(rows, columns, sums.own[name]))
        for (a, b), block in sums.between.items():
            pairs = sums.pairs[a, b]
            if first not in (a, b):
                rows = places[a][pairs.one][:, :, None]
                columns = places[b][pairs.two][:, None, :]
                others = new.others.plus(rows, columns, block)
                new = replace(new, others=others.plus(columns, rows, block))
                continue
            one, two, other = (pairs.one, pairs.two, b) if a == first else (pairs.two, pairs.one, a)
            block = block if a == first else jnp.swapaxes(block, 1, 2)
            if pairs.edges is not None:
                met = new.cross.at[pairs.edges].add(jnp.swapaxes(block, 1, 2))
            else:
                size = block.shape[1]
                rows = (one[:, None] * size + jnp.arange(size))[:, :, None]
                columns = places[other][two][:, None, :]
                met = new.cross.at[rows, columns].add(block)
            new = replace(new, cross=met)
        return new

    def centred(self, mean: jax.Array) -> Blocks:
        """In coordinates whose zero is at `mean`."""
        units, size, _ = self.own.shape
        mine, rest = mean[: self.first].reshape(units, size), mean[self.first :]
        own = jnp.squeeze(self.own @ mine[..., None], -1)
        if self.pattern is None:
            own = own.reshape(-1) + self.cross @ rest
            other = mine.reshape(-1) @ self.cross + self.others.times(rest)
        else:
            unit, column = self.pattern.unit, self.pattern.column
            own = own.at[unit].add(self.cross * rest[column, None]).reshape(-1)
            other = self.others.times(rest).at[column].add((self.cross * mine[unit]).sum(-1))
        pull = jnp.concatenate([own, other])
        constant = self.constant + (self.linear * mean).sum() - (pull * mean).sum() / 2
        return replace(self, constant=constant, linear=self.linear - pull)

    def standardised(self, begin: int, lower: jax.Array) -> Blocks:
        """In coordinates z with u = lower z of a latent that begins there, times their standard normal law:
        where a variance vanishes, the precision of z stays one."""
        units, size, _ = lower.shape
        at = slice(begin, begin + units * size)
        linear = self.linear.at[at].set(_turned(lower, self.linear[at, None])[:, 0])
        constant = self.constant - units * size / 2 * jnp.log(2 * jnp.pi)
        new = replace(self, constant=constant, linear=linear)
        if begin < self.first:
            own = jnp.swapaxes(lower, 1, 2) @ self.own @ lower + jnp.eye(size)
            return replace(new, own=own, cross=self._cross_of_first(lower))
        at = slice(begin - self.first, begin - self.first + units * size)
        if size == 1:
            others = self.others.scaled(jnp.ones(self.others.size).at[at].set(lower[:, 0, 0]))
        else:
            whole = self.others.dense()
            whole = whole.at[at].set(_turned(lower, whole[at]))
            whole = whole.at[:, at].set(_turned(lower, whole[:, at].T).T)
            others = Square(self.others.size, whole)
        place = np.arange(at.start, at.stop)
        others = others.plus(place, place, jnp.ones(()))
        return replace(new, cross=self._cross_of_other(at.start, lower), others=others)

    def _cross_of_first(self, lower: jax.Array) -> jax.Array:
        if self.pattern is None:
            return _turned(lower, self.cross)
        return jnp.einsum("est,es->et", lower[self.pattern.unit], self.cross)

    def _cross_of_other(self, begin: int, lower: jax.Array) -> jax.Array:
        units, size, _ = lower.shape
        if self.pattern is None:
            at = slice(begin, begin + units * size)
            return self.cross.at[:, at].set(_turned(lower, self.cross[:, at].T).T)
        away = self.pattern.column - begin
        own = (away >= 0) & (away < units * size)
        unit, place = jnp.clip(away // size, 0, units - 1), away % size
        here = jnp.arange(len(away)) - place  # the edge of the unit's first coordinate
        parts = [lower[unit, i, place, None] * self.cross[here + i] for i in range(size)]
        return jnp.where(own[:, None], sum(parts), self.cross)

    def integral(self, mode: Mode) -> jax.Array:
        """log of the integral over all coordinates, or of a draw."""
        if isinstance(mode, Draw):
            return self._drawn(mode)
        units, size, _ = self.own.shape
        cross = self.cross
        if self.pattern is None:
            cross = cross.reshape(units, size, -1)
        form = Crossed(
            self.own, cross, self.others.dense(), self.linear[: self.first].reshape(units, size),
            self.linear[self.first :],
        )  # fmt: skip
        return self.constant + log_integral(form, self.pattern)

    def _drawn(self, mode: Draw) -> jax.Array:
        """The first latent drawn unit by unit given the others, which are drawn as one."""
        units, size, _ = self.own.shape
        cross, pattern = self.cross, self.pattern
        if pattern is not None:
            whole = jnp.zeros((units, self.others.size, size), cross.dtype)
            cross = jnp.swapaxes(whole.at[pattern.unit, pattern.column].add(cross), 1, 2)
        given = self.linear[: self.first].reshape(units, size)
        root = inverse_root(self.own)
        own = jnp.squeeze(root @ given[..., None], -1)
        cross = (root @ cross.reshape(units, size, -1)).reshape(self.first, -1)
        value = value_of(root, own, given, mode).sum()
        linear = self.linear[self.first :] - own.reshape(-1) @ cross
        form = Quadratic(
            Table(self.constant, ()),
            Table(linear, (ROW,)),
            Table(self.others.dense() - cross.T @ cross, (ROW, COLUMN)),
            ((WHOLE, cross.shape[1]),),
        )
        left = form.take(WHOLE, mode)
        if not isinstance(left, Table):
            raise RuntimeError("crossed latents are not taken out whole")
        return left.array + value


def _turned(lower: jax.Array, rows: jax.Array) -> jax.Array:
    """root' of each unit times its rows: (units, size, size) and (units x size, columns)."""
    units, size, _ = lower.shape
    turned = jnp.swapaxes(lower, 1, 2) @ rows.reshape(units, size, -1)
    return turned.reshape(units * size, -1)
