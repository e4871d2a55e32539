"""The log-likelihood of every unit along draws of the vector, and the density that the draws stand for."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Effort
from pp_mlem.marginal.units import pointwise_values
from pp_mlem.target.target import Target

AT_ONCE = 16  # draws
CELLS_AT_ONCE = 2**20  # of units times draws


class Along(NamedTuple):
    """At every draw: log-likelihood of units (draws, units), log density (draws,), parameters."""

    units: np.ndarray
    density: np.ndarray
    params: dict[str, np.ndarray]


def along(target: Target, vectors: np.ndarray, chosen: np.ndarray | None = None) -> Along:
    """What is told at draws of the vector (draws, size), of the chosen units (of all unless given).

    The density is that of the unconstrained vector, nats: the posterior's where there are priors, and
    without them the likelihood, so that it is highest at the estimate.
    """
    units = len(target.unit_weights)
    together = int(np.clip(CELLS_AT_ONCE // max(units, 1), 1, AT_ONCE))
    run = target.compiled(_along, together, effort=Effort.LEAN)
    units_seen, density, params = jax.device_get(run(np.asarray(vectors), chosen))
    return Along(np.asarray(units_seen), np.asarray(density), params)


def _along(
    target: Target, together: int, vectors: jax.Array, chosen: jax.Array | None
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    def one(vector: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        params = target.params(vector)
        units = pointwise_values(target.marginal, params, target.data)
        density = units.sum()
        if target.problem.with_prior:
            density += target.log_prior(vector) + target.space.log_abs_det_jacobian(vector)
        return units if chosen is None else jnp.take(units, chosen), density, params

    return jax.lax.map(one, vectors, batch_size=together)
