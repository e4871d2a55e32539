"""Bernoulli, Binomial and Geometric: statistics (failures, successes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.discrete import (
    BernoulliLogits,
    BernoulliProbs,
    BinomialLogits,
    BinomialProbs,
    GeometricLogits,
    GeometricProbs,
)

from pp_mlem.families.base import Entries, Family, ratio, safe_log


class Bernoulli(Family):
    """x ~ Bernoulli(probs) or Bernoulli(logits)."""

    distributions = (BernoulliProbs, BernoulliLogits)
    arguments = {"probs": 0, "logits": 0}
    natural_support = {"probs": ("unit",), "logits": ("real",)}

    def statistics(self, value, known, shift):
        value = value.astype(jnp.result_type(float))
        return jnp.stack([1 - value, value])

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        if "logits" in args:
            logits = args["logits"]
            return jnp.stack([jax.nn.log_sigmoid(-logits), jax.nn.log_sigmoid(logits)], -1)
        return jnp.stack([safe_log(1 - args["probs"]), safe_log(args["probs"])], -1)

    def closed_form(self, free: frozenset[str]) -> bool:
        return bool(free)

    def conjugate(self, argument: str, prior: Any, known: frozenset[str]) -> bool:
        return argument == "probs" and type(prior) in (dist.Beta, dist.Uniform)

    def pseudo_statistics(self, argument: str, prior: Any) -> tuple[jax.Array, jax.Array]:
        if isinstance(prior, dist.Uniform):
            return jnp.zeros_like(prior.low), jnp.zeros_like(prior.low)
        return prior.concentration0 - 1, prior.concentration1 - 1

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        argument = next(iter(entries.index))
        failures, successes = (entries.total(argument, s) for s in entries.statistics.T)
        if argument in entries.prior:
            failures = jnp.maximum(failures + entries.prior[argument][0], 0.0)
            successes = jnp.maximum(successes + entries.prior[argument][1], 0.0)
        current = entries.current[argument]
        if argument == "logits":
            edge = 1e-14 if failures.dtype == jnp.float64 else 1e-7
            probs = ratio(successes, successes + failures, jax.nn.sigmoid(current))
            probs = jnp.clip(probs, edge, 1 - 10 * edge)
            return {"logits": jnp.log(probs) - jnp.log1p(-probs)}
        return {"probs": ratio(successes, successes + failures, current)}


class Binomial(Bernoulli):
    """x ~ Binomial(total_count, probs); the total is data."""

    distributions = (BinomialProbs, BinomialLogits)
    known = ("total_count",)

    def statistics(self, value, known, shift):
        value = value.astype(jnp.result_type(float))
        return jnp.stack([known["total_count"] - value, value])

    def base(self, value: jax.Array, known: Mapping[str, jax.Array]) -> jax.Array:
        n = known["total_count"]
        log_factorial = jax.scipy.special.gammaln
        return log_factorial(n + 1.0) - log_factorial(value + 1.0) - log_factorial(n - value + 1.0)


class Geometric(Bernoulli):
    """x ~ Geometric(probs): the number of failures before the first success."""

    distributions = (GeometricProbs, GeometricLogits)

    def statistics(self, value, known, shift):
        value = value.astype(jnp.result_type(float))
        return jnp.stack([value, jnp.ones_like(value)])
