"""Densities of a mixture's components over the values of an observed site."""

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
from pp_mlem.factors.family import FamilyFactor
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Values
from pp_mlem.model.model import Model
from pp_mlem.program.distributions import is_discrete, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.sites import Role


@dataclass(frozen=True)
class ComponentSite:
    """An observed site of one or two columns whose distribution a single latent chooses."""

    site: str
    latent: str
    values: np.ndarray  # the data (rows, columns)
    weights: np.ndarray  # case weight of each row
    discrete: bool


def component_sites(model: Model) -> list[ComponentSite]:
    """The sites that can be drawn as components over the data."""
    sites = []
    for factor in model.marginal.factors:
        if factor.law_of or not isinstance(factor, FamilyFactor) or len(factor.latents) != 1:
            continue
        (latent,) = factor.latents
        site, data = model.reading.sites[factor.site], model.data.sites.get(factor.site)
        if data is None or model.reading.sites[latent].vmapped or site.role is not Role.OBSERVED:
            continue
        columns = int(np.prod(data.value.shape[:-1]))
        if columns > 2 or (columns == 1 and any(c for _, _, c in factor.layout)):
            continue
        values = np.asarray(data.value).reshape(columns, -1).T
        weights = _row_weights(model, len(values))
        if data.mask is not None:
            shown = np.asarray(data.mask).reshape(-1, len(values)).all(0)
            values, weights = values[shown], weights[shown]
        if len(values) > 1:
            discrete = _is_discrete(site.distribution)
            sites.append(ComponentSite(factor.site, latent, values, weights, discrete))
    return sites


def _row_weights(model: Model, rows: int) -> np.ndarray:
    """Case weight of each row; one where rows are no units."""
    weights = np.asarray(model.unit_weights(), float)
    return weights if len(weights) == rows else np.ones(rows)


def _is_discrete(distribution: str) -> bool:
    support = getattr(getattr(dist, distribution, None), "support", None)
    return bool(getattr(support, "is_discrete", False))


def component_densities(
    model: Model, params: Mapping[str, Any], where: ComponentSite, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(components,) average posterior weights and (components, points) densities on a grid
    (points, columns)."""
    site = model.reading.sites[where.site]
    size = model.reading.sites[where.latent].size
    with working_precision(model.dtype):
        run = model.bound.compiled(_log_densities, where.site)
        logs = np.asarray(run(model.check_params(params), model.data, jnp.asarray(grid)))
        posterior = model.posterior(params)[where.latent]
    axis = model.reading.latent_dim(where.latent) + site.columns
    moved = np.moveaxis(logs, logs.ndim + axis if axis < 0 else axis, 1)
    table = moved.reshape(len(grid), size, -1)[:, :, 0].T
    shares = posterior.reshape(-1, size)
    rows = np.where(np.isnan(shares).any(1), 0.0, _row_weights(model, len(shares)))
    return np.average(np.nan_to_num(shares), 0, rows), np.exp(table)


def _log_densities(
    marginal: Marginal, name: str, params: Values, data: ProgramData, grid: jax.Array
) -> jax.Array:
    """log density of an observed site at every point of a grid, latents in their own dimensions
    behind it. Traceable."""

    def extract(message: Message) -> jax.Array:
        bare = unwrap(message.fn)
        law, columns = bare.fn, bare.columns

        def at(point: jax.Array) -> jax.Array:
            value = point if law.event_shape or columns else point[0]
            value = value.astype(int) if is_discrete(law) else value
            logs = law.log_prob(value)
            return logs.sum(tuple(range(logs.ndim - columns, logs.ndim))) if columns else logs

        return jax.vmap(at)(grid)

    reading = marginal.reading
    wanted = frozenset({name})
    return reading.run(params, data.dynamic, extract, reading.zeros(), wanted=wanted)[name]
