"""MLE and MAP by quasi-Newton optimisation of the exact marginal likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pp_mlem.base.status import Status
from pp_mlem.estimate.loop import Lane, rounding
from pp_mlem.estimate.point import PointOptions, fit_point
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model
from pp_mlem.target.problem import Problem

MEMORY = 15
NO_VALUE = 1e100  # loss where the objective is not finite; its square still is


@dataclass(frozen=True)
class QuasiNewton:
    """optax's L-BFGS with a strong-Wolfe line search on the objective per observation."""

    problem: Problem
    units: float
    tolerance: float
    handover: float
    spare: int = 0
    evaluations: int = 1
    unit_free: bool = False

    def _loss(self, data: Any, fixed: Any) -> Any:
        def loss(vector: jax.Array) -> jax.Array:
            value = -self.problem.objective(vector, data, fixed) / self.units
            return jnp.where(jnp.isfinite(value), value, NO_VALUE)

        return loss

    def _solver(self) -> Any:
        return optax.lbfgs(
            memory_size=MEMORY,
            linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=30),
        )

    def begin(self, vector: jax.Array, data: Any, fixed: Any) -> Lane:
        value, gradient = jax.value_and_grad(self._loss(data, fixed))(vector)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & (value < NO_VALUE)
        slope = jnp.abs(gradient).max(initial=0.0)
        status = jnp.where(finite, int(Status.RUNNING), int(Status.NOT_FINITE))
        status = jnp.where(finite & (slope <= self.tolerance), int(Status.CONVERGED), status)
        return Lane(
            vector=vector,
            point=vector,
            value=-value * self.units,
            slope=slope,
            iterations=jnp.zeros((), int),
            status=status,
            own=(self._solver().init(vector), jnp.zeros((), int), jnp.zeros((), int)),
        )

    def step(self, lane: Lane, data: Any, fixed: Any) -> tuple[Lane, jax.Array, jax.Array]:
        loss = self._loss(data, fixed)
        solver = self._solver()
        state, flat, slow = lane.own
        value, gradient = optax.value_and_grad_from_state(loss)(lane.vector, state=state)
        updates, state = solver.update(
            gradient, state, lane.vector, value=value, grad=gradient, value_fn=loss
        )
        vector = optax.apply_updates(lane.vector, updates)
        new_value = optax.tree.get(state, "value")
        new_gradient = optax.tree.get(state, "grad")
        reached = -new_value * self.units
        slope = jnp.abs(new_gradient).max(initial=0.0)
        noise = rounding(lane.value, self.units)
        sound = jnp.isfinite(new_value) & jnp.all(jnp.isfinite(new_gradient))
        sound = sound & jnp.all(jnp.isfinite(vector)) & (reached >= lane.value - noise)
        gain = jnp.where(sound, reached - lane.value, 0.0)
        flat = jnp.where(gain <= noise, flat + 1, 0)
        slow = jnp.where(gain < self.handover, slow + 1, 0)
        status = jnp.where(
            sound & (slope <= self.tolerance),
            int(Status.CONVERGED),
            jnp.where(
                (flat >= 3) | (slow > self.spare) | ~sound,
                int(Status.FLAT),
                int(Status.RUNNING),
            ),
        )
        vector = jnp.where(sound, vector, lane.vector)
        value = jnp.where(sound, reached, lane.value)
        new = Lane(
            vector=vector,
            point=vector,
            value=value,
            slope=jnp.where(sound, slope, lane.slope),
            iterations=lane.iterations + 1,
            status=status,
            own=(state, flat, slow),
        )
        return new, value[None], vector[None]


def _fit(method: str, model: Model, objective: str, options: dict[str, Any]) -> PointFit:
    tol = options["tol"]

    def make(problem: Problem, units: float, handover: float, spare: int) -> QuasiNewton:
        return QuasiNewton(problem, units, tol, handover, spare=spare // 3)

    settings = PointOptions(method=method, objective=objective, **options)
    return fit_point(model, settings, make, key=("quasi-newton",))


def fit_mle(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    polish: bool = True,
    max_iter: int = 1000,
    tol: float = 1e-8,
    progress: bool | None = None,
    trace: bool = False,
    dtype: Any = None,
) -> PointFit:
    """Maximum likelihood: L-BFGS on the exact marginal log-likelihood, then Newton steps.

    Priors on parameters are dropped; their supports are kept. Arguments, result and errors as in
    `fit_em`; L-BFGS of Liu & Nocedal (1989), doi:10.1007/BF01589116.
    """
    options = {
        "starts": starts, "seed": seed, "init": init, "fixed": fixed or {}, "polish": polish,
        "max_iter": max_iter, "tol": tol, "progress": progress, "trace": trace, "dtype": dtype,
    }  # fmt: skip
    return _fit("MLE", model, "mle", options)


def fit_map(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    polish: bool = True,
    max_iter: int = 1000,
    tol: float = 1e-8,
    progress: bool | None = None,
    trace: bool = False,
    dtype: Any = None,
) -> PointFit:
    """Maximum a posteriori: the mode of log Z + log prior in the constrained space.

    No Jacobian is added, so the mode is that of the density as the program writes it; it changes
    when the program is rewritten in other coordinates. Arguments as in `fit_mle`.
    """
    options = {
        "starts": starts, "seed": seed, "init": init, "fixed": fixed or {}, "polish": polish,
        "max_iter": max_iter, "tol": tol, "progress": progress, "trace": trace, "dtype": dtype,
    }  # fmt: skip
    return _fit("MAP", model, "map", options)
