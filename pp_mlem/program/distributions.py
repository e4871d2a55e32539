"""A distribution as it was before plates, `to_event` and `mask` wrapped it, and what kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.distribution import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    Unit,
)


@dataclass(frozen=True)
class Bare:
    """A distribution with Expanded, Independent and Masked taken off.

    `fn` has batch dimensions (plates..., columns...), right-aligned; `columns` of them come from
    `to_event`. `masks` are right-aligned with the same dimensions; a mask that was put over
    columns already joined hides all of them. `wrapped` holds each mask with the number of columns
    that were joined outside of it.
    """

    fn: Any
    columns: int
    wrapped: tuple[tuple[Any, int], ...]

    @property
    def hidden(self) -> bool:
        """Whether the program masks the site by the constant False: a latent's law that another
        site, a numpyro.factor, stands for."""
        return any(mask is False for mask, _ in self.wrapped)

    @property
    def masks(self) -> tuple[Any, ...]:
        masks = []
        for mask, outside in self.wrapped:
            mask = jnp.asarray(mask)
            masks.append(mask.reshape(mask.shape + (1,) * (self.columns - outside)))
        return tuple(masks)


def unwrap(fn: Any) -> Bare:
    """The distribution as it was before plates, `to_event` and `mask` wrapped it."""
    columns = 0
    masks: list[tuple[Any, int]] = []
    while True:
        if isinstance(fn, ExpandedDistribution):
            fn = fn.base_dist
        elif isinstance(fn, Independent):
            columns += fn.reinterpreted_batch_ndims
            fn = fn.base_dist
        elif isinstance(fn, MaskedDistribution):
            masks.append((fn._mask, columns))
            fn = fn.base_dist
        else:
            return Bare(fn, columns, tuple(masks))


def is_array(value: Any) -> bool:
    """Whether a part of a distribution is numbers that can be traced; a sparse matrix is not."""
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float)
    return isinstance(value, kinds) or hasattr(value, "__jax_array__")


def innermost(fn: Any) -> Any:
    """The distribution that `unwrap` finds, without touching its masks."""
    while isinstance(fn, (ExpandedDistribution, Independent, MaskedDistribution)):
        fn = fn.base_dist
    return fn


def is_gaussian_or_flat(fn: Any) -> bool:
    """True for a Normal or a MultivariateNormal, and for a law that is flat over all real numbers."""
    return type(innermost(fn)) in (dist.Normal, dist.MultivariateNormal) or is_flat(fn)


def is_flat(fn: Any) -> bool:
    """True for an improper law that is flat over all real numbers."""
    bare = innermost(fn)
    if type(bare) is not dist.ImproperUniform:
        return False
    support = bare.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is dist.constraints.real


def is_factor(fn: Any) -> bool:
    """True for the distribution behind `numpyro.factor`."""
    return isinstance(fn, Unit)


def is_discrete(fn: Any) -> bool:
    """True when the support of the distribution is discrete."""
    return bool(getattr(fn.support, "is_discrete", False))


def is_point(fn: Any) -> bool:
    """True when all probability is at one value."""
    return isinstance(innermost(fn), dist.Delta)


def as_floating(value: Any) -> jax.Array:
    """A number, list or array (of integers or booleans, too) as an array of the working precision:
    parameters and the arguments that depend on them are real."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype == jnp.result_type(float):
        return array
    return array.astype(jnp.result_type(float))
