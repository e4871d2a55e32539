"""What EM says about the data: complete, observed and missing information; EM's rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import lean_jit
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.uncertainty import (
    COLUMNS_AT_ONCE,
    information_function,
    light_jit,
    natural_scale,
)
from pp_mlem.model.model import Model
from pp_mlem.program.space import scalar_names
from pp_mlem.target.problem import Problem

WALK = 60
NUDGE = 1e-3


@dataclass(frozen=True)
class MissingInformation:
    """How much the hidden data would have told (Dempster, Laird & Rubin 1977; Meng & Rubin 1991,
    doi:10.1080/01621459.1991.10475130).

    Attributes:
        fractions: for each scalar 1 - (variance had the latents been seen) / (variance), on its
            natural scale: 0 where nothing is lost, near 1 where EM crawls.
        rate: spectral radius of I_complete^-1 I_missing, EM's global rate of convergence.
        rates: all its eigenvalues, the largest first.
        direction: the combination of unconstrained coordinates that converges slowest.
        observed_rate: ratio of successive steps of EM itself, begun beside the estimate.
        complete, observed: information matrices in unconstrained coordinates.
    """

    fractions: pd.Series
    rate: float
    rates: np.ndarray
    direction: np.ndarray
    observed_rate: float
    complete: np.ndarray
    observed: np.ndarray
    reason: str

    @property
    def missing(self) -> np.ndarray:
        return self.complete - self.observed

    def __repr__(self) -> str:
        if self.reason:
            return f"missing information: {self.reason}"
        speed = "" if self.rate <= 0 else (
            f" (a digit every {np.log(0.1) / np.log(self.rate):.0f} iterations)"
            if 0 < self.rate < 1 else " (EM does not converge along it)"
        )  # fmt: skip
        head = (
            f"EM's rate of convergence {self.rate:.6f}{speed}; observed {self.observed_rate:.6f}\n"
            "fraction of missing information"
        )
        return head + "\n" + self.fractions.to_string(float_format=written)


def complete_information_function(model: Model, problem: Problem) -> Any:
    """Jitted (vector, data, fixed) -> minus the Hessian of Q(. | vector) at `vector`."""

    def information(vector: jax.Array, data: Any, fixed: Any) -> jax.Array:
        _, statistics = problem.expectation(vector, data, fixed)
        gradient = jax.grad(lambda v: problem.expected(v, statistics, data, fixed))
        basis = jnp.eye(vector.shape[0], dtype=vector.dtype)

        def column(direction: jax.Array) -> jax.Array:
            return jax.jvp(gradient, (vector,), (direction,))[1]

        hessian = jax.lax.map(column, basis, batch_size=COLUMNS_AT_ONCE)
        return -0.5 * (hessian + hessian.T)

    return light_jit(information, model, problem.space.size)


def _walk_function(problem: Problem) -> Any:
    """Jitted (vector, data, fixed) -> EM's iterates (WALK + 1, size)."""

    def walk(vector: jax.Array, data: Any, fixed: Any) -> jax.Array:
        def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            following, _, _ = problem.em_step(v, data, fixed)
            return following, following

        return jnp.concatenate([vector[None], jax.lax.scan(step, vector, None, length=WALK)[1]])

    return lean_jit(walk)


def missing_information_at(
    model: Model, problem: Problem, vector: np.ndarray, fixed: Mapping[str, Any], settled: bool
) -> MissingInformation:
    """Complete and observed information at an estimate, and EM's rate; see `MissingInformation`."""
    with working_precision(model.dtype):
        held = {k: jnp.asarray(v) for k, v in fixed.items()}
        point = jnp.asarray(vector)
        key = (frozenset(fixed), problem.with_prior)
        observe = model.compiled(("information", key), lambda: information_function(model, problem))
        complete = model.compiled(
            ("complete", key), lambda: complete_information_function(model, problem)
        )
        walk = model.compiled(("walk", key), lambda: _walk_function(problem))
        i_observed = np.asarray(observe(point, model.data, held)[1], float)
        i_complete = np.asarray(complete(point, model.data, held), float)
        _, jacobian = natural_scale(model, problem, vector)
        noise = np.random.default_rng(0).choice([-1.0, 1.0], len(vector))
        step = NUDGE / np.sqrt(np.maximum(np.diag(i_observed), 1e-12)) * noise
        path = np.asarray(walk(point + jnp.asarray(step), model.data, held), float)
    names = scalar_names(problem.space)
    reason = ""
    if not settled:
        reason = "the gradient is not zero, so the two informations do not belong together"
    try:
        root = np.linalg.cholesky(i_complete)
        inner = np.linalg.solve(root, np.linalg.solve(root, i_complete - i_observed).T)
        values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
        direction = np.linalg.solve(root.T, vectors[:, -1])
        before = jacobian @ np.linalg.solve(i_complete, jacobian.T)
        with np.errstate(all="ignore"):
            after = jacobian @ np.linalg.inv(i_observed) @ jacobian.T
            fractions = 1.0 - np.diag(before) / np.diag(after)
            fractions = np.where(np.diag(after) > 0, fractions, np.nan)
    except np.linalg.LinAlgError:
        size = len(vector)
        reason = reason or "an information matrix is singular: a boundary, or not identified"
        values, direction = np.full(size, np.nan), np.full(size, np.nan)
        fractions = np.full(len(names), np.nan)
    if reason:
        fractions = np.full(len(names), np.nan)
    order = np.argsort(-values)
    return MissingInformation(
        fractions=pd.Series(fractions, index=list(names)),
        rate=float(values[order[0]]) if len(values) else 0.0,
        rates=values[order],
        direction=direction / max(float(np.abs(direction).max(initial=0.0)), 1e-300),
        observed_rate=_last_rate(path),
        complete=i_complete,
        observed=i_observed,
        reason=reason,
    )


def _last_rate(path: np.ndarray) -> float:
    """Ratio of the last two steps that are still well above rounding."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    usable = np.flatnonzero(steps > 1e-9 * (1 + np.linalg.norm(path[-1])))
    if len(usable) < 2 or usable[-1] < 1:
        return 0.0 if len(steps) and not len(usable) else float("nan")
    i = usable[-1]
    return float(steps[i] / steps[i - 1])
