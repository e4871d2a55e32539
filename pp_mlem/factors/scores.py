"""The terms of factors: a family's scores <eta, T(x)> over latents and rows, or a table as it is."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.factor import Factor, table_axes
from pp_mlem.factors.laid import Laid
from pp_mlem.families.categorical import Categorical, Multinomial
from pp_mlem.potentials.table import Table
from pp_mlem.program.reading import Reading

LOOKUP_CATEGORIES = 32


@dataclass(frozen=True)
class _Shape:
    """Natural parameters with the columns of the data last, (latents..., F, columns), and the sizes of
    the rows, of which those of the axes `surplus` are summed."""

    eta: jax.Array
    latents: tuple[int, ...]
    rows: tuple[int, ...]
    surplus: tuple[int, ...]


def scores(
    reading: Reading, factor: Factor, eta: jax.Array, laid: Laid, reduce: bool
) -> tuple[Table, frozenset[str]]:
    """A family factor as a table over (latents, rows): <eta, T(x)> + log h(x), and the plates
    that are left: columns are summed in the product, `reduce` also sums rows that no latent
    of the factor has.
    """
    shape = _shape(reading, factor, eta, laid, reduce)
    total = _direct(factor, shape, laid)
    if total is None:
        total = (
            _looked_up(shape, laid) if _is_lookup(factor, eta) else _product(factor, shape, laid)
        )
    if laid.base is not None:
        total = total + laid.base.reshape(shape.rows).sum(shape.surplus)
    rows = tuple(p for i, p in enumerate(factor.rows) if i not in shape.surplus)
    depth = len(factor.layout) - reading.sites[factor.site].columns
    names = table_axes(reading, factor, shape.latents + (1,) * depth)[: len(shape.latents)]
    table = Table.of(total.reshape(shape.latents + total.shape[1:]), names + rows)
    gone = {n for n, _, c in factor.layout if c} | {factor.rows[i] for i in shape.surplus}
    return table, factor.plates - gone


def _shape(reading: Reading, factor: Factor, eta: jax.Array, laid: Laid, reduce: bool) -> _Shape:
    flags = [column for _, _, column in factor.layout]
    lead = eta.ndim - 1 - len(flags)
    columns = [lead + i for i, c in enumerate(flags) if c]
    units = [lead + i for i, c in enumerate(flags) if not c]
    order = [*range(lead), *units, eta.ndim - 1, *columns]
    size = int(np.prod(factor.column_shape))
    flat = jnp.transpose(eta, order).reshape(-1, eta.shape[-1], size)
    sizes = [reading.plates[p].size for p in factor.rows]
    rows = laid.value.shape[-1:] if len(sizes) == 1 else tuple(sizes)  # perhaps a block
    surplus = tuple(i for i, p in enumerate(factor.rows) if reduce and p not in factor.keep)
    return _Shape(flat, eta.shape[:lead], rows, surplus)


def _direct(factor: Factor, shape: _Shape, laid: Laid) -> jax.Array | None:
    """By the family's own way without T(x), where it has one and it is faster."""
    family = factor.family
    if not family.event_dim or shape.eta.shape[-1] != 1 or shape.surplus:
        return None
    shift = laid.shift_rows
    if shift is not None:
        shift = shift.reshape(shift.shape[: family.event_dim] + (1,))
    event = laid.value.shape[: family.event_dim]
    direct = family.direct_scores(shape.eta[:, :, 0], laid.value.reshape(event + (-1,)), shift)
    if direct is None:
        return None
    direct = direct if laid.mask is None else jnp.where(laid.mask.ravel(), direct, 0.0)
    return direct.reshape(-1, *shape.rows)


def _product(factor: Factor, shape: _Shape, laid: Laid) -> jax.Array:
    """By one matrix product of natural parameters and statistics."""
    statistics = statistics_of(factor, laid, shape.eta.shape[1])
    flat = statistics.reshape(-1, *shape.rows).sum(tuple(i + 1 for i in shape.surplus))
    kept = flat.shape[1:]
    eta = shape.eta.reshape(-1, flat.shape[0])
    return (eta @ flat.reshape(flat.shape[0], -1)).reshape(-1, *kept)


def statistics_of(factor: Factor, laid: Laid, width: int) -> jax.Array:
    """T(x), (F, *columns, rows), zero where a value is missing or masked; `width` is F."""
    family = factor.family
    if _is_categorical(factor):
        statistics = family.indicator(laid.value, width)
    else:
        statistics = family.statistics(laid.value, laid.known, laid.shift_rows)
    return statistics if laid.mask is None else jnp.where(laid.mask, statistics, 0.0)


def _is_categorical(factor: Factor) -> bool:
    family = factor.family
    return isinstance(family, Categorical) and not isinstance(family, Multinomial)


def _is_lookup(factor: Factor, eta: jax.Array) -> bool:
    """Whether scores are looked up by category rather than multiplied."""
    return _is_categorical(factor) and eta.shape[-1] > LOOKUP_CATEGORIES


def _looked_up(shape: _Shape, laid: Laid) -> jax.Array:
    """Scores of categorical data by indexing: (latents, F, columns) and codes to (latents, rows)."""
    eta = shape.eta
    codes = laid.value.reshape(eta.shape[-1], -1).astype(int)
    total = jnp.zeros((eta.shape[0], codes.shape[-1]), eta.dtype)
    for c in range(eta.shape[-1]):
        picked = eta[:, :, c][:, codes[c]]
        if laid.mask is not None:
            mask = jnp.broadcast_to(laid.mask, laid.value.shape).reshape(codes.shape)
            picked = jnp.where(mask[c], picked, 0.0)
        total = total + picked
    total = total.reshape(-1, *shape.rows)
    return total.sum(tuple(i + 1 for i in shape.surplus))
