"""Gamma, Beta and Dirichlet: statistics are logarithms; the maximum is numeric and data-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from pp_mlem.families.base import Entries, Family, ratio


class Gamma(Family):
    """x ~ Gamma(concentration, rate); closed form for the rate when the concentration is known."""

    distributions = (dist.Gamma,)
    arguments = {"concentration": 0, "rate": 0}
    natural_support = {"concentration": ("positive",), "rate": ("positive",)}

    def statistics(self, value, known, shift):
        return jnp.stack([jnp.ones_like(value), jnp.log(value), value])

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        a, rate = jnp.broadcast_arrays(args["concentration"], args["rate"])
        return jnp.stack([a * jnp.log(rate) - gammaln(a), a - 1, -rate], -1)

    def closed_form(self, free: frozenset[str]) -> bool:
        return free == {"rate"}

    def conjugate(self, argument: str, prior: Any, known: frozenset[str]) -> bool:
        return argument == "rate" and type(prior) is dist.Gamma

    def pseudo_statistics(self, argument: str, prior: Any) -> tuple[jax.Array, jax.Array]:
        return prior.concentration - 1, prior.rate

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        count = entries.total("rate", entries.statistics[:, 0] * entries.value("concentration"))
        total = entries.total("rate", entries.statistics[:, 2])
        if "rate" in entries.prior:
            shape, rate = entries.prior["rate"]
            count, total = jnp.maximum(count + shape, 0.0), total + rate
        return {"rate": ratio(count, total, entries.current["rate"])}


class Beta(Family):
    """x ~ Beta(concentration1, concentration0)."""

    distributions = (dist.Beta,)
    arguments = {"concentration1": 0, "concentration0": 0}

    def statistics(self, value, known, shift):
        return jnp.stack([jnp.ones_like(value), jnp.log(value), jnp.log1p(-value)])

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        a, b = jnp.broadcast_arrays(args["concentration1"], args["concentration0"])
        return jnp.stack([gammaln(a + b) - gammaln(a) - gammaln(b), a - 1, b - 1], -1)


class Dirichlet(Family):
    """x ~ Dirichlet(concentration)."""

    distributions = (dist.Dirichlet,)
    arguments = {"concentration": 1}

    @property
    def event_dim(self) -> int:
        return 1

    def statistics(self, value, known, shift):
        return jnp.concatenate([jnp.ones_like(value[:1]), jnp.log(value)])

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        a = args["concentration"]
        normaliser = gammaln(a.sum(-1)) - gammaln(a).sum(-1)
        return jnp.concatenate([normaliser[..., None], a - 1], -1)
