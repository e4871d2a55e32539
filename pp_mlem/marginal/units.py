"""log Z taken apart: one value for each independent unit, or for each step of a single sequence; and the
case weights of the units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal, Natural
from pp_mlem.marginal.recursions import filtered
from pp_mlem.marginal.steps.chain import Chain
from pp_mlem.marginal.steps.kalman import Kalman
from pp_mlem.potentials.modes import FIRST
from pp_mlem.potentials.quadratic import ROW, Quadratic
from pp_mlem.potentials.table import Table
from pp_mlem.potentials.term import Pair, Pass, Term


def pointwise_values(marginal: Marginal, params: Any, data: ProgramData) -> jax.Array:
    """(units,) of `Model.pointwise_log_likelihood`, as a pure function. Traceable."""
    data = data.by_rows
    eta = marginal.natural(params, data)
    if marginal.sequential:
        return step_values(marginal, eta, data)
    return jnp.concatenate([t.array.ravel() for t in marginal.unit_values(eta, data)])


def step_values(marginal: Marginal, eta: Natural, data: ProgramData) -> jax.Array:
    """log p(x_t | x_1, ..., x_{t-1}) of a single sequence, shape (steps,)."""
    (chain,) = marginal.sequences
    context = marginal.context(data)
    terms = marginal.before_chains(marginal.terms(eta, data), context)
    prefix, above = _prefixes(chain, terms, context)
    terms = [t for t in terms if not t.latents & chain.own]
    terms.append(Term(prefix, above, frozenset()))
    for step in marginal.steps[marginal.steps.index(chain) + 1 :]:
        terms = step.run(terms, context)
    total = jnp.zeros(())
    for term in terms:
        if chain.time in term.table.axes and chain.time not in term.plates:
            total = total + term.of_finite.array
        else:
            total = total + marginal.layout.total([term])
    total = jnp.broadcast_to(total, (chain.length,))
    if marginal.kalmans:  # a flat first state: nothing until what came before it has settled it
        total = jnp.where(jnp.isfinite(total), total, 0.0)
    return jnp.diff(total, prepend=0.0)


def _prefixes(
    chain: Chain | Kalman, terms: list[Term], context: Pass
) -> tuple[Table | Quadratic, frozenset[str]]:
    """log Z of the first 1, 2, ... steps given the latents above, and these latents."""
    if isinstance(chain, Kalman):
        found = chain.collect(terms, context)
        return chain.prefixes(found), frozenset(found.lanes).union(n for n, _ in chain.outside)
    (increments, _), collected = chain.along(terms, context, filtered)
    first = [jnp.broadcast_to(b, increments.shape[1:])[None] for b in chain.starts(collected)]
    totals = jnp.concatenate([*first, increments.cumsum(0)])
    table = Table(totals.reshape(-1, *collected.shape), (chain.time, *collected.lanes))
    return table, frozenset(collected.lanes)


def unit_weights(marginal: Marginal, data: ProgramData) -> jax.Array:
    """Case weight of each unit, zero where every observation of the unit is missing."""
    if marginal.sequential:
        return _step_weights(marginal, data)
    observed = {s.name for s in marginal.reading.observed}
    zero, context = Table(jnp.zeros(()), ()), marginal.context(data, FIRST)
    seen, counts = [], []
    for factor in marginal.factors:
        latents = frozenset(factor.latents)
        if factor.site in observed:
            seen.append(Term(_shown(marginal, factor, data), latents, factor.term_plates))
        elif factor.own in data.known:
            where = context.known[factor.own].shown
            axes = tuple(a for a in where.axes if a != ROW)
            table = Table(where.aligned((*axes, ROW)).max(-1), axes)
            seen.append(Term(table, latents, factor.term_plates))
        counts.append(Term(zero, latents, factor.term_plates, marginal.weight(factor, data)))
    layout = marginal.layout
    units = layout.units(marginal.run(seen + counts, context), context, with_weights=False)
    shown = jnp.concatenate([(t.array > 0).astype(float).ravel() for t in units])
    final = marginal.run(counts, context)
    given = [f.weight for f in final if f.weight is not None]
    weights = []
    for table in layout.units(final, context, with_weights=False):
        own = next((w.table for w in given if w.plates <= set(table.axes)), None)
        own = Table(jnp.ones(()), ()) if own is None else own
        weights.append(jnp.broadcast_to(own.aligned(table.axes), table.array.shape).ravel())
    return shown * jnp.concatenate(weights)


def _shown(marginal: Marginal, factor: Factor, data: ProgramData) -> Table:
    """Where something of an observed site is seen, over its rows."""
    laid = data.sites.get(factor.site)
    if laid is None or laid.mask is None:
        return Table(jnp.ones(()), ())
    sizes = [marginal.layout.sizes[p] for p in factor.rows]
    mask = laid.mask.any(tuple(range(laid.mask.ndim - 1)))
    return Table(mask.reshape(sizes).astype(float), factor.rows)


def _step_weights(marginal: Marginal, data: ProgramData) -> jax.Array:
    """How many observed sites were seen at each step of a single sequence, at most one; what
    lies before the scan counts with its first step."""
    (chain,) = marginal.sequences
    rest = marginal.reading.scans[chain.time].rest
    inside, before_it = jnp.zeros(chain.length), jnp.zeros(())
    for factor in marginal.factors:
        if factor.law_of or factor.own or factor.kind == "carried":
            continue
        site = marginal.reading.sites[factor.site]
        over = [p for p in (chain.time, rest) if p in factor.plates]
        seen = jnp.ones(chain.length if over else 1)
        laid = data.sites.get(factor.site)
        if laid is not None and laid.mask is not None:
            mask = laid.mask.any(tuple(range(laid.mask.ndim - 1)))
            sizes = [n for _, n, c in factor.layout if not c]
            seen = mask.reshape(sizes[0] if over else 1, -1).any(1).astype(float)
        scan = marginal.reading.scans.get(site.scan)
        if scan is None:
            before_it = before_it + seen.max()
            continue
        start = site.step if site.step is not None else scan.start if scan.rest in over else 0
        seen = seen[: chain.length - start]
        inside = inside.at[start : start + seen.size].max(seen)
    return inside.at[0].add(before_it)


def unit_layout(
    marginal: Marginal, data: ProgramData
) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(plates, sizes) of each set of independent units, in the order of `unit_weights`."""
    zero = Table(jnp.zeros(()), ())
    terms = [Term(zero, frozenset(f.latents), f.term_plates) for f in marginal.factors]
    context = marginal.context(data, FIRST)
    units = marginal.layout.units(marginal.run(terms, context), context, with_weights=False)
    return [(t.axes, t.array.shape) for t in units]


