"""Safeguarded Newton ascent on a smooth function of a vector; never lowers the function.

It works in coordinates of its own, u with v = point + basis u, in which the last Hessian was the
identity. So neither the units of a coordinate nor an offset of a covariate changes the path: columns
whose correlation differs from one by less than rounding (an intercept beside a covariate of 1e9)
are told apart on the second look, where their difference is a coordinate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.base.arrays import Array, eps, namespace

STRAIGHT = 1e-12
AMPLIFIED = 1e13  # longest column of the basis, in units of the coordinates' own curvature
AGAIN = 2  # times that Newton looks again from where it stands when a step did not help
NOISE = 100.0  # curvature of a direction, in units of what rounding makes of its length
FEW = 25  # halvings of a step whose length the value has set
STRAIGHT_GAIN = 0.1  # of the value, by one step along coordinates without curvature
COARSEST = 1e-4  # nats: where rounding hides more than that there is no telling a maximum
STRETCHED = 1e5  # beyond it a direction counts as flat unless moving along it gains


Function = Callable[[jax.Array], jax.Array]


class NewtonResult(NamedTuple):
    """The last point, its value and gradient, the number of steps taken, and the decrement
    g' |H|^-1 g: twice the gain in nats that the curvature there still promises. Within
    `resolution`, what numbers of this precision can tell apart, it is zero."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    steps: jax.Array
    decrement: jax.Array
    resolution: jax.Array


class Frame(NamedTuple):
    """Coordinates: columns of `basis` as directions, `scale` the first look's own scales."""

    basis: jax.Array
    scale: jax.Array
    looked: jax.Array


class _Advice(NamedTuple):
    direction: jax.Array
    decrement: jax.Array
    frame: Frame
    kinked: jax.Array  # coordinates that have a slope and no curvature
    look: jax.Array  # some direction is not resolved yet: look again from the new frame


def _advise(frame: Frame, gradient: jax.Array, hessian: jax.Array, rounding: jax.Array) -> _Advice:
    """|H|^-1 g with columns scaled to unit curvature; flat directions are left alone, unless the
    function is straight in all of them. `gradient` and `hessian` are in the frame's coordinates.
    Where no curvature can be had, the gradient alone is followed, and nothing is known to be near."""
    eps = jnp.finfo(gradient.dtype).eps
    known = jnp.all(jnp.isfinite(hessian))
    hessian = jnp.where(known, hessian, 0.0)
    curvature = jnp.abs(jnp.diagonal(hessian))
    # A long column turns the rounding of the numbers that it moves into curvature: columns of a
    # design that are exactly collinear have no more than that, and stay where they are.
    reach = jnp.abs(frame.basis / frame.scale[:, None]).max(0, initial=0.0)
    bent = curvature > jnp.where(frame.looked, NOISE * (eps * reach) ** 2, 0.0)
    # Coordinates of a sum of absolute values: their step is one that would gain a tenth of the value
    # if the slope went on, and is halved as needed.
    kinked = known & ~frame.looked & (curvature == 0) & (jnp.abs(gradient) > rounding)
    gain = STRAIGHT_GAIN * (1.0 + rounding / (4 * eps))
    curvature = jnp.where(kinked, gradient**2 / gain, curvature)
    hessian = hessian - jnp.diag(jnp.where(kinked, curvature, 0.0))
    bent = bent | kinked
    gradient = jnp.where(bent | ~known, gradient, 0.0)
    hessian = jnp.where(bent[:, None] & bent[None, :], hessian, 0.0)
    scale = jnp.where(bent, jax.lax.rsqrt(jnp.where(bent, curvature, 1.0)), 1.0)
    scaled = -hessian * scale[:, None] * scale[None, :]
    sound = jnp.all(jnp.isfinite(scaled))
    scaled = jnp.where(sound, scaled, jnp.eye(len(gradient), dtype=gradient.dtype))
    values, vectors = jnp.linalg.eigh(scaled)
    size = jnp.abs(values)
    flat = size <= 50 * eps * size.max()
    inverse = jnp.where(flat, 0.0, 1.0 / jnp.where(flat, 1.0, size))
    towards = vectors.T @ (scale * gradient)
    gains = inverse * towards**2
    own = jnp.where(frame.looked, frame.scale, scale)
    columns = frame.basis @ (scale[:, None] * vectors)
    stretch = jnp.abs(columns / own[:, None]).max(0)
    # What looked flat at first is moved along only for a gain above rounding: softmax has one
    # direction too many, and its curvature is noise.
    moved = ~flat & ((stretch < STRETCHED) | (gains > rounding))
    direction = columns @ jnp.where(moved, inverse * towards, 0.0)
    length = jax.lax.rsqrt(jnp.maximum(size, eps * size.max()))
    length = jnp.minimum(length, AMPLIFIED / jnp.maximum(stretch, 1.0))
    following = Frame(columns * jnp.where(sound, length, 1.0), own, jnp.asarray(True))
    following = jax.tree.map(lambda a, b: jnp.where(sound, a, b), following, frame)
    # A slope without curvature (saturated probabilities): follow the gradient.
    steepest = jnp.abs(gradient).max(initial=0.0)
    straight = ~frame.looked & (curvature.max(initial=0.0) < STRAIGHT * steepest)
    straight = straight | ~known
    slope = frame.basis @ (gradient / jnp.where(steepest > 0, steepest, 1.0))
    return _Advice(
        jnp.where(straight, slope, direction),
        jnp.where(straight, jnp.inf, jnp.where(moved, gains, 0.0).sum()),
        jax.tree.map(lambda a, b: jnp.where(straight, a, b), frame, following),
        kinked,
        sound & ~straight & ~frame.looked & flat.any(),
    )


