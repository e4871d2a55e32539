"""The moments of one observed site's missing cells, mixed over the values of its latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import MultivariateNormal, Normal
from numpyro.distributions.discrete import CategoricalLogits, CategoricalProbs

from pp_mlem.factors.affine import AffineFactor, basis
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values
from pp_mlem.potentials.sweep import swept
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message

AT_ONCE = 1024  # vectors completed together

Scope = dict[str, jax.Array]  # "constant", and with real latents "linear" and "precision"
Part = tuple[np.ndarray, int]  # an array of the program, and how many axes it has behind its batch


def axes_of(marginal: Marginal, factor: Factor) -> tuple[list[str], list[str]]:
    """The finite latents and the plates of a factor's term that have several values, in positional order."""
    sites, sizes = marginal.reading.sites, marginal.layout.sizes
    finite = [n for n in factor.latents if not sites[n].real and sizes[n] > 1]
    dims = sites[factor.site].dims
    plates = [p for p in sorted(factor.term_plates, key=dims.__getitem__) if sizes[p] > 1]
    return finite, plates


def reals_of(marginal: Marginal, factor: Factor) -> tuple[tuple[str, int], ...]:
    sites = marginal.reading.sites
    return tuple((n, sites[n].size) for n in factor.latents if sites[n].real)


