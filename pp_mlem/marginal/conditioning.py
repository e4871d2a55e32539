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


class Columns(NamedTuple):
    """Columns (rows, ...) of a least squares problem, in the rows of the noise and in those that are seen."""

    noise: jax.Array
    seen: jax.Array

    def along(self, other: Columns) -> jax.Array:
        """The inner product of each column."""
        return (self.noise * other.noise).sum(0) + (self.seen * other.seen).sum(0)

    def without(self, own: Columns, share: jax.Array) -> Columns:
        return Columns(self.noise - own.noise * share, self.seen - own.seen * share)


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
    inverse, volume, parts, rests = rotate(noise, [away, *(-pull[:, i] for i in range(width))])
    narrow = product(root, inverse)
    solved = [applied(narrow, jnp.moveaxis(p, 0, -1)) for p in parts]
    rest, drift = rests[0], rests[1:]
    zero = jnp.zeros((*volume.shape, 0), mean.dtype)
    return Conditioned(
        mean + solved[0],
        slope + _stacked([s[..., None] for s in solved[1:]], zero[..., None, :]),
        narrow,
        _stacked([-d.along(rest)[..., None] for d in drift], zero),
        _stacked([_stacked([d.along(e)[..., None] for e in drift], zero)[..., None] for d in drift], zero[..., None]),
        -rest.along(rest) / 2 - volume,
    )  # fmt: skip


def _times(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """(rows, k, ...) times (k, n, ...) as (rows, n, ...)."""
    if rows.shape[1] <= FEW:
        return sum(rows[:, i, None] * matrix[i] for i in range(rows.shape[1]))  # type: ignore[return-value]
    found = jnp.moveaxis(rows, (0, 1), (-2, -1)) @ jnp.moveaxis(matrix, (0, 1), (-2, -1))
    return jnp.moveaxis(found, (-2, -1), (0, 1))


def _stacked(parts: list[jax.Array], nothing: jax.Array) -> jax.Array:
    """Arrays along their last axis, the axes before broadcast."""
    if not parts:
        return nothing
    lead = jnp.broadcast_shapes(*(p.shape for p in parts))
    return jnp.concatenate([jnp.broadcast_to(p, lead) for p in parts], -1)


Rotated = tuple[jax.Array, jax.Array, list[jax.Array], list[Columns]]


def _by_columns(noise: jax.Array, others: list[jax.Array]) -> Rotated:
    """(R^-1, log |R|, Q' others, others - Q Q' others), Q R the identity above `noise` (rows, size, ...) and
    `others` zero above. Modified Gram-Schmidt; the identity keeps norms above one."""
    size, ones = noise.shape[1], (1,) * (noise.ndim - 2)
    eye = jnp.eye(size, dtype=noise.dtype).reshape(size, size, *ones)
    columns = [Columns(eye[i], noise[:, i]) for i in range(size)]
    rests = [Columns(0 * eye[0], o) for o in others]
    parts: list[list[jax.Array]] = [[] for _ in others]
    shares: list[list[jax.Array]] = []
    inverse: list[jax.Array] = []  # columns of R^-1
    volume = jnp.zeros(ones, noise.dtype)
    for i in range(size):
        length = jnp.sqrt(columns[i].along(columns[i]))
        own = Columns(columns[i].noise / length, columns[i].seen / length)
        volume = volume + jnp.log(length)
        above = eye[i]
        for j, earlier in enumerate(inverse):
            above = above - shares[j][i - j - 1] * earlier
        inverse.append(above / length)
        shares.append([own.along(c) for c in columns[i + 1 :]])
        columns[i + 1 :] = [
            c.without(own, s) for c, s in zip(columns[i + 1 :], shares[i], strict=True)
        ]
        for k, rest in enumerate(rests):
            parts[k].append(own.along(rest))
            rests[k] = rest.without(own, parts[k][i])
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
    parts, rests = [], []
    for other in others:
        column = jnp.moveaxis(other, 0, -1)
        part = applied(turned(basis[..., size:, :]), column)
        spanned = jnp.moveaxis(applied(basis, part), -1, 0)
        parts.append(jnp.moveaxis(part, -1, 0))
        rests.append(Columns(-spanned[:size], other - spanned[size:]))
    return inverse, volume, parts, rests