def reweighted(marginal: Marginal, data: ProgramData, weights: jax.Array) -> ProgramData:
    """The data with these case weights (units,) in place of their own. Rows that read their unit from
    another plate, as in u[group], have its weight.

    Raises ValueError where the units are not those of one set of plates to which all factors belong.
    """
    layout = unit_layout(marginal, data)
    axes, shape = layout[0]
    reading = marginal.reading
    ways = {
        f.site: [_way(marginal, f.term_plates, axis) for axis in axes] for f in marginal.factors
    }
    alone = [site for site, own in ways.items() if any(way is None for way in own)]
    if marginal.sequential or axes == ("program",) or len(layout) > 1 or alone:
        what = "one sequence" if marginal.sequential else f"units {[a for a, _ in layout]}"
        raise ValueError(
            f"units cannot be resampled in a program of {what}"
            + (f" with sites {alone} outside of them" if alone else "")
            + ": there is no one set of independent units. Use the parametric bootstrap."
        )
    placed = {}
    for site, own in ways.items():
        dims, moved = reading.sites[site].dims, weights.reshape(shape)
        plates = []
        for i, way in enumerate(own):
            for child, parent in reversed(way or ()):
                moved = jnp.take(moved, data.maps[child, parent], axis=i)
            plates.append(way[0][0] if way else axes[i])
        full = [1] * max(-dims[p] for p in plates)
        for p, n in zip(plates, moved.shape, strict=True):
            full[dims[p]] = n
        order = sorted(plates, key=dims.__getitem__)
        moved = jnp.transpose(moved, [plates.index(p) for p in order])
        placed[site] = moved.reshape(full)
    return replace(data.by_rows, weights=placed)


def _way(marginal: Marginal, plates: frozenset[str], unit: str) -> tuple[Pair, ...] | None:
    """The gathers through which the rows of these plates find their unit; None where they have none."""
    if unit in plates:
        return ()
    for child, parent in marginal.layout.gathers:
        further = _way(marginal, frozenset({parent}), unit) if child in plates else None
        if further is not None:
            return ((child, parent), *further)
    return None
