"""One M-step: every block of parameters at its maximum given the expected statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.families import Entries, Family
from pp_mlem.marginal.marginal import Marginal, Natural
from pp_mlem.maximise.blocks import BFGS_LIMIT, NEWTON_LIMIT, Block, argument_rows
from pp_mlem.maximise.newton import newton_ascent
from pp_mlem.program.bindings import site_arguments

NUMERIC_STEPS = 30

Params = dict[str, jax.Array]
LogPrior = Callable[[Params, frozenset[str]], jax.Array]


def maximise(
    marginal: Marginal,
    blocks: tuple[Block, ...],
    params: Params,
    statistics: Natural,
    data: ProgramData,
    log_prior: LogPrior | None,
    priors: Callable[[Params], dict[str, Any]] | None,
    steps: int = NUMERIC_STEPS,
) -> Params:
    """argmax over theta of <eta(theta), S> (+ log p(theta)), starting from `params`.

    Blocks without a closed form take at most `steps` Newton steps, each of which raises it.
    """
    found = dict(params)
    for block in blocks:
        if block.method == "closed":
            found.update(_closed(marginal, block, params, statistics, data, priors))
        elif block.method == "numeric":
            found.update(_numeric(marginal, block, params, statistics, data, log_prior, steps))
    return found


def expected_log_joint(
    marginal: Marginal,
    params: Params,
    statistics: Natural,
    data: ProgramData,
    sites: frozenset[str],
) -> jax.Array:
    """<eta(theta), S> over the named factors: Q of EM, up to a constant."""
    eta = marginal.natural(params, data, sites)
    total = jnp.zeros(())
    for name, value in eta.items():
        weight = statistics[name]
        total = total + jnp.sum(jnp.where(weight != 0, weight * value, 0.0))
    return total


def _numeric(
    marginal: Marginal,
    block: Block,
    params: Params,
    statistics: Natural,
    data: ProgramData,
    log_prior: LogPrior | None,
    steps: int,
) -> Params:
    names = frozenset(block.parameters)
    space = marginal.reading.space.only(names)

    def objective(vector: jax.Array) -> jax.Array:
        values = {**params, **space.constrain(vector)}
        value = expected_log_joint(marginal, values, statistics, data, frozenset(block.sites))
        return value if log_prior is None else value + log_prior(values, names)

    start = space.unconstrain(params)
    if space.size <= NEWTON_LIMIT:
        return space.constrain(newton_ascent(objective, start, steps).point)
    solver: Any = (
        optx.BFGS(rtol=1e-10, atol=1e-10)
        if space.size <= BFGS_LIMIT
        else optx.LBFGS(rtol=1e-10, atol=1e-10)
    )
    scale = 1.0 + jnp.abs(objective(start))
    result = optx.minimise(
        lambda v, _: -objective(v) / scale,
        solver,
        start,
        max_steps=4 * NUMERIC_STEPS,
        throw=False,
    ).value
    better = objective(result) >= objective(start)
    return space.constrain(jnp.where(better, result, start))


def _closed(
    marginal: Marginal,
    block: Block,
    params: Params,
    statistics: Natural,
    data: ProgramData,
    priors: Callable[[Params], dict[str, Any]] | None,
) -> Params:
    family = block.family
    reading = marginal.reading
    factors = {f.site: f for f in marginal.factors}
    constants = _constants(marginal, block, params, data)
    spaces = {s.name: s for s in reading.space.sites}
    current = {
        a: jnp.concatenate([_rows(params[p], family.arguments[a]) for p in listed])
        for a, listed in block.arguments.items()
    }
    pieces = [
        _entries(marginal, block, factors[name], statistics[name], data, constants.get(name, {}))
        for name in block.sites
    ]
    prior: dict[str, tuple[jax.Array, jax.Array]] = {}
    if priors is not None:
        found = priors(params)
        for argument, listed in block.arguments.items():
            pairs = [
                _pseudo(family, argument, found.get(p), spaces[p].shape, family.arguments[argument])
                for p in listed
            ]
            prior[argument] = tuple(jnp.concatenate(parts) for parts in zip(*pairs, strict=True))

    def join(values: list[Any]) -> Any:
        return None if values[0] is None else jnp.concatenate(values)

    entries = Entries(
        statistics=join([p[0] for p in pieces]),
        index={a: join([p[1][a] for p in pieces]) for a in block.arguments},
        constant={a: join([p[2][a] for p in pieces]) for a in pieces[0][2]},
        current=current,
        prior=prior,
        shift=join([p[3] for p in pieces]),
    )
    result = family.maximum(entries)
    new: Params = {}
    for argument, listed in block.arguments.items():
        row = 0
        for p in listed:
            count = _rows(params[p], family.arguments[argument]).shape[0]
            new[p] = result[argument][row : row + count].reshape(spaces[p].shape)
            row += count
    return new


def _rows(value: jax.Array, rank: int) -> jax.Array:
    value = jnp.asarray(value)
    return value.reshape((-1,) + value.shape[value.ndim - rank :])


def _pseudo(
    family: Family, argument: str, prior: Any, shape: tuple[int, ...], rank: int
) -> tuple[jax.Array, jax.Array]:
    batch = shape[: len(shape) - rank]
    n = int(np.prod(batch))
    if prior is None:
        event = shape[len(shape) - rank :]
        return jnp.zeros((n, *event)), jnp.zeros(n)
    first, second = family.pseudo_statistics(argument, prior)
    event = shape[len(shape) - rank :] if rank else ()
    first = jnp.broadcast_to(first, batch + event).reshape((n, *event))
    second = jnp.broadcast_to(second, batch).reshape(n)
    return first, second


def _constants(
    marginal: Marginal, block: Block, params: Params, data: ProgramData
) -> dict[str, dict[str, jax.Array]]:
    """Arguments of the block's sites that are known, at their own (positional) shapes; those that
    are statistics (a total count) for latents alone, the data of the others hold them."""
    family = block.family
    wanted = [a for a in family.arguments if a not in block.arguments]
    names = frozenset(block.sites)
    present = {
        f.site: [a for a in (*wanted, *(family.known if f.law_of else ())) if a in f.bindings]
        for f in marginal.factors
        if f.site in names
    }
    if not any(present.values()):
        return {}
    reading = marginal.reading
    found = reading.run(params, data.dynamic, site_arguments, reading.zeros(), wanted=names)
    return {name: {a: found[name][a] for a in present[name]} for name in names}


def _entries(
    marginal: Marginal,
    block: Block,
    factor: Factor,
    statistic: jax.Array,
    data: ProgramData,
    constants: dict[str, jax.Array],
) -> tuple[jax.Array, dict, dict, jax.Array | None]:
    """Statistics (entries, F), indices, constants and shift of one site's distributions."""
    family = block.family
    site = marginal.reading.sites[factor.site]
    shift = None
    if factor.kind == "family":
        batch = statistic.shape[:-1]
        flat = statistic.reshape(-1, statistic.shape[-1])
        order = None
        if data.sites[factor.site].shift is not None:
            shift = data.sites[factor.site].shift
            event = shift.shape[shift.ndim - family.event_dim :]
            shift = jnp.broadcast_to(shift, batch + event).reshape((-1, *event))
    elif site.law_of:
        batch, counts = _latent_statistics(marginal, factor, statistic)
        order = None
    else:
        batch, order, flat, shift = _row_statistics(factor, statistic, data)

    def spread(array: jax.Array, rank: int) -> jax.Array:
        event = array.shape[array.ndim - rank :]
        full = jnp.broadcast_to(array, batch + event)
        if order is not None:
            full = jnp.transpose(full, [*order, *range(len(batch), len(batch) + rank)])
        return full.reshape((-1, *event))

    if site.law_of:
        known = {a: spread(v, 0) for a, v in constants.items() if a in family.known}
        values = jnp.asarray(marginal.reading.values[factor.law_of])
        flat = family.counted(counts, values, known)
    index = {}
    for argument in block.arguments:
        rows = argument_rows(data.index[factor.site][argument], family.arguments[argument])
        index[argument] = spread(jnp.asarray(block.lookup[argument])[rows], 0)
    constant = {
        a: spread(v, family.arguments[a]) for a, v in constants.items() if a in family.arguments
    }
    return flat, index, constant, shift


