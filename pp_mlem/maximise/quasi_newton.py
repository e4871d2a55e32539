"""Quasi-Newton steps on top of EM's own, one sweep over the data each.

Jamshidian & Jennrich (1997), method QN2, doi:10.1111/1467-9868.00083: EM's step M(theta) - theta is the
gradient preconditioned by the complete-data information. What it lacks of a Newton step is learnt from
the gradients and steps along the way, as BFGS learns an inverse Hessian; the first step is EM's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.base.arrays import Array, all_finite, apply, dot, largest, namespace, where
from pp_mlem.maximise.newton import NewtonResult, settled

EMStep = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
SHORTER, TRIALS = 0.3, 3  # factor of a step that failed, and how often it is shortened
ENOUGH = 1e-4  # of the gain that the slope promises, by which a step is accepted
CURVED = 1e-12  # least curvature that is learnt from, as a cosine


class QuasiNewton(NamedTuple):
    """The last accepted point, the objective and its gradient there, and EM's step from it (`residual`);
    the `correction` that makes of a gradient what EM's step lacks (size, size), and whether it is still
    zero (`fresh`); how far the next look goes along the direction, how many failed in a row, and how many
    there were. Of one start, or of several along a leading axis."""

    point: Array
    value: Array
    gradient: Array
    residual: Array
    correction: Array
    fresh: Array
    length: Array
    trials: Array
    steps: Array

    @property
    def direction(self) -> Array:
        return self.residual + apply(self.correction, self.gradient)

    @property
    def candidate(self) -> Array:
        """Where to look next."""
        return self.point + self.length[..., None] * self.direction

    def promised(self, enough: float = 0.0) -> Array:
        """Whether EM's own step, or the one that was learnt, still promises more than rounding, or than
        `enough` nats."""
        xp = namespace(self.value)
        gain = dot(self.gradient, xp.stack([self.residual, self.direction])).max(0)
        return gain > xp.maximum(settled(self.value), enough)

    @property
    def stuck(self) -> Array:
        """Whether not even EM's own step leads on."""
        return self.fresh & (self.trials > TRIALS)


def begin(point: Array, following: Array, value: Array, gradient: Array) -> QuasiNewton:
    """From a point and EM's step from there."""
    xp = namespace(point)
    zero = xp.zeros(value.shape, dtype=int)
    correction = xp.zeros((*point.shape, point.shape[-1]), dtype=point.dtype)
    return QuasiNewton(
        point, value, gradient, following - point, correction, zero == 0, xp.ones_like(value), zero, zero
    )  # fmt: skip


def learn(
    state: QuasiNewton, following: Array, value: Array, gradient: Array, slack: Any
) -> tuple[QuasiNewton, Array]:
    """The state after a look at `state.candidate`, where EM's step leads to `following`; and whether
    the candidate was accepted.

    A step that would lower the objective by more than `slack` is shortened, and in the end replaced by
    EM's own: what was learnt of the curvature is then forgotten.
    """
    xp = namespace(state.point)
    candidate = state.candidate
    residual = following - candidate
    finite = xp.isfinite(value) & all_finite(residual) & all_finite(gradient)
    promised = ENOUGH * state.length * dot(state.gradient, state.direction)
    rises = value > state.value + xp.maximum(slack, promised)
    level = (value >= state.value - slack) & (largest(gradient) < largest(state.gradient))
    better = finite & (rises | level)
    correction, learnt = _corrected(state, candidate, residual, gradient, better)
    new_gradient = where(better, gradient, state.gradient)
    new_residual = where(better, residual, state.residual)
    ascends = dot(new_gradient, new_residual + apply(correction, new_gradient)) > 0
    trials = xp.where(better, 0, state.trials + 1)
    forgotten = (~better & ~state.fresh & (trials > TRIALS)) | ~ascends
    new = QuasiNewton(
        point=where(better, candidate, state.point),
        value=xp.where(better, value, state.value),
        gradient=new_gradient,
        residual=new_residual,
        correction=where(forgotten, xp.zeros_like(correction), correction),
        fresh=forgotten | (state.fresh & ~learnt),
        length=xp.where(better | forgotten, 1.0, state.length * SHORTER),
        trials=xp.where(forgotten & ~state.fresh, 0, trials),
        steps=state.steps + 1,
    )
    return new, better


def _corrected(
    state: QuasiNewton, candidate: Array, residual: Array, gradient: Array, better: Array
) -> tuple[Array, Array]:
    """The correction after one more pair of gradients and EM steps, and whether anything was learnt: the
    BFGS update of the whole inverse, of which EM's part changes by itself."""
    xp = namespace(state.point)
    moved, fallen = candidate - state.point, state.gradient - gradient
    towards = state.residual - residual + apply(state.correction, fallen)
    curvature = dot(fallen, moved)
    size = xp.sqrt(dot(fallen, fallen) * dot(moved, moved))
    curved = better & (curvature > CURVED * size)
    one = xp.ones_like(curvature)
    scale = xp.where(curved, curvature, one)
    along = (1.0 + dot(fallen, towards) / scale)[..., None, None] * _outer(moved, moved)
    across = _outer(towards, moved)
    update = (along - across - xp.swapaxes(across, -1, -2)) / scale[..., None, None]
    return where(curved, state.correction + update, state.correction), curved


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def quasi_newton_em(
    em_step: EMStep,
    start: jax.Array,
    max_steps: int,
    tolerance: float,
    noise: Callable[[jax.Array], Any],
    enough: float = 0.0,
) -> NewtonResult:
    """Maximise by safeguarded quasi-Newton steps; never lowers the objective beyond `noise(value)`.

    `em_step(point)` is (next point of EM, objective, gradient). The decrement is that of EM's own
    step, gradient times step, which no units enter; below `enough` nats it does not count.
    """

    def going(state: QuasiNewton) -> jax.Array:
        large = jnp.abs(state.gradient).max(initial=0.0) > tolerance
        return (large | state.promised(enough)) & (state.steps < max_steps) & ~state.stuck

    def body(state: QuasiNewton) -> QuasiNewton:
        following, value, gradient = em_step(state.candidate)
        return learn(state, following, value, gradient, noise(state.value))[0]

    state = jax.lax.while_loop(going, body, begin(start, *em_step(start)))
    decrement = state.gradient @ state.residual
    return NewtonResult(
        state.point, state.value, state.gradient, state.steps, decrement, settled(state.value)
    )