@dataclass(frozen=True)
class SiteMoments:
    """The moments of one site of the reading at these parameters; `scope` tells of its latents (see
    `imputation`), None where it has none."""

    bound: Bound
    values: Values
    factor: Factor
    scope: Scope | None

    @cached_property
    def finite(self) -> list[str]:
        return axes_of(self.bound.marginal, self.factor)[0]

    @cached_property
    def plates(self) -> list[str]:
        """All plates of the site with several units, columns of a family factor as well."""
        sizes = self.bound.marginal.layout.sizes
        dims = self.bound.reading.sites[self.factor.site].dims
        return [p for p in sorted(dims, key=dims.__getitem__) if sizes[p] > 1]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.bound.marginal.layout.sizes[p] for p in self.plates)

    @cached_property
    def found(self) -> dict[str, np.ndarray]:
        """mean and variance (*plates, *columns, *event), and of a categorical site probabilities; NaN where a
        mask hides the site."""
        parts = self._parts()
        shown = parts.pop("shown", None)
        found = self._gaussian(parts) if "loc" in parts else self._mixed(parts)
        if shown is None:
            return found
        mask = self._laid(shown)[(0,) * len(self.finite)]
        wide = {n: mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)) for n, a in found.items()}
        return {n: np.where(wide[n] > 0, a, np.nan) for n, a in found.items()}

    def _mixed(self, parts: dict[str, Part]) -> dict[str, np.ndarray]:
        """The moments at every value of the finite latents by the probabilities of these."""
        share, lanes = self._known("constant", 0), tuple(range(len(self.finite)))
        arrays = {name: self._laid(part) for name, part in parts.items()}
        weights = {
            n: share.reshape(share.shape + (1,) * (a.ndim - share.ndim)) for n, a in arrays.items()
        }
        found = {n: (weights[n] * a).sum(lanes) for n, a in arrays.items()}
        apart = (arrays["mean"] - found["mean"]) ** 2
        found["variance"] = found["variance"] + (weights["mean"] * apart).sum(lanes)
        whole = (*self.sizes, *found["mean"].shape[len(self.sizes) :])
        return {n: np.broadcast_to(a, (*whole, *a.shape[len(whole) :])) for n, a in found.items()}

    def _known(self, part: str, after: int) -> np.ndarray:
        """A part of the scope, (*finite, *plates) and `after` axes behind; of a site without latents one."""
        if self.scope is None:
            return np.ones((1,) * len(self.plates))
        array = np.asarray(self.scope[part])
        _, own = axes_of(self.bound.marginal, self.factor)
        count = len(self.finite)
        sizes = iter(array.shape[count : array.ndim - after])
        inner = tuple(next(sizes) if p in own else 1 for p in self.plates)
        return array.reshape(array.shape[:count] + inner + array.shape[array.ndim - after :])

    def _parts(self) -> dict[str, Part]:
        """What the program's distribution says at every value of the finite latents; a mean at the basis
        points of the real ones, if it has any."""
        reading, name = self.bound.reading, self.factor.site
        real = bool(reals_of(self.bound.marginal, self.factor))
        ranks: dict[str, int] = {}

        def extract(message: Message) -> dict[str, Any]:
            parts = _told(message, real) | _shown(message)
            ranks.update({k: rank for k, (_, rank) in parts.items()})
            return {k: message.placed(jnp.asarray(a), rank) for k, (a, rank) in parts.items()}

        def at(reals: dict[str, Any]) -> dict[str, Any]:
            dynamic, wanted = self.bound.data.dynamic, frozenset({name})
            run = reading.run(self.values, dynamic, extract, reals, wanted=wanted, wide=True)
            return dict(run[name])

        parts = jax.vmap(at)(basis(reading, self.bound.data.shifts)) if real else at({})
        if real:
            parts = {k: (a if k == "loc" else a[0]) for k, a in parts.items()}
        return {k: (np.asarray(a), ranks[k]) for k, a in parts.items()}

    def _laid(self, part: Part, lead: int = 0) -> np.ndarray:
        """(*finite, *plates, *columns, *event) of an array of the program, behind `lead` axes of its own."""
        array, after = part
        reading, factor = self.bound.reading, self.factor
        outer = [s for s in reading.slots if s.vmapped]
        for i in reversed(range(len(outer))):
            if outer[i].name not in factor.latents:
                array = array.take(0, axis=lead + i)
        begin, batch = array.shape[:lead], array.shape[lead : array.ndim - after]
        named = [n for n in table_axes(reading, factor.site, factor.latents, batch) if n]
        end = array.shape[array.ndim - after :]
        flat = array.reshape((*begin, *(n for n in batch if n > 1), *end))
        order = [*self.finite, *self.plates]
        moved = [lead + named.index(a) for a in order if a in named]
        behind = range(lead + len(named), flat.ndim)
        flat = np.transpose(flat, [*range(lead), *moved, *behind])
        sizes = iter(flat.shape[lead : lead + len(moved)])
        return flat.reshape((*begin, *(next(sizes) if a in named else 1 for a in order), *end))

    # --- Gaussians, of which other entries are seen --------------------------------------------

    def _gaussian(self, parts: dict[str, Part]) -> dict[str, np.ndarray]:
        """Mean and variance of a Gaussian given its other entries, at its real latents' posterior."""
        factor, columns = self.factor, self.bound.reading.sites[self.factor.site].columns
        real = isinstance(factor, AffineFactor)
        vector = parts["loc"][1] > columns
        loc, value = self._laid(parts["loc"], int(real)), self._laid(parts["value"])
        covariance = self._laid(parts["covariance"])
        if not vector:
            loc, value, covariance = loc[..., None], value[..., None], covariance[..., None, None]
        slope = np.zeros((*loc.shape, 0))
        if isinstance(factor, AffineFactor):
            slope = np.moveaxis(loc[factor.places(self.bound.reading)] - loc[0], 0, -1)
            loc = loc[0]
        batch = len(self.finite) + len(self.plates)
        inner = np.broadcast_shapes(*(a.shape[batch:-1] for a in (loc, value)))
        arrays = {
            "loc": self._flat(loc, inner, 1), "value": self._flat(value, inner, 1),
            "slope": self._flat(slope, inner, 2), "covariance": self._flat(covariance, inner, 2),
            "share": self._flat(self._known("constant", 0), (), 0),
        }  # fmt: skip
        if real:
            arrays["first"] = self._flat(self._known("linear", 1), (), 1)
            arrays["second"] = -2 * self._flat(self._known("precision", 2), (), 2)
        whole = (int(np.prod(self.sizes)), int(np.prod(inner)), value.shape[-1])
        missing = np.isnan(np.broadcast_to(arrays["value"][0], whole)).any(-1)
        places = np.nonzero(missing)
        found = self.bound.compiled(_completed_cells)(arrays, *places)
        moments = {}
        for name, part in zip(("mean", "variance"), found, strict=True):
            array = np.zeros(whole)
            array[places] = np.asarray(part)
            array = array.reshape(*self.sizes, *inner, whole[-1])
            moments[name] = array if vector else array[..., 0]
        return moments

    def left_out(self) -> np.ndarray:
        """Each value of a scalar Normal of real latents alone as a standard normal quantile of its distribution
        given all other data (*plates, *columns); NaN where it is missing or hidden.

        Of the posterior mean m and variance v of its mean, with its own variance s: (x - m) / sqrt(s - v).
        """
        parts = self._parts()
        own, lead = self._laid(parts["loc"], 1), len(self.plates)
        slope = np.moveaxis(own[self.factor.places(self.bound.reading)] - own[0], 0, -1)  # type: ignore[attr-defined]
        value, noise = self._laid(parts["value"]), self._laid(parts["covariance"])
        ones = (1,) * parts["loc"][1]

        def expected(part: str, after: int) -> np.ndarray:
            array = self._known(part, after)
            return array.reshape(array.shape[:lead] + ones + array.shape[lead:])

        first, second = expected("linear", 1), -2 * expected("precision", 2)
        spread = second - first[..., :, None] * first[..., None, :]
        mean = own[0] + (slope * first).sum(-1)
        known = ((slope[..., None, :] * spread).sum(-1) * slope).sum(-1)
        with np.errstate(invalid="ignore"):
            left = noise - known
            found = (value - mean) / np.sqrt(np.where(left > 0, left, np.nan))
        shown = self._laid(parts["shown"]) if "shown" in parts else 1.0
        return np.where(np.asarray(shown) > 0, found, np.nan)

    def _flat(self, array: np.ndarray, inner: tuple[int, ...], after: int) -> np.ndarray:
        """(values of the finite latents, rows or one, columns or one, ...) of (*finite, *plates, *columns, ...)
        with `after` axes behind; `inner` are the sizes of the columns."""
        end = array.shape[array.ndim - after :]
        lead, batch = len(self.finite), len(self.finite) + len(self.plates)
        values, rows, columns = (
            array.shape[:lead], array.shape[lead:batch], array.shape[batch : array.ndim - after],
        )  # fmt: skip
        rows = self.sizes if any(n > 1 for n in rows) else rows
        columns = inner if any(n > 1 for n in columns) else columns
        wide = np.broadcast_to(array, (*values, *rows, *columns, *end))
        return wide.reshape(*(int(np.prod(s)) for s in (values, rows, columns)), *end)


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
        share, variance = own["share"], jnp.diagonal(left, 0, -2, -1)
        if "first" in own:
            slope = own["slope"] - across @ (own["slope"] * seen[:, None])
            likely = jnp.where(share > 0, share, 1.0)
            expected = own["first"] / likely[:, None]
            second = own["second"] / likely[:, None, None]
            spread = second - expected[:, :, None] * expected[:, None, :]
            mean = mean + jnp.squeeze(slope @ expected[..., None], -1)
            variance = variance + ((slope @ spread) * slope).sum(-1)
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
            "mean": (mean, rank), "variance": (second - mean**2, rank), "probabilities": (fn.probs, rank + 1),
        }  # fmt: skip
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:
        raise ValueError(
            f"impute: observed site '{message.name}' is a {type(fn).__name__}, of which NumPyro knows no mean. "
            "Ask for draws: impute(params, draws=100)."
        ) from None
    return {"mean": (mean, rank), "variance": (variance, rank)}


def _shown(message: Message) -> dict[str, tuple[Any, int]]:
    """Where no mask hides a site; nothing of one without masks."""
    bare = unwrap(message.fn)
    shown: Any = None
    for mask in bare.masks:
        shown = mask if shown is None else shown & mask
    if shown is None:
        return {}
    shape = jnp.broadcast_shapes(jnp.shape(shown), (1,) * bare.columns)
    return {"shown": (jnp.broadcast_to(shown, shape).astype(float), bare.columns)}
