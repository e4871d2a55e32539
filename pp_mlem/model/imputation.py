"""Missing cells of observed sites given all that is seen: their means and standard deviations, and joint draws.

The moments are exact: those of the site's distribution at every value of its finite latents, real latents
integrated out, mixed with the probabilities of these values given the data, which are the derivative of log Z
with respect to a term over the latents and rows of the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import MultivariateNormal, Normal
from numpyro.distributions.discrete import CategoricalLogits, CategoricalProbs

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.affine import basis
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values
from pp_mlem.model.drawing import refuse_weighed
from pp_mlem.model.latents import sample
from pp_mlem.potentials.quadratic import COLUMN, ROW, Quadratic
from pp_mlem.potentials.sweep import swept
from pp_mlem.potentials.table import Table
from pp_mlem.potentials.term import LAST, Term
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.distributions import is_factor, unwrap
from pp_mlem.program.draw import completing_function
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading

AT_ONCE = 1024  # vectors completed together

Scope = dict[str, jax.Array]  # "constant", and with real latents "linear" and "precision"


@dataclass(frozen=True)
class Imputed:
    """The missing cells of a site given the data, in the shape of the data: `mean` and `sd`, of a cell that is
    seen its value and 0. NaN where a mask hides what is missing.

    Of a categorical site both are of the codes, and `probabilities` (..., categories) say more; None of others.
    """

    mean: np.ndarray
    sd: np.ndarray
    probabilities: np.ndarray | None = None

    @classmethod
    def mixed(cls, several: Sequence[Imputed]) -> Imputed:
        """Of equally probable parameters: the law of total variance."""
        mean = np.mean([i.mean for i in several], 0)
        variance = np.mean([i.sd**2 + (i.mean - mean) ** 2 for i in several], 0)
        shares = [i.probabilities for i in several if i.probabilities is not None]
        return cls(mean, np.sqrt(variance), np.mean(shares, 0) if shares else None)


def with_missing(observed: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The observed sites with missing cells."""
    return tuple(
        n for n, v in observed.items() if v.dtype.kind == "f" and bool(np.isnan(v).any())
    )


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
    return {n: np.stack(v) for n, v in found.items()}


def impute_moments(bound: Bound, values: Values, observed: Mapping[str, np.ndarray]) -> dict[str, Imputed]:
    """The moments of the missing cells of these sites; `observed` are their data."""
    reading = bound.reading
    pieces = {name: _pieces(reading, name) for name in observed}
    sites = {p for own in pieces.values() for p in own}
    factors = tuple(f for f in bound.marginal.factors if f.site in sites)
    touching = tuple(f.site for f in factors if f.latents)
    scopes: dict[str, Scope] = {}
    if touching:
        zeros = {n: _zeros(bound.marginal, _factor(factors, n)) for n in touching}
        scopes = bound.compiled(_scopes, touching)(zeros, values, bound.data)
    by_site = {f.site: _SiteMoments(bound, values, f, scopes.get(f.site)) for f in factors}
    return {
        name: _joined(reading, [by_site[p].found for p in own], own, observed[name])
        for name, own in pieces.items()
    }


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


def _axes(marginal: Marginal, factor: Factor) -> tuple[list[str], list[str]]:
    """The finite latents and the plates of a factor's term that have several values, in positional order."""
    sites, sizes = marginal.reading.sites, marginal.layout.sizes
    finite = [n for n in factor.latents if not sites[n].real and sizes[n] > 1]
    dims = sites[factor.site].dims
    plates = [p for p in sorted(factor.term_plates, key=dims.__getitem__) if sizes[p] > 1]
    return finite, plates


def _reals(marginal: Marginal, factor: Factor) -> tuple[tuple[str, int], ...]:
    sites = marginal.reading.sites
    return tuple((n, sites[n].size) for n in factor.latents if sites[n].real)


