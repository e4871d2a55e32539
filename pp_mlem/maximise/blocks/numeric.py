"""Parameters whose maximum is found by Newton or quasi-Newton steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from pp_mlem.base.lazy import optx
from pp_mlem.base.no import No
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params, Prior, expected_log_joint
from pp_mlem.maximise.newton import newton_ascent

NEWTON_LIMIT = 64  # parameters up to which second derivatives are taken
BFGS_LIMIT = 512  # and up to which a matrix of their size is kept
QUASI_NEWTON_STEPS = 120


@dataclass(frozen=True, eq=False)
class Numeric(Block):
    """Climbs <eta(theta), S> (+ log prior) as a function of theta.

    Where no factor varies by row, S is all that it needs, and is as short as eta. Of factors that do,
    S has an entry for every row: then every step passes over the rows, and what is collected is no
    sum over them.
    """

    method: ClassVar[str] = "numeric"

    @property
    def reason(self) -> str:
        return f"{self.told}: {'; '.join(no.reason for no in self.declined if no.reason)}"

    def collect(self, context: Context, params: Params, statistics: Natural) -> Natural:
        return {site: statistics[site] for site in self.sites}

    def maximise(
        self, context: Context, params: Params, collected: Natural, prior: Prior | None
    ) -> Params:
        names, sites = frozenset(self.parameters), frozenset(self.sites)
        space = context.reading.space.only(names)

        def objective(vector: jax.Array) -> jax.Array:
            values = {**params, **space.constrain(vector)}
            value = expected_log_joint(context, values, collected, sites)
            return value if prior is None else value + prior.log_density(values, names)

        start = space.unconstrain(params)
        if space.size == 0:  # a law of a single value: nothing is free
            return space.constrain(start)
        if space.size <= NEWTON_LIMIT:
            return space.constrain(newton_ascent(objective, start, context.steps).point)
        solver: Any = (
            optx.BFGS(rtol=1e-10, atol=1e-10)
            if space.size <= BFGS_LIMIT
            else optx.LBFGS(rtol=1e-10, atol=1e-10)
        )
        scale = 1.0 + jnp.abs(objective(start))
        result = optx.minimise(
            lambda v, _: -objective(v) / scale,
            solver,
            start,
            max_steps=QUASI_NEWTON_STEPS,
            throw=False,
        ).value
        better = objective(result) >= objective(start)
        return space.constrain(jnp.where(better, result, start))


def plan_numeric(group: Group) -> Block | No:
    """Takes every group."""
    size = group.reading.space.only(frozenset(group.names)).size
    how = "Newton" if size <= NEWTON_LIMIT else "BFGS" if size <= BFGS_LIMIT else "L-BFGS"
    passes = any(m.varies_by_row for m in group.members)
    where = "each step passes over the rows" if passes else "free of the data"
    return Numeric(group.names, group.sites, f"{how}, {where}")
