"""Rows that are processed in blocks: what adds up over independent rows, summed block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.machine import machine
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.program.reading import Reading

FEWEST_ROWS = 256  # of a block

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """The rows of a program that can be cut: those of one `plate`, in which every factor lives.

    `dims` is the dimension of the plate in each site and latent. Without a plate the data are whole.
    """

    plate: str = ""
    size: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)
    factors: tuple[str, ...] = ()

    def per_block(self, data: ProgramData) -> int:
        """Rows per block: on a CPU so few that a block's statistics stay in cache."""
        if not self.plate:
            return 0
        width = max((int(np.prod(s.value.shape[:-1])) for s in data.sites.values()), default=1)
        suits = machine()
        size = min(suits.block_rows, max(suits.block_numbers // width, FEWEST_ROWS))
        return self.size if self.size <= 4 * size else size

    def blocks(self, data: ProgramData) -> int:
        # A weight on some factors alone is none of the rows' units, which blocks weigh.
        if not self.plate or 0 < len(data.weights) < len(self.factors):
            return 1
        if data.known or data.partly:
            return 1  # such rows are grouped by what is missing, and taken in parts there
        return -(-self.size // self.per_block(data))

    def fold(self, function: Callable[[ProgramData], T], data: ProgramData, zero: T) -> T:
        """The sum of function(part) over parts of the data that hold every row once, from `zero`. In float32 what
        rounding loses from part to part is added at the end (Neumaier 1974, doi:10.1002/zamm.19740540106)."""
        count = self.blocks(data)
        if count == 1:
            return function(data)

        def step(totals: tuple[T, T], i: jax.Array) -> tuple[tuple[T, T], None]:
            total, lost = totals
            part = function(self.block(data, i))
            found = jax.tree.map(jnp.add, total, part)
            return (found, jax.tree.map(_lost, lost, total, part, found)), None

        lost = jax.tree.map(
            lambda z: jnp.zeros(z.shape if z.dtype == jnp.float32 else (), z.dtype), zero
        )
        total, lost = jax.lax.scan(step, (zero, lost), jnp.arange(count))[0]
        return jax.tree.map(jnp.add, total, lost)

    def block(self, data: ProgramData, i: jax.Array) -> ProgramData:
        """Block i of the rows; the last block overlaps and its repeated rows weigh nothing."""
        size = self.per_block(data)
        start = jnp.minimum(i * size, self.size - size)

        def cut(array: Any, axis: int) -> Any:
            return jax.lax.dynamic_slice_in_dim(array, start, size, axis)

        fresh = (start + jnp.arange(size) >= i * size).astype(jnp.result_type(float))
        return replace(data, **self.parts_of(data, cut, fresh))

    def subset(self, data: ProgramData, rows: jax.Array) -> dict[str, Any]:
        """The fields of the data that differ for some rows, each with its own case weight."""

        def cut(array: Any, axis: int) -> Any:
            return jnp.take(array, rows, axis)

        return self.parts_of(data, cut, jnp.ones(rows.shape[0]))

    def parts_of(
        self, data: ProgramData, cut: Callable[[Any, int], Any], fresh: jax.Array
    ) -> dict[str, Any]:
        """`fresh` is a factor of every row's weight. The fields that rows cut: what is returned from
        compiled code is copied, were it as large as the data."""
        weights = {}
        for site in self.factors:
            given, dim = data.weights.get(site), self.dims[site]
            shape = (fresh.shape[0],) + (1,) * (-dim - 1)
            if given is None or given.size == 1:
                given = jnp.ones(()) if given is None else given.reshape(())
                weights[site] = fresh.reshape(shape) * given
            else:
                weights[site] = cut(given, given.ndim + dim) * fresh.reshape(shape)
        clamps = {n: cut(c, c.ndim - 1 + self.dims[n]) for n, c in data.clamps.items()}
        sites = {name: site.cut(cut) for name, site in data.sites.items()}
        known = {}
        for name, (value, mask) in data.known.items():
            dim = self.dims[name]
            known[name] = cut(value, value.ndim - 1 + dim), cut(mask, mask.ndim - 1 + dim)
        return {"sites": sites, "weights": weights, "clamps": clamps, "known": known}


def _lost(lost: jax.Array, total: jax.Array, part: jax.Array, found: jax.Array) -> jax.Array:
    """With what the sum `found` of a total and a part has lost to rounding; nothing where that is far below what
    matters, in float64."""
    if found.dtype != jnp.float32:
        return lost
    whole = jnp.abs(total) >= jnp.abs(part)
    own = jnp.where(whole, (total - found) + part, (part - found) + total)
    return lost + jnp.where(jnp.isfinite(found), own, 0.0)


def plan_rows(reading: Reading, factors: tuple[Factor, ...], gathers: Any) -> Rows:
    """The one plate of all factors, when none of them holds a table over its rows."""
    if gathers or not factors or reading.scans:
        return Rows()
    shared = {f.term_plates for f in factors}
    plates = next(iter(shared))
    if len(shared) != 1 or len(plates) != 1:
        return Rows()
    if any(f.kind != "family" and f.varies_by_row for f in factors):
        return Rows()
    (plate,) = plates
    names = (*(f.site for f in factors), *(s.name for s in reading.latents))
    dims = {n: reading.sites[n].dims[plate] for n in names}
    return Rows(plate, reading.plates[plate].size, dims, tuple(f.site for f in factors))
