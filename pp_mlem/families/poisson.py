"""Poisson and Exponential: a rate with statistics (count, sum)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from pp_mlem.families.base import Entries, Family, ratio, safe_log


class Poisson(Family):
    """x ~ Poisson(rate)."""

    distributions = (dist.Poisson,)
    arguments = {"rate": 0}
    natural_support = {"rate": ("positive",)}

    def statistics(self, value, known, shift):
        value = value.astype(jnp.result_type(float))
        return jnp.stack([jnp.ones_like(value), value])

    def base(self, value: jax.Array, known: Mapping[str, jax.Array]) -> jax.Array:
        return -jax.scipy.special.gammaln(value + 1.0)

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        return jnp.stack([-args["rate"], safe_log(args["rate"])], -1)

    def closed_form(self, free: frozenset[str]) -> bool:
        return bool(free)

    def conjugate(self, argument: str, prior: Any, known: frozenset[str]) -> bool:
        return type(prior) in (dist.Gamma, dist.Exponential)

    def pseudo_statistics(self, argument: str, prior: Any) -> tuple[jax.Array, jax.Array]:
        if isinstance(prior, dist.Exponential):
            return jnp.zeros_like(prior.rate), prior.rate
        return prior.concentration - 1, prior.rate

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        count, total = (entries.total("rate", s) for s in entries.statistics.T)
        if "rate" in entries.prior:
            shape, rate = entries.prior["rate"]
            count, total = count + rate, jnp.maximum(total + shape, 0.0)
        return {"rate": ratio(total, count, entries.current["rate"])}


class Exponential(Poisson):
    """x ~ Exponential(rate)."""

    distributions = (dist.Exponential,)

    def base(self, value: jax.Array, known: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.zeros_like(value)

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        return jnp.stack([safe_log(args["rate"]), -args["rate"]], -1)

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        count, total = (entries.total("rate", s) for s in entries.statistics.T)
        if "rate" in entries.prior:
            shape, rate = entries.prior["rate"]
            count, total = jnp.maximum(count + shape, 0.0), total + rate
        return {"rate": ratio(count, total, entries.current["rate"])}
