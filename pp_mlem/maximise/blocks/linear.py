"""Least squares from sums over rows: what linear predictors of several sites have in common.

With X = Q R and weights W, the sums are Q'WQ and Q'W e of every lane: they neither lose the digits of
covariates far from zero nor square the condition of X. A root F of Q'WQ = F'F makes of them the short
least squares problem |F R delta - rho|, rho = F'^-1 Q'W e, which is solved as it stands.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.designs import Design

AT_ONCE = 2**24  # numbers in the weighted columns of all lanes; of more one lane after the other
FLAT = 100.0  # times rounding, of the largest direction: below it nothing is known along one


class Sums(NamedTuple):
    """Of one site, over its rows: Q'W e (lanes, q) and Q'W Q (lanes, q, q)."""

    gradient: jax.Array
    curvature: jax.Array


class Pull(NamedTuple):
    """Normal priors of the coefficients: precisions (coefficients,), zero where flat, and means."""

    precision: jax.Array
    mean: jax.Array

    def log_density(self, coefficients: jax.Array) -> jax.Array:
        """Up to a constant, in nats."""
        return -0.5 * (self.precision * (coefficients - self.mean) ** 2).sum()


class Step(NamedTuple):
    """The change of the coefficients, and the decrement g' H^-1 g, twice the gain that a quadratic
    function would have along it."""

    change: jax.Array
    decrement: jax.Array


def sums(design: Design, gradient: jax.Array, weight: jax.Array) -> Sums:
    """Q' gradient and Q' diag(weight) Q of arrays (lanes, rows)."""
    columns = design.columns
    if not design.is_shared:
        first = jnp.einsum("lr,lqr->lq", gradient, columns)
        return Sums(first, jax.lax.map(lambda own: _square(*own), (columns, weight)))
    first = gradient @ columns.T
    if weight.size * len(columns) > AT_ONCE:
        return Sums(first, jax.lax.map(lambda own: _square(columns, own), weight))
    scaled = (columns * weight[:, None, :]).reshape(-1, columns.shape[1])
    return Sums(first, (scaled @ columns.T).reshape(-1, len(columns), len(columns)))


def _square(columns: jax.Array, weight: jax.Array) -> jax.Array:
    """Q' diag(weight) Q of one lane, from (q, rows) and (rows,)."""
    return (columns * weight) @ columns.T


def _root(found: Sums) -> tuple[jax.Array, jax.Array]:
    """F (lanes, q, q) with F'F the curvature, and F'^-1 gradient (lanes, q); zero along directions of
    which nothing is known."""
    values, vectors = jnp.linalg.eigh(found.curvature)
    least = values.shape[-1] * jnp.finfo(values.dtype).eps * values.max(-1, keepdims=True)
    known = values > jnp.maximum(least, jnp.finfo(values.dtype).tiny)
    size = jnp.sqrt(jnp.where(known, values, 1.0))
    across = jnp.einsum("lqk,lq->lk", vectors, found.gradient)
    root = jnp.where(known, size, 0.0)[..., None] * vectors.swapaxes(-1, -2)
    return root, jnp.where(known, across / size, 0.0)


def _solve(matrix: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The shortest x with |matrix x - right| least (columns scaled to length one), and the square of
    `right` along the matrix; of several at a time. What has no length stays where it is."""
    length = jnp.sqrt((matrix**2).sum(-2))
    scale = jnp.where(length > 0, 1.0 / jnp.where(length > 0, length, 1.0), 0.0)
    u, s, vt = jnp.linalg.svd(matrix * scale[..., None, :], full_matrices=False)
    known = s > FLAT * jnp.finfo(s.dtype).eps * s.max(-1, keepdims=True)
    along = jnp.where(known, jnp.einsum("...nk,...n->...k", u, right), 0.0)
    x = jnp.einsum("...kp,...k->...p", vt, along / jnp.where(known, s, 1.0))
    return scale * x, (along**2).sum(-1)


def solve(
    designs: dict[str, Design],
    local: dict[str, np.ndarray],
    found: dict[str, Sums],
    pull: Pull,
    coefficients: jax.Array,
) -> Step:
    """The step that maximises sum_sites (gradient' d - d' curvature d / 2) + the log prior, d the
    change of a lane's predictor.

    `local[site]` (lanes, C) says which coefficient each column of a lane has, and is their number
    where it has none. Lanes that share no coefficient are solved one by one, all at a time.
    """
    count = len(coefficients)
    root_pull = jnp.sqrt(pull.precision)
    back = root_pull * (pull.mean - coefficients)
    pieces: list[tuple[np.ndarray, jax.Array, jax.Array]] = []
    for site, design in designs.items():
        root, right = _root(found[site])
        form = "lkq,qc->lkc" if design.is_shared else "lkq,lqc->lkc"
        pieces.append((local[site], jnp.einsum(form, root, design.triangle), right))
    if _is_apart(local, count):
        change, decrement = jnp.zeros(count), jnp.zeros(())
        for own, matrix, right in pieces:
            pad = lambda a, own=own: jnp.append(a, 0.0)[own]
            below = pad(root_pull)[..., None] * jnp.eye(own.shape[1])
            matrix = jnp.where(own[:, None, :] < count, matrix, 0.0)
            matrix = jnp.concatenate([matrix, below], 1)
            x, gain = _solve(matrix, jnp.concatenate([right, pad(back)], 1))
            change, decrement = change.at[own].add(x, mode="drop"), decrement + gain.sum()
        return Step(change, decrement)
    rows, rights = [jnp.diag(root_pull)], [back]
    for own, matrix, right in pieces:
        spread = jnp.asarray(own[..., None] == np.arange(count), matrix.dtype)
        rows.append(jnp.einsum("lkc,lcp->lkp", matrix, spread).reshape(-1, count))
        rights.append(right.ravel())
    return Step(*_solve(jnp.concatenate(rows), jnp.concatenate(rights)))


def _is_apart(local: dict[str, np.ndarray], count: int) -> bool:
    """Whether every coefficient is that of one lane of one site."""
    every = np.concatenate([own.ravel() for own in local.values()])
    return bool(np.bincount(every, minlength=count + 1)[:count].max(initial=0) <= 1)
