"""Coefficients of linear predictors, maximised from sums over rows.

A site's argument is h(u), u affine in the coefficients (`data/designs.py`). Of a Normal with its scale
among the parameters one pass over the rows gives all sums that the maximum needs; any other density
is climbed by iteratively reweighted least squares, a pass for each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.designs import Design, flat_entries, total_entries
from pp_mlem.families.normal import Normal
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Params, Prior
from pp_mlem.maximise.blocks.cells import Cells, lay_cells
from pp_mlem.maximise.blocks.linear import Pull, Step, Sums, solve, sums
from pp_mlem.maximise.newton import newton_ascent, settled
from pp_mlem.program.bindings import offsets

LONGEST = 8.0  # change of a predictor on the scale of a logarithm, by one step
HALVINGS = 40
SCALE_STEPS = 50  # of the scales under their prior, which touch no data
TURNS = 50  # of coefficients and scales


@dataclass(frozen=True, eq=False)
class Regression(Block):
    """`coefficients` are the global indices of the free coefficients, `local[site]` (lanes, C) their
    numbers in a site's design, their count where a column has none."""

    coefficients: np.ndarray = field(kw_only=True)
    local: dict[str, np.ndarray] = field(kw_only=True)
    method: ClassVar[str] = "regression"

    def designs(self, context: Context) -> dict[str, Design]:
        found = {site: context.data.designs[site] for site in self.sites}
        return {site: d for site, d in found.items() if isinstance(d, Design)}

    def pull(self, context: Context, params: Params, prior: Prior | None) -> Pull:
        """The Normal priors of the coefficients."""
        total = total_entries(context.reading)
        precision, mean = jnp.zeros(total), jnp.zeros(total)
        laws = {} if prior is None else prior.distributions(params)
        for name, (own, shape) in self._places(context).items():
            if name in laws and np.isin(np.arange(own.start, own.stop), self.coefficients).any():
                law = laws[name]
                precision = precision.at[own].set(jnp.broadcast_to(law.scale**-2, shape).ravel())
                mean = mean.at[own].set(jnp.broadcast_to(law.loc, shape).ravel())
        return Pull(precision[self.coefficients], mean[self.coefficients])

    def _places(self, context: Context) -> dict[str, tuple[slice, tuple[int, ...]]]:
        """Where among all entries each parameter of the block is, and its shape."""
        start = offsets(context.reading)
        return {
            s.name: (slice(start[s.name], start[s.name] + int(np.prod(s.shape))), s.shape)
            for s in context.reading.space.sites
            if s.name in self.parameters
        }

    def unflattened(self, context: Context, entries: jax.Array) -> Params:
        """The block's parameters out of the entries (total,) of all."""
        places = self._places(context).items()
        return {name: entries[own].reshape(shape) for name, (own, shape) in places}


# --- Normal ---------------------------------------------------------------------------------


class Residuals(NamedTuple):
    """Of one site: its sums with the responsibilities for weights, and by lane the responsibilities
    themselves, the squares of the residuals y - u, and those of y about the data's centre."""

    sums: Sums
    weight: jax.Array
    squares: jax.Array
    spread: jax.Array


class Totals(NamedTuple):
    """By scale: the responsibilities, and the squares of the residuals."""

    weight: jax.Array
    squares: jax.Array


class Turn(NamedTuple):
    """All parameter entries, the turns that coefficients and scales took, and the decrement of the
    last step of the coefficients."""

    entries: jax.Array
    turns: jax.Array
    decrement: jax.Array


