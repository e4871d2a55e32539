"""Batches of vectors and matrices put together: columns of coordinates, rows one after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates, places_of
from pp_mlem.potentials.table import Table


def columns(
    slope: Table, own: Coordinates, coordinates: Coordinates, order: tuple[str, ...]
) -> jax.Array:
    """A slope of the coordinates `own` with a column for each of the `coordinates`."""
    return wide_columns(slope.aligned((*order, ROW, COLUMN)), own, coordinates)


def wide_columns(array: jax.Array, own: Coordinates, coordinates: Coordinates) -> jax.Array:
    wide = jnp.zeros((*array.shape[:-1], sum(n for _, n in coordinates)), array.dtype)
    where, places = places_of(coordinates), places_of(own)
    for name, _ in own:
        wide = wide.at[..., where[name]].set(array[..., places[name]])
    return wide


def batch(array: jax.Array, other: jax.Array, trailing: int) -> tuple[int, ...]:
    """The batch shape of both, with so many dimensions after it."""
    return jnp.broadcast_shapes(
        array.shape[: array.ndim - trailing], other.shape[: other.ndim - trailing]
    )


def stacked(parts: list[jax.Array], axis: int) -> jax.Array:
    """Arrays one after the other, the axes before broadcast."""
    rank = -axis
    lead = jnp.broadcast_shapes(*(a.shape[: a.ndim - rank] for a in parts))
    return jnp.concatenate(
        [jnp.broadcast_to(a, (*lead, *a.shape[a.ndim - rank :])) for a in parts], axis
    )


def one_after_other(parts: list[jax.Array]) -> jax.Array:
    """Arrays along their first axis, the axes after it broadcast."""
    tail = jnp.broadcast_shapes(*(p.shape[1:] for p in parts))
    return jnp.concatenate([jnp.broadcast_to(p, (len(p), *tail)) for p in parts])
