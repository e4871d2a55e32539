"""Parameters by which a scan carries real latents on: they enter no law, so <eta, S> does not know them.

Their step raises the marginal likelihood itself, the others held: an ECME step (Liu & Rubin 1994,
doi:10.1093/biomet/81.4.633), after which the objective is no lower than after an EM step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from pp_mlem.base.no import No
from pp_mlem.factors.carried import CarriedFactor
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params, Prior
from pp_mlem.maximise.newton import newton_ascent

STEPS = 3


@dataclass(frozen=True, eq=False)
class Direct(Block):
    """Newton steps on log Z (+ log prior), after the other blocks."""

    method: ClassVar[str] = "likelihood"
    after_others: ClassVar[bool] = True

    def collect(self, context: Context, params: Params, statistics: Natural) -> None:
        return None

    def maximise(
        self, context: Context, params: Params, collected: None, prior: Prior | None
    ) -> Params:
        names, marginal = frozenset(self.parameters), context.marginal
        space = context.reading.space.only(names)

        def objective(vector: jax.Array) -> jax.Array:
            values = {**params, **space.constrain(vector)}
            value = marginal.log_z(marginal.natural(values, context.data), context.data)
            return value if prior is None else value + prior.log_density(values, names)

        steps = jnp.minimum(jnp.asarray(context.steps), STEPS)
        return space.constrain(newton_ascent(objective, space.unconstrain(params), steps).point)


def plan_direct(group: Group) -> Block | No:
    """Takes parameters that enter how a scan carries real latents."""
    carried = [m for m in group.members if isinstance(m, CarriedFactor)]
    if not carried:
        return No("")
    own = sorted(carried[0].parameters & set(group.names))
    what = "the initial carry" if group.reading.sites[carried[0].site].step == 0 else "the carry"
    return Direct(
        group.names,
        group.sites,
        f"{what} of a scan is computed from {', '.join(own)}: Newton steps on the marginal likelihood (ECME)",
    )
