"""The cells of sites with a linear predictor: their density as a function of it, and what each weighs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.discrete import (
    BernoulliLogits,
    BernoulliProbs,
    BinomialLogits,
    BinomialProbs,
    GeometricLogits,
    GeometricProbs,
)

from pp_mlem.data.designs import LINKS, Design, aligned
from pp_mlem.factors.axes import drop_outer, of_rank
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Context, Params
from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message

# A probability that is expit(u) as one with logits u: nothing is lost where it is 0 or 1.
LOGITS: dict[type, type] = {
    BernoulliProbs: BernoulliLogits,
    BinomialProbs: BinomialLogits,
    GeometricProbs: GeometricLogits,
}


@dataclass(frozen=True)
class Cells:
    """Of one site, all arrays (lanes, rows): the observed values, the responsibilities (case weights
    included; zero where nothing is seen), and the other arguments of its distribution."""

    kind: type
    design: Design
    value: jax.Array
    weight: jax.Array
    arguments: dict[str, jax.Array]

    def densities(self, predictor: jax.Array) -> jax.Array:
        """Responsibility times log density of each cell, in nats."""
        link, argument, kind = self.design.link, self.design.argument, self.kind
        if link == "expit" and kind in LOGITS:
            link, argument, kind = "identity", "logits", LOGITS[kind]
        given: dict[str, Any] = {**self.arguments, argument: LINKS[link][0](predictor)}
        density = log_density(kind(**given, validate_args=False), self.value)
        return jnp.where(self.weight != 0, self.weight * density, 0.0)

    def slopes(self, predictor: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The sum of `densities`, and of each cell its first and second derivative in the
        predictor."""

        def gradient(u: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, slope = jax.value_and_grad(lambda v: self.densities(v).sum())(u)
            return slope, value

        ones = jnp.ones_like(predictor)
        slope, curvature, value = jax.jvp(gradient, (predictor,), (ones,), has_aux=True)
        return value, slope, curvature


def lay_cells(
    context: Context, params: Params, statistics: Natural, designs: dict[str, Design]
) -> dict[str, Cells]:
    """The cells of the sites with these designs, by one run of the program."""
    kinds: dict[str, type] = {}

    def extract(message: Message) -> Any:
        bare, argument = unwrap(message.fn), designs[message.name].argument
        kinds[message.name] = type(bare.fn)
        value = jnp.asarray(message.value)
        shown = jnp.ones((), bool)
        for mask in bare.masks:
            shown = shown & mask
        if jnp.issubdtype(value.dtype, jnp.floating):
            missing = jnp.isnan(value)
            shown, value = shown & ~missing, jnp.where(missing, _inside(bare.fn, value), value)
        given = {k: v for k, v in bare.fn.get_args().items() if v is not None and k != argument}
        arrays = {f"argument {k}": jnp.asarray(v) for k, v in given.items()}
        return aligned(message, {**arrays, "value": value, "shown": shown})

    reading, names = context.reading, frozenset(designs)
    found = reading.run(params, context.data.dynamic, extract, wanted=names, wide=names)
    cells = {}
    for factor in context.marginal.factors:
        if factor.site not in designs:
            continue
        design, weight = designs[factor.site], statistics[factor.site]
        weight = weight.reshape(weight.shape + (1,) * reading.sites[factor.site].columns)
        own = {k: drop_outer(reading, factor.latents, a) for k, a in found[factor.site].items()}
        outer = sum(s.vmapped and s.name in factor.latents for s in reading.slots)
        rank = max(a.ndim for a in (weight, *own.values()))
        own = {k: of_rank(a, rank, outer) for k, a in own.items()}
        cells[factor.site] = _laid(kinds[factor.site], design, own, of_rank(weight, rank, outer))
    return cells


def _inside(fn: Any, value: jax.Array) -> jax.Array:
    """Some value of the support, in place of a missing one."""
    return jnp.asarray(fn.support.feasible_like(value), value.dtype)


def _laid(kind: type, design: Design, own: dict[str, jax.Array], weight: jax.Array) -> Cells:
    shape = jnp.broadcast_shapes(weight.shape, *(a.shape for a in own.values()))
    lay: Callable[[jax.Array], jax.Array] = lambda a: design.laid(jnp.broadcast_to(a, shape))
    arguments = {k.removeprefix("argument "): lay(a) for k, a in own.items() if k[0] == "a"}
    shown = jnp.where(lay(own["shown"]), lay(weight), 0.0)
    return Cells(kind, design, lay(own["value"]), shown, arguments)
