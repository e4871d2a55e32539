"""The Newton finish: safeguarded Newton steps on the exact objective, as an algorithm like others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from pp_mlem.base.arrays import Array, largest, namespace, where
from pp_mlem.base.status import Status
from pp_mlem.estimate.algorithm import Algorithm, Look, State, Unkept, at_start, choose, first_of
from pp_mlem.maximise import newton
from pp_mlem.maximise.newton import NewtonResult, NewtonState
from pp_mlem.target.target import Target

STEPS = 60  # of one attempt
ATTEMPTS = 3
KINK = 1e-3  # nats that Newton promises in vain


class NewtonLook(NamedTuple):
    """Newton's state after one more step, and what it would end with there."""

    state: NewtonState
    result: NewtonResult


def newton_look(target: Target, state: NewtonState, limit: jax.Array) -> NewtonLook:
    """Derivatives at the candidate, and a line search for the next one."""
    seen = newton.look(target.value, state)
    after = newton.step(target.value, state, seen, limit)
    return NewtonLook(after, newton.result(after, limit))


class Finish(NamedTuple):
    """Newton's own state; how many attempts are left; how far numbers of this precision can tell the
    decrement from zero, and whether the last attempt promised what no step kept."""

    newton: NewtonState
    attempts: Array
    resolution: Array
    vain: Array


@dataclass(frozen=True)
class Newton(Algorithm):
    """Begins where another algorithm ended; begun anew where the curvature promises what no step
    keeps, since rounding of the last look may be to blame.
    """

    units: float
    tolerance: float
    unit_free: bool = True

    def begin(self, vectors: np.ndarray) -> State:
        starts = len(vectors)
        own = Finish(
            _begin(vectors), np.full(starts, ATTEMPTS - 1), np.zeros(starts, vectors.dtype),
            np.zeros(starts, bool),
        )  # fmt: skip
        return at_start(vectors, own)

    @property
    def look(self) -> Look:
        return newton_look

    def wanted(self, state: State) -> tuple[Array, ...]:
        xp = namespace(state.value)
        limit = xp.full(state.value.shape, self.tolerance * self.units, dtype=state.value.dtype)
        return state.own.newton, limit

    def step(self, state: State, seen: NewtonLook) -> tuple[State, Array]:
        xp, own, result = namespace(state.value), seen.state, seen.result
        ended = ~own.going | (own.steps > STEPS)
        slope = largest(own.gradient) / self.units
        # Where the units put the tolerance below float64's rounding, the objective stops rising
        # first; what the curvature still promises knows no units.
        stopped = result.steps < STEPS
        done = (result.decrement <= result.resolution) & ((slope <= self.tolerance) | stopped)
        # Much is promised, and no step keeps it, or only small ones: the slope changes at once.
        promised = xp.where(xp.isfinite(result.decrement), result.decrement, 0.0)
        vain = ended & ~done & ((promised > KINK) | ~stopped)
        again = vain & (state.own.attempts > 0)
        known = xp.isfinite(result.value)
        status = first_of(
            (again, Status.RUNNING),
            (ended & ~known, Status.NOT_FINITE),
            (ended & done, Status.CONVERGED),
            (ended, Status.FLAT),
        )
        left = state.own.attempts - xp.where(again, 1, 0)
        own = choose(again, _begin(own.point), own)
        new = State(
            vector=own.candidate,
            point=where(known, result.point, state.point),
            value=where(known, result.value, state.value),
            slope=where(known, slope, state.slope),
            iterations=state.iterations + 1,
            status=status,
            own=Finish(own, left, result.resolution, vain),
        )
        return new, xp.where(result.value > state.value, result.value, xp.nan)

    def unkept(self, state: State) -> Unkept:
        return Unkept(np.asarray(state.own.resolution), np.asarray(state.own.vain, bool))


def _begin(points: Array) -> NewtonState:
    """Newton's first state at every point (starts, size)."""
    xp, starts = namespace(points), points.shape[0]
    one = newton.begin(xp.zeros(points.shape[1], dtype=points.dtype))
    leaves: Any = (
        *(
            _every(xp, leaf, starts) if not isinstance(leaf, tuple)
            else type(leaf)(*(_every(xp, part, starts) for part in leaf))
            for leaf in one
        ),
    )  # fmt: skip
    return NewtonState(*leaves)._replace(candidate=points, point=points)


def _every(xp: object, leaf: jax.Array, starts: int) -> Array:
    return xp.broadcast_to(xp.asarray(leaf), (starts, *leaf.shape))  # type: ignore[attr-defined]
