"""L-BFGS on the exact objective, one sweep over the data a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from pp_mlem.base.arrays import Array, all_finite, dot, largest, namespace, where
from pp_mlem.base.status import Status
from pp_mlem.estimate.algorithm import Algorithm, Look, State, at_start, choose, first_of, rounding
from pp_mlem.target.parts import adds_up
from pp_mlem.target.target import Target, value_and_gradient

MEMORY = 15
ENOUGH = 1e-4  # of the gain that the slope promises, by which a step is accepted
SHORTER = (0.1, 0.5)  # bounds on the factor by which a step that failed is shortened
TRIALS = 30
FLAT_STEPS, LEVEL = (
    3,
    0.8,
)  # steps in a row that gain nothing but rounding, and whose slope is no smaller
CURVED = 1e-10  # least curvature along a step that is learnt from, in units of its own length


class Slope(NamedTuple):
    """The objective and its gradient."""

    value: Array
    gradient: Array


@adds_up
def slope_look(target: Target, vector: jax.Array) -> Slope:
    return Slope(*value_and_gradient(target, vector))


def density_look(target: Target, vector: jax.Array) -> Slope:
    """Of the density that NUTS samples."""
    return Slope(*jax.value_and_grad(target.density)(vector))


class Memory(NamedTuple):
    """The last steps and changes of the gradient (starts, memory, size), the newest last, and 1 / (their
    product), zero where there is none; the scale of the first guess of the inverse Hessian."""

    steps: Array
    changes: Array
    inverse: Array
    scale: Array


class Search(NamedTuple):
    """The gradient at the accepted point, the direction of search and how far the next look goes
    along it; how many looks failed, gained nothing, or gained little."""

    memory: Memory
    gradient: Array
    direction: Array
    length: Array
    trials: Array
    flat: Array
    slow: Array


@dataclass(frozen=True)
class LBFGS(Algorithm):
    """Liu & Nocedal (1989), doi:10.1007/BF01589116, with backtracking by a quadratic through the last
    two values (Nocedal & Wright 2006, section 3.5); pairs without positive curvature are not learnt.

    When `slow` steps in a row gain less than `handover` nats it stops, for a finish to go on.
    """

    units: float
    tolerance: float
    handover: float
    slow: int
    unit_free: bool = False

    def begin(self, vectors: np.ndarray) -> State:
        starts, size = vectors.shape
        pairs = np.zeros((starts, MEMORY, size), vectors.dtype)
        one, none = np.ones(starts, vectors.dtype), np.zeros(starts, int)
        memory = Memory(pairs, pairs, np.zeros((starts, MEMORY), vectors.dtype), one)
        own = Search(memory, 0 * vectors, 0 * vectors, 0 * one, none, none, none)
        return at_start(vectors, own)

    @property
    def look(self) -> Look:
        return slope_look

    def wanted(self, state: State) -> tuple[Array, ...]:
        return (state.vector,)

    def step(self, state: State, seen: Slope) -> tuple[State, Array]:
        xp, own, first = namespace(state.vector), state.own, state.iterations == 0
        finite = xp.isfinite(seen.value) & all_finite(seen.gradient)
        uphill = dot(own.gradient, own.direction)
        noise = rounding(state.value, self.units)
        enough = state.value + ENOUGH * own.length * uphill - noise
        kept = finite & (first | (seen.value >= enough))
        gain = seen.value - state.value
        point = where(kept, state.vector, state.point)
        gradient = where(kept, seen.gradient, own.gradient)
        slope = xp.where(kept, largest(gradient) / self.units, state.slope)
        # Below what rounding shows of the value the slope still tells.
        level = (gain <= noise) & (slope > LEVEL * state.slope)
        flat = xp.where(kept, xp.where(level, own.flat + 1, 0), own.flat)
        slow = xp.where(kept, xp.where(gain < self.handover, own.slow + 1, 0), own.slow)
        memory = _learn(own.memory, point - state.point, own.gradient - gradient)
        direction = where(kept, _direction(memory, gradient), own.direction)
        trials = xp.where(kept, 0, own.trials + 1)
        shorter = own.length * _shorter(state, seen.value, uphill)
        length = xp.where(kept, _first_length(memory, gradient), shorter)
        status = first_of(
            (first & ~finite, Status.NOT_FINITE),
            (slope <= self.tolerance, Status.CONVERGED),
            ((flat >= FLAT_STEPS) | (slow > self.slow) | (trials > TRIALS), Status.FLAT),
        )
        new = State(
            vector=point + length[:, None] * direction,
            point=point,
            value=xp.where(kept, seen.value, state.value),
            slope=slope,
            iterations=state.iterations + 1,
            status=status,
            own=Search(memory, gradient, direction, length, trials, flat, slow),
        )
        return new, xp.where(kept, seen.value, xp.nan)


def _learn(memory: Memory, step: Array, change: Array) -> Memory:
    """`change` is that of the gradient of what is minimised."""
    xp = namespace(step)
    product, size, change_size = dot(step, change), dot(step, step), dot(change, change)
    sound = (product > CURVED * size) & xp.isfinite(change_size) & (change_size > 0)
    safe = xp.where(sound, product, 1.0)
    new = Memory(
        xp.concatenate([memory.steps[:, 1:], step[:, None]], axis=1),
        xp.concatenate([memory.changes[:, 1:], change[:, None]], axis=1),
        xp.concatenate([memory.inverse[:, 1:], 1 / safe[:, None]], axis=1),
        safe / xp.where(sound, change_size, 1.0),
    )
    return choose(sound, new, memory)


def _direction(memory: Memory, gradient: Array) -> Array:
    """The inverse Hessian times the gradient, by the two loops of Nocedal (1980)."""
    q, alphas = gradient, []
    for i in reversed(range(MEMORY)):
        alpha = memory.inverse[:, i] * dot(memory.steps[:, i], q)
        q = q - alpha[:, None] * memory.changes[:, i]
        alphas.append(alpha)
    r = memory.scale[:, None] * q
    for i, alpha in enumerate(reversed(alphas)):
        beta = memory.inverse[:, i] * dot(memory.changes[:, i], r)
        r = r + (alpha - beta)[:, None] * memory.steps[:, i]
    return where(all_finite(r) & (dot(gradient, r) > 0), r, gradient)


def _first_length(memory: Memory, gradient: Array) -> Array:
    """One; before anything was learnt, a step of length one at most."""
    xp = namespace(gradient)
    steepest = xp.sqrt(dot(gradient, gradient))
    return xp.where(memory.inverse[:, -1] > 0, 1.0, 1.0 / xp.maximum(steepest, 1.0))


def _shorter(state: State, value: Array, uphill: Array) -> Array:
    """The factor that leads to the top of the quadratic through both values and the slope."""
    xp, length = namespace(value), state.own.length
    bend = value - state.value - length * uphill
    factor = -0.5 * length * uphill / xp.where(bend < 0, bend, -1.0)
    factor = xp.where(xp.isfinite(factor) & (bend < 0), factor, 0.0)
    return xp.clip(factor, *SHORTER)


@dataclass(frozen=True)
class DensityClimb(LBFGS):
    """Towards the mode of log Z + log prior + log|Jacobian|."""

    @property
    def look(self) -> Look:
        return density_look
