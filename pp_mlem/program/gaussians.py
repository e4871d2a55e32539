"""Gaussian laws under other names: what NumPyro builds of a Normal or a MultivariateNormal, as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import transforms as maps
from numpyro.distributions.distribution import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)


def plainly(fn: Any) -> Any:
    """A distribution that is Gaussian under another name as a Normal or MultivariateNormal, within
    what `expand`, `to_event` and `mask` put around it; any other as it is.

    These are an affine TransformedDistribution of a Gaussian, LowRankMultivariateNormal,
    GaussianRandomWalk, and a CAR whose neighbours are no sparse matrix.
    """
    if isinstance(fn, (ExpandedDistribution, Independent, MaskedDistribution)):
        base = plainly(fn.base_dist)
        return fn if base is fn.base_dist else _around(fn, base)
    rewrite = _OTHER_NAMES.get(type(fn))
    return fn if rewrite is None else rewrite(fn)


def _around(fn: Any, base: Any) -> Any:
    """A wrapped distribution with another one inside."""
    if isinstance(fn, ExpandedDistribution):
        return base.expand(fn.batch_shape)
    if isinstance(fn, Independent):
        return base.to_event(fn.reinterpreted_batch_ndims)
    return base.mask(fn._mask)


def _of_low_rank(fn: dist.LowRankMultivariateNormal) -> Any:
    wide = fn.cov_factor @ jnp.swapaxes(fn.cov_factor, -1, -2)
    own = jnp.asarray(fn.cov_diag)[..., None] * jnp.eye(wide.shape[-1], dtype=wide.dtype)
    return dist.MultivariateNormal(fn.loc, covariance_matrix=wide + own)


def _of_random_walk(fn: dist.GaussianRandomWalk) -> Any:
    scale = jnp.asarray(fn.scale)[..., None, None]
    sums = jnp.tril(jnp.ones((fn.num_steps, fn.num_steps)))
    return dist.MultivariateNormal(jnp.zeros(fn.num_steps), scale_tril=scale * sums)


def _of_neighbours(fn: dist.CAR) -> Any:
    if fn.is_sparse:
        return fn
    return dist.MultivariateNormal(fn.loc, precision_matrix=fn.precision_matrix)


def _of_transformed(fn: dist.TransformedDistribution) -> Any:
    base = plainly(fn.base_dist)
    while isinstance(base, (ExpandedDistribution, Independent)):
        base = base.base_dist
    if type(base) not in (dist.Normal, dist.MultivariateNormal):
        return fn
    for transform in _parts(fn.transforms):
        if isinstance(transform, maps.AffineTransform):
            base = _scaled(base, transform)
        elif isinstance(transform, maps.LowerCholeskyAffine):
            base = _mixed(base, transform)
        elif not isinstance(transform, maps.IdentityTransform):
            return fn
    columns = fn.event_dim - base.event_dim
    return base.to_event(columns) if columns else base


def _parts(transforms: Sequence[Any]) -> Iterator[Any]:
    """Transforms in the order in which they act, those of a composition one by one."""
    for transform in transforms:
        if isinstance(transform, maps.ComposeTransform):
            yield from _parts(transform.parts)
        else:
            yield transform


def _scaled(base: Any, by: maps.AffineTransform) -> Any:
    """loc + scale x of a Gaussian x, entry by entry; a scale may be negative."""
    scale = jnp.asarray(by.scale)
    mean = _moved(by.loc, scale, base.loc)
    if isinstance(base, dist.Normal):
        return dist.Normal(mean, jnp.abs(scale) * base.scale)
    # the root of S C S whose diagonal is positive
    scale = _vector(scale, base.event_shape[0])
    root = scale[..., :, None] * base.scale_tril * jnp.sign(scale)[..., None, :]
    return dist.MultivariateNormal(mean, scale_tril=root)


def _moved(loc: Any, scale: Any, mean: Any) -> Any:
    """loc + scale mean; where the mean is known to be zero it is plainly loc, so that an M-step sees
    which parameter that is."""
    if isinstance(mean, jax.core.Tracer) or np.any(mean):
        return loc + scale * mean
    return jnp.broadcast_to(loc, jnp.broadcast_shapes(jnp.shape(loc), jnp.shape(mean)))


def _mixed(base: Any, by: maps.LowerCholeskyAffine) -> Any:
    """loc + L x of a Gaussian vector x."""
    size = by.scale_tril.shape[-1]
    mean = by.loc + jnp.squeeze(by.scale_tril @ _vector(base.loc, size)[..., None], -1)
    if isinstance(base, dist.Normal):
        root = by.scale_tril * _vector(base.scale, size)[..., None, :]
    else:
        root = by.scale_tril @ base.scale_tril
    return dist.MultivariateNormal(mean, scale_tril=root)


def _vector(value: Any, size: int) -> Any:
    """An array with a last axis of this size, at least."""
    return jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), (size,)))


_OTHER_NAMES: dict[type, Callable[[Any], Any]] = {
    dist.LowRankMultivariateNormal: _of_low_rank,
    dist.GaussianRandomWalk: _of_random_walk,
    dist.CAR: _of_neighbours,
    dist.TransformedDistribution: _of_transformed,
}
