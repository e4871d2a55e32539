"""The finish for large problems: Broyden steps on EM's fixed point, one sweep over the data each.

Jamshidian & Jennrich (1997), method QN1, doi:10.1111/1467-9868.00083: the EM step M(theta) - theta is
the gradient preconditioned by the complete-data information; its root is found by a quasi-Newton
method that starts as EM itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.maximise.newton import NewtonResult, settled

EMStep = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def quasi_newton_em(
    em_step: EMStep,
    start: jax.Array,
    max_steps: int,
    tolerance: float,
    noise: Any,
    enough: float = 0.0,
) -> NewtonResult:
    """Maximise by safeguarded Broyden steps; never lowers the objective beyond `noise(value)`.

    `em_step(point)` is (next point of EM, objective, gradient). A step that would lower the
    objective is replaced by EM's own, and what was learnt of the curvature is forgotten. The
    decrement is that of EM's own step, gradient times step, which no units enter; below `enough`
    nats it does not count.
    """
    identity = jnp.eye(start.shape[0], dtype=start.dtype)

    def going(state: tuple) -> jax.Array:
        _, residual, _, _, value, gradient, steps, stalled = state
        large = jnp.abs(gradient).max(initial=0.0) > tolerance
        large = large | (gradient @ residual > jnp.maximum(settled(value), enough))
        return large & (steps < max_steps) & (stalled < 3)

    def body(state: tuple) -> tuple:
        point, residual, inverse, fresh, value, gradient, steps, stalled = state
        candidate = point - inverse @ residual
        following, new_value, new_gradient = em_step(candidate)
        new_residual = following - candidate
        finite = jnp.isfinite(new_value) & jnp.all(jnp.isfinite(new_residual))
        smaller = jnp.abs(new_gradient).max() < jnp.abs(gradient).max()
        slack = noise(value)
        better = finite & ((new_value > value + slack) | ((new_value >= value - slack) & smaller))
        moved, change = candidate - point, new_residual - residual
        towards = inverse @ change
        scale = moved @ towards
        safe = finite & (jnp.abs(scale) > 1e-12 * jnp.sum(moved**2))
        update = jnp.outer(moved - towards, moved @ inverse) / jnp.where(safe, scale, 1.0)
        learnt = jnp.where(safe, inverse + update, inverse)
        take = better & safe
        inverse = jnp.where(take, learnt, -identity)
        stalled = jnp.where(better, 0, jnp.where(fresh, 3, stalled + 1))
        return (
            jnp.where(better, candidate, point),
            jnp.where(better, new_residual, residual),
            inverse,
            ~take,
            jnp.where(better, new_value, value),
            jnp.where(better, new_gradient, gradient),
            steps + 1,
            stalled,
        )

    following, value, gradient = em_step(start)
    zero = jnp.zeros((), int)
    state = (start, following - start, -identity, jnp.asarray(True), value, gradient, zero, zero)
    point, residual, _, _, value, gradient, steps, _ = jax.lax.while_loop(going, body, state)
    return NewtonResult(point, value, gradient, steps, gradient @ residual, settled(value))
