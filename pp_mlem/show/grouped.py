"""Observed sites with the finite latent that chooses their distribution: what their pictures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.base.precision import working_precision
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Values
from pp_mlem.model.model import Model
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.sites import Role, Site


@dataclass(frozen=True)
class Grouped:
    """The data of one observed site, a row for each unit of its latent.

    Attributes:
        site, latent: their names.
        values: (rows, columns), NaN where missing.
        posterior: (rows, values of the latent); NaN where there is no unit.
        weights: case weight of each row.
        support: "binary", "categories", "counts" or "real".
        varies: whether the distribution at a value of the latent differs from row to row.
        scan: the scan in whose body it stands ("": in none).
        shape: the plates of the rows, (steps, sequences) for a scan.
        inner: how many axes of the program's array are columns or an event.
    """

    site: str
    latent: str
    values: np.ndarray
    posterior: np.ndarray
    weights: np.ndarray
    support: str
    varies: bool
    scan: str
    shape: tuple[int, ...]
    inner: int

    @property
    def columns(self) -> int:
        return int(self.values.shape[1])

    @property
    def states(self) -> int:
        return int(self.posterior.shape[1])

    @property
    def likely(self) -> np.ndarray:
        """The most probable value of each row's latent, and -1 where there is none."""
        known = np.isfinite(self.posterior).all(1)
        best = np.nan_to_num(self.posterior, nan=-1.0).argmax(1)
        return np.where(known, best, -1)

    @property
    def probability(self) -> np.ndarray:
        """Of the most probable value, 0 where there is no unit."""
        found: np.ndarray = np.nan_to_num(self.posterior).max(1)
        return found

    @property
    def shares(self) -> np.ndarray:
        """Average probability of each value, by the case weights."""
        known = np.isfinite(self.posterior).all(1) & (self.weights > 0)
        if not known.any():
            return np.full(self.states, np.nan)
        averages: np.ndarray = np.average(self.posterior[known], 0, self.weights[known])
        return averages


def grouped_sites(
    model: Model, params: Mapping[str, Any], posterior: Mapping[str, Any] | None = None
) -> list[Grouped]:
    """The observed sites of which each row's distribution is chosen by one finite latent of that row."""
    chosen = [f for f in model.marginal.factors if _latent_of(model, f) is not None]
    if not chosen:
        return []
    told = model.posterior(params) if posterior is None else posterior
    values = model.observed_values()
    found = []
    for factor in chosen:
        latent = _latent_of(model, factor)
        site = model.reading.sites[factor.site]
        if latent is not None and site.name in values:
            own = _grouped(model, factor, latent, values[site.name], np.asarray(told[latent.name]))
            found += [] if own is None else [own]
    return found


def _latent_of(model: Model, factor: Factor) -> Site | None:
    """The one finite latent of an observed site, each row's own."""
    site = model.reading.sites[factor.site]
    if factor.law_of or factor.own or site.role is not Role.OBSERVED or site.is_factor:
        return None
    if len(factor.latents) != 1 or site.origin not in ("", site.name):
        return None
    latent = model.reading.sites[factor.latents[0]]
    inside = latent.plates <= site.plates and all(site.dims[p] == d for p, d in latent.dims.items())
    return None if latent.real or latent.role is not Role.LATENT or not inside else latent


def _grouped(
    model: Model, factor: Factor, latent: Site, values: np.ndarray, posterior: np.ndarray
) -> Grouped | None:
    site = model.reading.sites[factor.site]
    batch = max((-d for d in site.dims.values()), default=0)
    if values.ndim < batch or values.dtype.kind not in "fiub":
        return None
    front = [batch + d for d in sorted(latent.dims.values())]
    moved = np.moveaxis(values.astype(float), front, range(len(front)))
    shape = moved.shape[: len(front)]
    rows = int(np.prod(shape))
    if posterior.size != rows * posterior.shape[-1] or rows < 2:
        return None
    table = moved.reshape(rows, -1)
    weights = np.asarray(model.unit_weights(), float)
    return Grouped(
        site.name,
        latent.name,
        table,
        posterior.reshape(rows, -1),
        weights if len(weights) == rows else np.ones(rows),
        _support(site, table),
        factor.varies_by_row,
        site.scan,
        shape,
        values.ndim - batch,
    )


