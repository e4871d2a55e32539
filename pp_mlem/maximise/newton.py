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

STRAIGHT = 1e-12
AMPLIFIED = 1e13  # longest column of the basis, in units of the coordinates' own curvature
AGAIN = 2  # times that Newton looks again from where it stands when a step did not help
NOISE = 100.0  # curvature of a direction, in units of what rounding makes of its length
FEW = 25  # halvings of a step whose length the value has set
STRAIGHT_GAIN = 0.1  # of the value, by one step along coordinates without curvature
COARSEST = 1e-4  # nats: where rounding hides more than that there is no telling a maximum
STRETCHED = 1e5  # beyond it a direction counts as flat unless moving along it gains


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


class _Frame(NamedTuple):
    """Coordinates: columns of `basis` as directions, `scale` the first look's own scales."""

    basis: jax.Array
    scale: jax.Array
    looked: jax.Array


class _Advice(NamedTuple):
    direction: jax.Array
    decrement: jax.Array
    frame: _Frame
    kinked: jax.Array  # coordinates that have a slope and no curvature
    look: jax.Array  # some direction is not resolved yet: look again from the new frame


def _advise(frame: _Frame, gradient: jax.Array, hessian: jax.Array, rounding: jax.Array) -> _Advice:
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
    following = _Frame(columns * jnp.where(sound, length, 1.0), own, jnp.asarray(True))
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


def newton_ascent(
    function: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    max_steps: int,
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
    eps = jnp.finfo(start.dtype).eps
    infinity = jnp.full((), jnp.inf, start.dtype)
    size = start.shape[0]

    def derivatives(point: jax.Array, basis: jax.Array) -> tuple:
        """Value, gradient, and gradient and Hessian along the basis. The gradient along it is that
        of the value, row by row: entries of the gradient that cancel need not have been computed
        from the same rounded residuals."""

        def gradient_of(u: jax.Array) -> tuple:
            value, gradient = jax.value_and_grad(function)(point + (basis * u).sum(1))
            return ((basis * gradient[:, None]).sum(0), value), (value, gradient)

        zero = jnp.zeros((size,), start.dtype)
        slopes, (value, gradient) = jax.jacfwd(gradient_of, has_aux=True)(zero)
        hessian, inside = slopes
        return value, gradient, inside, hessian

    def condition(state: tuple) -> jax.Array:
        *_, steps, _, _, going = state
        return going & (steps <= max_steps)

    def body(state: tuple) -> tuple:
        """Judge the candidate that the last step proposed, then propose the next."""
        candidate, point, value, gradient, decrement, _, frame, kinked, *counts = state
        steps, again, looking, _ = counts
        new_value, new_gradient, inside, hessian = derivatives(candidate, frame.basis)
        advice = _advise(frame, inside, hessian, 4 * eps * jnp.abs(new_value))
        # What rounding does to a sum of terms as large as the coordinates themselves (an intercept
        # of -1e9 beside a covariate of 1e9) reaches the value row by row.
        grain = eps * jnp.sqrt(jnp.sum((candidate / advice.frame.scale) ** 2))
        rounding = 4 * eps * jnp.abs(value) + grain
        smaller = jnp.abs(new_gradient).max() < 0.5 * jnp.abs(gradient).max()
        smaller = smaller | (advice.decrement < 0.25 * decrement)
        better = (new_value > value + rounding) | ((new_value >= value - rounding) & smaller)
        better = (better | ~jnp.isfinite(value)) & jnp.all(jnp.isfinite(new_gradient))
        better = (better | looking) & jnp.isfinite(new_value)
        point = jnp.where(better, candidate, point)
        value = jnp.where(better, new_value, value)
        gradient = jnp.where(better, new_gradient, gradient)
        decrement = jnp.where(better, advice.decrement, decrement)
        steep = jnp.abs(gradient).max() > gradient_tolerance
        unsettled = decrement > settled(value) + grain
        # Rounding in the coordinates of the last look, not the function, may have been to blame.
        failed = ~better & unsettled & (again > 0) & jnp.isfinite(value)
        look = (better & advice.look) | failed
        going = (better & (steep | unsettled)) | look
        direction = advice.direction
        slope = gradient @ direction

        def too_long(search: tuple) -> jax.Array:
            _, trial, count, t = search
            enough = trial >= value + 1e-4 * t * slope - 4 * eps * jnp.abs(value) - grain
            wanted = going & ~look & (count < jnp.where(advice.kinked.any(), FEW, halvings))
            return wanted & ~(enough & jnp.isfinite(trial))

        def shorten(search: tuple) -> tuple:
            _, _, count, t = search
            t = jnp.where(count == 0, 1.0, t * 0.4)
            proposed = point + t * direction
            return proposed, function(proposed), count + 1, t

        begin = (point, -infinity, 0, jnp.ones_like(value))
        candidate, *_ = jax.lax.while_loop(too_long, shorten, begin)
        steps = steps + jnp.where(look, 0, 1)
        again = again - jnp.where(failed, 1, 0)
        return (
            candidate, point, value, gradient, decrement, grain, advice.frame,
            kinked | advice.kinked, steps, again, look, going,
        )  # fmt: skip

    gradient = jnp.full_like(start, jnp.inf)
    frame = _Frame(jnp.eye(size, dtype=start.dtype), jnp.ones_like(start), jnp.asarray(False))
    state = (
        start, start, -infinity, gradient, infinity, jnp.zeros_like(infinity), frame,
        jnp.zeros_like(start, bool), jnp.zeros((), int), jnp.full((), AGAIN), jnp.asarray(False), jnp.asarray(True),
    )  # fmt: skip
    found = jax.lax.while_loop(condition, body, state)
    _, point, value, gradient, decrement, grain, _, kinked, steps, *_ = found
    # A closer look leaves out what has no curvature; a slope that stays there is promised gain.
    slope_left = (kinked & (jnp.abs(gradient) > gradient_tolerance)).any()
    decrement = jnp.where(slope_left, decrement + STRAIGHT_GAIN * (1.0 + jnp.abs(value)), decrement)
    resolution = settled(value) + jnp.minimum(8 * grain, COARSEST)
    return NewtonResult(point, value, gradient, steps - 1, decrement, resolution)


def settled(value: jax.Array) -> jax.Array:
    """The decrement, in nats, below which an objective of this size is at its maximum: the error
    left is a hundred-thousandth of a standard error, or less than the objective's own rounding."""
    return jnp.maximum(1e-10, 8 * jnp.finfo(value.dtype).eps * jnp.abs(value))
