"""Categorical and Multinomial: statistics are the counts of each category."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.discrete import (
    CategoricalLogits,
    CategoricalProbs,
    MultinomialLogits,
    MultinomialProbs,
)

from pp_mlem.families.base import Entries, Family, ratio, safe_log


class Categorical(Family):
    """x ~ Categorical(probs) or Categorical(logits).

    The statistic is an indicator; for many categories the scores are looked up instead of
    multiplied (see `factors.family`).
    """

    distributions = (CategoricalProbs, CategoricalLogits)
    arguments = {"probs": 1, "logits": 1}
    natural_support = {"probs": ("simplex",), "logits": ("real",)}
    normalised = True
    coded = True

    def statistics(self, value, known, shift):
        raise NotImplementedError("the number of categories comes with the natural parameters")

    def indicator(self, value: jax.Array, categories: int) -> jax.Array:
        """(F, *batch) indicator of each category."""
        codes = jnp.arange(categories).reshape((-1,) + (1,) * value.ndim)
        return (value[None].astype(codes.dtype) == codes).astype(jnp.result_type(float))

    def counted(self, counts, values, known):
        return counts  # the indicators of the values themselves

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        if "logits" in args:
            return jax.nn.log_softmax(args["logits"])
        probs = args["probs"]
        logs = safe_log(probs)
        return logs - jnp.log(probs.sum(-1, keepdims=True)) if self.normalised else logs

    def closed_form(self, free: frozenset[str]) -> bool:
        return bool(free)

    def conjugate(self, argument: str, prior: Any, known: frozenset[str]) -> bool:
        return argument == "probs" and type(prior) is dist.Dirichlet

    def pseudo_statistics(self, argument: str, prior: Any) -> tuple[jax.Array, jax.Array]:
        return prior.concentration - 1, jnp.zeros(prior.concentration.shape[:-1])

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        argument = next(iter(entries.index))
        counts = entries.total(argument, entries.statistics)
        if argument in entries.prior:
            counts = jnp.maximum(counts + entries.prior[argument][0], 0.0)
        total = counts.sum(-1, keepdims=True)
        current = entries.current[argument]
        if argument == "logits":
            edge = 1e-14 if counts.dtype == jnp.float64 else 1e-7
            probs = ratio(counts, total, jax.nn.softmax(current))
            logs = jnp.log(jnp.maximum(probs, edge))
            # Softmax has one direction too many: keep the mean of the logits where it was.
            return {"logits": logs + (current - logs).mean(-1, keepdims=True)}
        return {"probs": ratio(counts, total, current)}


class Multinomial(Categorical):
    """x ~ Multinomial(total_count, probs); the counts are the statistics."""

    distributions = (MultinomialProbs, MultinomialLogits)
    known = ("total_count",)
    normalised = False
    coded = False

    @property
    def event_dim(self) -> int:
        return 1

    def statistics(self, value, known, shift):
        return value.astype(jnp.result_type(float))

    def base(self, value: jax.Array, known: Mapping[str, jax.Array]) -> jax.Array:
        log_factorial = jax.scipy.special.gammaln
        return log_factorial(value.sum(0) + 1.0) - log_factorial(value + 1.0).sum(0)
