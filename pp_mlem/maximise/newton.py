"""Safeguarded Newton ascent on a smooth function of a vector; never lowers the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

STRAIGHT = 1e-8


class NewtonResult(NamedTuple):
    """The last point, its value and gradient, and the number of steps taken."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    steps: jax.Array


def ascent_direction(gradient: jax.Array, hessian: jax.Array) -> jax.Array:
    """|H|^-1 g with columns scaled to unit curvature; flat directions are left alone,
    unless the function is straight in all of them."""
    curvature = jnp.abs(jnp.diagonal(hessian))
    scale = jnp.where(curvature > 0, jax.lax.rsqrt(jnp.where(curvature > 0, curvature, 1.0)), 1.0)
    scaled = -hessian * scale[:, None] * scale[None, :]
    sound = jnp.all(jnp.isfinite(scaled))
    scaled = jnp.where(sound, scaled, jnp.eye(len(gradient), dtype=gradient.dtype))
    values, vectors = jnp.linalg.eigh(scaled)
    size = jnp.abs(values)
    limit = 50 * jnp.finfo(gradient.dtype).eps * size.max()
    inverse = jnp.where(size > limit, 1.0 / jnp.where(size > limit, size, 1.0), 0.0)
    newton = scale * (vectors @ (inverse * (vectors.T @ (scale * gradient))))
    steepest = jnp.abs(gradient).max(initial=0.0)
    # A slope without curvature (saturated probabilities): follow the gradient.
    straight = curvature.max(initial=0.0) < STRAIGHT * steepest
    return jnp.where(straight, gradient / jnp.where(straight, steepest, 1.0), newton)


def newton_ascent(
    function: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    max_steps: int,
    gradient_tolerance: float | jax.Array = 0.0,
    halvings: int = 16,
) -> NewtonResult:
    """Maximise by Newton steps with modified curvature and backtracking (Nocedal & Wright 2006,
    sections 3.4 and 3.5, doi:10.1007/978-0-387-40065-5).

    Stops when the largest gradient entry is within tolerance, when the expected gain is below
    rounding, or when no step improves the value.
    """
    eps = jnp.finfo(start.dtype).eps
    infinity = jnp.full((), jnp.inf, start.dtype)

    def derivatives(point: jax.Array) -> tuple:
        def gradient_of(v: jax.Array) -> tuple:
            value, gradient = jax.value_and_grad(function)(v)
            return gradient, (value, gradient)

        hessian, (value, gradient) = jax.jacfwd(gradient_of, has_aux=True)(point)
        return value, gradient, hessian

    def condition(state: tuple) -> jax.Array:
        *_, steps, going = state
        return going & (steps <= max_steps)

    def body(state: tuple) -> tuple:
        """Judge the candidate that the last step proposed, then propose the next."""
        candidate, point, value, gradient, steps, _ = state
        new_value, new_gradient, hessian = derivatives(candidate)
        rounding = 4 * eps * jnp.abs(value)
        smaller = jnp.abs(new_gradient).max() < 0.5 * jnp.abs(gradient).max()
        better = (new_value > value + rounding) | ((new_value >= value - rounding) & smaller)
        better = (better | ~jnp.isfinite(value)) & jnp.all(jnp.isfinite(new_gradient))
        better = better & jnp.isfinite(new_value)
        point = jnp.where(better, candidate, point)
        value = jnp.where(better, new_value, value)
        gradient = jnp.where(better, new_gradient, gradient)
        going = better & (jnp.abs(gradient).max() > gradient_tolerance)
        direction = ascent_direction(gradient, hessian)
        slope = gradient @ direction

        def too_long(search: tuple) -> jax.Array:
            _, trial, count, t = search
            enough = trial >= value + 1e-4 * t * slope - 4 * eps * jnp.abs(value)
            return going & ~(enough & jnp.isfinite(trial)) & (count < halvings)

        def shorten(search: tuple) -> tuple:
            _, _, count, t = search
            t = jnp.where(count == 0, 1.0, t * 0.4)
            proposed = point + t * direction
            return proposed, function(proposed), count + 1, t

        begin = (point, -infinity, 0, jnp.ones_like(value))
        candidate, *_ = jax.lax.while_loop(too_long, shorten, begin)
        return candidate, point, value, gradient, steps + 1, going

    gradient = jnp.full_like(start, jnp.inf)
    state = (start, start, -infinity, gradient, jnp.zeros((), int), jnp.asarray(True))
    _, point, value, gradient, steps, _ = jax.lax.while_loop(condition, body, state)
    return NewtonResult(point, value, gradient, steps - 1)
