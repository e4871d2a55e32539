"""Log densities whose derivatives, first and second, exist wherever their values do, and whose
digits hold at extreme parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, gammaln
from numpyro.distributions import Distribution, StudentT
from numpyro.distributions.conjugate import (
    BetaBinomial,
    DirichletMultinomial,
    GammaPoisson,
    NegativeBinomialLogits,
)
from numpyro.distributions.discrete import (
    BernoulliProbs,
    BinomialProbs,
    CategoricalLogits,
    CategoricalProbs,
    GeometricProbs,
    MultinomialProbs,
    Poisson,
)

from pp_mlem.potentials.sweep import integrated
from pp_mlem.program.arrays import observed_array
from pp_mlem.program.distributions import innermost
from pp_mlem.program.domains import INTEGER_INTERVAL

# The argument that a latent switches off: `z * p` is exactly zero where z is.
_SWITCHED = {
    BernoulliProbs: "probs", BinomialProbs: "probs", GeometricProbs: "probs", Poisson: "rate",
}  # fmt: skip


FAR = 1e4  # an argument of the gamma function beyond which its ratios are those of its series
# Where a distribution holds others, whose densities it calls.
_PARTS = ("base_dist", "_component_distribution", "_component_distributions")


def log_density(fn: Any, value: Any) -> jax.Array:
    """log f of an observed value."""
    return _log_prob(fn, as_numbers(fn, value))


def seen_density(fn: Any, value: jax.Array, seen: jax.Array) -> jax.Array:
    """log f of the entries of a MultivariateNormal's vectors that are `seen`, the others integrated out."""
    away = jnp.where(seen, value - fn.loc, 0.0)[..., None]
    shape = jnp.broadcast_shapes(away.shape[:-2], fn.covariance_matrix.shape[:-2])
    size = away.shape[-2]
    away = jnp.broadcast_to(away, (*shape, size, 1))
    covariance = jnp.broadcast_to(fn.covariance_matrix, (*shape, size, size))
    corner = jnp.zeros((*shape, 1, 1), away.dtype)
    lines = [[covariance, away], [jnp.swapaxes(away, -1, -2), corner]]
    matrix = jnp.concatenate([jnp.concatenate(line, -1) for line in lines], -2)
    swept = jnp.concatenate([seen.astype(away.dtype), jnp.zeros((*seen.shape[:-1], 1))], -1)
    left, constant = integrated(matrix, swept)
    return left[..., -1, -1] / 2 + constant - seen.sum(-1) * jnp.log(2 * jnp.pi)


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


def log_gamma_ratio(a: Any, n: Any) -> jax.Array:
    """log(Gamma(a + n) / Gamma(a)) for n >= 0: by the difference of two logarithms all digits are
    lost once `a` is large (nothing is left at 1e20), by Stirling's series none."""
    a, n = jnp.asarray(a, jnp.result_type(float)), jnp.asarray(n, jnp.result_type(float))
    near = jnp.where(a > FAR, 1.0, a)
    return jnp.where(a > FAR, _far_ratio(a, n), gammaln(near + n) - gammaln(near))


def _far_ratio(a: jax.Array, n: jax.Array) -> jax.Array:
    a = jnp.where(a > FAR, a, FAR)
    series = (a - 0.5) * jnp.log1p(n / a) + n * jnp.log(a + n) - n
    return series + (1 / (a + n) - 1 / a) / 12


def _student_t(fn: Any, value: Any) -> jax.Array:
    y = (value - fn.loc) / fn.scale
    scale = log_gamma_ratio(fn.df / 2, 0.5) - 0.5 * jnp.log(fn.df * jnp.pi) - jnp.log(fn.scale)
    return scale - 0.5 * (fn.df + 1) * jnp.log1p(y**2 / fn.df)


