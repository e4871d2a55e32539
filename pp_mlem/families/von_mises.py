"""Von Mises: statistics 1, cos x, sin x; the maximum is numeric and data-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from pp_mlem.families.base import Family


class VonMises(Family):
    """x ~ VonMises(loc, concentration)."""

    distributions = (dist.VonMises,)
    arguments = {"loc": 0, "concentration": 0}

    def statistics(self, value, known, shift):
        return jnp.stack([jnp.ones_like(value), jnp.cos(value), jnp.sin(value)])

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        loc, kappa = jnp.broadcast_arrays(args["loc"], args["concentration"])
        normaliser = -jnp.log(2 * jnp.pi) - jnp.log(jax.scipy.special.i0e(kappa)) - kappa
        return jnp.stack([normaliser, kappa * jnp.cos(loc), kappa * jnp.sin(loc)], -1)
