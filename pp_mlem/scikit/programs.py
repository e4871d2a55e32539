"""The programs behind a family's name: a mixture, and a hidden Markov model of one or more sequences."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from pp_mlem.scikit.families import Scaling, emission


def mixture(
    x: Any, center: Any, spread: Any, K: int, family: str, covariance: str, categories: int
) -> None:
    """component_n ~ Categorical(weights), x_n ~ family(component_n): x (samples, features)."""
    rows = emission(family, covariance)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    values = rows.sites(K, Scaling(center, spread, categories))
    with numpyro.plate("samples", x.shape[0]):
        z = numpyro.sample("component", dist.Categorical(weights))
        numpyro.sample("x", rows.law(values, z), obs=x)


def hmm(
    x: Any, center: Any, spread: Any, K: int, family: str, covariance: str, categories: int,
    begins: Any = None, beyond: Any = None, mask: Any = None,
) -> None:  # fmt: skip
    """state_1 ~ Categorical(startprob), state_t ~ Categorical(transmat[state_{t-1}]), x_t ~ family(state_t).

    x is (steps, features), one sequence, or several one after the other: `begins` (steps,) is true at the first
    step of each, `beyond` (steps,) after the last one, where there is a single path and nothing is seen. Or it is
    (steps, sequences, features), `mask` (steps, sequences) false beyond a sequence's end.
    """
    rows = emission(family, covariance)
    startprob = numpyro.sample("startprob", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("from", K):
        transmat = numpyro.sample("transmat", dist.Dirichlet(jnp.ones(K)))
    values = rows.sites(K, Scaling(center, spread, categories))

    def one(z: Any, x_t: Any) -> tuple[Any, None]:
        z = numpyro.sample("state", dist.Categorical(startprob if z is None else transmat[z]))
        numpyro.sample("x", rows.law(values, z), obs=x_t)
        return z, None

    def joined(z: Any, now: Any) -> tuple[Any, None]:
        x_t, first, none = now
        moves = startprob if z is None else jnp.where(first, startprob, transmat[z])
        z = numpyro.sample("state", dist.Categorical(jnp.where(none, jnp.eye(K)[0], moves)))
        numpyro.sample("x", rows.law(values, z), obs=x_t)
        return z, None

    def beside(z: Any, now: Any) -> tuple[Any, None]:
        x_t, runs = now
        with numpyro.plate("sequences", x.shape[1]), numpyro.handlers.mask(mask=runs):
            return one(z, x_t)

    if mask is not None:
        scan(beside, None, (x, mask))
    elif begins is not None:
        scan(joined, None, (x, begins, beyond))
    else:
        scan(one, None, x)