def _beta_binomial(fn: Any, value: Any) -> jax.Array:
    n, a, b = fn.total_count, fn.concentration1, fn.concentration0
    ways = gammaln(n + 1.0) - gammaln(value + 1.0) - gammaln(n - value + 1.0)
    rest = jnp.maximum(n - value, 0)  # below zero only outside of the support
    distant = log_gamma_ratio(a, value) + log_gamma_ratio(b, rest) - log_gamma_ratio(a + b, n)
    far = (a > FAR) | (b > FAR)
    a, b = jnp.where(far, 1.0, a), jnp.where(far, 1.0, b)
    return ways + jnp.where(far, distant, betaln(value + a, rest + b) - betaln(b, a))


def _dirichlet_multinomial(fn: Any, value: Any) -> jax.Array:
    total = value.sum(-1)
    ways = gammaln(total + 1.0) - gammaln(value + 1.0).sum(-1)
    up = log_gamma_ratio(fn.concentration, value).sum(-1)
    return ways + up - log_gamma_ratio(fn.concentration.sum(-1), total)


def _gamma_poisson(fn: Any, value: Any) -> jax.Array:
    a, value = jnp.asarray(fn.concentration, jnp.result_type(float)), value * 1.0
    near = jnp.where(a > FAR, 1.0, a)
    own = -betaln(near, value + 1) - jnp.log(near + value)
    ways = jnp.where(a > FAR, _far_ratio(a, value) - gammaln(value + 1), own)
    return ways - a * jnp.log1p(1 / fn.rate) - value * jnp.log1p(fn.rate)


def _negative_binomial(fn: Any, value: Any) -> jax.Array:
    ways = log_gamma_ratio(fn.total_count, value) - gammaln(value + 1.0)
    density = ways - fn.total_count * jax.nn.softplus(fn.logits)
    return density - value * jax.nn.softplus(-fn.logits)


_RATIOS: dict[type, Callable[[Any, Any], jax.Array]] = {
    StudentT: _student_t,
    BetaBinomial: _beta_binomial,
    DirichletMultinomial: _dirichlet_multinomial,
    GammaPoisson: _gamma_poisson,
    NegativeBinomialLogits: _negative_binomial,
}


def _ratio(fn: Any) -> Callable[[Any, Any], jax.Array] | None:
    """Our density of a family that takes ratios of gamma functions, without NumPyro's digits."""
    return next((_RATIOS[kind] for kind in type(fn).__mro__ if kind in _RATIOS), None)


class _Part:
    """A distribution inside another, with our density."""

    def __init__(self, fn: Any) -> None:
        self._fn = fn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fn, name)

    def log_prob(self, value: Any, *rest: Any) -> jax.Array:
        return _log_prob(self._fn, value)


def _with_parts(fn: Any) -> Any:
    """The distribution with our densities inside, as of a zero-inflated negative binomial."""
    for name in _PARTS:
        held = vars(fn).get(name)
        ours = [_part(p) for p in held] if isinstance(held, (list, tuple)) else _part(held)
        if any(isinstance(part, _Part) for part in (ours if isinstance(ours, list) else [ours])):
            fn = _with(fn, name, ours)
    return fn


def _part(fn: Any) -> Any:
    """A distribution inside another with our density, itself where that is NumPyro's."""
    if not isinstance(fn, Distribution):
        return fn
    return fn if _ratio(fn) is None and _with_parts(fn) is fn else _Part(fn)


def _log_prob(fn: Any, value: Any) -> jax.Array:
    """log f of a value of the kind that NumPyro takes; minus infinity outside of the support where
    NumPyro is to see to that."""
    ratio = _ratio(fn)
    if ratio is None:
        return _switched(_with_parts(fn), value)
    density = ratio(fn, value)
    if fn._validate_args:
        density = jnp.where(fn._validate_sample(value), density, -jnp.inf)
    return density


def _switched(fn: Any, value: Any) -> jax.Array:
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


def _with(fn: Any, name: str, argument: Any) -> Any:
    other = copy.copy(fn)
    setattr(other, name, argument)
    return other
