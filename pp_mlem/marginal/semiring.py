"""How latents are taken out of a product: summed, maximised, or drawn from their posterior.

Each gives a value whose derivative tells about the latents: posterior probabilities, the most
probable values, or one draw (Kschischang, Frey & Loeliger 2001, doi:10.1109/18.910572).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from pp_mlem.marginal.recursions import draw_product, max_product, sum_paths
from pp_mlem.potentials.table import log_sum_exp, maximum


@dataclass(frozen=True)
class Semiring:
    """`axis(array, axis)` takes one latent out of a table, `chain(initial, transition, emission,
    running)` the states of a chain."""

    axis: Callable[[jax.Array, int], jax.Array]
    chain: Callable[[Any, Any, Any, Any], jax.Array]


SUM = Semiring(log_sum_exp, sum_paths)
MAX = Semiring(maximum, max_product)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _draw_axis(key: jax.Array, axis: int, array: jax.Array) -> jax.Array:
    return log_sum_exp(array, axis)


@_draw_axis.defjvp
def _draw_axis_jvp(key: jax.Array, axis: int, primals: tuple, tangents: tuple) -> tuple:
    (array,), (change,) = primals, tangents
    noisy = array + jax.random.gumbel(key, array.shape, array.dtype)
    one = jax.nn.one_hot(noisy.argmax(axis), array.shape[axis], axis=axis, dtype=array.dtype)
    return log_sum_exp(array, axis), (one * change).sum(axis)


def draw(key: jax.Array) -> Semiring:
    """A semiring whose derivative is one joint draw of the latents given the data."""
    count = iter(range(10_000))

    def axis(array: jax.Array, along: int) -> jax.Array:
        return _draw_axis(jax.random.fold_in(key, next(count)), along, array)

    def chain(*arrays: Any) -> jax.Array:
        return draw_product(jax.random.fold_in(key, next(count)))(*arrays)

    return Semiring(axis, chain)
