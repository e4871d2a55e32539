"""Checks that means are affine in real latents, and that scans carry them on by an affine map: what the
basis points tell, against the program run at random values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.factors.affine import AffineFactor, basis, refusal
from pp_mlem.factors.axes import drop_outer, of_rank
from pp_mlem.factors.base import Factor
from pp_mlem.factors.carried import CarriedFactor
from pp_mlem.factors.gathers import vectors
from pp_mlem.program.errors import SiteValueError, UnitsMeet
from pp_mlem.program.messages import Message
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.reading import Reading

DRAWS = 2
OTHERS = (6, 7)  # seeds of random parameters besides the first


def refuse_nonaffine(
    reading: Reading, factors: tuple[Factor, ...], dynamic: tuple, maps: Mapping[Any, Any]
) -> dict[str, np.ndarray]:
    """Values less means at the basis points, by site; raise where they do not tell what these are at random
    values of the real latents, and where a covariance is singular at any parameters."""
    read = [f for f in factors if isinstance(f, (AffineFactor, CarriedFactor))]
    checked = [f for f in read if f.coordinates or isinstance(f, CarriedFactor)]
    if not checked:
        return {}
    by_site = {f.site: f for f in checked}
    params = neutral_parameters(reading, 5)
    rng = np.random.default_rng(11)
    values = {s.name: rng.normal(size=(DRAWS, *reading.real_shape(s))) for s in reading.reals}

    values |= {s.first_carry: np.zeros(DRAWS) for s in reading.scans.values()}  # step after step

    def means(reals: dict[str, Any], params: dict[str, Any], dynamic: tuple) -> dict[str, Any]:
        def extract(message: Message) -> Any:
            found = by_site[message.name].natural(reading, message, None)
            return (found[0], found[2]) if isinstance(found, tuple) else (found, ())

        def at(given: dict[str, Any]) -> dict[str, Any]:
            return reading.run(params, dynamic, extract, given, wanted=frozenset(by_site))

        return jax.vmap(at)(reals)

    run = quick_jit(means) if reading.arguments.traced else means

    def own(factor: Factor, array: Any) -> Any:
        """Without the axes of gathered latents that it does not meet."""
        return jax.vmap(lambda a: drop_outer(reading, factor.latents, a))(array)

    known, seen = run(basis(reading), params, dynamic), run(values, params, dynamic)
    _refuse_singular(
        reading, lambda seed: run(values, neutral_parameters(reading, seed), dynamic), seen
    )
    known = {n: own(by_site[n], v) for n, (v, _) in known.items()}
    seen = {n: np.asarray(own(by_site[n], v)) for n, (v, _) in seen.items()}
    for scan in reading.scans.values():
        if scan.reals is not None:
            values[scan.carry] = _before(
                reading, seen[scan.first_carry], seen[scan.carry], scan.carry
            )
    for factor in checked:
        here = seen[factor.site]
        outer = 1 + sum(s.vmapped and s.name in factor.latents for s in reading.slots)
        points = np.asarray(of_rank(known[factor.site], here.ndim, outer))
        told = [_predicted(reading, factor, points, values, maps, i) for i in range(DRAWS)]
        tolerance = 1e-6 if here.dtype == np.float64 else 1e-3
        off = tolerance * max(1.0, float(np.abs(here).max(initial=0.0)))
        if not all(np.allclose(a, b, tolerance, off) for a, b in zip(told, here, strict=True)):
            raise _refused(reading, factor)
    return {n: np.asarray(v) for n, v in known.items()}


def _refuse_singular(
    reading: Reading, again: Callable[[int], dict[str, Any]], seen: dict[str, Any]
) -> None:
    """Raise where the normaliser of a MultivariateNormal is finite at none of several random parameters: its
    matrix has no Cholesky factor. `seen` is what `again` gives at the first of them."""

    def singular(found: dict[str, Any]) -> set[str]:
        vectors = (n for n in found if reading.sites[n].distribution == "MultivariateNormal")
        return {
            n for n in vectors for a in jax.tree.leaves(found[n][1]) if not np.isfinite(a).all()
        }

    left = singular(seen)
    for seed in OTHERS if left else ():
        left &= singular(again(seed))
    if left:
        site = reading.sites[sorted(left)[0]]
        name = site.origin or site.name
        raise SiteValueError(
            f"site '{name}' (MultivariateNormal): its matrix is not positive definite, at none of "
            f"{1 + len(OTHERS)} random parameters, so that it has no density. Look for rows that are sums of others "
            "(the same individual or place twice); drop them, add a little to the diagonal "
            f"(1e-6 * jnp.eye(...)), or, of a latent, sample z standard normal and use A @ z with A @ A.T the matrix."
        )


def _refused(reading: Reading, factor: AffineFactor | CarriedFactor) -> SiteValueError:
    names = [n for n, _ in factor.coordinates] or [s.name for s in reading.reals]
    if isinstance(factor, CarriedFactor):
        how = "where the body of the scan carries it on by a map that is not affine"
        return SiteValueError(refusal(reading, names, how))
    site = reading.sites[factor.site]
    how = f"where the mean of '{site.origin or site.name}' is not affine in the one value that a row reads"
    several = [n for n in names if reading.sites[n].dims]  # a row may read several units of these
    return UnitsMeet(refusal(reading, names, how), vectors(reading, several))


def _before(reading: Reading, first: np.ndarray, after: np.ndarray, carry: str) -> np.ndarray:
    """What is carried into every step (draws, *real shape), of that before the first and after each."""
    whole = (DRAWS, *reading.real_shape(reading.sites[carry]))
    later = np.broadcast_to(after, whole)
    ones = (1,) * (len(whole) - first.ndim)
    first = first.reshape(DRAWS, *ones, *first.shape[1:])
    first = np.broadcast_to(first, (DRAWS, 1, *whole[2:]))
    return np.concatenate([first, later[:, :-1]], 1)


def _predicted(
    reading: Reading,
    factor: AffineFactor | CarriedFactor,
    known: np.ndarray,
    values: Mapping[str, np.ndarray],
    maps: Mapping[Any, Any],
    draw: int,
) -> np.ndarray:
    """What a mean is by the basis points, at one of the random values of the latents."""
    site, places = reading.sites[factor.site], iter(factor.places(reading))
    event = factor.family.event_dim if factor.family is not None else 0
    after = (1,) * (1 if isinstance(factor, CarriedFactor) else site.columns + event)
    total = known[0]
    for name, size in factor.coordinates:
        latent = reading.sites[name]
        value = values[name][draw].reshape(*reading.plate_shape(latent.dims), size)
        for i in range(size):
            own = np.asarray(value[..., i])
            for parent in latent.plates - site.plates:
                child = next(c for c, p in maps if p == parent and c in site.plates)
                rows = own.reshape(-1)[np.asarray(maps[child, parent])]
                own = rows.reshape(-1, *(1,) * (-site.dims[child] - 1))
            total = total + (known[next(places)] - known[0]) * own.reshape((*own.shape, *after))
    return total
