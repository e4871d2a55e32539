"""What only a linear Gaussian state space can tell: filtered states, innovations, forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.affine import AffineFactor, basis
from pp_mlem.factors.axes import table_axes
from pp_mlem.marginal.filtering import Forward, Gaussian, ahead, forward, told_shared
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.marginal.steps.kalman import Kalman
from pp_mlem.model.bound import Bound, Values
from pp_mlem.model.latents import Moments
from pp_mlem.potentials.quadratic import COLUMN, Coordinates, places_of
from pp_mlem.potentials.table import Table
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message

ENTRY, ENTRY_TOO = "\0entry", "\0other entry"


@dataclass(frozen=True)
class Predicted:
    """An observation before it was seen, given all before it: `mean` and `sd` (steps, *plates, *event), the
    standard deviation of each number by itself; `residual` is (value - mean) / sd, standard normal and
    independent over the steps if the model holds; NaN where the value is missing."""

    mean: np.ndarray
    sd: np.ndarray
    residual: np.ndarray


def filtered(bound: Bound, values: Values) -> dict[str, Moments]:
    """Moments of each state given the data up to its step."""
    found: dict[str, Moments] = {}
    for chain in bound.marginal.kalmans:
        _refuse_above(bound, chain)
        law = _on_host(bound.compiled(_forward, chain)(values, bound.data).after)
        found |= _moments(bound, chain, law, chain.states)
    return found


def innovations(bound: Bound, values: Values) -> dict[str, Predicted]:
    """One-step-ahead predictions of every observed site."""
    found: dict[str, Predicted] = {}
    for chain in bound.marginal.kalmans:
        _refuse_above(bound, chain)
        factors = _observed(bound, chain)
        law = bound.compiled(_forward, chain)(values, bound.data).before
        seen = bound.compiled(_of_sites, chain, factors)(values, bound.data, law)
        for factor, predicted in zip(factors, seen, strict=True):
            mean, sd = _shaped(bound, chain, factor, predicted)
            value = np.asarray(bound.compiled(_values, factor.site)(values, bound.data), float)
            value = value.reshape(mean.shape)
            if chain.reverse:
                mean, sd, value = mean[::-1], sd[::-1], value[::-1]
            found[factor.site] = Predicted(mean, sd, (value - mean) / sd)
    return found


def forecast(bound: Bound, values: Values, steps: int) -> dict[str, Any]:
    """Moments of each state, and "mean" and "sd" of each observed site, after the last step."""
    found: dict[str, Any] = {}
    for chain in bound.marginal.kalmans:
        _refuse_above(bound, chain)
        _refuse_varying(bound, chain)
        last = bound.compiled(_forward, chain)(values, bound.data).last
        law = bound.compiled(_ahead, chain, steps)(values, bound.data, last)
        width = sum(n for _, n in chain.before)
        own = _on_host(Gaussian(law.mean[..., width:], law.covariance[..., width:, width:]))
        found |= _moments(bound, chain, own, chain.states, steps)
        sites = bound.reading.sites
        factors = tuple(f for f in _observed(bound, chain) if not sites[f.site].timed)
        seen = bound.compiled(_of_sites, chain, factors)(values, bound.data, law)
        for factor, predicted in zip(factors, seen, strict=True):
            mean, sd = _shaped(bound, chain, factor, predicted, steps)
            found[factor.site] = {"mean": mean, "sd": sd}
    return found


def _values(marginal: Marginal, name: str, params: Values, data: ProgramData) -> jax.Array:
    """The data of a site, (steps, ..., *plates, *columns, *event); NaN where a mask hides them."""

    def extract(message: Message) -> Any:
        value, bare = jnp.asarray(message.value, jnp.result_type(float)), unwrap(message.fn)
        for mask in bare.masks:
            shown = jnp.asarray(mask).reshape(jnp.shape(mask) + (1,) * len(bare.fn.event_shape))
            value = jnp.where(shown, value, jnp.nan)
        site = marginal.reading.sites[name]
        return message.placed(value, site.columns + len(site.event_shape))

    run = marginal.reading.run
    return run(params, data.dynamic, extract, wanted=frozenset({name}), wide=True)[name]


def _collected(
    marginal: Marginal, chain: Kalman, params: Values, data: ProgramData
) -> tuple[Any, list]:
    context = marginal.context(data)
    terms = marginal.before_chains(marginal.terms(marginal.natural(params, data), data), context)
    return chain.collect(terms, context), terms


def _forward(marginal: Marginal, chain: Kalman, params: Values, data: ProgramData) -> Forward:
    found, terms = _collected(marginal, chain, params, data)
    return forward(chain, found, terms)


def _ahead(
    marginal: Marginal, chain: Kalman, steps: int, params: Values, data: ProgramData, last: Gaussian
) -> Gaussian:
    return ahead(chain, _collected(marginal, chain, params, data)[0], last, steps)


def _of_sites(
    marginal: Marginal,
    chain: Kalman,
    factors: tuple[AffineFactor, ...],
    params: Values,
    data: ProgramData,
    law: Gaussian,
) -> list[tuple[jax.Array, jax.Array]]:
    """Mean and standard deviation of each site, where what its steps are given has this law."""
    lanes = _collected(marginal, chain, params, data)[0].lanes
    return [_of_site(marginal, chain, f, params, data, law, lanes) for f in factors]


def _of_site(
    marginal: Marginal,
    chain: Kalman,
    factor: AffineFactor,
    params: Values,
    data: ProgramData,
    law: Gaussian,
    lanes: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of an observed site (steps, *lanes, *other plates, columns x event)."""
    reading = marginal.reading

    def extract(message: Message) -> Any:
        return factor.natural(reading, message, None)

    def at(reals: dict[str, Any]) -> dict[str, Any]:
        return reading.run(params, data.dynamic, extract, reals, wanted=frozenset({factor.site}))

    probed = jax.vmap(at)(basis(reading, data.shifts))[factor.site]
    at_zero, moves, _, _, root = factor.arranged(reading, probed)
    axes = table_axes(reading, factor.site, (), at_zero.shape[:-2])
    others = _others(marginal, chain, factor, lanes)
    order = (chain.time, *lanes, *others, "\0columns", ENTRY)
    names = (*axes, "\0columns", ENTRY)
    mean = -Table.of(at_zero, names).aligned(order)
    slope = -Table.of(moves, (*names, COLUMN)).aligned((*order, COLUMN))
    spread = Table.of(root, (*names, ENTRY_TOO)).aligned((*order, ENTRY_TOO))
    # of (what is carried, above, the latents), those that the site reads
    where = places_of((*chain.before, *chain.states))
    read = np.concatenate([where[n] for n, _ in factor.coordinates])
    ones = (1,) * (len(others) + 2)
    middle = law.mean[..., read]
    middle = middle.reshape(*middle.shape[:-1], *ones, middle.shape[-1])
    covariance = law.covariance[..., read[:, None], read]
    covariance = covariance.reshape(*covariance.shape[:-2], *ones, *covariance.shape[-2:])
    mean = mean + (slope * middle).sum(-1)
    carried = (slope[..., None, :] * covariance).sum(-1)
    variance = (carried * slope).sum(-1) + (spread**2).sum(-1)
    return mean, jnp.sqrt(variance)


