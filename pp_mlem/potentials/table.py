"""Tables with named axes: logs over the values of finite latents, repeated over plates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pp_mlem.potentials.modes import Draw, First, Max, Mode, Sum


@dataclass(frozen=True)
class Table:
    """An array whose axes are latents and plates, by name."""

    array: Float[Array, ...]
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

    def over(self, names: Iterable[str]) -> Table:
        """Multiplied (a sum of logs) over the named axes, those it has."""
        gone = tuple(i for i, a in enumerate(self.axes) if a in set(names))
        if not gone:
            return self
        kept = tuple(a for i, a in enumerate(self.axes) if i not in gone)
        return Table(self.array.sum(gone), kept)

    def times(self, count: int) -> Table:
        """To the power of `count`: repeated so often."""
        return self if count == 1 else Table(self.array * count, self.axes)

    def reduced(self, names: frozenset[str], sizes: Mapping[str, int]) -> Table:
        """Multiplied over these plates, along which it may be the same."""
        absent = [sizes[n] for n in names if n not in self.axes]
        return self.over(names).times(int(np.prod(absent)) if absent else 1)

    def gather(self, child: str, parent: str, index: jax.Array, size: int) -> Table:
        """Multiplied over the rows of plate `child` that belong to each of the `size` units of plate
        `parent`; `index` (rows,) says to which."""
        array, axes = self.array, self.axes
        if child not in axes:
            array = jnp.broadcast_to(array[..., None], array.shape + index.shape)
            axes = (*axes, child)
        axis = axes.index(child)
        moved = jnp.moveaxis(array, axis, 0)
        summed = jnp.zeros((size,) + moved.shape[1:], moved.dtype).at[index].add(moved)
        named = tuple(parent if a == child else a for a in axes)
        return Table(jnp.moveaxis(summed, 0, axis), named)

    def at(self, name: str, index: int) -> Table:
        """The table at one place of an axis, where it has that axis."""
        if name not in self.axes:
            return self
        axis = self.axes.index(name)
        kept = self.axes[:axis] + self.axes[axis + 1 :]
        return Table(jax.lax.index_in_dim(self.array, index, axis, keepdims=False), kept)

    def take(self, latent: str, mode: Mode) -> Table:
        """The latent taken out."""
        if latent not in self.axes:
            return self
        axis = self.axes.index(latent)
        kept = self.axes[:axis] + self.axes[axis + 1 :]
        return Table(_AXIS[type(mode)](mode, self.array, axis), kept)


def add(tables: list[Table]) -> Table:
    """The product (a sum of logs) with broadcasting by name; latents (first seen) keep leading."""
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


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _draw_axis(key: jax.Array, axis: int, array: jax.Array) -> jax.Array:
    return log_sum_exp(array, axis)


@_draw_axis.defjvp
def _draw_axis_jvp(key: jax.Array, axis: int, primals: tuple, tangents: tuple) -> tuple:
    (array,), (change,) = primals, tangents
    noisy = array + jax.random.gumbel(key, array.shape, array.dtype)
    one = jax.nn.one_hot(noisy.argmax(axis), array.shape[axis], axis=axis, dtype=array.dtype)
    return log_sum_exp(array, axis), (one * change).sum(axis)


def _drawn(mode: Any, array: jax.Array, axis: int) -> jax.Array:
    return _draw_axis(mode.next_key(), axis, array)


_AXIS: dict[type[Mode], Callable[[Any, jax.Array, int], jax.Array]] = {
    Sum: lambda mode, array, axis: log_sum_exp(array, axis),
    Max: lambda mode, array, axis: maximum(array, axis),
    First: lambda mode, array, axis: array.take(0, axis),
    Draw: _drawn,
}