@dataclass(frozen=True, eq=False)
class NormalRegression(Regression):
    """Normal (or LogNormal) sites with scales among the parameters: the coefficients by the normal
    equations at the current scales, then the scales from the residual sums of squares that these
    leave; an ECM step (Meng & Rubin 1993, doi:10.1093/biomet/80.2.267), and the whole maximum where
    no coefficient is shared by different scales and all priors are flat.

    `scales` are the global indices of the scales, `scale_of[site]` (lanes,) their number in each lane;
    `nested` says that coefficients and scales hang together. They then take turns until neither
    moves: the sums serve all turns.
    """

    scales: np.ndarray = field(kw_only=True)
    scale_of: dict[str, np.ndarray] = field(kw_only=True)
    nested: bool = field(kw_only=True)

    def collect(
        self, context: Context, params: Params, statistics: Natural
    ) -> dict[str, Residuals]:
        """Sums of residuals from the current u, in which nothing cancels where data lie far from
        zero."""
        entries = flat_entries(context.reading, params)
        families = {f.site: f.family for f in context.members(self)}
        found = {}
        for site, cells in lay_cells(context, params, statistics, self.designs(context)).items():
            family, weight = families[site], cells.weight
            if not isinstance(family, Normal):
                raise TypeError(f"'{site}' is no Normal.")
            y = family.measured(cells.value)
            rest = jnp.where(weight != 0, y - cells.design.predictor(entries), 0.0)
            centre = jnp.mean(context.data.sites[site].shift)
            found[site] = Residuals(
                sums(cells.design, weight * rest, weight),
                weight.sum(1),
                (weight * rest**2).sum(1),
                (weight * jnp.where(weight != 0, y - centre, 0.0) ** 2).sum(1),
            )
        return found

    def maximise(
        self,
        context: Context,
        params: Params,
        collected: dict[str, Residuals],
        prior: Prior | None,
    ) -> Params:
        start = flat_entries(context.reading, params)
        pull = self.pull(context, params, prior)

        def turn(state: Turn) -> Turn:
            entries = state.entries
            step = self._coefficients(context, collected, pull, start, entries)
            entries = entries.at[self.coefficients].add(step.change)
            totals = self._totals(context, collected, entries - start)
            entries = entries.at[self.scales].set(self._at_maximum(collected, totals, entries))
            if prior is not None:
                entries = self._under_prior(context, params, entries, totals, prior)
            return Turn(entries, state.turns + 1, step.decrement)

        def going(state: Turn) -> jax.Array:
            every = sum((r.weight.sum() for r in collected.values()), jnp.zeros(()))
            return (state.decrement > settled(every)) & (state.turns < TURNS)

        infinity = jnp.full((), jnp.inf, start.dtype)
        state = turn(Turn(start, jnp.zeros((), int), infinity))
        if self.nested:
            state = jax.lax.while_loop(going, turn, state)
        return self.unflattened(context, state.entries)

    def _coefficients(
        self,
        context: Context,
        collected: dict[str, Residuals],
        pull: Pull,
        start: jax.Array,
        entries: jax.Array,
    ) -> Step:
        """The best change of the coefficients from `entries`, at the scales there; the sums are those
        at `start`."""
        designs, weighted = self.designs(context), {}
        for site, found in collected.items():
            precision = entries[self.scales][self.scale_of[site]] ** -2
            change = designs[site].coordinates(self._moved(entries - start))
            bent = jnp.einsum("lqp,lp->lq", found.sums.curvature, change)
            gradient = (found.sums.gradient - bent) * precision[:, None]
            weighted[site] = Sums(gradient, found.sums.curvature * precision[:, None, None])
        return solve(designs, self.local, weighted, pull, entries[self.coefficients])

    def _moved(self, change: jax.Array) -> jax.Array:
        """The change of the coefficients alone."""
        own = change[self.coefficients]
        return jnp.zeros_like(change).at[self.coefficients].set(own)

    def _totals(
        self, context: Context, collected: dict[str, Residuals], change: jax.Array
    ) -> Totals:
        """Responsibilities and squares of the residuals by scale, after a change of all entries."""
        designs, zero = self.designs(context), jnp.zeros(len(self.scales))
        totals = Totals(zero, zero)
        for site, found in collected.items():
            moved = designs[site].coordinates(self._moved(change))
            bent = jnp.einsum("lq,lqp,lp->l", moved, found.sums.curvature, moved)
            left = found.squares - 2 * (moved * found.sums.gradient).sum(1) + bent
            of = self.scale_of[site]
            totals = Totals(
                totals.weight.at[of].add(found.weight),
                totals.squares.at[of].add(jnp.maximum(left, 0.0)),
            )
        return totals

    def _at_maximum(
        self, collected: dict[str, Residuals], totals: Totals, entries: jax.Array
    ) -> jax.Array:
        """The scales (scales,) that maximise the likelihood; where nothing is seen they stay."""
        spread = sum((r.spread.sum() for r in collected.values()), jnp.zeros(()))
        every = jnp.maximum(totals.weight.sum(), 1e-30)
        floor = jnp.finfo(entries.dtype).eps * spread / every
        seen = totals.weight > 0
        variance = totals.squares / jnp.where(seen, totals.weight, 1.0)
        variance = jnp.where(seen, variance, entries[self.scales] ** 2)
        return jnp.sqrt(jnp.maximum(variance, floor))

    def _under_prior(
        self,
        context: Context,
        params: Params,
        entries: jax.Array,
        totals: Totals,
        prior: Prior,
    ) -> jax.Array:
        """`entries` with the scales at their mode given the residuals, found from where they are."""
        names = frozenset(
            name
            for name, (own, _) in self._places(context).items()
            if np.isin(np.arange(own.start, own.stop), self.scales).any()
        )
        if not names & prior.distributions(params).keys():
            return entries
        space = context.reading.space.only(names)
        here = {**params, **self.unflattened(context, entries)}

        def objective(vector: jax.Array) -> jax.Array:
            values = {**here, **space.constrain(vector)}
            scale = flat_entries(context.reading, values)[self.scales]
            q = -(totals.weight * jnp.log(scale) + 0.5 * totals.squares / scale**2).sum()
            return q + prior.log_density(values, names)

        found = newton_ascent(objective, space.unconstrain(here), SCALE_STEPS)
        return flat_entries(context.reading, {**here, **space.constrain(found.point)})


# --- any other density ----------------------------------------------------------------------


