"""M-steps of rows that come in parts: what each block takes from a part, and its maximum from the sum of all."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Params, Prior, expected_log_joint

LEAST = 1e-10  # of the largest curvature, below which a direction has none
LONGEST = 4.0  # of a step, in unconstrained coordinates


class Bend(NamedTuple):
    """Gradient and Hessian of <eta(theta), S> by a block's unconstrained coordinates, where every step of its own
    would pass over the rows."""

    gradient: jax.Array
    hessian: jax.Array


def taken(
    context: Context,
    blocks: tuple[Block, ...],
    params: Params,
    statistics: Natural,
    rows: int,
) -> tuple[Any, ...]:
    """What every block takes from a part of so many rows: what it collects where that is no longer than the block,
    else what one Newton step needs."""
    found: list[Any] = []
    for block in blocks:
        if block.method == "likelihood":
            raise NotImplementedError(
                f"fit_em: {', '.join(block.parameters)} enters no law, so its M-step climbs the likelihood of all rows "
                "at once, and the data come in chunks. Use fit_mle."
            )
        collected = block.collect(context, params, statistics)
        long = any(n and n % rows == 0 for a in jax.tree.leaves(collected) for n in jnp.shape(a))
        found.append(_bend(context, block, params, statistics) if long else collected)
    return tuple(found)


def _bend(context: Context, block: Block, params: Params, statistics: Natural) -> Bend:
    space = context.reading.space.only(frozenset(block.parameters))
    sites = frozenset(block.sites)

    def objective(vector: jax.Array) -> jax.Array:
        return expected_log_joint(context, {**params, **space.constrain(vector)}, statistics, sites)

    here = space.unconstrain(params)
    return Bend(jax.grad(objective)(here), jax.hessian(objective)(here))


def maximised(
    context: Context,
    blocks: tuple[Block, ...],
    params: Params,
    totals: tuple[Any, ...],
    prior: Prior | None,
) -> Params:
    """Every block at its maximum, from what it took of all parts; a block that took a bend after one Newton step,
    which keeps EM's rate of convergence (Lange 1995, doi:10.1111/j.2517-6161.1995.tb02037.x)."""
    new = dict(params)
    for block, total in zip(blocks, totals, strict=True):
        if isinstance(total, Bend):
            new.update(_after(context, block, params, total, prior))
        else:
            new.update(block.maximise(context, params, total, prior))
    return new


def _after(
    context: Context, block: Block, params: Params, bend: Bend, prior: Prior | None
) -> Params:
    names = frozenset(block.parameters)
    space = context.reading.space.only(names)
    here = space.unconstrain(params)
    gradient, hessian = bend
    if prior is not None:

        def density(vector: jax.Array) -> jax.Array:
            return prior.log_density({**params, **space.constrain(vector)}, names)

        gradient = gradient + jax.grad(density)(here)
        hessian = hessian + jax.hessian(density)(here)
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(hessian)))
    scale = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1.0), 0.0)
    values, vectors = jnp.linalg.eigh(-hessian * scale[:, None] * scale)
    size = jnp.abs(values)
    bent = size > LEAST * size.max(initial=0.0)
    step = scale * (vectors @ jnp.where(bent, vectors.T @ (scale * gradient) / size, 0.0))
    length = jnp.minimum(1.0, LONGEST / jnp.maximum(jnp.abs(step).max(initial=0.0), LONGEST))
    moved = here + length * step
    return space.constrain(jnp.where(jnp.isfinite(moved).all(), moved, here))
