"""Log densities whose derivatives, first and second, exist wherever their values do."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.discrete import (
    BernoulliProbs,
    BinomialProbs,
    CategoricalLogits,
    CategoricalProbs,
    GeometricProbs,
    MultinomialProbs,
    Poisson,
)

from pp_mlem.program.arguments import observed_array
from pp_mlem.program.trace import INTEGER_INTERVAL, innermost

# The argument that a latent switches off: `z * p` is exactly zero where z is.
_SWITCHED = {
    BernoulliProbs: "probs", BinomialProbs: "probs", GeometricProbs: "probs", Poisson: "rate",
}  # fmt: skip


def log_density(fn: Any, value: Any) -> jax.Array:
    """log f of an observed value."""
    return _log_prob(fn, as_numbers(fn, value))


def law_density(fn: Any, value: Any) -> jax.Array:
    """log f of the values of a latent; log 0 for those outside of a row's own support, of which
    NumPyro's densities need not know (DiscreteUniform with an array of bounds)."""
    density, support = _log_prob(fn, value), fn.support
    if not isinstance(support, INTEGER_INTERVAL):
        return density
    if not any(jnp.ndim(bound) for bound in (support.lower_bound, support.upper_bound)):
        return density
    return jnp.where(support.check(value), density, -jnp.inf)


def as_numbers(fn: Any, value: Any) -> Any:
    """A value as `fn.log_prob` can take it: NumPyro indexes by categories, which are floating beside
    missing ones (0 here), and computes with the numbers that booleans stand for."""
    # A NumPy array cannot be compared with a bound that is traced (a latent total count).
    fn, value = innermost(fn), jnp.asarray(observed_array("value", value))
    kind = jnp.result_type(value)
    indexes = isinstance(fn, (CategoricalProbs, CategoricalLogits))
    if kind == jnp.bool_ or (indexes and jnp.issubdtype(kind, jnp.floating)):
        value = jnp.nan_to_num(value).astype(jnp.result_type(int))
    return value


def _log_prob(fn: Any, value: Any) -> jax.Array:
    """NumPyro's log density. At a probability or rate of zero its second derivative is the square
    of 1 / 0 (its first, too, for Poisson and Multinomial): there the density is that of a constant,
    as NumPyro's own clamping has it."""
    if type(fn) is MultinomialProbs and isinstance(fn.probs, jax.core.Tracer):
        off = _is_off(fn.probs)
        impossible = (off & (value > 0)).any(-1)
        density = _with(fn, "probs", jnp.where(off, 1.0, fn.probs)).log_prob(value)
        return jnp.where(impossible, -jnp.inf, density)
    name = _SWITCHED.get(type(fn))
    argument = None if name is None else getattr(fn, name)
    if name is None or not isinstance(argument, jax.core.Tracer):
        return fn.log_prob(value)
    argument = argument.astype(jnp.result_type(float))
    off = _is_off(argument)
    density = _with(fn, name, jnp.where(off, 0.5, argument)).log_prob(value)
    # Made of literals: what underflowed is zero here, whatever a compiler makes of log(exp(x)).
    constant = jnp.where(argument == 0, 0.0, jnp.finfo(argument.dtype).tiny)
    return jnp.where(off, _with(fn, name, constant).log_prob(value), density)


def _is_off(argument: jax.Array) -> jax.Array:
    """Where it is zero, or the stand-in for zero of NumPyro's `clamp_probs`. What is smaller still
    (the exponential of -720) has its slope, or an optimum in the distance would not be found."""
    return (argument == 0) | (argument == jnp.finfo(argument.dtype).tiny)


def _with(fn: Any, name: str, argument: jax.Array) -> Any:
    other = copy.copy(fn)
    setattr(other, name, argument)
    return other
