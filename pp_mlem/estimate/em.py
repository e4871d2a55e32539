"""Expectation-maximisation as it is in the textbooks: one sweep and one M-step a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from pp_mlem.base.arrays import Array, dot, eps, largest, namespace, where
from pp_mlem.base.status import Status
from pp_mlem.diagnose.spurious import rows_of
from pp_mlem.estimate.algorithm import Algorithm, Look, State, at_start, first_of, rounding
from pp_mlem.maximise.blocks.base import NUMERIC_STEPS, Context
from pp_mlem.maximise.newton import settled
from pp_mlem.maximise.partial import maximised, taken
from pp_mlem.target.parts import in_parts
from pp_mlem.target.target import Target

STILL = 20  # steps in a row that gain nothing, after which EM has stopped


class EMLook(NamedTuple):
    """EM's step from a vector, the objective and its gradient there, and the expected number of units at
    each value of the latents."""

    following: Array
    value: Array
    gradient: Array
    rows: dict[str, Array]


class EMPart(NamedTuple):
    """What a part of the rows says: its log-likelihood and the gradient of that, what each block of the M-step
    takes from it, and the expected number of units."""

    value: Array
    gradient: Array
    taken: tuple
    rows: dict[str, Array]


def _em_part(target: Target, vector: jax.Array, steps: jax.Array) -> EMPart:
    """What a part of the rows says at a vector; its problem is a `PartProblem`. Traceable."""
    value, gradient, statistics = target.sweep(vector)
    context = Context(target.marginal, target.data, steps)
    problem: Any = target.problem
    found = taken(context, problem.blocks, target.params(vector), statistics, problem.rows)
    return EMPart(value, gradient, found, rows_of(target, statistics))


def _em_whole(target: Target, total: EMPart, vector: jax.Array, steps: jax.Array) -> EMLook:
    """EM's look from the sum over all parts. Traceable."""
    value, gradient = total.value, total.gradient
    if target.problem.with_prior:
        prior, slope = jax.value_and_grad(target.log_prior)(vector)
        value, gradient = value + prior, gradient + slope
    context = Context(target.marginal, target.data, steps)
    params = target.params(vector)
    new = maximised(context, target.problem.blocks, params, total.taken, target.prior)
    return EMLook(target.space.unconstrain(new), value, gradient, total.rows)


@in_parts(_em_part, _em_whole, by_objective=True)
def em_look(
    target: Target, vector: jax.Array, steps: jax.Array, assigned: jax.Array | None = None
) -> EMLook:
    """One sweep and one M-step; blocks without a closed form take at most `steps` Newton steps."""
    value, gradient, statistics = target.sweep(vector, assigned)
    following = target.maximise(vector, statistics, steps)
    return EMLook(following, value, gradient, rows_of(target, statistics))


def em_look_or_start(
    target: Target, vector: jax.Array, steps: jax.Array, assigned: jax.Array
) -> EMLook:
    """The same; where `assigned` is true, the M-step from latents that the data's clamps assign: so
    starting points compile nothing of their own."""
    return em_look(target, vector, steps, assigned)


class Patience(NamedTuple):
    """How many steps in a row gained nothing but rounding, and how many little."""

    still: Array
    slow: Array


@dataclass(frozen=True)
class EM(Algorithm):
    """Dempster, Laird & Rubin (1977), doi:10.1111/j.2517-6161.1977.tb01600.x.

    `units` is the number of independent units, `tolerance` the largest gradient entry for each of
    them at which a start has converged. When `slow` steps in a row gain less than `handover` nats it
    stops, for a finish to go on.
    """

    units: float
    tolerance: float
    handover: float
    slow: int
    starts_too: bool = False  # whether its looks are those of its starts as well
    unit_free: bool = True

    def begin(self, vectors: np.ndarray) -> State:
        none = np.zeros(len(vectors), int)
        return at_start(vectors, Patience(none, none))

    @property
    def look(self) -> Look:
        return em_look_or_start if self.starts_too else em_look

    def wanted(self, state: State) -> tuple[Array, ...]:
        return em_wanted(state, NUMERIC_STEPS, self.starts_too)

    def step(self, state: State, seen: EMLook) -> tuple[State, Array]:
        xp, at = namespace(state.vector), state.vector
        slope = largest(seen.gradient) / self.units
        noise = noise_of(seen, at, self.units)
        gain = seen.value - state.value
        still = xp.where(gain <= noise, state.own.still + 1, 0)
        slow = xp.where(gain < self.handover, state.own.slow + 1, 0)
        finite = xp.isfinite(seen.value) & xp.isfinite(slope)
        fell = gain < -noise
        status = first_of(
            (~finite, Status.NOT_FINITE),
            (fell, Status.DECREASED),
            (at_rest(seen, at, self.units, self.tolerance), Status.CONVERGED),
            ((still >= STILL) | (slow > self.slow), Status.FLAT),
        )
        kept = finite & ~fell
        new = State(
            vector=where(kept, seen.following, state.point),
            point=where(kept, at, state.point),
            value=where(kept, seen.value, state.value),
            slope=where(kept, slope, state.slope),
            iterations=state.iterations + 1,
            status=status,
            own=Patience(still, slow),
        )
        return new, xp.where(kept, seen.value, xp.nan)


def em_wanted(state: State, steps: int, starts_too: bool) -> tuple[Array, ...]:
    """The arguments of EM's look."""
    xp, starts = namespace(state.vector), state.value.shape
    wanted = state.vector, xp.full(starts, steps)
    return (*wanted, xp.full(starts, False)) if starts_too else wanted


def at_rest(seen: EMLook, at: Array, units: float, tolerance: float) -> Array:
    """Whether the largest gradient entry per unit is within `tolerance`, and EM's own step promises no
    gain. Where the scale of a coordinate hides what is still to be gained, gradient times step shows it
    (it is the decrement of the complete data, in nats). None is what rounding hides, or what a slope of
    `tolerance` in a coordinate of unit scale would promise."""
    xp = namespace(at)
    promised = dot(seen.gradient, seen.following - at)
    none = xp.maximum(settled(seen.value), units * tolerance**2)
    return (largest(seen.gradient) <= tolerance * units) & ~(promised > none)


def noise_of(seen: EMLook, at: Array, units: float) -> Array:
    """How far the objective can seem to fall by rounding: its own and that of the coordinates,
    |gradient| times |point|, which counts where coordinates are large and cancel."""
    grain = dot(abs(seen.gradient), abs(at))
    return rounding(seen.value, units) + 4 * eps(at) * grain
