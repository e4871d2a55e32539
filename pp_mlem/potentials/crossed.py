"""The integral of a quadratic over crossed coordinates, and its derivatives by rules of their own.

The first coordinates come in units that do not meet one another; each unit meets some of the others. With
the units out, the others have one dense precision (the Schur complement of Bates et al. 2015,
doi:10.18637/jss.v067.i01). The derivatives of the value are the posterior mean and the blocks of the
posterior covariance where the precision is not zero: none goes through a Cholesky factor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WHOLE_BLOCK = 300  # rows up to which a matrix is inverted whole; larger ones go by halves


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pattern:
    """Where units of the first coordinates meet the others: edge e is between `unit[e]` and the other
    coordinate `column[e]`. `one` and `two` are all pairs of edges of a unit, each pair once, in the order of
    `place`, their entry (row first) in the upper triangle of the others' precision.

    `edges` says for the cells of some plates (by their names) and a latent which edges they are.
    """

    unit: Any
    column: Any
    one: Any
    two: Any
    place: Any
    edges: dict[tuple[tuple[str, ...], str], Any] = field(default_factory=dict)


class Crossed(NamedTuple):
    """exp(linear . u - u' precision u / 2) over the first coordinates (units, size) and the others (rest).

    `own` (units, size, size) and `others` (rest, rest) are blocks of the precision, `cross` the blocks
    between them: (edges, size) along a `Pattern`, or whole, (units, size, rest).
    """

    own: jax.Array
    cross: jax.Array
    others: jax.Array
    linear: jax.Array
    linear_others: jax.Array


@jax.custom_jvp
def log_integral(form: Crossed, pattern: Pattern | None) -> jax.Array:
    """log of the integral over all coordinates; differentiable to any order. Where no derivative is wanted it
    takes a Cholesky factor."""
    inverse, half = inverse_of(form.own)
    _, given, rest = _eliminated(form, pattern, inverse)
    lower = jnp.linalg.cholesky(rest)
    white = jax.scipy.linalg.solve_triangular(lower, given.others, lower=True)
    square = given.first + white @ white
    half_others = jnp.log(jnp.diagonal(lower)).sum()
    return _value(form, square, half.sum() + half_others)


@log_integral.defjvp
def _log_integral_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (form, pattern), change = primals, tangents[0]
    value, mean, second = _moments(form, pattern)
    moved = _dot(mean.own, change.linear) + _dot(mean.others, change.linear_others)
    moved -= _dot(second.own, change.own) / 2 + _dot(second.others, change.others) / 2
    return value, moved - _dot(second.cross, change.cross)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a * b).sum()


class _Mean(NamedTuple):
    own: jax.Array
    others: jax.Array


class _Second(NamedTuple):
    """E[u u'] in the blocks of a `Crossed`."""

    own: jax.Array
    cross: jax.Array
    others: jax.Array


class _Given(NamedTuple):
    """What is left once the first coordinates are out: their share of linear' precision^-1 linear, their
    mean at others of zero, and the others' linear part."""

    first: jax.Array
    mean: jax.Array
    others: jax.Array


def _value(form: Crossed, square: jax.Array, half_log_det: jax.Array) -> jax.Array:
    size = form.linear.size + form.linear_others.size
    return square / 2 - half_log_det + size / 2 * jnp.log(2 * jnp.pi)


def _eliminated(
    form: Crossed, pattern: Pattern | None, inverse: jax.Array
) -> tuple[jax.Array, _Given, jax.Array]:
    """(inverse of the own precision times `cross`, what is left, the Schur complement)."""
    mean = jnp.einsum("ust,ut->us", inverse, form.linear)
    first, size = _dot(form.linear, mean), form.others.shape[0]
    if pattern is None:
        turned = inverse @ form.cross
        flat = form.cross.reshape(-1, size)
        rest = form.others - flat.T @ turned.reshape(-1, size)
        others = form.linear_others - mean.reshape(-1) @ flat
        return turned, _Given(first, mean, others), rest
    turned = jnp.einsum("est,et->es", inverse[pattern.unit], form.cross)
    product = (turned[pattern.one] * form.cross[pattern.two]).sum(-1)
    upper = jnp.zeros(size * size, product.dtype)
    upper = upper.at[pattern.place].add(product, indices_are_sorted=True).reshape(size, size)
    rest = form.others - upper - jnp.triu(upper, 1).T
    pull = (form.cross * mean[pattern.unit]).sum(-1)
    others = form.linear_others.at[pattern.column].add(-pull)
    return turned, _Given(first, mean, others), rest


def _moments(form: Crossed, pattern: Pattern | None) -> tuple[jax.Array, _Mean, _Second]:
    """(the value, E[u], E[u u'] in the blocks of the precision)."""
    inverse, half = inverse_of(form.own)
    turned, given, rest = _eliminated(form, pattern, inverse)
    covariance, half_others = inverse_of(rest)
    others = covariance @ given.others
    value = _value(form, given.first + given.others @ others, half.sum() + half_others)
    if pattern is None:
        against = turned @ covariance
        own = given.mean - turned @ others
        spread = inverse + against @ jnp.swapaxes(turned, 1, 2)
        between = own[..., None] * others
    else:
        against = _against(turned, covariance, pattern)
        zero = jnp.zeros_like(given.mean)
        own = given.mean - zero.at[pattern.unit].add(turned * others[pattern.column, None])
        outer = turned[:, :, None] * against[:, None, :]
        spread = inverse.at[pattern.unit].add(outer)
        between = own[pattern.unit] * others[pattern.column, None]
    second = _Second(
        spread + own[:, :, None] * own[:, None, :],
        between - against,
        covariance + others[:, None] * others,
    )
    return value, _Mean(own, others), second


def _against(turned: jax.Array, covariance: jax.Array, pattern: Pattern) -> jax.Array:
    """`turned` of each unit times the others' covariance, at the edges alone."""
    one, two = pattern.one, pattern.two
    between = covariance.reshape(-1)[pattern.place]
    twice = jnp.where(one == two, 0.0, between)

    def of(column: jax.Array) -> jax.Array:
        found = jnp.zeros_like(column).at[one].add(column[two] * between)
        return found.at[two].add(column[one] * twice)

    return jnp.stack([of(turned[:, i]) for i in range(turned.shape[1])], -1)


@jax.custom_jvp
def inverse_of(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of a positive definite matrix (..., n, n) and half its log determinant. A derivative of
    the inverse is -inverse change inverse: two products, whatever the order."""
    return _inverse(matrix)


@inverse_of.defjvp
def _inverse_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    inverse, half = inverse_of(*primals)
    (change,) = tangents
    moved = (inverse * change).sum((-2, -1)) / 2
    return (inverse, half), (-(inverse @ change @ inverse), moved)


def _inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = matrix.shape[-1]
    if size == 1:
        return 1 / matrix, jnp.log(matrix[..., 0, 0]) / 2
    if size > WHOLE_BLOCK:
        return _by_halves(matrix)
    lower = jnp.linalg.cholesky(matrix)
    eye = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)
    root = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    half = jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)).sum(-1)
    return jnp.swapaxes(root, -1, -2) @ root, half


def _by_halves(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By the Schur complement of its first half: products of matrices for the most part, a third of the
    arithmetic of a Cholesky factor, its inverse and their product."""
    half = matrix.shape[-1] // 2
    first, second = matrix[..., :half, :half], matrix[..., half:, half:]
    between = matrix[..., :half, half:]
    inverse, volume = _inverse(first)
    turned = inverse @ between
    rest, more = _inverse(second - jnp.swapaxes(between, -1, -2) @ turned)
    across = turned @ rest
    corner = inverse + across @ jnp.swapaxes(turned, -1, -2)
    top = jnp.concatenate([corner, -across], -1)
    bottom = jnp.concatenate([-jnp.swapaxes(across, -1, -2), rest], -1)
    return jnp.concatenate([top, bottom], -2), volume + more


# --- the pattern, on the host ---------------------------------------------------------------


def find_pattern(
    met: dict[tuple[tuple[str, ...], str], tuple[np.ndarray, np.ndarray]], rest: int, limit: float
) -> Pattern | None:
    """The pattern of cells that meet a unit and other coordinates: `met` holds for the cells of some plates
    and a latent the units (cells,) and the columns (cells, size). None where its pairs are more than
    `limit`."""
    keys = [u[:, None].astype(np.int64) * rest + c for u, c in met.values()]
    every, inverse = np.unique(np.concatenate([k.ravel() for k in keys]), return_inverse=True)
    unit, column = every // rest, every % rest
    degree = np.bincount(unit)
    if float((degree * (degree + 1.0)).sum()) / 2 > limit:
        return None
    begin = np.concatenate([[0], np.cumsum(degree)[:-1]])
    # Each edge with itself and those of its unit that come after it, which lie farther to the right.
    later = degree[unit] - (np.arange(len(unit)) - begin[unit])
    one = np.repeat(np.arange(len(unit)), later)
    two = one + np.arange(len(one)) - np.repeat(np.cumsum(later) - later, later)
    place = column[one] * rest + column[two]
    order = np.argsort(place, kind="stable")
    ends = np.cumsum([k.size for k in keys])[:-1]
    parts = np.split(inverse.ravel(), ends)
    edges = {
        k: part.reshape(key.shape).astype(np.int32)
        for k, part, key in zip(met, parts, keys, strict=True)
    }
    small = np.int32
    return Pattern(
        unit=unit.astype(small), column=column.astype(small), one=one[order].astype(small),
        two=two[order].astype(small), place=place[order].astype(small), edges=edges,
    )  # fmt: skip