def _support(site: Site, values: np.ndarray) -> str:
    family = site.distribution
    if family.startswith("Bernoulli"):
        return "binary"
    if family.startswith("Categorical"):
        return "categories"
    support = getattr(getattr(dist, family, None), "support", None)
    seen = values[np.isfinite(values)]
    whole = bool(getattr(support, "is_discrete", False)) or family.startswith("Binomial")
    return "counts" if whole and np.all(seen == np.round(seen)) else "real"


def conditional_means(model: Model, params: Mapping[str, Any], site: Grouped) -> np.ndarray | None:
    """Mean of a site at each value of its latent, (values, rows, columns), with one row where all are
    alike; None where its distribution knows none."""
    return _means(model, params, site, several=False)


def conditional_means_of_draws(
    model: Model, params: Mapping[str, Any], site: Grouped
) -> np.ndarray | None:
    """The same of several parameters (draws, ...): (draws, values, rows, columns)."""
    return _means(model, params, site, several=True)


def _means(
    model: Model, params: Mapping[str, Any], site: Grouped, several: bool
) -> np.ndarray | None:
    try:
        with working_precision(model.dtype):
            if several:
                values = {k: jnp.asarray(v) for k, v in params.items()}
                found = model.bound.compiled(_several_means, site.site)(values, model.data)
            else:
                run = model.bound.compiled(_site_means, site.site)
                found = run(model.check_params(params), model.data)[None]
    except NotImplementedError:  # of a distribution without a mean
        return None
    array = np.asarray(found)
    if not np.all(np.isfinite(array)):
        return None
    laid = np.stack([_laid(model, site, own) for own in array])
    return laid if several else laid[0]


def _site_means(marginal: Marginal, name: str, params: Values, data: ProgramData) -> jax.Array:
    """The mean of a site at every value of its latent. Traceable."""
    reading = marginal.reading
    site = reading.sites[name]

    def extract(message: Message) -> Any:
        law = unwrap(message.fn).fn
        mean = jnp.asarray(law.mean)
        return message.placed(mean, site.columns + len(law.event_shape))

    run = reading.run(
        params, data.dynamic, extract, reading.zeros(), wanted=frozenset({name}), wide=True
    )
    return jnp.asarray(run[name])


def _several_means(marginal: Marginal, name: str, params: Values, data: ProgramData) -> jax.Array:
    return jax.lax.map(lambda own: _site_means(marginal, name, own, data), params)


def _laid(model: Model, grouped: Grouped, array: np.ndarray) -> np.ndarray:
    """(values, rows or one, columns) of an array of the program."""
    reading = model.reading
    site, latent = reading.sites[grouped.site], reading.sites[grouped.latent]
    batch = array.shape[: array.ndim - grouped.inner]
    names = table_axes(reading, site.name, (latent.name,), batch)
    plates = sorted(latent.dims, key=latent.dims.__getitem__)
    order = [latent.name, *plates]
    own = [names.index(n) for n in order if n in names]
    others = [i for i in range(len(batch)) if i not in own]
    moved = np.transpose(array, [*own, *others, *range(len(batch), array.ndim)])
    sizes = iter(moved.shape[: len(own)])
    lead = [next(sizes) if n in names else 1 for n in order]
    spread = moved.reshape(*lead, -1)
    if any(n > 1 for n in lead[1:]):
        whole = (lead[0], *grouped.shape, spread.shape[-1])
        spread = np.broadcast_to(spread, whole)
    flat = spread.reshape(lead[0], -1, spread.shape[-1])
    shape = (grouped.states, flat.shape[1], grouped.columns)
    return np.broadcast_to(flat, shape)
