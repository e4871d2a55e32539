"""The entries of the factors of log Z as one flat array of the unconstrained vector, and which
latent each axis of a factor belongs to."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.diagnose.groups import Order
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.model import Model
from pp_mlem.program.scans.scan import before
from pp_mlem.target.parts import without_rows
from pp_mlem.target.target import Target

ENTRIES = 1500  # that the least squares sees
CELLS = 4e6  # of a batch of Jacobians
LARGE = 3e7  # cells of one Jacobian beyond which no relabelling is sought
LANES = 32


def slot_sets(model: Model, latent: str) -> list[tuple[str, ...]]:
    """What may be relabelled together with a latent: itself (with its state one step earlier);
    all that its chain's states of the same size start from; all of the same size."""
    reading = model.reading
    size = reading.sites[latent].size
    states = {s.origin for s in reading.slots if s.origin}

    def with_earlier(names: Iterable[str]) -> tuple[str, ...]:
        chosen = set(names)
        chosen |= {before(n) for n in chosen if n in states}
        return tuple(s.name for s in reading.slots if s.name in chosen)

    same = {s.name for s in reading.latents if s.size == size}
    joined = {latent}
    for chain in model.marginal.chains:
        members = ({*chain.states, *chain.initial}) & same
        if members & joined:
            joined |= members
    return list(dict.fromkeys(with_earlier(names) for names in ({latent}, joined, same)))


def axes_of(marginal: Marginal, factor: Factor, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Which latent each axis of a factor's natural parameters belongs to, "" for all others."""
    reading = marginal.reading
    if factor.kind == "family":
        depth = len(factor.layout) - reading.sites[factor.site].columns
        lead = len(shape) - 1 - len(factor.layout)
        outer = shape[:lead] + (1,) * depth
        own = table_axes(reading, factor.site, factor.latents, outer)[:lead]
        own += ("",) * (len(shape) - lead)
    else:
        own = table_axes(reading, factor.site, factor.latents, shape)
    slots = {s.name for s in reading.slots}
    return tuple(n if n in slots else "" for n in own)


def padded(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows, the last one repeated to make up `count`."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), 0)])


def _flat(target: Target, vector: jax.Array) -> jax.Array:
    eta = target.natural(vector)
    return jnp.concatenate([eta[f.site].ravel() for f in target.marginal.factors])


@without_rows
def _slopes_and_entries(
    target: Target, vector: jax.Array, index: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The Jacobian of the entries `index`, and all entries. Traceable."""

    def both(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = _flat(target, v)
        return flat[index], flat

    return jax.jacfwd(both, has_aux=True)(vector)


class Entries:
    """The layout of the flat array, and its values at vectors."""

    def __init__(self, target: Target) -> None:
        size, marginal = target.space.size, target.marginal
        shapes = jax.eval_shape(target.natural, jnp.zeros(size))
        self.layout: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
        for factor in marginal.factors:
            shape = tuple(shapes[factor.site].shape)
            self.layout.append((shape, axes_of(marginal, factor, shape)))
        self.size = sum(int(np.prod(shape)) for shape, _ in self.layout)
        self.chosen = self._choice(size)
        cells = (size + 1) * max(self.size, 1)
        self.too_large = cells > LARGE
        self.lanes = int(np.clip(CELLS / cells, 1, LANES))

    def _choice(self, parameters: int) -> np.ndarray:
        """The entries that the least squares sees: all of small factors, some of large ones."""
        quota = max(ENTRIES // len(self.layout), 4 * parameters)
        rng, start, parts = np.random.default_rng(0), 0, []
        for shape, _ in self.layout:
            count = int(np.prod(shape))
            few = np.arange(count) if count <= quota else rng.permutation(count)[:quota]
            parts.append(start + np.sort(few))
            start += count
        return np.concatenate(parts)

    def permutation(self, slots: tuple[str, ...], order: Order) -> np.ndarray:
        """Where each entry is taken from when the values of `slots` are put in `order`."""
        start, parts = 0, []
        for shape, axes in self.layout:
            index = start + np.arange(int(np.prod(shape))).reshape(shape)
            for axis, name in enumerate(axes):
                if name in slots:
                    index = np.take(index, order, axis)
            parts.append(index.ravel())
            start += index.size
        return np.concatenate(parts)

    def depends_on(self, slots: tuple[str, ...]) -> bool:
        return any(name in slots for _, axes in self.layout for name in axes)

    def at(
        self, target: Target, vectors: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(entries (lanes, size), Jacobian of the entries `index` (lanes, index, parameters))."""
        run = target.compiled(_slopes_and_entries, lanes=(0, None))
        values, slopes = [], []
        for first in range(0, len(vectors), self.lanes):
            some = vectors[first : first + self.lanes]
            lanes = np.asarray(padded(some, self.lanes))
            slope, value = run(lanes, np.asarray(index))
            values.append(np.asarray(value, float)[: len(some)])
            slopes.append(np.asarray(slope, float)[: len(some)])
        return np.concatenate(values), np.concatenate(slopes)
