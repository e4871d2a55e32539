"""How near to one, or to a point, the observed rows' probabilities and densities have come; and
fits through all points, whose likelihood has no bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.base.status import Status
from pp_mlem.diagnose.edges import objective_at
from pp_mlem.program.densities import law_density, log_density
from pp_mlem.program.distributions import is_discrete, is_factor, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.sites import Site
from pp_mlem.program.space import is_half_line, is_matrix
from pp_mlem.target.parts import in_parts
from pp_mlem.target.problem import Problem
from pp_mlem.target.solution import Solution
from pp_mlem.target.target import Target

SATURATED = -1e-6  # log-probability of a row above which its parameters may be at infinity
NEAR_ONE = -0.1
ROUNDINGS = 30.0  # of the data: a density as narrow as these sees only how numbers are rounded
CONCENTRATION = 1e5  # spreads of the data per width of a density that still narrows
UNSETTLED = 1e-4  # slope per observation above which a fit may not have come to rest
MANY_ROWS = 200_000  # beyond which an end is looked into only where it is extreme: it takes memory
SINGULAR = 10.0  # standard deviations are this much less telling in a direction of a covariance
RISE = 0.1  # nats gained by one step of a coordinate: it has not
SMALL = 1e3  # roundings of the largest number, as a scale: smaller ones are looked into
STEEP = 20.0  # nats per unit: larger ones are looked into
# Unconstrained coordinate of a positive parameter, 1e12: lgamma of it is exact to 1e-3.
EXACT = 28.0
BOTTOM = -300.0  # unconstrained coordinate of a scale that is zero in all but name


@dataclass(frozen=True)
class Extreme:
    """Of one site, over rows and values of its latents. Discrete, or the law of a latent: how many
    probabilities of what was seen are one to rounding (`saturated`), how many come near (`near`).
    Continuous: how narrow the narrowest density is, as log(density times the row's own size)
    (`narrow`), and log(density times the spread of all rows or the row's size, the smaller one)
    (`concentrated`)."""

    saturated: float
    near: float
    narrow: float
    concentrated: float


def certain_sites(target: Target, real: set[str], positive: set[str]) -> frozenset[str]:
    """The discrete sites, observed ones and laws of latents, that can become certain as one of
    these parameters grows. Where a family's own parameter is positive, that is no way to certainty."""
    reading = target.reading
    sites = []
    for factor in target.marginal.factors:
        behind = frozenset().union(*reading.dependencies[factor.site].values())
        ways = real if factor.kind == "family" else real | positive
        if (factor.law_of or _is_discrete(reading.sites[factor.site])) and behind & ways:
            sites.append(factor.site)
    return frozenset(sites)


def _is_discrete(site: Site) -> bool:
    support = getattr(getattr(dist, site.distribution, None), "support", None)
    try:
        return bool(getattr(support, "is_discrete", False))
    except NotImplementedError:  # that of a Delta is that of its value
        return False


def extremes_at(target: Target, vector: Any, sites: frozenset[str]) -> dict[str, Extreme]:
    """The extremes of these sites at a vector of free parameters."""
    measure = target.compiled(_measure, sites)
    numbers = jax.device_get(measure(np.asarray(vector)))
    return {name: Extreme(*map(float, values)) for name, values in numbers.items()}


def _measure_part(target: Target, sites: frozenset[str], vector: jax.Array) -> dict[str, Any]:
    """The four numbers of an `Extreme` for each site. Traceable."""
    reading = target.reading

    def extract(message: Message) -> Any:
        return _laid(message, bool(reading.sites[message.name].law_of))

    observed = frozenset(n for n in sites if not reading.sites[n].law_of)
    params = target.params(vector)
    arrays = reading.run(params, target.data.dynamic, extract, wanted=sites, wide=observed)
    return {name: _numbers(own) for name, own in arrays.items()}


def _of_all(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The four numbers of both parts of the rows: counts add up, of densities the narrowest is told."""
    return {
        name: (*(a + b for a, b in zip(own[:2], other[name][:2], strict=True)),
               *(np.maximum(a, b) for a, b in zip(own[2:], other[name][2:], strict=True)))
        for name, own in one.items()
    }  # fmt: skip


@in_parts(_measure_part, lambda target, total, *given: total, _of_all)
def _measure(target: Target, sites: frozenset[str], vector: jax.Array) -> dict[str, Any]:
    """The same, of rows that may come in parts."""
    return _measure_part(target, sites, vector)


def _laid(message: Message, is_law: bool) -> dict[str, jax.Array]:
    """What a site's extremes are told by, with the axes of its latents and plates in place."""
    if is_factor(message.fn):
        return {}
    if is_law:
        return {"probability": message.placed(law_density(unwrap(message.fn).fn, message.value))}
    value, density, seen, columns = _elements(message)
    density = jnp.where(seen, density, -jnp.inf)
    if is_discrete(message.fn):
        return {"probability": message.placed(density, columns)}
    event = len(message.fn.event_shape) - columns
    value = jnp.where(seen.reshape(seen.shape + (1,) * event), value, jnp.nan)
    arrays = {"density": message.placed(density, columns)}
    if event == 0:
        return arrays | {"value": message.placed(value, columns)}
    law = unwrap(message.fn).fn
    if event == 1 and hasattr(law, "covariance_matrix"):
        arrays["covariance"] = message.placed(law.covariance_matrix, columns + 2)
    return arrays | {f"vector {event}": message.placed(value, columns + event)}


def _elements(message: Message) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """(value, log f, whether it is there) of each element of an observed site, before `to_event`
    columns are joined, and how many these are. What is missing or masked counts as not there."""
    bare = unwrap(message.fn)
    value = jnp.asarray(message.value)
    missing, support = jnp.zeros((), bool), bare.fn.support
    inside = support.check(value)  # latents and parameters may widen it
    event_shape = value.shape[value.ndim - len(bare.fn.event_shape) :]
    value = jnp.broadcast_to(value, (*inside.shape, *event_shape))
    if jnp.issubdtype(value.dtype, jnp.floating):
        event = tuple(range(-len(bare.fn.event_shape), 0))
        cells = jnp.isnan(value).any(event, keepdims=True)
        missing = cells.reshape(cells.shape[: cells.ndim - len(event)])
        value = jnp.where(cells, support.feasible_like(value), value)
    density = log_density(bare.fn, value)
    seen = jnp.broadcast_to(~missing, jnp.broadcast_shapes(density.shape, missing.shape))
    for mask in bare.masks:
        seen = seen & mask
    return value, density, seen & (inside | missing), bare.columns


def _numbers(own: dict[str, jax.Array]) -> tuple:
    none, lowest = jnp.array(0.0), jnp.array(-jnp.inf)
    if "probability" in own:
        log_p = own["probability"]
        return (log_p > SATURATED).sum(), (log_p > NEAR_ONE).sum(), lowest, lowest
    if "density" not in own:
        return none, none, lowest, lowest
    if "value" not in own:
        return none, none, lowest, _concentration(own)
    density = jnp.nan_to_num(own["density"], nan=-jnp.inf, neginf=-jnp.inf, posinf=1e300)
    value = own["value"]
    size, largest = jnp.abs(value), jnp.nanmax(jnp.abs(value))
    size = jnp.where(size > 0, size, jnp.where(largest > 0, largest, 1.0))
    spread = jnp.nanstd(value)
    spread = jnp.where(spread > 1e-12 * largest, spread, size)
    narrow = (density + jnp.log(size)).max(initial=-jnp.inf, where=~jnp.isnan(value))
    least = jnp.log(jnp.minimum(size, spread))
    spread_out = (density + least).max(initial=-jnp.inf, where=~jnp.isnan(value))
    return none, none, narrow, spread_out


def _concentration(own: dict[str, jax.Array]) -> jax.Array:
    """The same for vectors: the narrowest density times the spreads of all their entries, or how
    narrow a covariance is in its narrowest direction, next to these spreads."""
    name = next(k for k in own if k.startswith("vector "))
    value, event = own[name], int(name.removeprefix("vector "))
    rows = tuple(range(value.ndim - event))
    largest = jnp.nanmax(jnp.abs(value), axis=rows)
    spread = jnp.nanstd(value, axis=rows)
    spread = jnp.where(spread > 1e-12 * largest, spread, jnp.where(largest > 0, largest, 1.0))
    density = jnp.where(jnp.isnan(own["density"]), -jnp.inf, own["density"])
    narrowest = density.max(initial=-jnp.inf) + jnp.log(spread).sum()
    if "covariance" not in own:
        return narrowest
    scaled = own["covariance"] / (spread[:, None] * spread)
    scaled = jnp.where(jnp.isfinite(scaled), scaled, 0.0)
    least = jnp.maximum(jnp.linalg.eigvalsh(scaled).min(initial=jnp.inf), 1e-300)
    return jnp.maximum(narrowest, jnp.log(SINGULAR / jnp.sqrt(least)))


def drawn_back(problem: Problem, vector: Any) -> np.ndarray:
    """The point with its positive parameters so small that densities are no rounding noise, in the
    same proportions: a Gamma at 1e20 for shape and rate has the mean that it had."""
    at, where = np.array(vector, float), problem.space.slices()
    positive = np.zeros(len(at), bool)
    for site in problem.space.sites:
        positive[where[site.name]] = is_half_line(site.support)
    large = positive & (at > EXACT)
    return np.where(large, at - (at.max(initial=EXACT, where=large) - EXACT), at)


def collapse_note(solution: Solution, status: int) -> str:
    """Which observed site a fit goes through without error, and by which parameters ("": none).

    The density of a row is compared with the rounding of the row itself: a Normal whose scale is
    `ROUNDINGS` roundings of its observations describes those and nothing else. A fit that has not
    come to rest is one earlier, where its density is narrower than the data are wide by
    `CONCENTRATION`. Looked into only where something is extreme.
    """
    target = solution.target
    sites = frozenset(s.name for s in target.reading.observed if not _is_discrete(s))
    if not sites:
        return ""
    at = np.asarray(solution.vector, float)
    eps = float(np.finfo(target.dtype).eps)
    finite = bool(np.isfinite(solution.value)) and status != Status.NOT_FINITE
    settled = status == Status.CONVERGED or solution.slope <= UNSETTLED
    settled = settled or target.marginal.rows.size > MANY_ROWS
    if finite and settled and not _is_extreme(target, at, solution.value, eps):
        return ""
    lows = np.log(np.maximum(eps * _largest(target), 1e-300))
    regular = finite and at.min(initial=0.0) > BOTTOM
    tried = [at] if regular else [np.maximum(at, BOTTOM), np.maximum(at, lows)]
    for point in tried:
        for name, extreme in extremes_at(target, point, sites).items():
            if extreme.narrow > -np.log(ROUNDINGS * eps):
                return _without_error(target, name)
            if not extreme.concentrated > np.log(CONCENTRATION):
                continue
            if not (finite and settled) or _rises(target, at):
                return _without_error(target, name)
    return ""


def _rises(target: Target, at: np.ndarray) -> bool:
    """Whether the objective still rises along a coordinate."""
    steps = np.concatenate([np.eye(len(at)), -np.eye(len(at))])
    values = objective_at(target, at, [at, *(at + steps)])
    return bool(np.any(values[1:] > values[0] + RISE))


def _is_extreme(target: Target, at: np.ndarray, value: float, eps: float) -> bool:
    smallest = np.log(SMALL * eps * _largest(target))
    return bool(at.min(initial=np.inf) < smallest or value > STEEP * target.units)


def _largest(target: Target) -> float:
    """The largest finite number among the data, at least 1."""
    arrays = [np.asarray(a) for a in target.data.dynamic if np.size(a)]
    return max([1.0, *(_largest_of(a) for a in arrays)])


def _largest_of(array: np.ndarray) -> float:
    largest = max(float(array.max()), -float(array.min()))  # no copy of the size of the data
    if not np.isfinite(largest):
        finite = np.isfinite(array)
        ends = array.max(initial=0, where=finite), array.min(initial=0, where=finite)
        largest = max(float(ends[0]), -float(ends[1]))
    return largest


def _without_error(target: Target, name: str) -> str:
    """The sentence about a site that is fitted without error."""
    behind = frozenset().union(*target.reading.dependencies[name].values())
    involved = [s for s in target.space.sites if s.name in behind]
    scales = [s.name for s in involved if is_half_line(s.support) or is_matrix(s.support)]
    scales = scales or [s.name for s in involved]
    of = f", by {', '.join(scales)}" if scales else ""
    return (
        f"'{name}' is fitted without error, in all rows or some{of}: its density grows without "
        "bound there; give the scale a prior that is zero at zero (LogNormal) and use fit_map, or "
        "fix it"
    )
