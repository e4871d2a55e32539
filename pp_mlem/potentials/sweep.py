"""Coordinates integrated out of many quadratics at once, of each its own: the sweep operator (Goodnight 1979,
doi:10.1080/00031305.1979.10482685), by which EM for normal data with missing entries is written in Little &
Rubin (2019, section 11.2, doi:10.1002/9781119482260)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def integrated(matrix: jax.Array, gone: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(-v' matrix v / 2) with the coordinates where `gone` is one integrated out: (left, constant) of
    exp(constant - w' left w / 2), w the other coordinates; rows and columns of those that are gone are zero.

    `matrix` (..., n, n) is symmetric and positive definite among the coordinates that are gone; `gone`
    (..., n) is zero or one.
    """
    found, half_log_det = swept(matrix, gone)
    kept = 1.0 - gone
    constant = gone.sum(-1) / 2 * jnp.log(2 * jnp.pi) - half_log_det
    return found * kept[..., :, None] * kept[..., None, :], constant


def completed(matrix: jax.Array, gone: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(..., n, n) that makes of the coordinates that are left all of them, those that are gone at their
    means given the others; and the covariance of these."""
    found, _ = swept(matrix, gone)
    kept = 1.0 - gone
    eye = jnp.eye(gone.shape[-1], dtype=found.dtype) * kept[..., None, :]
    whole = eye - found * gone[..., :, None] * kept[..., None, :]
    return whole, -found * gone[..., :, None] * gone[..., None, :]


@jax.custom_jvp
def swept(matrix: jax.Array, gone: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix swept on the coordinates that are gone, and half the log determinant among them.

    Among those that are left it is the Schur complement, among the others minus the inverse, between the two
    the inverse times the block. Its derivatives, of any order, are products of matrices: no loop is
    differentiated.
    """
    size = matrix.shape[-1]
    batch = jnp.broadcast_shapes(matrix.shape[:-2], gone.shape[:-1])
    start = jnp.broadcast_to(matrix, (*batch, size, size)), jnp.zeros(batch, matrix.dtype)

    def sweep(
        state: tuple[jax.Array, jax.Array], own: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        whole, half_log_det = state
        now = (gone * own).sum(-1) > 0
        column = (whole * own).sum(-1)
        pivot = jnp.where(now, (column * own).sum(-1), 1.0)
        edge = column / pivot[..., None]
        rest = whole - column[..., :, None] * edge[..., None, :]
        down, across = own[:, None] > 0, own[None, :] > 0
        rest = jnp.where(down, edge[..., None, :], rest)
        rest = jnp.where(across, edge[..., :, None], rest)
        rest = jnp.where(down & across, -1.0 / pivot[..., None, None], rest)
        new = jnp.where(now[..., None, None], rest, whole)
        return (new, half_log_det + 0.5 * jnp.log(pivot)), None

    (whole, half_log_det), _ = jax.lax.scan(sweep, start, jnp.eye(size, dtype=matrix.dtype))
    return whole, half_log_det


@swept.defjvp
def _swept_jvp(primals: tuple, tangents: tuple) -> tuple:
    (matrix, gone), (change, _) = primals, tangents
    found, half_log_det = swept(matrix, gone)
    turn = jnp.eye(gone.shape[-1], dtype=found.dtype) * (1.0 - gone[..., None, :])
    turn = turn - gone[..., :, None] * found
    moved = jnp.einsum("...ia,...ij,...jb->...ab", turn, change, turn, optimize="optimal")
    inverse = -found * gone[..., :, None] * gone[..., None, :]
    slope = jnp.einsum("...ij,...ij->...", inverse, jnp.broadcast_to(change, inverse.shape)) / 2
    return (found, half_log_det), (moved, slope)
