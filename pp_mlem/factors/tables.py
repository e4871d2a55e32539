"""log-probabilities of a site at every value of its latents and every row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.base.precision import tiny_log
from pp_mlem.program.densities import law_density, log_density, seen_density
from pp_mlem.program.distributions import is_factor, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.sites import Site


def log_table(message: Message, site: Site, partly: bool = False, masked: bool = True) -> jax.Array:
    """log f of each element, missing and masked ones zero, summed over `to_event` columns. `partly` says that
    vectors may be missing in part: their other entries are then integrated out. Not `masked`, what masks
    hide is told as well."""
    bare = unwrap(message.fn)
    value = message.value
    if is_factor(message.fn):
        return _masked(bare.fn.log_prob(value), bare.masks)
    if site.law_of:
        density = law_density(bare.fn, value)
        density = jnp.zeros_like(density) if bare.hidden else density
        return _over_columns(density, message, bare.columns)
    value = jnp.asarray(value)
    masks = list(bare.masks) if masked else []
    support = bare.fn.support
    moves = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(support))
    inside: Any = support.check(value) if moves else None
    if moves:  # latents and parameters may widen it
        event = value.shape[value.ndim - len(bare.fn.event_shape) :]
        value = jnp.broadcast_to(value, (*inside.shape, *event))
    if jnp.issubdtype(value.dtype, jnp.floating):
        seen = ~jnp.isnan(value)
        missing = ~_rows(seen, bare.fn) if partly else _rows(~seen, bare.fn)
        value = jnp.where(
            seen if partly else _cells(~missing, bare.fn), value, support.feasible_like(value)
        )
        masks.append(~missing)
        inside = inside | missing if moves else None
    if moves:
        value = jnp.where(_cells(inside, bare.fn), value, support.feasible_like(value))
    density = seen_density(bare.fn, value, seen) if partly else log_density(bare.fn, value)
    if moves:  # outside of a support that the latents move: probability zero, to be summed
        density = jnp.where(inside, density, tiny_log(density.dtype))
    return _over_columns(density, message, bare.columns, tuple(masks))


def _over_columns(
    density: jax.Array, message: Message, count: int, masks: tuple[Any, ...] = ()
) -> jax.Array:
    """Masked, and summed over the last `count` dimensions, the columns of `to_event`."""
    if not count:
        return _masked(density, masks)
    columns = tuple(message.fn.event_shape[:count])
    density = jnp.broadcast_to(density, jnp.broadcast_shapes(density.shape, columns))
    return _masked(density, masks).sum(tuple(range(-count, 0)))


def _rows(cells: jax.Array, fn: Any) -> jax.Array:
    """Whether any cell of an element is marked."""
    for _ in fn.event_shape:
        cells = cells.any(-1)
    return cells


def _cells(rows: jax.Array, fn: Any) -> jax.Array:
    """The same for all cells of an element."""
    return rows.reshape(rows.shape + (1,) * len(fn.event_shape))


def own_density(message: Message, value: jax.Array) -> jax.Array:
    """The log density, weights applied, of each element of a site at its value's own shape.

    A prior that a latent's enumeration broadcasts (as a Normal of `mu[z]` does whose scale is
    reparametrised away) is the same at all values of the latent, and counts once.
    """
    density = message.fn.log_prob(value)
    density = density if message.scale is None else message.scale * density
    surplus = jnp.ndim(density) - (jnp.ndim(value) - len(message.fn.event_shape))
    return density[(0,) * surplus] if surplus > 0 else density


def _masked(density: jax.Array, masks: tuple) -> jax.Array:
    for mask in masks:
        density = jnp.where(mask, density, 0.0)
    return density
