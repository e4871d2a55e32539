"""Safeguarded Newton ascent on a smooth function of a vector; never lowers the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class NewtonResult(NamedTuple):
    """The last point, its value and gradient, and the number of steps taken."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    steps: jax.Array


def ascent_direction(gradient: jax.Array, hessian: jax.Array) -> jax.Array:
    """|H|^-1 g with columns scaled to unit curvature; flat directions are left alone."""
    curvature = jnp.abs(jnp.diagonal(hessian))
    scale = jnp.where(curvature > 0, jax.lax.rsqrt(jnp.where(curvature > 0, curvature, 1.0)), 1.0)
    scaled = -hessian * scale[:, None] * scale[None, :]
    sound = jnp.all(jnp.isfinite(scaled))
    scaled = jnp.where(sound, scaled, jnp.eye(len(gradient), dtype=gradient.dtype))
    values, vectors = jnp.linalg.eigh(scaled)
    size = jnp.abs(values)
    limit = 50 * jnp.finfo(gradient.dtype).eps * size.max()
    inverse = jnp.where(size > limit, 1.0 / jnp.where(size > limit, size, 1.0), 0.0)
    return scale * (vectors @ (inverse * (vectors.T @ (scale * gradient))))


def hessian_of(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Hessian by forward over reverse differentiation."""
    return jax.jacfwd(jax.grad(function))


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
    value_and_gradient = jax.value_and_grad(function)
    hessian = hessian_of(function)
    eps = jnp.finfo(start.dtype).eps

    def condition(state: tuple) -> jax.Array:
        _, _, gradient, steps, going = state
        return going & (steps < max_steps) & (jnp.abs(gradient).max() > gradient_tolerance)

    def body(state: tuple) -> tuple:
        point, value, gradient, steps, _ = state
        direction = ascent_direction(gradient, hessian(point))
        slope = gradient @ direction

        def too_long(search: tuple) -> jax.Array:
            _, trial, count, t = search
            enough = trial >= value + 1e-4 * t * slope - 4 * eps * jnp.abs(value)
            return ~(enough & jnp.isfinite(trial)) & (count < halvings)

        def shorten(search: tuple) -> tuple:
            _, _, count, t = search
            t = jnp.where(count == 0, 1.0, t * 0.4)
            candidate = point + t * direction
            return candidate, function(candidate), count + 1, t

        begin = (point, jnp.full_like(value, -jnp.inf), 0, jnp.ones_like(value))
        candidate, trial, _, _ = jax.lax.while_loop(too_long, shorten, begin)
        fresh_value, fresh_gradient = value_and_gradient(candidate)
        rounding = 4 * eps * jnp.abs(value)
        smaller = jnp.abs(fresh_gradient).max() < 0.5 * jnp.abs(gradient).max()
        better = (fresh_value > value + rounding) | ((fresh_value >= value - rounding) & smaller)
        better = better & jnp.all(jnp.isfinite(fresh_gradient))
        return (
            jnp.where(better, candidate, point),
            jnp.where(better, fresh_value, value),
            jnp.where(better, fresh_gradient, gradient),
            steps + 1,
            better,
        )

    value, gradient = value_and_gradient(start)
    going = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    point, value, gradient, steps, _ = jax.lax.while_loop(
        condition, body, (start, value, gradient, jnp.zeros((), int), going)
    )
    return NewtonResult(point, value, gradient, steps)
