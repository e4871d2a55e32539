"""Affine factors of vectors that are missing in part: the missing entries integrated out, the real latents left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.patterns import Patterns, Rest, rest_by_row, rest_of_cells
from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates, Quadratic
from pp_mlem.potentials.table import Table


def quadratic_of_partly(
    eta: Table,
    entries: int,
    coordinates: Coordinates,
    patterns: Patterns,
    mask: jax.Array,
    rows: dict[str, int],
) -> Quadratic:
    """The quadratic over the real latents `coordinates` of an observed site.

    `eta` are its natural parameters, the last two axes its columns and the numbers of `AffineFactor`; `entries`
    the length of a vector; `mask` (columns, rows) where it counts; `rows` its plates with their sizes.
    """
    latents = sum(size for _, size in coordinates)
    *axes, columns, numbers = eta.axes
    finite = tuple(a for a in axes if a not in rows)
    varies = tuple(a for a in rows if a in axes)
    array = eta.aligned((*finite, *(rows if varies else ()), columns, numbers))
    lanes = array.shape[: len(finite)]
    if varies:
        array = jnp.broadcast_to(array, (*lanes, *rows.values(), *array.shape[-2:]))
        array = array.reshape(-1, int(np.prod(list(rows.values()))), *array.shape[-2:])
        matrix, constant = _matrix(jnp.swapaxes(array, 1, 2), entries, latents)
        rest = rest_by_row(matrix, constant, patterns, latents)
    else:
        matrix, constant = _matrix(array.reshape(-1, *array.shape[-2:]), entries, latents)
        rest = rest_of_cells(matrix, constant, patterns, latents)
    total = _over_columns(rest, mask)
    names = (*finite, *rows)

    def named(part: jax.Array, after: tuple[str, ...]) -> Table:
        shape = (*lanes, *rows.values(), *part.shape[2:])
        return Table(part.reshape(shape), (*names, *after))

    return Quadratic(
        named(total.constant, ()),
        named(total.linear, (ROW,)),
        named(total.precision, (ROW, COLUMN)),
        coordinates,
    )


def _over_columns(rest: Rest, mask: jax.Array) -> Rest:
    """Multiplied over the columns, where the mask shows them."""

    def over(part: jax.Array) -> jax.Array:
        shown = mask.reshape(*mask.shape, *(1,) * (part.ndim - 3))
        return jnp.where(shown, part, 0.0).sum(1)

    return Rest(*map(over, rest))


def _matrix(eta: jax.Array, entries: int, latents: int) -> tuple[jax.Array, jax.Array]:
    """(..., n, n) over the vector, the latents and one, and the constant, of natural parameters (..., F): those
    of two latents, one, none; the normaliser; of an entry and a latent, an entry, two entries."""
    shapes = [(latents, latents), (latents, 1), (1, 1), (1, 1)]
    shapes += [(entries, latents), (entries, 1), (entries, entries)]
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    both, one, none, normaliser, crossed, entry, two = (
        part.reshape(*eta.shape[:-1], *shape)
        for part, shape in zip(jnp.split(eta, ends[:-1], -1), shapes, strict=True)
    )
    turn = lambda a: jnp.swapaxes(a, -1, -2)
    lines = [[two, crossed, entry], [turn(crossed), both, one], [turn(entry), turn(one), none]]
    matrix = jnp.concatenate([jnp.concatenate(line, -1) for line in lines], -2)
    return matrix, -normaliser[..., 0, 0]
