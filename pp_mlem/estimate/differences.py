"""Newton steps whose Hessian is taken from differences of gradients: a finish that compiles nothing.

The gradients are those that the algorithm before has looked at, so nothing new is compiled. For a few
dozen parameters and a sweep that is cheap that is far less than the compilation of exact second
derivatives. Where it does not come to rest, the exact Newton finish goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pp_mlem.base.arrays import Array, all_finite, apply, dot, eps, largest, namespace, where
from pp_mlem.base.status import Status
from pp_mlem.estimate.algorithm import (
    Algorithm,
    Look,
    State,
    always,
    at_start,
    choose,
    first_of,
    rounding,
)
from pp_mlem.maximise.newton import settled

WIDTH = 1e-6  # of a difference, in units of the coordinate or of one
LOCAL = 0.1  # standard errors that a difference may span
ENOUGH = 1e-4  # of the gain that the slope promises, by which a step is accepted
SHORTER, TRIALS = 0.4, 12
FLAT = 50.0  # roundings of the largest curvature, below which a direction has none
SHRUNK = 0.1  # of the last decrement, down to which a Hessian serves another step
CANDIDATE = -1  # `index` where the next look is at a candidate, not along a coordinate


class Differences(NamedTuple):
    """The gradient at the accepted point; the rows of the Hessian so far, and along which coordinate
    the next look goes (`index`); the direction of search, how far the next look goes along it and how
    many failed; the decrement, twice the gain in nats that the last Hessian promised."""

    gradient: Array
    hessian: Array
    index: Array
    direction: Array
    length: Array
    trials: Array
    decrement: Array


@dataclass(frozen=True)
class DifferenceNewton(Algorithm):
    """Safeguarded Newton steps with modified curvature (Nocedal & Wright 2006, section 3.4,
    doi:10.1007/978-0-387-40065-5) from where `first`, whose looks have a value and a gradient, ended.
    A step that is tried is an iteration; a look along a coordinate is none. Where a whole step leaves a tenth
    of the decrement at most, the next one takes the same Hessian, with what the step told of it.

    `unit_of_its_own` says which coordinates have one, as log-odds and logarithms do: there a slope and
    a curvature that are nothing mean that nothing is left to gain, as at the edge of a simplex.
    """

    first: Algorithm
    units: float
    tolerance: float
    unit_of_its_own: tuple[bool, ...]
    unit_free: bool = True

    def begin(self, vectors: np.ndarray) -> State:
        starts, size = vectors.shape
        zero = np.zeros(starts, vectors.dtype)
        own = Differences(
            0 * vectors, np.zeros((starts, size, size), vectors.dtype),
            np.full(starts, CANDIDATE), 0 * vectors, zero + 1, np.zeros(starts, int), zero + np.inf,
        )  # fmt: skip
        return at_start(vectors, own)

    @property
    def look(self) -> Look:
        return self.first.look

    def wanted(self, state: State) -> tuple[Array, ...]:
        return self.first.wanted(state)

    def step(self, state: State, seen: Any) -> tuple[State, Array]:
        xp = namespace(state.value)
        judging = state.own.index == CANDIDATE
        if always(judging):
            return self._judge(state, seen)
        along = self._along(state, seen)
        if always(~judging):
            return along, xp.full(state.value.shape, xp.nan)
        judged, accepted = self._judge(state, seen)
        return choose(judging, judged, along), xp.where(judging, accepted, xp.nan)

    def _judge(self, state: State, seen: Any) -> tuple[State, Array]:
        """After a look at a candidate: accept it and look along the coordinates, or go half way."""
        xp, own = namespace(state.value), state.own
        first = ~xp.isfinite(state.value)
        noise = rounding(state.value, self.units)
        promised = ENOUGH * own.length * dot(own.gradient, own.direction)
        finite = xp.isfinite(seen.value) & all_finite(seen.gradient)
        kept = finite & (first | (seen.value >= state.value + promised - noise))
        trials = xp.where(kept, 0, own.trials + 1)
        point = where(kept, state.vector, state.point)
        gradient = where(kept, seen.gradient, own.gradient)
        slope = xp.where(kept, largest(gradient) / self.units, state.slope)
        length = xp.where(kept, 1.0, own.length * SHORTER)
        status = first_of(
            (first & ~finite, Status.NOT_FINITE),
            (trials > TRIALS, Status.FLAT),
        )
        index = xp.where(kept, 0, CANDIDATE)
        hessian = _secant(own.hessian, point - state.point, gradient - own.gradient)
        again = kept & ~first & (own.length == 1)
        before = own.decrement
        own = own._replace(gradient=gradient, index=index, length=length, trials=trials)
        new = State(
            vector=where(kept, _beside(point, index), point + length[:, None] * own.direction),
            point=point,
            value=xp.where(kept, seen.value, state.value),
            slope=slope,
            iterations=state.iterations + 1,
            status=status,
            own=own,
        )
        if not always(~again):
            kept_hessian = self._propose(new._replace(own=own._replace(hessian=hessian)))
            left = kept_hessian.own.decrement
            again &= (left <= SHRUNK * before) | (left <= settled(state.value))
            new = choose(again & (kept_hessian.status != Status.FLAT), kept_hessian, new)
        return new, xp.where(kept, seen.value, xp.nan)

    def _along(self, state: State, seen: Any) -> State:
        """After a look along a coordinate: the next one; after the last a step."""
        xp, own = namespace(state.value), state.own
        size = state.point.shape[-1]
        here = xp.arange(size) == own.index[:, None]
        row = (seen.gradient - own.gradient) / _width(state.point, own.index)[:, None]
        hessian = xp.where(here[:, :, None], row[:, None, :], own.hessian)
        index = own.index + 1
        own = own._replace(hessian=hessian, index=index)
        state = state._replace(
            vector=where(index < size, _beside(state.point, index), state.point),
            own=own,
        )
        last = index == size
        return state if always(~last) else choose(last, self._propose(state), state)

    def _propose(self, state: State) -> State:
        """The step of the whole Hessian, or the end where it promises nothing."""
        own = state.own
        resolution = settled(state.value)
        left = self._left(own, resolution)
        direction, decrement, sound = newton_direction(
            own.hessian, own.gradient, _widths(state.point), left
        )
        small = state.slope <= self.tolerance
        # Where the units put the tolerance below float64's rounding, the objective stops rising first.
        spent = decrement <= 8 * eps(state.value) * abs(state.value)
        status = first_of(
            (~sound, Status.FLAT),
            ((decrement <= resolution) & (small | spent), Status.CONVERGED),
        )
        own = own._replace(
            direction=direction, decrement=decrement, index=0 * own.index + CANDIDATE
        )
        return state._replace(vector=state.point + direction, status=status, own=own)

    def _left(self, own: Differences, resolution: Array) -> Array:
        """The coordinates along which there may be something to gain."""
        xp = namespace(resolution)
        curvature = abs(xp.diagonal(own.hessian, axis1=-2, axis2=-1))
        idle = (abs(own.gradient) <= resolution[:, None]) & (curvature <= resolution[:, None])
        return ~(idle & xp.asarray(self.unit_of_its_own))


def _secant(hessian: Array, step: Array, change: Array) -> Array:
    """A Hessian with what a step told of it (the BFGS formula; Nocedal & Wright 2006, section 6.1), where the
    curvature along the step is negative."""
    xp = namespace(hessian)
    pushed = apply(hessian, step)
    told, known = dot(step, change), dot(step, pushed)
    sound = (told < 0) & (known < 0)
    told, known = xp.where(sound, told, 1.0), xp.where(sound, known, 1.0)
    new = hessian - pushed[..., :, None] * pushed[..., None, :] / known[..., None, None]
    new = new + change[..., :, None] * change[..., None, :] / told[..., None, None]
    return where(sound, new, hessian)


def _width(point: Array, index: Array) -> Array:
    """How far a difference along a coordinate goes, for each start."""
    xp = namespace(point)
    here = xp.arange(point.shape[-1]) == index[:, None]
    return (_widths(point) * here).sum(-1)


def _widths(point: Array) -> Array:
    return WIDTH * (1.0 + abs(point))


def _beside(point: Array, index: Array) -> Array:
    """The point a little farther along a coordinate of its own, for each start."""
    here = namespace(point).arange(point.shape[-1]) == index[:, None]
    return point + _widths(point) * here


def newton_direction(
    hessian: Array, gradient: Array, widths: Array, left: Array, error: float = WIDTH
) -> tuple[Array, Array, Array]:
    """(step |H|^-1 g, decrement g' |H|^-1 g, whether the Hessian can be trusted), along the coordinates
    that are `left`. `error` is what the Hessian may be wrong by, relatively.
    Columns are scaled to unit curvature; directions without curvature are left alone,
    and not trusted."""
    xp = namespace(hessian)
    one = xp.eye(hessian.shape[-1], dtype=hessian.dtype)
    both = left[..., :, None] & left[..., None, :]
    hessian, gradient = xp.where(both, hessian, -one), xp.where(left, gradient, 0.0)
    hessian = -0.5 * (hessian + xp.swapaxes(hessian, -1, -2))
    finite = xp.isfinite(hessian).all((-2, -1))
    hessian = where(finite, hessian, xp.zeros_like(hessian))
    curvature = abs(xp.diagonal(hessian, axis1=-2, axis2=-1))
    bent = curvature > 0
    scale = xp.where(bent, 1 / xp.sqrt(xp.where(bent, curvature, 1.0)), 0.0)
    values, vectors = xp.linalg.eigh(hessian * scale[..., :, None] * scale[..., None, :])
    size = abs(values)
    flat = size <= FLAT * error * size.max(-1)[..., None]
    inverse = xp.where(flat, 0.0, 1 / xp.where(flat, 1.0, size))
    towards = apply(xp.swapaxes(vectors, -1, -2), scale * gradient)
    direction = scale * apply(vectors, inverse * towards)
    local = (widths < LOCAL * scale) | ~bent
    sound = finite & local.all(-1) & ~flat.any(-1) & bent.all(-1)
    return direction, (inverse * towards**2).sum(-1), sound
