"""Newton steps on exact second derivatives that add up over rows: a finish for data that come in chunks, a pass a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.arrays import Array, all_finite, dot, eps, largest, namespace, where
from pp_mlem.base.status import Status
from pp_mlem.estimate.algorithm import Algorithm, Look, State, at_start, first_of, rounding
from pp_mlem.estimate.differences import ENOUGH, SHORTER, TRIALS, newton_direction
from pp_mlem.maximise.newton import settled
from pp_mlem.target.parts import adds_up
from pp_mlem.target.target import Target

ERROR = 1e-13  # of exact second derivatives, relatively


class Curved(NamedTuple):
    """The objective, its gradient and its Hessian."""

    value: Array
    gradient: Array
    hessian: Array


@adds_up
def curved_look(target: Target, vector: jax.Array) -> Curved:
    """All three at a vector. Traceable."""
    slope = jax.grad(target.value)

    def column(direction: jax.Array) -> jax.Array:
        return jax.jvp(slope, (vector,), (direction,))[1]

    hessian = jax.lax.map(column, jnp.eye(vector.shape[0], dtype=vector.dtype))
    return Curved(target.value(vector), slope(vector), hessian)


class Step(NamedTuple):
    """The gradient at the accepted point, the direction of search, how far the next look goes along it, and how many
    failed."""

    gradient: Array
    direction: Array
    length: Array
    trials: Array


@dataclass(frozen=True)
class CurvedNewton(Algorithm):
    """Safeguarded Newton steps with modified curvature (Nocedal & Wright 2006, section 3.4,
    doi:10.1007/978-0-387-40065-5). `unit_of_its_own` as in `DifferenceNewton`."""

    units: float
    tolerance: float
    unit_of_its_own: tuple[bool, ...]
    unit_free: bool = True

    def begin(self, vectors: np.ndarray) -> State:
        starts = len(vectors)
        one, none = np.ones(starts, vectors.dtype), np.zeros(starts, int)
        return at_start(vectors, Step(0 * vectors, 0 * vectors, one, none))

    @property
    def look(self) -> Look:
        return curved_look

    def wanted(self, state: State) -> tuple[Array, ...]:
        return (state.vector,)

    def step(self, state: State, seen: Any) -> tuple[State, Array]:
        xp, own = namespace(state.value), state.own
        first = ~xp.isfinite(state.value)
        promised = ENOUGH * own.length * dot(own.gradient, own.direction)
        noise = rounding(state.value, self.units)
        finite = xp.isfinite(seen.value) & all_finite(seen.gradient)
        kept = finite & (first | (seen.value >= state.value + promised - noise))
        point = where(kept, state.vector, state.point)
        slope = xp.where(kept, largest(seen.gradient) / self.units, state.slope)
        trials = xp.where(kept, 0, own.trials + 1)
        resolution = settled(seen.value)
        curvature = abs(xp.diagonal(seen.hessian, axis1=-2, axis2=-1))
        idle = (abs(seen.gradient) <= resolution[:, None]) & (curvature <= resolution[:, None])
        left = ~(idle & xp.asarray(self.unit_of_its_own))
        towards, decrement, sound = newton_direction(
            seen.hessian, seen.gradient, 0 * point, left, ERROR
        )
        spent = decrement <= 8 * eps(seen.value) * abs(seen.value)
        rests = kept & (decrement <= resolution) & ((slope <= self.tolerance) | spent)
        status = first_of(
            (first & ~finite, Status.NOT_FINITE),
            (trials > TRIALS, Status.FLAT),
            (rests & sound, Status.CONVERGED),
            (rests, Status.FLAT),
        )
        direction = where(kept, towards, own.direction)
        length = xp.where(kept, 1.0, own.length * SHORTER)
        new = State(
            vector=point + length[:, None] * direction,
            point=point,
            value=xp.where(kept, seen.value, state.value),
            slope=slope,
            iterations=state.iterations + 1,
            status=status,
            own=Step(where(kept, seen.gradient, own.gradient), direction, length, trials),
        )
        return new, xp.where(kept, seen.value, xp.nan)
