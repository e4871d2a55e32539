"""Quadratics over real coordinates, the canonical form of conditional Gaussian potentials (Lauritzen 1992,
doi:10.1080/01621459.1992.10476265), and products of potentials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.potentials.modes import Draw, Mode
from pp_mlem.potentials.sums import Sums
from pp_mlem.potentials.table import Table, add

ROW, COLUMN = "\0row", "\0column"  # axes of the linear and of the quadratic part: no plate's names
LOST = 1e-7  # nats of rounding for each unit, beyond which a log-likelihood means nothing
Coordinates = tuple[tuple[str, int], ...]  # real latents, and how many numbers each is


@dataclass(frozen=True)
class Quadratic:
    """exp(constant + linear . u - u' precision u / 2), u the real `coordinates` one after the other.

    The parts are tables over plates and finite latents, each with the axes along which it varies;
    `linear` has the axis `ROW` besides, `precision` both `ROW` and `COLUMN`.
    """

    constant: Table
    linear: Table
    precision: Table
    coordinates: Coordinates

    @property
    def axes(self) -> tuple[str, ...]:
        parts = (self.constant, self.linear, self.precision)
        return tuple(dict.fromkeys(a for p in parts for a in p.axes if a not in (ROW, COLUMN)))

    def each(self, change: Callable[[Table], Table]) -> Quadratic:
        """Every part changed in the same way, along axes other than the coordinates."""
        parts = change(self.constant), change(self.linear), change(self.precision)
        return Quadratic(*parts, self.coordinates)

    def reduced(self, names: frozenset[str], sizes: Mapping[str, int]) -> Quadratic:
        """Multiplied over these plates."""
        return self.each(lambda part: part.reduced(names, sizes))

    def gather(self, child: str, parent: str, index: jax.Array, size: int) -> Quadratic:
        """See `Table.gather`."""
        return self.each(lambda part: part.gather(child, parent, index, size))

    def spread(self, coordinates: Coordinates) -> Quadratic:
        """The same among more coordinates, on which it does not depend."""
        if coordinates == self.coordinates:
            return self
        own, where = places_of(self.coordinates), places_of(coordinates)
        places = np.concatenate([where[n] for n in own])
        size = sum(n for _, n in coordinates)
        return Quadratic(
            self.constant,
            _spread(self.linear, ROW, places, size),
            _spread(_spread(self.precision, ROW, places, size), COLUMN, places, size),
            coordinates,
        )

    def pinned(self, latent: str, known: Known) -> Quadratic:
        """A real latent at its values where it is known, each number there replaced by a standard normal one
        that nothing else meets."""
        places = places_of(self.coordinates)[latent]
        axes = (*self.axes, *known.value.axes, *known.shown.axes)
        order = tuple(dict.fromkeys(a for a in axes if a != ROW))
        linear = self.linear.aligned((*order, ROW))
        precision = self.precision.aligned((*order, ROW, COLUMN))
        here, shown = (t.aligned((*order, ROW)) for t in (known.value, known.shown))
        batch = jnp.broadcast_shapes(here.shape[:-1], shown.shape[:-1])
        none = jnp.zeros((*batch, linear.shape[-1]), linear.dtype)
        told, linear, precision = pin(
            none.at[..., places].set(here), none.at[..., places].set(shown), linear, precision
        )
        return Quadratic(
            _varying(self.constant.aligned(order) + told + unmet(shown), order),
            _varying(linear, (*order, ROW)),
            _varying(precision.at[..., places, places].add(shown), (*order, ROW, COLUMN)),
            self.coordinates,
        )

    def take(self, latent: str, mode: Mode) -> Table | Quadratic:
        """A real latent integrated out, or drawn."""
        places = places_of(self.coordinates)
        if latent not in places:
            raise RuntimeError(f"'{latent}' is taken out while real latents depend on it.")
        own = places[latent]
        rest = np.concatenate([places[n] for n, _ in self.coordinates if n != latent] or [own[:0]])
        order = self.axes
        parts = _Parts.of(self, order, own, rest)
        value = value_of(parts.root, parts.own, parts.given, mode)
        constant = _varying(_reliable(self.constant.aligned(order), value), order)
        left = tuple((n, size) for n, size in self.coordinates if n != latent)
        if not left:
            return constant
        linear, precision = parts.left()
        return Quadratic(
            constant,
            _varying(linear, (*order, ROW)),
            _varying(precision, (*order, ROW, COLUMN)),
            left,
        )


@dataclass(frozen=True)
class Known:
    """Values of a real latent, zero where it has none, and one where it has: both with the axis `ROW` last."""

    value: Table
    shown: Table


def pin(
    value: jax.Array, shown: jax.Array, linear: jax.Array, precision: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A quadratic at a `value` of the coordinates that are `shown`: what these make of its constant, and its
    linear part and precision, zero at their places."""
    value, left = value * shown, 1.0 - shown
    pull = jnp.squeeze(precision @ value[..., None], -1)
    told = (linear * value).sum(-1) - (pull * value).sum(-1) / 2
    return told, (linear - pull) * left, precision * left[..., :, None] * left[..., None, :]


def unmet(shown: jax.Array) -> jax.Array:
    """The constant by which standard normal numbers in the places of known ones integrate to one."""
    return -0.5 * jnp.log(2 * jnp.pi) * shown.sum(-1)


def _chosen(shown: Table, one: Table | Quadratic, other: Table | Quadratic) -> Table | Quadratic:
    """The first where `shown` is true, another over the same coordinates elsewhere."""
    if isinstance(one, Table) and isinstance(other, Table):
        return _entries(shown, one, other)
    if isinstance(one, Table) or isinstance(other, Table):
        raise RuntimeError("potentials of unlike kinds.")
    other = other.spread(one.coordinates)
    return Quadratic(
        _entries(shown, one.constant, other.constant),
        _entries(shown, one.linear, other.linear, ROW),
        _entries(shown, one.precision, other.precision, ROW, COLUMN),
        one.coordinates,
    )


def _entries(shown: Table, first: Table, second: Table, *last: str) -> Table:
    """The first where `shown` is true, else the second; the axes `last` stay there."""
    axes = (*first.axes, *second.axes, *shown.axes)
    order = (*dict.fromkeys(a for a in axes if a not in last), *last)
    here, one, other = (t.aligned(order) for t in (shown, first, second))
    return Table(jnp.where(here, one, other), order)


@dataclass(frozen=True)
class Law:
    """A Gaussian law of a real latent: u = mean + slope @ parents + root @ z, z standard normal; times a
    quadratic `further` over u and its parents.

    `mean` has the axis `ROW`, `root` and `slope` both `ROW` and `COLUMN`; the columns of `slope` are the
    coordinates of `further`, zero for the latent's own. Kept as such until the latent is taken out: its
    precision grows without bound where its variance vanishes, and z's does not.
    """

    latent: str
    mean: Table
    slope: Table
    root: Table
    further: Quadratic

    @property
    def axes(self) -> tuple[str, ...]:
        own = (*self.mean.axes, *self.slope.axes, *self.root.axes, *self.further.axes)
        return tuple(dict.fromkeys(a for a in own if a not in (ROW, COLUMN)))

    def each(self, change: Callable[[Table], Table]) -> Quadratic:
        """Every part of its canonical form changed in the same way."""
        return self.canonical().each(change)

    def reduced(self, names: frozenset[str], sizes: Mapping[str, int]) -> Law | Quadratic:
        """Multiplied over these plates."""
        return self.canonical().reduced(names, sizes) if names else self

    def gather(self, child: str, parent: str, index: jax.Array, size: int) -> Quadratic:
        """See `Table.gather`."""
        return self.canonical().gather(child, parent, index, size)

    def canonical(self) -> Quadratic:
        """The same as a quadratic over the latent and its parents."""
        order = self.axes
        slope = self.slope.aligned((*order, ROW, COLUMN))
        root, mean = self.root.aligned((*order, ROW, COLUMN)), self.mean.aligned((*order, ROW))
        own = places_of(self.further.coordinates)[self.latent]
        size = root.shape[-1]
        eye = jnp.broadcast_to(jnp.eye(size, dtype=root.dtype), root.shape)
        inverse = jnp.linalg.solve(root, eye) if size > 1 else 1 / root
        # z = inverse (moves u - mean)
        moves = (-slope).at[..., own].add(jnp.eye(size, dtype=root.dtype))
        white, off = inverse @ moves, jnp.squeeze(inverse @ mean[..., None], -1)
        volume = jnp.linalg.slogdet(root)[1] if size > 1 else jnp.log(jnp.abs(root[..., 0, 0]))
        turned = jnp.swapaxes(white, -1, -2)
        constant = -(off**2).sum(-1) / 2 - volume - size / 2 * jnp.log(2 * jnp.pi)
        law = Quadratic(
            _varying(constant, order),
            _varying(jnp.squeeze(turned @ off[..., None], -1), (*order, ROW)),
            _varying(turned @ white, (*order, ROW, COLUMN)),
            self.further.coordinates,
        )
        return product_of([law, self.further])

    def put_into(self, form: Quadratic) -> Quadratic:
        """A quadratic over the latent and its parents at least, times this law without what is `further`, with
        z in the latent's place."""
        moved, size = self.substituted(form), self.root.array.shape[-1]
        own, axes = places_of(form.coordinates)[self.latent], moved.precision.axes
        order = (*(a for a in axes if a not in (ROW, COLUMN)), ROW, COLUMN)
        precision = moved.precision.aligned(order).at[..., own, own].add(1.0)
        constant = moved.constant.array - size / 2 * jnp.log(2 * jnp.pi)
        return replace(
            moved,
            constant=replace(moved.constant, array=constant),
            precision=Table(precision, order),
        )

    def substituted(self, form: Quadratic) -> Quadratic:
        """A quadratic over the latent and its parents at least, z in the latent's place."""
        order = tuple(dict.fromkeys((*self.axes, *form.axes)))
        coordinates = form.coordinates
        places, total = places_of(coordinates), sum(n for _, n in coordinates)
        own = places[self.latent]
        columns = np.concatenate([places[n] for n, _ in self.further.coordinates])
        slope = self.slope.aligned((*order, ROW, COLUMN))
        root, mean = self.root.aligned((*order, ROW, COLUMN)), self.mean.aligned((*order, ROW))
        batch = jnp.broadcast_shapes(slope.shape[:-2], root.shape[:-2])
        other = np.setdiff1d(np.arange(total), own)
        turn = jnp.zeros((*batch, total, total), root.dtype)
        turn = turn.at[..., other, other].set(1.0)
        turn = turn.at[..., own[:, None], columns].add(slope)
        turn = turn.at[..., own[:, None], own].set(root)
        precision = form.precision.aligned((*order, ROW, COLUMN))
        linear = form.linear.aligned((*order, ROW))
        pull = jnp.squeeze(precision[..., :, own] @ mean[..., None], -1)
        left = linear - pull
        constant = (linear[..., own] * mean).sum(-1) - (pull[..., own] * mean).sum(-1) / 2
        turned = jnp.swapaxes(turn, -1, -2)
        return Quadratic(
            _varying(form.constant.aligned(order) + constant, order),
            _varying(jnp.squeeze(turned @ left[..., None], -1), (*order, ROW)),
            _varying(turned @ (precision @ turn), (*order, ROW, COLUMN)),
            coordinates,
        )


@dataclass(frozen=True)
class _Parts:
    """A quadratic cut into the coordinates that are taken out and the others: `root`, the inverse of a
    Cholesky factor of the own precision; `own`, root @ linear; `cross`, root @ precision between the two."""

    root: jax.Array
    own: jax.Array
    cross: jax.Array
    linear: jax.Array
    precision: jax.Array
    given: jax.Array

    @classmethod
    def of(
        cls, form: Quadratic, order: tuple[str, ...], own: np.ndarray, rest: np.ndarray
    ) -> _Parts:
        linear = form.linear.aligned((*order, ROW))
        precision = form.precision.aligned((*order, ROW, COLUMN))
        root = inverse_root(precision[..., own[:, None], own])
        given = linear[..., own]
        cross = root @ precision[..., own[:, None], rest]
        return cls(
            root, jnp.squeeze(root @ given[..., None], -1), cross,
            linear[..., rest], precision[..., rest[:, None], rest], given,
        )  # fmt: skip

    def left(self) -> tuple[jax.Array, jax.Array]:
        """(linear, precision) of the other coordinates: the Schur complement."""
        swapped = jnp.swapaxes(self.cross, -1, -2)
        linear = self.linear - jnp.squeeze(swapped @ self.own[..., None], -1)
        return linear, self.precision - swapped @ self.cross


def value_of(root: jax.Array, own: jax.Array, given: jax.Array, mode: Mode) -> jax.Array:
    """log of the integral of a quadratic, as far as it does not depend on other coordinates, in every mode:
    a maximum over finite latents is one with real latents integrated out.

    The derivative with respect to the linear part `given` is the mean, or one draw. `root` is the
    inverse root of the precision, `own` that times `given`.
    """
    best = (own**2).sum(-1) / 2
    size = root.shape[-1]
    volume = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    value = best + volume + size / 2 * jnp.log(2 * jnp.pi)
    if isinstance(mode, Draw):
        batch = jnp.broadcast_shapes(root.shape[:-1], given.shape)
        noise = jax.random.normal(mode.next_key(), batch, root.dtype)
        away = jnp.squeeze(jnp.swapaxes(root, -1, -2) @ noise[..., None], -1)
        nudge = (jax.lax.stop_gradient(away) * given).sum(-1)
        value = value + nudge - jax.lax.stop_gradient(nudge)
    return value


def _reliable(constant: jax.Array, value: jax.Array) -> jax.Array:
    """Their sum; NaN where it has lost its digits. With hardly any noise (a Heywood case) it is the
    difference of numbers as large as the data's precision, and means nothing."""
    total = constant + value
    lost = jnp.finfo(total.dtype).eps * jnp.abs(constant)
    return jnp.where(lost < LOST * (1 + jnp.abs(total)), total, jnp.nan)


def inverse_root(precision: jax.Array) -> jax.Array:
    """R with R' R the inverse of a positive definite matrix, lower triangular."""
    size = precision.shape[-1]
    if size == 1:
        return precision**-0.5
    lower = jnp.linalg.cholesky(precision)
    eye = jnp.broadcast_to(jnp.eye(size, dtype=lower.dtype), lower.shape)
    return jax.scipy.linalg.solve_triangular(lower, eye, lower=True)


def places_of(coordinates: Coordinates) -> dict[str, np.ndarray]:
    """The numbers of each latent's coordinates."""
    ends = np.cumsum([size for _, size in coordinates])
    return {n: np.arange(end - size, end) for (n, size), end in zip(coordinates, ends, strict=True)}


def _varying(array: jax.Array, axes: tuple[str, ...]) -> Table:
    """A table without the axes along which it is the same, of size one: a table that has an axis is summed
    along it, and one that has not counts once for every unit."""
    kept = [i for i, a in enumerate(axes) if array.shape[i] > 1 or a in (ROW, COLUMN)]
    return Table(array.reshape([array.shape[i] for i in kept]), tuple(axes[i] for i in kept))


def _spread(table: Table, axis: str, places: np.ndarray, size: int) -> Table:
    """The entries of an axis at other places of a longer one."""
    i = table.axes.index(axis)
    moved = jnp.moveaxis(table.array, i, -1)
    wide = jnp.zeros((*moved.shape[:-1], size), moved.dtype).at[..., places].set(moved)
    return replace(table, array=jnp.moveaxis(wide, -1, i))


def take_out(
    potentials: Iterable[Potential], latent: str, mode: Mode, known: Known | None = None
) -> Table | Quadratic:
    """The product of potentials with a latent taken out; where it is known, at its value."""
    potentials = list(potentials)
    if known is not None and any(isinstance(p, (Law, Quadratic)) for p in potentials):
        free = take_out(potentials, latent, mode)
        pinned = product_of([_plain(p) for p in potentials]).pinned(latent, known)
        axes = tuple(a for a in known.shown.axes if a != ROW)
        anything = Table(known.shown.aligned((*axes, ROW)).max(-1) > 0, axes)
        return _chosen(anything, pinned.take(latent, mode), free)
    law = next((p for p in potentials if isinstance(p, Law) and p.latent == latent), None)
    others = [_plain(p) for p in potentials if p is not law]
    if law is None:
        return product_of(others).take(latent, mode)
    return law.put_into(product_of([law.further, *others])).take(latent, mode)


def _plain(potential: Potential) -> Table | Quadratic:
    if isinstance(potential, Sums):
        raise RuntimeError("sums over all units are taken out together.")
    return potential.canonical() if isinstance(potential, Law) else potential


def product_of(potentials: list[Table | Quadratic]) -> Any:
    """The product of tables and quadratics, a table where there are only those."""
    forms = [p for p in potentials if isinstance(p, Quadratic)]
    tables = [p for p in potentials if isinstance(p, Table)]
    if not forms:
        return add(tables)
    coordinates = tuple(dict.fromkeys(c for f in forms for c in f.coordinates))
    spread = [f.spread(coordinates) for f in forms]
    return Quadratic(
        add([f.constant for f in spread] + tables),
        add([f.linear for f in spread]),
        add([f.precision for f in spread]),
        coordinates,
    )


Potential = Table | Quadratic | Law | Sums