class Look(NamedTuple):
    """At some coefficients: Q of the block's sites (+ log prior) in nats, up to a constant, and by site
    the sums of its derivatives."""

    value: jax.Array
    sums: dict[str, Sums]


class Climb(NamedTuple):
    """The last accepted coefficients, the value there, the step from them and how much of it is
    tried; steps taken, halvings of the last, and whether there is more to gain."""

    point: jax.Array
    value: jax.Array
    step: Step
    length: jax.Array
    steps: jax.Array
    halvings: jax.Array
    going: jax.Array


@dataclass(frozen=True, eq=False)
class ReweightedRegression(Regression):
    """Any univariate density that depends on the block through u alone: Newton steps from sums over
    rows, iteratively reweighted least squares (Green 1984, doi:10.1111/j.2517-6161.1984.tb01288.x).

    A step that would lower Q is cut. Each pass over the rows gives the value at a step's end and the
    sums for the next; near the maximum there are two or three of them.
    """

    def collect(self, context: Context, params: Params, statistics: Natural) -> Look:
        cells = lay_cells(context, params, statistics, self.designs(context))
        return self._look(cells, flat_entries(context.reading, params))

    def maximise(
        self, context: Context, params: Params, collected: Look, prior: Prior | None
    ) -> Params:
        """After one whole step."""
        entries = flat_entries(context.reading, params)
        pull, point = self.pull(context, params, prior), entries[self.coefficients]
        step = solve(self.designs(context), self.local, collected.sums, pull, point)
        new = entries.at[self.coefficients].add(step.change)
        return self.unflattened(context, new)

    def step(
        self, context: Context, params: Params, statistics: Natural, prior: Prior | None
    ) -> Params:
        designs = self.designs(context)
        cells = lay_cells(context, params, statistics, designs)
        entries = flat_entries(context.reading, params)
        pull = self.pull(context, params, prior)

        def look(point: jax.Array) -> Look:
            seen = self._look(cells, entries.at[self.coefficients].set(point))
            return seen._replace(value=seen.value + pull.log_density(point))

        def following(seen: Look, point: jax.Array) -> tuple[Step, jax.Array]:
            step = solve(designs, self.local, seen.sums, pull, point)
            finite = jnp.isfinite(step.decrement)
            step = jax.tree.map(lambda a: jnp.where(finite, a, 0.0), step)
            return step, self._length(cells, entries, step.change)

        start = entries[self.coefficients]
        seen = look(start)
        step, length = following(seen, start)
        zero = jnp.zeros((), int)
        going = (
            jnp.isfinite(seen.value) & (step.decrement > settled(seen.value)) & (context.steps > 0)
        )
        state = Climb(start, seen.value, step, length, zero, zero, going)

        def body(state: Climb) -> Climb:
            candidate = state.point + state.length * state.step.change
            seen = look(candidate)
            rounding = 4 * jnp.finfo(start.dtype).eps * jnp.abs(state.value)
            enough = state.value + 1e-4 * state.length * state.step.decrement - rounding
            better = jnp.isfinite(seen.value) & (seen.value >= enough)
            step, length = following(seen, candidate)
            new = Climb(
                candidate, seen.value, step, length, state.steps + 1, zero,
                (state.steps + 1 < context.steps) & (step.decrement > settled(seen.value)),
            )  # fmt: skip
            cut = state._replace(
                length=0.5 * state.length,
                halvings=state.halvings + 1,
                going=state.halvings < HALVINGS,
            )
            return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, cut)

        end = jax.lax.while_loop(lambda s: s.going, body, state)
        # A last step, whose gain rounding hides, is known already: what accelerates EM learns from it.
        hidden = (end.step.decrement <= settled(end.value)) & (context.steps > 0)
        point = end.point + jnp.where(hidden, end.length * end.step.change, 0.0)
        return self.unflattened(context, entries.at[self.coefficients].set(point))

    def _look(self, cells: dict[str, Cells], entries: jax.Array) -> Look:
        value, found = jnp.zeros(()), {}
        for site, own in cells.items():
            each, slope, bend = own.slopes(own.design.predictor(entries))
            value = value + each
            sound = jnp.isfinite(slope) & jnp.isfinite(bend)
            slope, bend = jnp.where(sound, slope, 0.0), jnp.where(sound, jnp.abs(bend), 0.0)
            found[site] = sums(own.design, slope, bend)
        return Look(value, found)

    def _length(self, cells: dict[str, Cells], entries: jax.Array, change: jax.Array) -> jax.Array:
        """How much of a step to try first: from saturated probabilities, whose curvature is almost
        nothing, the whole of it would lead to others."""
        moved = jnp.zeros_like(entries).at[self.coefficients].set(change)
        length = jnp.ones(())
        for own in cells.values():
            if own.design.link == "identity" and own.design.argument != "logits":
                continue
            along = own.design.along(own.design.coordinates(moved))
            most = jnp.where(own.weight != 0, jnp.abs(along), 0.0).max(initial=0.0)
            length = jnp.minimum(length, LONGEST / jnp.maximum(most, LONGEST))
        return length