class Look(NamedTuple):
    """What Newton sees at a candidate: value and gradient, and gradient and Hessian along the basis."""

    value: jax.Array
    gradient: jax.Array
    inside: jax.Array
    hessian: jax.Array


class NewtonState(NamedTuple):
    """`candidate` is where to look next; `point`, `value`, `gradient` and `decrement` are those of the
    last accepted point, `grain` what rounding of its coordinates makes of the value; `frame` the
    coordinates; `kinked` those that were seen with a slope and no curvature. `again` counts down the
    looks that rounding was to blame for, `looking` says that this is one."""

    candidate: jax.Array
    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    decrement: jax.Array
    grain: jax.Array
    frame: Frame
    kinked: jax.Array
    steps: jax.Array
    again: jax.Array
    looking: jax.Array
    going: jax.Array


def begin(start: Array) -> NewtonState:
    xp, dtype = namespace(start), start.dtype
    no, yes, infinity = xp.asarray(False), xp.asarray(True), xp.asarray(xp.inf, dtype=dtype)
    frame = Frame(xp.eye(start.shape[0], dtype=dtype), xp.ones_like(start), no)
    return NewtonState(
        candidate=start, point=start, value=-infinity, gradient=xp.full_like(start, xp.inf),
        decrement=infinity, grain=xp.zeros_like(infinity), frame=frame,
        kinked=xp.zeros_like(start, dtype=bool), steps=xp.asarray(0), again=xp.asarray(AGAIN),
        looking=no, going=yes,
    )  # fmt: skip


def look(function: Function, state: NewtonState) -> Look:
    """Derivatives at the candidate. The gradient along the basis is that of the value, row by row:
    entries of the gradient that cancel need not have been computed from the same rounded
    residuals."""
    basis = state.frame.basis

    def gradient_of(u: jax.Array) -> tuple:
        value, gradient = jax.value_and_grad(function)(state.candidate + (basis * u).sum(1))
        return ((basis * gradient[:, None]).sum(0), value), (value, gradient)

    slopes, (value, gradient) = jax.jacfwd(gradient_of, has_aux=True)(
        jnp.zeros_like(state.candidate)
    )
    hessian, inside = slopes
    return Look(value, gradient, inside, hessian)


def step(
    function: Function,
    state: NewtonState,
    seen: Look,
    gradient_tolerance: float | jax.Array = 0.0,
    halvings: int = 60,
) -> NewtonState:
    """Judge the candidate that the last step proposed, then propose the next by a line search."""
    eps = jnp.finfo(state.point.dtype).eps
    advice = _advise(state.frame, seen.inside, seen.hessian, 4 * eps * jnp.abs(seen.value))
    # What rounding does to a sum of terms as large as the coordinates themselves (an intercept
    # of -1e9 beside a covariate of 1e9) reaches the value row by row.
    grain = eps * jnp.sqrt(jnp.sum((state.candidate / advice.frame.scale) ** 2))
    rounding = 4 * eps * jnp.abs(state.value) + grain
    better = _is_better(state, seen, advice.decrement, rounding)
    point = jnp.where(better, state.candidate, state.point)
    value = jnp.where(better, seen.value, state.value)
    gradient = jnp.where(better, seen.gradient, state.gradient)
    decrement = jnp.where(better, advice.decrement, state.decrement)
    steep = jnp.abs(gradient).max() > gradient_tolerance
    unsettled = decrement > settled(value) + grain
    # Rounding in the coordinates of the last look, not the function, may have been to blame.
    failed = ~better & unsettled & (state.again > 0) & jnp.isfinite(value)
    again = (better & advice.look) | failed
    going = (better & (steep | unsettled)) | again
    search = _Search(advice, value, gradient @ advice.direction, grain, going & ~again)
    candidate = _line_search(function, point, search, halvings)
    return NewtonState(
        candidate, point, value, gradient, decrement, grain, advice.frame,
        state.kinked | advice.kinked, state.steps + jnp.where(again, 0, 1),
        state.again - jnp.where(failed, 1, 0), again, going,
    )  # fmt: skip


