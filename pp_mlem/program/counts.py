"""Multinomial draws whose totals are only known when they are drawn, as those of documents of many lengths."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

COUNTS = (dist.MultinomialProbs, dist.MultinomialLogits, dist.DirichletMultinomial)


def with_own_totals(law: Any) -> Any:
    """The law with a sampler of its own wherever NumPyro's needs to be told the largest total
    (`total_count_max`), because the totals are traced and it was not told."""
    if isinstance(law, COUNTS):
        known = law.total_count_max is not None or not isinstance(law.total_count, jax.core.Tracer)
        return law if known else _Counts(law)
    inside = {k: v for k, v in vars(law).items() if isinstance(v, dist.Distribution)}
    changed = {k: with_own_totals(v) for k, v in inside.items()}
    if all(changed[k] is v for k, v in inside.items()):
        return law
    new = copy.copy(law)
    vars(new).update(changed)
    return new


class _Counts(dist.Distribution):
    """Draws of a multinomial law, category by category: each a binomial draw of what is left."""

    support = dist.constraints.dependent(is_discrete=True, event_dim=1)

    def __init__(self, law: Any) -> None:
        self.law = law
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        first, second = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        if isinstance(self.law, dist.DirichletMultinomial):
            probs = dist.Dirichlet(self.law.concentration).sample(first, sample_shape)
        else:
            probs = self.law.probs
        whole = jnp.broadcast_to(probs, (*shape, *self.event_shape))
        totals = jnp.broadcast_to(jnp.asarray(self.law.total_count, whole.dtype), shape)
        drawn = jax.random.multinomial(second, totals, whole)
        return drawn.astype(jnp.result_type(int))

    def log_prob(self, value: jax.Array, intermediates: Any = None) -> jax.Array:
        density: jax.Array = self.law.log_prob(value)
        return density
