"""Missing cells of observed sites given all that is seen: their means and standard deviations, and joint draws.

The moments are exact: those of the site's distribution at every value of its finite latents, real latents
integrated out, mixed with the probabilities of these values given the data, which are the derivative of log Z
with respect to a term over the latents and rows of the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values
from pp_mlem.model.drawing import refuse_weighed
from pp_mlem.model.latents import posterior, sample
from pp_mlem.model.site_moments import Scope, SiteMoments, axes_of, reals_of
from pp_mlem.potentials.quadratic import COLUMN, ROW, Quadratic
from pp_mlem.potentials.table import Table
from pp_mlem.potentials.term import LAST, Term
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.draw import completing_function
from pp_mlem.program.reading import Reading


@dataclass(frozen=True)
class Imputed:
    """The missing cells of a site given the data, in the shape of the data: `mean` and `sd`, of a cell that is
    seen its value and 0. NaN where a mask hides what is missing.

    Of a categorical site both are of the codes, and `probabilities` (..., categories) say more; None of others.
    """

    mean: np.ndarray
    sd: np.ndarray
    probabilities: np.ndarray | None = None

    def __repr__(self) -> str:
        fields = "mean, sd" if self.probabilities is None else "mean, sd, probabilities"
        return f"Imputed(shape {self.mean.shape}, {np.sum(self.sd > 0):,} imputed cells: .{fields.replace(', ', ', .')})"

    @classmethod
    def mixed(cls, several: Sequence[Imputed]) -> Imputed:
        """Of equally probable parameters: the law of total variance."""
        mean = np.mean([i.mean for i in several], 0)
        variance = np.mean([i.sd**2 + (i.mean - mean) ** 2 for i in several], 0)
        shares = [i.probabilities for i in several if i.probabilities is not None]
        return cls(mean, np.sqrt(variance), np.mean(shares, 0) if shares else None)


def with_missing(observed: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The observed sites with missing cells."""
    return tuple(n for n, v in observed.items() if v.dtype.kind == "f" and bool(np.isnan(v).any()))


def partly_known(bound: Bound) -> tuple[str, ...]:
    """The real latents that have values in some units."""
    return tuple(n for n, (_, shown) in bound.data.known.items() if not np.asarray(shown).all())


def draw_missing(
    bound: Bound, arguments: Arguments, names: tuple[str, ...], several: Sequence[Values], seed: int
) -> dict[str, np.ndarray]:
    """Completed data by site (draws, *shape), the latents drawn with them, one draw at each of these
    parameters."""
    refuse_weighed(bound.marginal)
    complete = completing_function(arguments)
    if arguments.traced:
        complete = bound.kept.once("completing", lambda: quick_jit(completing_function(arguments)))
    dynamic, key = arguments.device_arrays(), jax.random.key(seed)
    found: dict[str, list[np.ndarray]] = {n: [] for n in names}
    for i, values in enumerate(several):
        latents: dict[str, Any] = {}
        if bound.reading.latents or bound.reading.reals:
            drawn = sample(bound, values, 1, int(np.uint32(seed * 1_000_003 + i)))
            latents = {n: jnp.asarray(v[0]) for n, v in drawn.items()}
        completed = complete(dynamic, {**values, **latents}, jax.random.fold_in(key, i))
        for n in names:
            found[n].append(np.asarray(completed[n], float))
        for n in partly_known(bound):
            found.setdefault(n, []).append(np.asarray(latents[n], float))
    return {n: np.stack(v) for n, v in found.items()}


def impute_moments(
    bound: Bound, values: Values, observed: Mapping[str, np.ndarray]
) -> dict[str, Imputed]:
    """The moments of the missing cells of these sites; `observed` are their data."""
    reading = bound.reading
    pieces = {name: _pieces(reading, name) for name in observed}
    sites = {p for own in pieces.values() for p in own}
    told = posterior(bound, values) if partly_known(bound) else {}
    known = {n: Imputed(told[n].mean, told[n].sd) for n in partly_known(bound)}
    by_site = site_moments(bound, values, sites)
    return known | {
        name: _joined(reading, [by_site[p].found for p in own], own, observed[name])
        for name, own in pieces.items()
    }


