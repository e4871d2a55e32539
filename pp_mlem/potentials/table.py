"""Tables with named axes: the arrays that elimination multiplies and sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Table:
    """An array whose axes are latents and plates, by name."""

    array: jax.Array
    axes: tuple[str, ...]

    @staticmethod
    def of(array: jax.Array, names: Iterable[str]) -> Table:
        """Drop the axes named "" (they have size one)."""
        names = tuple(names)
        array = array.reshape(tuple(n for n, a in zip(array.shape, names, strict=True) if a))
        return Table(array, tuple(a for a in names if a))

    def aligned(self, order: tuple[str, ...]) -> jax.Array:
        """The array transposed to `order`, with size one where it has no such axis."""
        present = [a for a in order if a in self.axes]
        array = jnp.transpose(self.array, [self.axes.index(a) for a in present])
        sizes = iter(array.shape)
        return array.reshape(tuple(next(sizes) if a in self.axes else 1 for a in order))

    def sum(self, names: Iterable[str]) -> Table:
        """Sum over the named axes (those it has)."""
        gone = tuple(i for i, a in enumerate(self.axes) if a in set(names))
        if not gone:
            return self
        kept = tuple(a for i, a in enumerate(self.axes) if i not in gone)
        return Table(self.array.sum(gone), kept)


@dataclass(frozen=True)
class Weight(Table):
    """A unit's case weight and the latents whose own distributions are under it. It is applied
    where the first latent that is not among them is summed: from there on the unit is a factor
    like any other, whatever the sizes of the plates (an axis of size one is dropped)."""

    latents: frozenset[str] = frozenset()


def add(tables: list[Table]) -> Table:
    """Pointwise sum with broadcasting by name; latents (first seen) keep leading."""
    order: list[str] = []
    for table in tables:
        order += [a for a in table.axes if a not in order]
    total = tables[0].aligned(tuple(order))
    for table in tables[1:]:
        total = total + table.aligned(tuple(order))
    return Table(total, tuple(order))


def log_sum_exp(array: jax.Array, axis: int) -> jax.Array:
    """log sum exp along an axis, with zero gradient where everything is impossible."""
    top = jax.lax.stop_gradient(array.max(axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.exp(array - top).sum(axis)
    positive = total > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, total, 1.0)), -jnp.inf) + top.squeeze(
        axis
    )


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def maximum(array: jax.Array, axis: int) -> jax.Array:
    """The max-product counterpart of `log_sum_exp`, for decoding; its derivative marks one best
    entry, the first, so that latents which tie are decoded to one joint configuration."""
    return array.max(axis)


@maximum.defjvp
def _maximum_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (array,), (change,) = primals, tangents
    one = jax.nn.one_hot(array.argmax(axis), array.shape[axis], axis=axis, dtype=array.dtype)
    return array.max(axis), (one * change).sum(axis)
