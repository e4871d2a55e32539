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
    """`law` is (mean, slope, root) of the latents (..., total) given what is before (..., width); `left` (...,
    rows) less `rows` (..., rows, width + total) @ (before, latents) are standard normal."""
    mean, slope, root = law
    width = slope.shape[-1]
    given, latent = rows[..., :width], rows[..., width:]
    away = left - applied(latent, mean)
    pull = given + product(latent, slope)
    noise = product(latent, root)
    total = noise.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(total, dtype=noise.dtype), (*noise.shape[:-2], total, total))
    # of |z|² + |away - pull @ before - noise @ z|²
    matrix = jnp.concatenate([eye, noise], -2)
    value = jnp.concatenate([jnp.zeros((*away.shape[:-1], total), away.dtype), away], -1)
    moved = jnp.concatenate([jnp.zeros((*pull.shape[:-2], total, width), pull.dtype), -pull], -2)
    inverse, volume, parts, rests = _rotated(matrix, value[..., None], moved)
    solved = product(inverse, parts[0])[..., 0], product(inverse, parts[1])
    rest, drift = rests[0][..., 0], rests[1]
    narrow = product(root, inverse)
    return Conditioned(
        mean + applied(root, solved[0]),
        slope + product(root, solved[1]),
        narrow,
        -applied(turned(drift), rest),
        product(turned(drift), drift),
        -(rest**2).sum(-1) / 2 - volume,
    )


def _rotated(
    matrix: jax.Array, *others: jax.Array
) -> tuple[jax.Array, jax.Array, list[jax.Array], list[jax.Array]]:
    """(R^-1, log |R|, Q' others, others - Q Q' others) of matrix = Q R."""
    size = matrix.shape[-1]
    if size > FEW:
        basis, upper = jnp.linalg.qr(matrix)
        parts = [product(turned(basis), o) for o in others]
        rests = [o - product(basis, p) for o, p in zip(others, parts, strict=True)]
        eye = jnp.broadcast_to(jnp.eye(size, dtype=upper.dtype), upper.shape)
        inverse = jax.scipy.linalg.solve_triangular(upper, eye)
        volume = jnp.log(jnp.abs(jnp.diagonal(upper, axis1=-2, axis2=-1))).sum(-1)
        return inverse, volume, parts, rests
    columns = [matrix[..., i] for i in range(size)]
    found: list[list[jax.Array]] = [[] for _ in others]
    rests, volume = list(others), jnp.zeros(matrix.shape[:-2], matrix.dtype)
    inverse: list[jax.Array] = []  # columns of R^-1, found with those of Q
    shares: list[list[jax.Array]] = []
    eye = jnp.eye(size, dtype=matrix.dtype)
    for i in range(size):  # modified Gram-Schmidt; the unit matrix on top keeps norms above one
        length = jnp.sqrt((columns[i] ** 2).sum(-1))
        own = columns[i] / length[..., None]
        volume = volume + jnp.log(length)
        above = jnp.broadcast_to(eye[i], (*length.shape, size))
        for j, earlier in enumerate(inverse):
            above = above - shares[j][i - j - 1][..., None] * earlier
        inverse.append(above / length[..., None])
        share = [(own * c).sum(-1) for c in columns[i + 1 :]]
        shares.append(share)
        columns[i + 1 :] = [
            c - s[..., None] * own for c, s in zip(columns[i + 1 :], share, strict=True)
        ]
        for k, other in enumerate(rests):
            part = (own[..., None] * other).sum(-2)
            found[k].append(part)
            rests[k] = other - own[..., None] * part[..., None, :]
    return jnp.stack(inverse, -1), volume, [jnp.stack(f, -2) for f in found], rests
