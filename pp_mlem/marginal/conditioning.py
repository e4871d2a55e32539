"""The latents of a step given what the step itself shows of them, by orthogonal rotations of rows.

Noise z of a step and rows left - slope @ (before, latents) of its observations are one least squares problem
with a unit matrix on top. Its triangular factor has the law of z, what is left of the rows is what the step
tells of what it is given: no precision of an observation is ever squared (Golub & Van Loan 2013, section
5.3; the square-root filter of Kaminski, Bryson & Schmidt 1971, doi:10.1109/TAC.1971.1099816).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.marginal.elements import applied, product, turned

FEW = 4  # columns: more are rotated by Householder's method


class Conditioned(NamedTuple):
    """The law of a step's latents given its rows, `mean` + `slope` @ before + `root` @ noise, and the quadratic
    `constant` + `linear` . before - before' `precision` before / 2 that is left."""

    mean: jax.Array
    slope: jax.Array
    root: jax.Array
    linear: jax.Array
    precision: jax.Array
    constant: jax.Array


def conditioned(
    law: tuple[jax.Array, jax.Array, jax.Array], left: jax.Array, rows: jax.Array
) -> Conditioned:
    """`law` is (mean, slope, root) of the latents (..., total) given what is before (..., width); `left` (rows,
    ...) less `rows` (rows, width + total, ...) times (before, latents) are standard normal."""
    mean, slope, root = law
    width, total = slope.shape[-1], root.shape[-1]
    given, latent = rows[:, :width], rows[:, width:]
    away = left - _times(latent, jnp.moveaxis(mean, -1, 0)[:, None])[:, 0]
    pull = given + _times(latent, jnp.moveaxis(slope, (-2, -1), (0, 1)))
    noise = _times(latent, jnp.moveaxis(root, (-2, -1), (0, 1)))
    # of |z|² + |away - pull @ before - noise @ z|²
    rotate = _by_columns if total <= FEW else _by_reflections
    inverse, volume, parts, rests = rotate(noise, [away, -pull])
    narrow = product(root, inverse)
    rest, drift = rests[0], jnp.moveaxis(rests[1], (0, 1), (-2, -1))
    return Conditioned(
        mean + applied(narrow, jnp.moveaxis(parts[0], 0, -1)),
        slope + product(narrow, jnp.moveaxis(parts[1], (0, 1), (-2, -1))),
        narrow,
        -jnp.moveaxis((rests[1] * rest[:, None]).sum(0), 0, -1),
        product(turned(drift), drift),
        -(rest**2).sum(0) / 2 - volume,
    )


def _times(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """(rows, k, ...) times (k, n, ...) as (rows, n, ...)."""
    if rows.shape[1] <= FEW:
        return sum(rows[:, i, None] * matrix[i] for i in range(rows.shape[1]))  # type: ignore[return-value]
    found = jnp.moveaxis(rows, (0, 1), (-2, -1)) @ jnp.moveaxis(matrix, (0, 1), (-2, -1))
    return jnp.moveaxis(found, (-2, -1), (0, 1))


Rotated = tuple[jax.Array, jax.Array, list[jax.Array], list[jax.Array]]


def _below(size: int, array: jax.Array) -> jax.Array:
    """`array` (rows, ...) with so many rows of zeros above."""
    return jnp.concatenate([jnp.zeros((size, *array.shape[1:]), array.dtype), array])


def _by_columns(noise: jax.Array, others: list[jax.Array]) -> Rotated:
    """(R^-1, log |R|, Q' others, others - Q Q' others), Q R the identity above `noise` (rows, size, ...) and
    `others` (rows, ...) or (rows, columns, ...) zero above. Modified Gram-Schmidt; the identity keeps norms above
    one."""
    size, ones = noise.shape[1], (1,) * (noise.ndim - 2)
    eye = jnp.eye(size, dtype=noise.dtype).reshape(size, size, *ones)
    above = jnp.broadcast_to(eye, (size, *noise.shape[1:]))
    left = jnp.concatenate([above, noise])  # what is left of the columns
    rests = [_below(size, o) for o in others]
    parts: list[list[jax.Array]] = [[] for _ in others]
    inverse: list[jax.Array] = []  # columns of R^-1
    shares: list[jax.Array] = []
    volume = jnp.zeros(ones, noise.dtype)
    for i in range(size):
        length = jnp.sqrt((left[:, 0] ** 2).sum(0))
        own = left[:, 0] / length
        volume = volume + jnp.log(length)
        column = eye[i]
        for j, earlier in enumerate(inverse):
            column = column - shares[j][i - j - 1] * earlier
        inverse.append(column / length)
        shares.append((own[:, None] * left[:, 1:]).sum(0))
        left = left[:, 1:] - own[:, None] * shares[i]
        for k, rest in enumerate(rests):
            along = own if rest.ndim == own.ndim else own[:, None]
            parts[k].append((along * rest).sum(0))
            rests[k] = rest - along * parts[k][i]
    wide = jnp.broadcast_shapes(*(c.shape for c in inverse))
    whole = jnp.stack([jnp.broadcast_to(c, wide) for c in inverse])  # (columns, rows, ...)
    return jnp.moveaxis(whole, (1, 0), (-2, -1)), volume, [jnp.stack(p) for p in parts], rests


def _by_reflections(noise: jax.Array, others: list[jax.Array]) -> Rotated:
    """The same by Householder's method."""
    size, seen = noise.shape[1], jnp.moveaxis(noise, (0, 1), (-2, -1))
    eye = jnp.broadcast_to(jnp.eye(size, dtype=seen.dtype), (*seen.shape[:-2], size, size))
    basis, upper = jnp.linalg.qr(jnp.concatenate([eye, seen], -2))
    inverse = jax.scipy.linalg.solve_triangular(upper, eye)
    volume = jnp.log(jnp.abs(jnp.diagonal(upper, axis1=-2, axis2=-1))).sum(-1)
    rows, parts, rests = jnp.moveaxis(basis, (-2, -1), (0, 1)), [], []
    for other in others:
        flat = other if other.ndim == noise.ndim else other[:, None]
        part = _times(jnp.swapaxes(rows[size:], 0, 1), flat)
        rest = _below(size, flat) - _times(rows, part)
        same = other.ndim == noise.ndim
        parts.append(part if same else part[:, 0])
        rests.append(rest if same else rest[:, 0])
    return inverse, volume, parts, rests
