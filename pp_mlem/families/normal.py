"""Normal and LogNormal: statistics 1, x - c, (x - c)^2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from pp_mlem.families.base import Entries, Family, ratio


class Normal(Family):
    """x ~ Normal(loc, scale). Ties are pooled: a shared scale, a shared location."""

    distributions = (dist.Normal,)
    arguments = {"loc": 0, "scale": 0}
    natural_support = {"loc": ("real",), "scale": ("positive",)}
    scale_arguments = ("scale",)

    def measured(self, value: jax.Array) -> jax.Array:
        return value

    def shift(self, value: jax.Array, mask: jax.Array) -> jax.Array:
        count = jnp.maximum(mask.sum(-1, keepdims=True), 1)
        return jnp.where(mask, self.measured(value), 0.0).sum(-1, keepdims=True) / count

    def statistics(self, value, known, shift):
        centred = self.measured(value) - shift
        return jnp.stack([jnp.ones_like(centred), centred, centred**2])

    def natural(self, args: Mapping[str, jax.Array], shift: Any) -> jax.Array:
        loc, scale = jnp.broadcast_arrays(args["loc"] - shift, args["scale"])
        precision = scale**-2
        normaliser = -0.5 * loc**2 * precision - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.stack([normaliser, loc * precision, -0.5 * precision], -1)

    def closed_form(self, free: frozenset[str]) -> bool:
        return bool(free)

    def conjugate(self, argument: str, prior: Any, known: frozenset[str]) -> bool:
        return argument == "loc" and "scale" in known and type(prior) is dist.Normal

    def pseudo_statistics(self, argument: str, prior: Any) -> tuple[jax.Array, jax.Array]:
        weight = prior.scale**-2
        return prior.loc * weight, weight

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        s0, s1, s2 = entries.statistics.T
        found = {}
        # Entries may have different references: move each to that of its location's group.
        shift = entries.shift
        if "loc" in entries.index:
            n = entries.current["loc"].shape[0]
            lowest = jnp.full(n, shift.min()).at[entries.index["loc"]]
            group = lowest.max(shift, mode="promise_in_bounds", wrap_negative_indices=False)
            moved = shift - entries.at_each("loc", group)
            s2 = s2 + 2 * moved * s1 + moved**2 * s0
            s1 = s1 + moved * s0
            shift = shift - moved
            weight = entries.value("scale") ** -2 if "scale" in entries.constant else 1.0
            numerator = entries.total("loc", weight * s1)
            denominator = entries.total("loc", weight * s0)
            if "loc" in entries.prior:
                pull, extra = entries.prior["loc"]
                numerator = numerator + pull - extra * group
                denominator = denominator + extra
            found["loc"] = group + ratio(numerator, denominator, entries.current["loc"] - group)
            loc = entries.at_each("loc", found["loc"])
        else:
            loc = entries.value("loc")
        if "scale" in entries.index:
            centre = loc - shift
            squares = entries.total("scale", s2 - 2 * centre * s1 + centre**2 * s0)
            variance = ratio(squares, entries.total("scale", s0), entries.current["scale"] ** 2)
            spread = jnp.abs(s2).sum() / jnp.maximum(s0.sum(), 1e-30)
            floor = jnp.finfo(variance.dtype).eps * spread
            found["scale"] = jnp.sqrt(jnp.maximum(variance, floor))
        return found


class LogNormal(Normal):
    """log x ~ Normal(loc, scale)."""

    distributions = (dist.LogNormal,)

    def measured(self, value: jax.Array) -> jax.Array:
        return jnp.log(value)

    def base(self, value: jax.Array, known: Mapping[str, jax.Array]) -> jax.Array:
        return -jnp.log(value)