def site_moments(bound: Bound, values: Values, sites: Set[str]) -> dict[str, SiteMoments]:
    """The moments of these sites, with what the data tell of their latents."""
    factors = tuple(f for f in bound.marginal.factors if f.site in sites)
    touching = tuple(f.site for f in factors if f.latents)
    scopes: dict[str, Scope] = {}
    if touching:
        zeros = {n: _zeros(bound.marginal, _factor(factors, n)) for n in touching}
        scopes = bound.compiled(_scopes, touching)(zeros, values, bound.data)
    return {f.site: SiteMoments(bound, values, f, scopes.get(f.site)) for f in factors}


def _factor(factors: Sequence[Factor], name: str) -> Factor:
    return next(f for f in factors if f.site == name)


def _pieces(reading: Reading, name: str) -> list[str]:
    """The sites that an observed site of the program is read as, in the order of the steps."""
    own = [s for s in reading.observed if name in (s.name, s.origin)]
    order = sorted(own, key=lambda s: (s.step is None, s.step or 0))
    return [s.name for s in order]


def _joined(
    reading: Reading, parts: list[dict[str, np.ndarray]], sites: list[str], data: np.ndarray
) -> Imputed:
    """The moments (plates..., event) of the pieces as one array in the shape of the data."""
    scan = reading.scans.get(reading.sites[sites[0]].scan)
    alone = [reading.sites[s].step is not None for s in sites]
    missing = np.isnan(data)

    def whole(part: str) -> np.ndarray:
        arrays = [p[part][None] if one else p[part] for p, one in zip(parts, alone, strict=True)]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        joined = joined[::-1] if scan is not None and scan.reverse else joined
        extra = joined.shape[-1:] if part == "probabilities" else ()
        return joined.reshape(*data.shape, *extra)

    mean = np.where(missing, whole("mean"), data)
    sd = np.where(missing, np.sqrt(np.maximum(whole("variance"), 0.0)), 0.0)
    probabilities = None
    if "probabilities" in parts[0]:
        probabilities = whole("probabilities")
        codes = np.nan_to_num(data).astype(int)
        known = codes[..., None] == np.arange(probabilities.shape[-1])
        probabilities = np.where(missing[..., None], probabilities, known)
    return Imputed(mean, sd, probabilities)


# --- the latents of a site, row by row ------------------------------------------------------


def _zeros(marginal: Marginal, factor: Factor) -> Scope:
    finite, plates = axes_of(marginal, factor)
    shape = tuple(marginal.layout.sizes[a] for a in (*finite, *plates))
    scope = {"constant": jnp.zeros(shape)}
    size = sum(n for _, n in reals_of(marginal, factor))
    if size:
        scope |= {"linear": jnp.zeros((*shape, size)), "precision": jnp.zeros((*shape, size, size))}
    return scope


def _scopes(
    marginal: Marginal,
    names: tuple[str, ...],
    zeros: dict[str, Scope],
    params: Values,
    data: ProgramData,
) -> dict[str, Scope]:
    """Of each site's latents, by their finite values and rows: the probability, times the expected real
    latents, and minus half times their expected products. Traceable."""
    sites = marginal.reading.sites

    def value(scopes: dict[str, Scope]) -> jax.Array:
        terms = marginal.terms(marginal.natural(params, data), data)
        for name in names:
            factor, scope = _factor(marginal.factors, name), scopes[name]
            axes = tuple(a for own in axes_of(marginal, factor) for a in own)
            potential: Any = Table(scope["constant"], axes)
            if "linear" in scope:
                potential = Quadratic(
                    potential,
                    Table(scope["linear"], (*axes, ROW)),
                    Table(scope["precision"], (*axes, ROW, COLUMN)),
                    reals_of(marginal, factor),
                )
            ends = not sites[name].scan and any(sites[v].scan for v in factor.latents)
            place = LAST if ends else sites[name].step
            weight = marginal.weight(factor, data)
            latents = frozenset(factor.latents)
            terms.append(Term(potential, latents, factor.term_plates, weight, place))
        context = marginal.context(data, once=True)
        units = marginal.layout.units(marginal.run(terms, context), context, with_weights=False)
        return sum((t.array.sum() for t in units), jnp.zeros(()))

    return jax.grad(value)(zeros)
