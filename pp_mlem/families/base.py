"""What an exponential family provides: matching, statistics, natural parameters, a maximum."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from pp_mlem.base.precision import tiny_log


@dataclass(frozen=True)
class Entries:
    """Expected statistics of one M-step block, one entry per distribution in it.

    `statistics` is (entries, F). `index[argument]` (entries,) says which parameter value an entry
    uses; `constant[argument]` (entries, ...) holds arguments that are known; `current[argument]`
    (values, ...) the parameter values before the step; `prior[argument]` pairs of arrays
    (values, ...), pseudo-statistics of a conjugate prior. `shift` (entries, ...) is the reference
    that was subtracted from the data.
    """

    statistics: Float[Array, "entries F"]
    index: Mapping[str, Int[Array, " entries"]]
    constant: Mapping[str, Array]
    current: Mapping[str, Float[Array, "values ..."]]
    prior: Mapping[str, tuple[Array, Array]]
    shift: Any  # an array, or None for a family without a reference

    def total(self, argument: str, values: jax.Array) -> jax.Array:
        """Sum (entries, ...) over the entries that share a value of `argument`."""
        n = self.current[argument].shape[0]
        return jax.ops.segment_sum(values, self.index[argument], n)

    def at_each(self, argument: str, values: jax.Array) -> jax.Array:
        """Of (values, ...) the one that each entry has for `argument`: (entries, ...)."""
        index = values.at[self.index[argument]]
        return index.get(mode="promise_in_bounds", wrap_negative_indices=False)

    def value(self, argument: str) -> jax.Array:
        """The argument of each entry, known or at its current parameter value."""
        if argument in self.constant:
            return self.constant[argument]
        return self.at_each(argument, self.current[argument])


class Family(abc.ABC):
    """An exponential family: log f(x; args) = <natural(args), statistics(x)> + base(x).

    Arrays of statistics lead with the statistic: (F, *batch); natural parameters end with it:
    (*batch, F). `shift` is a data-only reference point, subtracted before squares are formed so
    that data far from zero lose no digits.
    """

    distributions: ClassVar[tuple[type, ...]]
    arguments: ClassVar[dict[str, int]]  # estimable arguments and their event dimensions
    known: ClassVar[tuple[str, ...]] = ()  # arguments that are statistics, not parameters
    natural_support: ClassVar[dict[str, tuple[Any, ...]]] = {}
    scale_arguments: ClassVar[tuple[str, ...]] = ()
    coded: ClassVar[bool] = False  # values are codes; the statistics are their `indicator`

    @property
    def name(self) -> str:
        return type(self).__name__

    def shift(self, value: jax.Array, mask: jax.Array) -> jax.Array | None:
        """A reference point of the data, reduced over rows (the last axis)."""
        del value, mask
        return None

    @abc.abstractmethod
    def statistics(self, value: jax.Array, known: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        """T(x): (*event, *batch) to (F, *batch)."""

    def counted(
        self, counts: jax.Array, values: jax.Array, known: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Statistics (entries, F) of a latent from how often each of its values is expected:
        `counts` (entries, values); `known` (entries,)."""
        every = jnp.broadcast_to(values, counts.shape)
        each = self.statistics(every, {k: v[:, None] for k, v in known.items()}, None)
        return (each * counts).sum(-1).T

    def indicator(self, value: jax.Array, categories: int) -> jax.Array:
        """Of a `coded` family: (F, *batch), one where a value is the code of a category."""
        raise NotImplementedError(f"{self.name}: its values are no codes")

    def given(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments without those that the distribution class derived from the others."""
        return args

    def base(self, value: jax.Array, known: Mapping[str, jax.Array]) -> jax.Array:
        """log h(x): (*event, *batch) to (*batch); zero where a family has none."""
        del known
        event = value.ndim - len(self._batch(value))
        return jnp.zeros(value.shape[event:], value.dtype)

    def _batch(self, value: jax.Array) -> tuple[int, ...]:
        return value.shape[self.event_dim :]

    @property
    def event_dim(self) -> int:
        return 0

    @abc.abstractmethod
    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        """Arguments of the distribution to natural parameters (*batch, F)."""

    def direct_scores(self, natural: jax.Array, value: jax.Array, shift: Any) -> jax.Array | None:
        """<natural, T(x)> of (distributions, F) and one column of data (*event, rows) without
        forming T(x), as (distributions, rows); None where multiplying T(x) is as fast."""
        del natural, value, shift
        return None

    def maximum(self, entries: Entries) -> dict[str, jax.Array] | None:
        """The arguments' values that maximise <natural, statistics>, or None."""
        del entries
        return None

    def closed_form(self, free: frozenset[str]) -> bool:
        """Whether `maximum` covers this set of free arguments."""
        del free
        return False

    def conjugate(self, argument: str, prior: Any, known: frozenset[str]) -> bool:
        """Whether the (unwrapped) prior of an argument joins the closed form."""
        del argument, prior, known
        return False

    def pseudo_statistics(self, argument: str, prior: Any) -> tuple[jax.Array, jax.Array]:
        """The conjugate prior as a pair of arrays for `Entries.prior`."""
        raise NotImplementedError(f"{self.name} has no conjugate prior for {argument}")

    def rows_needed(self, event_size: int) -> int:
        """Rows below which the scale of a component is not determined by its data."""
        del event_size
        return 2


def natural_supports() -> dict[str, tuple[type, ...]]:
    """Constraint classes by the kind of value, for checking that a closed form stays inside."""
    return {
        "real": (type(constraints.real),),
        "positive": (
            type(constraints.positive),
            type(constraints.softplus_positive),
            type(constraints.nonnegative),
        ),
        "unit": (type(constraints.unit_interval),),
        "simplex": (type(constraints.simplex),),
        "covariance": (
            type(constraints.positive_definite),
            type(constraints.positive_semidefinite),
        ),
        "cholesky": (type(constraints.lower_cholesky), type(constraints.softplus_lower_cholesky)),
    }


def safe_log(value: jax.Array) -> jax.Array:
    """log, with a finite stand-in at zero, and first and second derivatives that stay finite there
    and at the stand-in for zero of NumPyro's `clamp_probs`."""
    tiny = jnp.finfo(value.dtype).tiny
    usual = (value > 0) & (value != tiny)
    smallest = jnp.where(value > 0, jnp.log(tiny), tiny_log(value.dtype))
    return jnp.where(usual, jnp.log(jnp.where(usual, value, 1.0)), smallest)


def ratio(numerator: jax.Array, denominator: jax.Array, otherwise: jax.Array) -> jax.Array:
    """numerator / denominator, and `otherwise` where nothing was observed."""
    used = denominator > 0
    return jnp.where(used, numerator / jnp.where(used, denominator, 1.0), otherwise)
