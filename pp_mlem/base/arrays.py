"""Arithmetic that runs on the host by NumPy and inside compiled functions by JAX alike: by the array API
standard, which both follow."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or jax.Array


def namespace(array: Array) -> Any:
    """numpy or jax.numpy, whichever the array is of."""
    return array.__array_namespace__()


def eps(array: Array) -> float:
    """The rounding unit of its precision."""
    return float(np.finfo(array.dtype).eps)


def dot(a: Array, b: Array) -> Array:
    """Inner products along the last axis."""
    return (a * b).sum(-1)


def apply(matrix: Array, vector: Array) -> Array:
    """matrix (..., n, n) times vector (..., n)."""
    return (matrix @ vector[..., None])[..., 0]


def largest(vector: Array) -> Array:
    """The largest absolute entry along the last axis."""
    return abs(vector).max(-1)


def all_finite(vector: Array) -> Array:
    return namespace(vector).isfinite(vector).all(-1)


def where(condition: Array, yes: Array, no: Array) -> Array:
    """`where` with a condition for each lane: entries of `yes` and `no` follow on the right."""
    xp = namespace(condition)
    rank = max(np.ndim(yes), np.ndim(no))
    return xp.where(condition.reshape(condition.shape + (1,) * (rank - condition.ndim)), yes, no)
