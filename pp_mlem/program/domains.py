"""The finite domains of latents: the values that a discrete distribution can take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.program.distributions import unwrap
from pp_mlem.program.errors import SiteValueError

INTEGER_INTERVAL = type(dist.constraints.integer_interval(0, 1))
SUPPORT_LIMIT = 100_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interval:
    """The whole numbers from `low` to `high`, each the outermost over the batch; they may be
    traced: total counts and bounds may be data."""

    low: Any
    high: Any

    @property
    def is_traced(self) -> bool:
        return isinstance(self.low, jax.core.Tracer) or isinstance(self.high, jax.core.Tracer)

    @classmethod
    def around(cls, low: Any, high: Any) -> Interval:
        """The interval that covers those of all rows."""
        return cls(_outermost(low, jnp.min, np.min), _outermost(high, jnp.max, np.max))


def _outermost(bound: Any, of_traced: Callable[..., Any], of_known: Callable[..., Any]) -> Any:
    return (of_traced if isinstance(bound, jax.core.Tracer) else of_known)(bound)


def finite_support(name: str, fn: Any) -> jax.Array | Interval:
    """The values of a latent's distribution, as a vector or an interval; or a clear refusal.

    Rows may have supports of their own, Binomial(n, p) with n an array: the interval covers all,
    and a value outside of a row's own has probability zero there.
    """
    bare = unwrap(fn)
    if bare.columns or bare.fn.event_shape:
        raise SiteValueError(
            f"latent '{name}': a discrete latent with an event shape cannot be enumerated. "
            "Declare its coordinates in a plate instead of to_event."
        )
    support = bare.fn.support
    if isinstance(support, INTEGER_INTERVAL):
        return Interval.around(support.lower_bound, support.upper_bound)
    try:
        values = bare.fn.enumerate_support(expand=False)
    except (NotImplementedError, TypeError, ValueError, jax.errors.ConcretizationTypeError) as e:
        reason = f" ({e})" if str(e) else ""
        raise SiteValueError(
            f"latent '{name}': {type(bare.fn).__name__} has no finite support that can be "
            f"enumerated{reason}. Use a distribution with a finite support (Categorical, "
            "Bernoulli, Binomial, DiscreteUniform), or truncate it by a Categorical over its "
            "values."
        ) from None
    return jnp.reshape(values, (-1,))


def listed(name: str, support: Any) -> np.ndarray:
    """A finite support, on the host, as a vector."""
    if not isinstance(support, Interval):
        return np.asarray(support)
    low, high = int(support.low), int(support.high)
    if not 0 <= high - low < SUPPORT_LIMIT:
        raise SiteValueError(
            f"latent '{name}': its values are the whole numbers from {low} to {high}, expected "
            f"at least one and at most {SUPPORT_LIMIT}. Check the total count or the bounds of "
            "its distribution."
        )
    return np.arange(low, high + 1)
