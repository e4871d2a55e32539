"""Broyden steps on EM's fixed point, one sweep over the data each.

Jamshidian & Jennrich (1997), method QN1, doi:10.1111/1467-9868.00083: the EM step M(theta) - theta is
the gradient preconditioned by the complete-data information; its root is found by a quasi-Newton
method that starts as EM itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.base.arrays import Array, all_finite, apply, dot, largest, namespace, where
from pp_mlem.maximise.newton import NewtonResult, settled

EMStep = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
PATIENCE = 3  # steps that may fail before there is no going on


class Broyden(NamedTuple):
    """The last accepted point, the objective and its gradient there, EM's step from it (`residual`), what
    is known of the inverse Jacobian of that step, and whether nothing was learnt yet (`fresh`); of one
    start, or of several along a leading axis."""

    point: Array
    value: Array
    gradient: Array
    residual: Array
    inverse: Array
    fresh: Array
    stalled: Array
    steps: Array

    @property
    def candidate(self) -> Array:
        """Where to look next."""
        return self.point - apply(self.inverse, self.residual)

    def promised(self, enough: float = 0.0) -> Array:
        """Whether EM's own step still promises more than rounding, or than `enough` nats."""
        xp = namespace(self.value)
        return dot(self.gradient, self.residual) > xp.maximum(settled(self.value), enough)

    @property
    def stuck(self) -> Array:
        return self.stalled >= PATIENCE


def begin(point: Array, following: Array, value: Array, gradient: Array) -> Broyden:
    """From a point and EM's step from there; the first step is EM's own."""
    xp = namespace(point)
    size = point.shape[-1]
    identity = xp.broadcast_to(xp.eye(size, dtype=point.dtype), (*point.shape, size))
    zero = xp.zeros(value.shape, dtype=int)
    return Broyden(point, value, gradient, following - point, -identity, zero == 0, zero, zero)


def learn(
    state: Broyden, following: Array, value: Array, gradient: Array, slack: Any
) -> tuple[Broyden, Array]:
    """The state after a look at `state.candidate`, where EM's step leads to `following`; and whether
    the candidate was accepted.

    A step that would lower the objective by more than `slack` is replaced by EM's own, and what was
    learnt of the curvature is forgotten.
    """
    xp = namespace(state.point)
    candidate = state.candidate
    residual = following - candidate
    finite = xp.isfinite(value) & all_finite(residual)
    smaller = largest(gradient) < largest(state.gradient)
    rises, level = value > state.value + slack, value >= state.value - slack
    better = finite & (rises | (level & smaller))
    moved, change = candidate - state.point, residual - state.residual
    towards = apply(state.inverse, change)
    scale = dot(moved, towards)
    safe = finite & (abs(scale) > 1e-12 * dot(moved, moved))
    across = apply(xp.swapaxes(state.inverse, -1, -2), moved)
    update = (moved - towards)[..., :, None] * across[..., None, :]
    update = update / where(safe, scale, xp.ones_like(scale))[..., None, None]
    take = better & safe
    identity = xp.eye(candidate.shape[-1], dtype=candidate.dtype)
    new = Broyden(
        point=where(better, candidate, state.point),
        value=where(better, value, state.value),
        gradient=where(better, gradient, state.gradient),
        residual=where(better, residual, state.residual),
        inverse=where(take, state.inverse + update, -identity),
        fresh=~take,
        stalled=xp.where(better, 0, xp.where(state.fresh, PATIENCE, state.stalled + 1)),
        steps=state.steps + 1,
    )
    return new, better


def quasi_newton_em(
    em_step: EMStep,
    start: jax.Array,
    max_steps: int,
    tolerance: float,
    noise: Callable[[jax.Array], Any],
    enough: float = 0.0,
) -> NewtonResult:
    """Maximise by safeguarded Broyden steps; never lowers the objective beyond `noise(value)`.

    `em_step(point)` is (next point of EM, objective, gradient). The decrement is that of EM's own
    step, gradient times step, which no units enter; below `enough` nats it does not count.
    """

    def going(state: Broyden) -> jax.Array:
        large = jnp.abs(state.gradient).max(initial=0.0) > tolerance
        return (large | state.promised(enough)) & (state.steps < max_steps) & ~state.stuck

    def body(state: Broyden) -> Broyden:
        following, value, gradient = em_step(state.candidate)
        return learn(state, following, value, gradient, noise(state.value))[0]

    state = jax.lax.while_loop(going, body, begin(start, *em_step(start)))
    decrement = state.gradient @ state.residual
    return NewtonResult(
        state.point, state.value, state.gradient, state.steps, decrement, settled(state.value)
    )