def _latent_statistics(
    marginal: Marginal, factor: Factor, statistic: jax.Array
) -> tuple[tuple[int, ...], jax.Array]:
    """Move a latent's own axis last: counts of its values in each distribution."""
    reading = marginal.reading
    outer = [s.name for s in reading.slots if s.vmapped and s.name in factor.latents]
    if factor.law_of in outer:
        axis = outer.index(factor.law_of)
        moved = jnp.moveaxis(statistic, axis, -1)
    else:
        axis = statistic.ndim + reading.latent_dim(factor.law_of)
        moved = jnp.expand_dims(jnp.moveaxis(statistic, axis, -1), axis)
    return moved.shape[:-1], moved.reshape(-1, moved.shape[-1])


def _row_statistics(
    factor: Factor, statistic: jax.Array, data: ProgramData
) -> tuple[tuple[int, ...], list[int], jax.Array, jax.Array | None]:
    """Entries of a site whose parameters differ by row: responsibility times statistics."""
    family, site = factor.family, data.sites[factor.site]
    sizes = tuple(size for _, size, _ in factor.layout)
    n_rows = sum(1 for _, _, column in factor.layout if not column)
    lead = max(statistic.ndim - n_rows, 0)
    latent_shape = statistic.shape[:lead]
    responsibility = jnp.broadcast_to(statistic, latent_shape + sizes[:n_rows])
    if family.coded:
        values = family.indicator(site.value, _categories(data, factor))
    else:
        values = family.statistics(site.value, site.known, site.shift_rows)
    if site.mask is not None:
        values = jnp.where(site.mask, values, 0.0)
    rows = site.value.shape[-1]
    columns = int(np.prod(factor.column_shape))
    values = values.reshape(values.shape[0], columns, rows)
    weight = responsibility.reshape(-1, 1, rows)
    entries = jnp.einsum("lor,fcr->lcrf", weight, values)
    batch = latent_shape + sizes
    order = [
        *range(lead),
        *range(lead + n_rows, lead + len(sizes)),
        *range(lead, lead + n_rows),
    ]
    shift = None
    if site.shift_rows is not None:
        event = site.shift_rows.shape[: family.event_dim]
        moved = jnp.moveaxis(
            site.shift_rows, tuple(range(family.event_dim)), tuple(range(-family.event_dim, 0))
        ).reshape((1, columns, 1, *event))
        shift = jnp.broadcast_to(moved, (weight.shape[0], columns, rows, *event))
        shift = shift.reshape((-1, *event))
    return batch, order, entries.reshape(-1, entries.shape[-1]), shift


def _categories(data: ProgramData, factor: Factor) -> int:
    index = data.index[factor.site]
    return next(iter(index.values())).shape[-1]