def _others(
    marginal: Marginal, chain: Kalman, factor: AffineFactor, lanes: tuple[str, ...]
) -> tuple[str, ...]:
    """The plates of a site besides the steps and the lanes, in positional order."""
    site = marginal.reading.sites[factor.site]
    order = sorted(site.dims, key=site.dims.__getitem__)
    sizes = marginal.layout.sizes
    return tuple(p for p in order if p != chain.time and p not in lanes and sizes[p] > 1)


def _shaped(
    bound: Bound,
    chain: Kalman,
    factor: AffineFactor,
    both: tuple[Any, Any],
    steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(steps, *lanes, *other plates, columns, D) as (steps, *plates, *columns, *event)."""
    site, sizes = bound.reading.sites[factor.site], bound.marginal.layout.sizes
    lanes = tuple(sorted(chain.plates))
    others = _others(bound.marginal, chain, factor, lanes)
    order = sorted((p for p in site.dims if p != chain.time), key=site.dims.__getitem__)
    inner = bound.reading.plate_shape({p: d for p, d in site.dims.items() if p != chain.time})
    length = chain.length if steps is None else steps
    given = [*lanes, *others]
    found = []
    for array in map(np.asarray, both):
        tail = (int(np.prod(factor.column_shape)), array.shape[-1])
        wide = np.broadcast_to(array, (length, *(sizes[a] for a in given), *tail))
        moved = np.transpose(
            wide,
            [0, *(1 + given.index(p) for p in order if p in given), wide.ndim - 2, wide.ndim - 1],
        )
        event = (array.shape[-1],) if factor.family is not None and factor.family.event_dim else ()
        found.append(moved.reshape(length, *inner, *factor.column_shape, *event))
    return found[0], found[1]


def _moments(
    bound: Bound, chain: Kalman, law: Gaussian, states: Coordinates, steps: int | None = None
) -> dict[str, Moments]:
    """The states of a chain by name, (steps, *plates, *event)."""
    found = {}
    length = chain.length if steps is None else steps
    for name, where in places_of(states).items():
        site = bound.reading.sites[name]
        lanes = sorted(chain.plates)
        order = sorted((p for p in site.dims if p != chain.time), key=site.dims.__getitem__)
        inner = bound.reading.plate_shape({p: d for p, d in site.dims.items() if p != chain.time})
        axes = [0, *(1 + lanes.index(p) for p in order)]
        sizes = [bound.marginal.layout.sizes[p] for p in lanes]
        mean, covariance = law.mean[..., where], law.covariance[..., where[:, None], where]
        mean = mean + np.ravel(bound.data.shifts.get(name, 0.0))
        mean = np.broadcast_to(mean, (length, *sizes, len(where)))
        covariance = np.broadcast_to(covariance, (length, *sizes, len(where), len(where)))
        mean = np.transpose(mean, [*axes, mean.ndim - 1]).reshape(length, *inner, *site.event_shape)
        covariance = np.transpose(covariance, [*axes, covariance.ndim - 2, covariance.ndim - 1])
        covariance = covariance.reshape(length, *inner, len(where), len(where))
        if chain.reverse and steps is None:
            mean, covariance = mean[::-1], covariance[::-1]
        found[name] = Moments(mean, covariance)
    return found


def _observed(bound: Bound, chain: Kalman) -> tuple[AffineFactor, ...]:
    """The observed sites of a scan that read nothing but its states."""
    known = {n for n, _ in (*chain.before, *chain.states)}
    return tuple(
        f
        for f in bound.marginal.factors
        if isinstance(f, AffineFactor)
        and not f.own
        and bound.reading.sites[f.site].scan == chain.time
        and set(f.latents) <= known
    )


def _on_host(law: Gaussian) -> Gaussian:
    return Gaussian(np.asarray(law.mean), np.asarray(law.covariance))


def refuse_mixed(bound: Bound, chain: Kalman, what: str) -> None:
    """Raise where the law of `what` is a mixture over finite latents above the scan."""
    finite = [a for a in _touched(bound, chain) if not bound.reading.sites[a].real]
    if finite:
        raise ValueError(
            f"the states {', '.join(n for n, _ in chain.states)} depend on the finite latent '{finite[0]}' above "
            f"the scan: {what} has a mixture for its law, which is not offered. Use posterior(), on data whose "
            "later values are missing (NaN) for what is known before these."
        )


def _refuse_above(bound: Bound, chain: Kalman) -> None:
    refuse_mixed(bound, chain, "what is known before later data")
    sites, sizes = bound.reading.sites, bound.marginal.layout.sizes
    series = {p for p in chain.plates if sizes[p] > 1}
    shared = [n for n, _ in chain.outside if series - sites[n].plates]
    if shared:  # what one series tells of it is not all that is known
        raise ValueError(told_shared(shared))


def _touched(bound: Bound, chain: Kalman) -> list[str]:
    """The latents outside of the scan that its sites meet."""
    met = [f.latents for f in bound.marginal.factors if set(f.latents) & chain.own]
    names = dict.fromkeys(n for latents in met for n in latents)
    return [n for n in names if n not in chain.own and not bound.reading.sites[n].scan]


def _refuse_varying(bound: Bound, chain: Kalman) -> None:
    sites = bound.reading.sites
    varying = [n for n, _ in (*chain.states, chain.carried) if sites[n].timed]
    if varying:
        what = (
            ", ".join(repr(n) for n in varying if n != chain.carried[0]) or "the carry of the scan"
        )
        raise ValueError(
            f"forecast: {what} moves by the data or the number of the step, so that it is not known after the "
            "last one. Extend the data with missing observations (NaN) and use posterior()."
        )