def _zeros(marginal: Marginal, factor: Factor) -> Scope:
    finite, plates = _axes(marginal, factor)
    shape = tuple(marginal.layout.sizes[a] for a in (*finite, *plates))
    scope = {"constant": jnp.zeros(shape)}
    size = sum(n for _, n in _reals(marginal, factor))
    if size:
        scope |= {"linear": jnp.zeros((*shape, size)), "precision": jnp.zeros((*shape, size, size))}
    return scope


def _scopes(
    marginal: Marginal, names: tuple[str, ...], zeros: dict[str, Scope], params: Values, data: ProgramData
) -> dict[str, Scope]:
    """Of each site's latents, by their finite values and rows: the probability, times the expected real
    latents, and minus half times their expected products. Traceable."""
    sites = marginal.reading.sites

    def value(scopes: dict[str, Scope]) -> jax.Array:
        terms = marginal.terms(marginal.natural(params, data), data)
        for name in names:
            factor, scope = _factor(marginal.factors, name), scopes[name]
            axes = tuple(a for own in _axes(marginal, factor) for a in own)
            potential: Any = Table(scope["constant"], axes)
            if "linear" in scope:
                potential = Quadratic(
                    potential,
                    Table(scope["linear"], (*axes, ROW)),
                    Table(scope["precision"], (*axes, ROW, COLUMN)),
                    _reals(marginal, factor),
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


# --- a site at given latents ----------------------------------------------------------------


@dataclass(frozen=True)
class _SiteMoments:
    """The moments of one site of the reading; `scope` tells of its latents, None where it has none."""

    bound: Bound
    values: Values
    factor: Factor
    scope: Scope | None

    @cached_property
    def finite(self) -> list[str]:
        return _axes(self.bound.marginal, self.factor)[0]

    @cached_property
    def plates(self) -> list[str]:
        """All plates of the site, columns of a family factor as well."""
        sizes, dims = self.bound.marginal.layout.sizes, self.bound.reading.sites[self.factor.site].dims
        return [p for p in sorted(dims, key=dims.__getitem__) if sizes[p] > 1]

    @cached_property
    def found(self) -> dict[str, np.ndarray]:
        """mean and variance (*plates, *columns, *event), and of a categorical site probabilities."""
        parts = self._parts()
        if "loc" in parts:
            mean, variance = self._gaussian(parts)
            return {"mean": mean, "variance": variance}
        share = self._share()
        found = {}
        for name in ("mean", "second", "probabilities"):
            if name in parts:
                array = self._laid(parts[name])
                rank = array.ndim - share.ndim
                weight = share.reshape(*share.shape, *(1,) * rank)
                found[name] = (weight * array).sum(tuple(range(len(self.finite))))
        found["variance"] = found.pop("second") - found["mean"] ** 2
        return found

    def _share(self) -> np.ndarray:
        """Probabilities of the finite latents, (*finite, *plates)."""
        if self.scope is None:
            return np.ones((1,) * len(self.plates))
        return self._wide(np.asarray(self.scope["constant"]), 0)

    def _wide(self, array: np.ndarray, after: int) -> np.ndarray:
        """What is known by (*finite, *plates of the term), with `after` axes behind, over all plates."""
        _, own = _axes(self.bound.marginal, self.factor)
        lead = array.shape[: len(self.finite)]
        sizes = iter(array.shape[len(lead) : array.ndim - after])
        inner = tuple(next(sizes) if p in own else 1 for p in self.plates)
        return array.reshape(*lead, *inner, *array.shape[array.ndim - after :])

    def _parts(self) -> dict[str, tuple[np.ndarray, int]]:
        """What the program's distribution says at every value of the finite latents, each with the number of
        axes behind its batch; at the basis points of the real ones, if it has any."""
        reading, name = self.bound.reading, self.factor.site
        real = bool(_reals(self.bound.marginal, self.factor))
        ranks: dict[str, int] = {}

        def extract(message: Message) -> dict[str, Any]:
            parts = _told(message, real)
            ranks.update({k: rank for k, (_, rank) in parts.items()})
            return {k: message.placed(jnp.asarray(a), rank) for k, (a, rank) in parts.items()}

        def at(reals: dict[str, Any]) -> dict[str, Any]:
            found = reading.run(
                self.values, self.bound.data.dynamic, extract, reals, wanted=frozenset({name}), wide=True
            )
            return found[name]

        if real:
            parts = jax.vmap(at)(basis(reading))
            parts = {k: (a if k == "loc" else a[0]) for k, a in parts.items()}
        else:
            parts = at({})
        return {k: (np.asarray(a), ranks[k]) for k, a in parts.items()}

    def _laid(self, part: tuple[np.ndarray, int], lead: int = 0) -> np.ndarray:
        """(lead..., *finite, *plates, *columns, *event) of an array of the program with `lead` axes of its
        own before the latents'."""
        array, after = part
        reading, factor = self.bound.reading, self.factor
        outer = [s for s in reading.slots if s.vmapped]
        for i in reversed(range(len(outer))):
            if outer[i].name not in factor.latents:
                array = array.take(0, axis=lead + i)
        batch = array.shape[lead : array.ndim - after]
        names = table_axes(reading, factor.site, factor.latents, batch)
        kept = [n for n, size in zip(batch, batch, strict=True) if size > 1]
        flat = array.reshape(*array.shape[:lead], *kept, *array.shape[array.ndim - after :])
        named = [n for n in names if n]
        order = [*self.finite, *self.plates]
        moved = [lead + named.index(a) for a in order if a in named]
        rest = range(lead + len(named), flat.ndim)
        flat = np.transpose(flat, [*range(lead), *moved, *rest])
        sizes = iter(flat.shape[lead : lead + len(moved)])
        inner = tuple(next(sizes) if a in named else 1 for a in order)
        return flat.reshape(*flat.shape[:lead], *inner, *flat.shape[lead + len(moved) :])

    def _gaussian(self, parts: dict[str, tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of a Gaussian whose other entries are seen, at its real latents' posterior."""
        reading, count = self.bound.reading, len(self.finite)
        real = bool(_reals(self.bound.marginal, self.factor))
        loc = self._laid(parts["loc"], int(real))
        vector = "covariance" in parts and parts["loc"][1] > reading.sites[self.factor.site].columns
        covariance = self._laid(parts["covariance"])
        value = self._laid(parts["value"])
        columns = reading.sites[self.factor.site].columns
        if not vector:
            loc, value = loc[..., None], value[..., None]
            covariance = covariance[..., None, None]
        slope = np.zeros((*loc.shape[int(real) :], 0))
        if real:
            places = self.factor.places(reading)  # type: ignore[attr-defined]
            slope = np.moveaxis(loc[places] - loc[0], 0, -1)
            loc = loc[0]
        plates = np.broadcast_shapes(*(a.shape[count : count + len(self.plates)] for a in (loc, value)))
        sizes = tuple(self.bound.marginal.layout.sizes[p] for p in self.plates)
        inner = value.shape[count + len(self.plates) : value.ndim - 1]
        inner = np.broadcast_shapes(inner, loc.shape[loc.ndim - 1 - columns : loc.ndim - 1])
        del plates

        def cells(array: np.ndarray, after: int, has_columns: bool = True) -> np.ndarray:
            """(values of the finite latents, rows or 1, columns or 1, ...)"""
            own = inner if has_columns else ()
            tail = array.shape[array.ndim - after :]
            lead = array.shape[: array.ndim - after - len(own)]
            rows = lead[count:] if all(n == 1 for n in lead[count:]) else sizes
            array = array if has_columns else array
            shape = array.shape[array.ndim - after - len(own) : array.ndim - after]
            wide = np.broadcast_to(array, (*lead[:count], *rows, *shape, *tail))
            return wide.reshape(
                int(np.prod(lead[:count])), int(np.prod(rows)), int(np.prod(shape)), *tail
            )

        given = self.scope or {"constant": jnp.ones(())}
        share = self._share()
        flat = {
            "loc": cells(loc, 1), "slope": cells(slope, 2), "covariance": cells(covariance, 2),
            "value": cells(value, 1), "share": cells(share, 0, False),
        }  # fmt: skip
        first = np.zeros((*share.shape, 0))
        second = np.zeros((*share.shape, 0, 0))
        if real:
            first = self._wide(np.asarray(given["linear"]), 1)
            second = -2 * self._wide(np.asarray(given["precision"]), 2)
        flat |= {"first": cells(first, 1, False), "second": cells(second, 2, False)}
        whole = (int(np.prod(sizes)), int(np.prod(inner)), value.shape[-1])
        seen = np.broadcast_to(flat["value"][0], whole)
        rows, places = np.nonzero(np.isnan(seen).any(-1))
        found = self.bound.compiled(_completed_cells)(flat, rows, places)
        moments = []
        for part in found:
            array = np.zeros(whole)
            array[rows, places] = np.asarray(part)
            array = array.reshape(*sizes, *inner, whole[-1])
            moments.append(array if vector else array[..., 0])
        return moments[0], moments[1]


def _completed_cells(
    marginal: Marginal, flat: dict[str, jax.Array], rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (cells, D) of vectors given what is seen of them. Traceable."""
    del marginal

    def one(cell: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        i, j = cell
        own = {
            k: a[:, jnp.minimum(i, a.shape[1] - 1), jnp.minimum(j, a.shape[2] - 1)]
            for k, a in flat.items()
        }
        (value,) = own["value"][:1]
        seen = (~jnp.isnan(value)).astype(own["loc"].dtype)
        gone = 1.0 - seen
        found, _ = swept(own["covariance"], jnp.broadcast_to(seen, own["covariance"].shape[:-1]))
        across = found * gone[:, None] * seen + jnp.diag(seen)
        left = found * gone[:, None] * gone
        away = jnp.where(seen > 0, value - own["loc"], 0.0)
        mean = own["loc"] + jnp.squeeze(across @ away[..., None], -1)
        slope = own["slope"] - across @ (own["slope"] * seen[:, None])
        share = own["share"]
        likely = jnp.where(share > 0, share, 1.0)
        expected = own["first"] / likely[:, None]
        second = own["second"] / likely[:, None, None]
        spread = second - expected[:, :, None] * expected[:, None, :]
        mean = mean + jnp.squeeze(slope @ expected[..., None], -1)
        variance = jnp.diagonal(left + slope @ spread @ jnp.swapaxes(slope, -1, -2), 0, -2, -1)
        total = (share[:, None] * mean).sum(0)
        apart = mean - total
        return total, (share[:, None] * (variance + apart**2)).sum(0)

    return jax.lax.map(one, (rows, columns), batch_size=AT_ONCE)


def _told(message: Message, real: bool) -> dict[str, tuple[Any, int]]:
    """What a distribution says of a missing value, each with the number of axes behind the batch."""
    bare = unwrap(message.fn)
    fn, rank = bare.fn, bare.columns + len(bare.fn.event_shape)
    if isinstance(fn, MultivariateNormal):
        value = jnp.asarray(message.value, jnp.result_type(float))
        return {
            "loc": (fn.loc, rank), "covariance": (fn.covariance_matrix, rank + 1), "value": (value, rank),
        }  # fmt: skip
    if isinstance(fn, Normal) and real:
        value = jnp.asarray(message.value, jnp.result_type(float))
        return {
            "loc": (fn.loc, rank), "covariance": (fn.scale**2, rank), "value": (value, rank),
        }  # fmt: skip
    if isinstance(fn, (CategoricalProbs, CategoricalLogits)):
        codes = jnp.arange(fn.probs.shape[-1])
        mean, second = (fn.probs * codes).sum(-1), (fn.probs * codes**2).sum(-1)
        return {
            "mean": (mean, rank), "second": (second, rank), "probabilities": (fn.probs, rank + 1),
        }  # fmt: skip
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:
        raise ValueError(
            f"impute: observed site '{message.name}' is a {type(fn).__name__}, of which NumPyro knows no mean. "
            "Ask for draws: impute(params, draws=100)."
        ) from None
    return {"mean": (mean, rank), "second": (variance + mean**2, rank)}


__all__ = ["Imputed", "draw_missing", "impute_moments", "is_factor", "with_missing"]
