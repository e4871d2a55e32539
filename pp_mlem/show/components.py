"""Densities of a mixture's components over the values of an observed site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.base.compiling import lean_jit
from pp_mlem.base.precision import working_precision
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
    found = []
    for factor in model.marginal.factors:
        if factor.law_of or factor.kind != "family" or len(factor.latents) != 1:
            continue
        (latent,) = factor.latents
        site, data = model.reading.sites[factor.site], model.data.sites.get(factor.site)
        if data is None or model.reading.sites[latent].vmapped:
            continue
        columns = int(np.prod(data.value.shape[:-1]))
        if columns > 2 or site.role is not Role.OBSERVED:
            continue
        if sum(1 for _, _, c in factor.layout if c) > 0 and columns == 1:
            continue
        values = np.asarray(data.value).reshape(columns, -1).T
        weights = np.asarray(model.unit_weights(), float)
        if len(weights) != len(values):
            weights = np.ones(len(values))
        if data.mask is not None:
            shown = np.asarray(data.mask).reshape(-1, values.shape[0]).all(0)
            values, weights = values[shown], weights[shown]
        if len(values) > 1:
            discrete = _is_discrete(site.distribution)
            found.append(ComponentSite(factor.site, latent, values, weights, discrete))
    return found


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

    def extract(message: Message) -> jax.Array:
        bare = unwrap(message.fn)
        law, columns = bare.fn, bare.columns

        def at(point: jax.Array) -> jax.Array:
            value = point if law.event_shape or columns else point[0]
            value = value.astype(int) if is_discrete(law) else value
            logs = law.log_prob(value)
            return logs.sum(tuple(range(logs.ndim - columns, logs.ndim))) if columns else logs

        return jax.vmap(at)(jnp.asarray(grid))

    with working_precision(model.dtype):
        values = model.check_params(params)

        def run(values: Any, data: Any) -> Any:
            found = model.reading.run(
                values, data.dynamic, extract, model.reading.zeros(),
                wanted=frozenset({where.site}),
            )  # fmt: skip
            return found[where.site]

        logs = np.asarray(lean_jit(run)(values, model.data))
        posterior = model.posterior(params)[where.latent]
    axis = model.reading.latent_dim(where.latent) + site.columns
    moved = np.moveaxis(logs, logs.ndim + axis if axis < 0 else axis, 1)
    table = moved.reshape(len(grid), size, -1)[:, :, 0].T
    flat = posterior.reshape(-1, size)
    own = np.asarray(model.unit_weights(), float)
    own = own if len(own) == len(flat) else np.ones(len(flat))
    own = np.where(np.isnan(flat).any(1), 0.0, own)
    weights = np.average(np.nan_to_num(flat), 0, own)
    return weights, np.exp(table)