def _is_better(
    state: NewtonState, seen: Look, decrement: jax.Array, rounding: jax.Array
) -> jax.Array:
    smaller = jnp.abs(seen.gradient).max() < 0.5 * jnp.abs(state.gradient).max()
    smaller = smaller | (decrement < 0.25 * state.decrement)
    rises = seen.value > state.value + rounding
    better = rises | ((seen.value >= state.value - rounding) & smaller)
    better = (better | ~jnp.isfinite(state.value)) & jnp.all(jnp.isfinite(seen.gradient))
    return (better | state.looking) & jnp.isfinite(seen.value)


class _Search(NamedTuple):
    """Where to search a point: along the advice, from a value in nats with that slope and what rounding
    of the coordinates makes of it; whether one is wanted at all."""

    advice: _Advice
    value: jax.Array
    slope: jax.Array
    grain: jax.Array
    wanted: jax.Array


def _line_search(function: Function, point: jax.Array, search: _Search, halvings: int) -> jax.Array:
    """The first point along the direction that gains enough; the point itself where none is wanted."""
    value, kinked = search.value, search.advice.kinked
    slack = 4 * jnp.finfo(point.dtype).eps * jnp.abs(value)

    def too_long(state: tuple) -> jax.Array:
        _, trial, count, t = state
        enough = trial >= value + 1e-4 * t * search.slope - slack - search.grain
        left = count < jnp.where(kinked.any(), FEW, halvings)
        return search.wanted & left & ~(enough & jnp.isfinite(trial))

    def shorten(state: tuple) -> tuple:
        _, _, count, t = state
        t = jnp.where(count == 0, 1.0, t * 0.4)
        proposed = point + t * search.advice.direction
        return proposed, function(proposed), count + 1, t

    start = (point, jnp.full_like(value, -jnp.inf), 0, jnp.ones_like(value))
    candidate, *_ = jax.lax.while_loop(too_long, shorten, start)
    return candidate


def result(state: NewtonState, gradient_tolerance: float | jax.Array = 0.0) -> NewtonResult:
    """What Newton ended with."""
    # A closer look leaves out what has no curvature; a slope that stays there is promised gain.
    slope_left = (state.kinked & (jnp.abs(state.gradient) > gradient_tolerance)).any()
    missed = STRAIGHT_GAIN * (1.0 + jnp.abs(state.value))
    decrement = jnp.where(slope_left, state.decrement + missed, state.decrement)
    resolution = settled(state.value) + jnp.minimum(8 * state.grain, COARSEST)
    return NewtonResult(
        state.point, state.value, state.gradient, state.steps - 1, decrement, resolution
    )


def newton_ascent(
    function: Function,
    start: jax.Array,
    max_steps: int | jax.Array,
    gradient_tolerance: float | jax.Array = 0.0,
    halvings: int = 60,
) -> NewtonResult:
    """Maximise by Newton steps with modified curvature and backtracking (Nocedal & Wright 2006,
    sections 3.4 and 3.5, doi:10.1007/978-0-387-40065-5).

    Stops when the largest gradient entry is within tolerance and the Newton decrement below
    rounding, when the expected gain is below rounding, or when no step improves the value. As many
    halvings as there are: where a scale is far too large for the data the curvature is almost
    nothing, and the first step far too long.
    """

    def condition(state: NewtonState) -> jax.Array:
        return state.going & (state.steps <= max_steps)

    def body(state: NewtonState) -> NewtonState:
        return step(function, state, look(function, state), gradient_tolerance, halvings)

    state = jax.lax.while_loop(condition, body, begin(start))
    return result(state, gradient_tolerance)


def settled(value: Array) -> Array:
    """The decrement, in nats, below which an objective of this size is at its maximum: the error
    left is a hundred-thousandth of a standard error, or less than the objective's own rounding."""
    return namespace(value).maximum(1e-10, 8 * eps(value) * abs(value))
