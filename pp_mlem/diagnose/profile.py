"""Profile likelihood: the best objective at given values of some functions of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_level
from pp_mlem.base.compiling import lean_jit
from pp_mlem.base.lazy import scipy_optimize, scipy_stats
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.uncertainty import flatten
from pp_mlem.maximise.newton import newton_ascent
from pp_mlem.model.model import Model
from pp_mlem.program.space import scalar_names
from pp_mlem.target.problem import Problem

STEPS = 40
TIGHT = (1e3, 1e9)  # penalty on the squared distance from the given values, in standard errors
FARTHEST = 12.0  # standard errors walked before a side is called open


@dataclass(frozen=True)
class ProfileInterval:
    """A profile-likelihood interval of one scalar (Venzon & Moolgavkar 1988,
    doi:10.2307/2347496).

    Attributes:
        name, estimate, level: the scalar, its estimate, the confidence level.
        low, high: limits; infinite or at the support's edge where the likelihood does not fall
            enough, as `notes` says.
        values, objective: points of the profile that were visited, sorted.
        interrupted: the user stopped it; a side that was not finished is NaN, as `notes` says.
    """

    name: str
    estimate: float
    low: float
    high: float
    level: float
    values: np.ndarray
    objective: np.ndarray
    notes: tuple[str, ...] = field(default=())
    interrupted: bool = False

    def __repr__(self) -> str:
        note = f" ({'; '.join(self.notes)})" if self.notes else ""
        return (
            f"{self.name} = {self.estimate:.6g}, {100 * self.level:g}% profile interval "
            f"[{self.low:.6g}, {self.high:.6g}]{note}"
        )


def constrained_maximum(problem: Problem, targets: Callable) -> Callable:
    """Traceable (start, wanted, scale, data, fixed) -> (point, objective), the maximum of the
    objective where `targets`(constrained scalars) equals `wanted`.

    By a quadratic penalty in two stages (Nocedal & Wright 2006, section 17.1): the values are met
    to 1e-9 of a standard error, far below what the objective can tell.
    """

    def solve(start: jax.Array, wanted: Any, scale: Any, data: Any, fixed: Any) -> tuple:
        def gap(v: jax.Array) -> jax.Array:
            return (targets(flatten(problem.space, problem.space.constrain(v))) - wanted) / scale

        point = start
        for tight in TIGHT:

            def penalised(v: jax.Array, tight: float = tight) -> jax.Array:
                return problem.objective(v, data, fixed) - 0.5 * tight * jnp.sum(gap(v) ** 2)

            point = newton_ascent(penalised, point, STEPS).point
        met = jnp.max(jnp.abs(gap(point))) < 1e-4
        value = problem.objective(point, data, fixed)
        return point, jnp.where(met, value, -jnp.inf)

    return solve


def scalar_index(problem: Problem, name: str, argument: str = "name") -> int:
    """The place of a scalar among the free ones."""
    names = scalar_names(problem.space)
    if name not in names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(
            f"{argument}: received {name!r}, expected one of the free scalars: {shown}."
        )
    return names.index(name)


def profile_interval(
    model: Model,
    problem: Problem,
    vector: np.ndarray,
    fixed: Mapping[str, Any],
    covariance: np.ndarray,
    jacobian: np.ndarray,
    best: float,
    name: str,
    level: float,
) -> ProfileInterval:
    """Where the profile falls by half a chi-squared quantile on either side of the estimate."""
    check_level(level)
    index = scalar_index(problem, name)
    drop = scipy_stats.chi2.ppf(level, 1) / 2
    with working_precision(model.dtype):
        held = {k: jnp.asarray(v) for k, v in fixed.items()}
        point = jnp.asarray(vector)
        scalars = flatten(problem.space, problem.space.constrain(point))
        estimate = float(scalars[index])
        variance = float(jacobian[index] @ covariance @ jacobian[index])
        scale = np.sqrt(variance) if np.isfinite(variance) and variance > 0 else np.nan
        if not np.isfinite(scale):
            scale = 0.1 * max(abs(estimate), 1.0)
        lean = covariance @ jacobian[index]
        lean = lean / variance if np.isfinite(variance) and variance > 0 else 0 * lean
        key = ("profile", frozenset(fixed), problem.with_prior)

        def make() -> Callable:
            def at(start: Any, wanted: Any, scale: Any, which: Any, data: Any, held: Any) -> tuple:
                solve = constrained_maximum(problem, lambda scalars: scalars[which])
                return solve(start, wanted, scale, data, held)

            return lean_jit(at)

        solve = model.compiled(key, make)
        seen: dict[float, float] = {estimate: best}
        points: dict[float, np.ndarray] = {estimate: np.asarray(vector)}
        notes: list[str] = []

        def fall(value: float) -> float:
            """How far the profile lies below its top at a value, less what is allowed."""
            near = min(points, key=lambda v: abs(v - value))
            start = points[near] + lean * (value - near)
            found, objective = solve(
                jnp.asarray(start), jnp.asarray(value), jnp.asarray(scale), index, model.data, held
            )
            objective = float(objective)
            if not np.isfinite(objective):
                return np.inf
            seen[value], points[value] = objective, np.asarray(found)
            return best - objective - drop

        def limit(sign: float, side: str) -> float:
            inner, step, outer = estimate, 1.0, None
            while step <= FARTHEST:
                value = estimate + sign * step * scale
                excess = fall(value)
                if excess >= 0:
                    outer = value
                    break
                inner, step = value, step * 1.5
            if outer is None:
                notes.append(
                    f"the likelihood does not fall enough within {FARTHEST:g} standard errors "
                    f"{side}"
                )
                return sign * np.inf
            edge = not np.isfinite(fall(outer))
            while edge and abs(outer - inner) > 1e-7 * scale:  # the support ends on the way
                middle = 0.5 * (inner + outer)
                excess = fall(middle)
                if not np.isfinite(excess):
                    outer = middle
                elif excess < 0:
                    inner = middle
                else:
                    outer, edge = middle, False
            if edge:
                notes.append(f"the limit {side} is the edge of the parameter's support")
                return inner
            if fall(inner) >= 0:
                return inner
            return float(scipy_optimize.brentq(fall, inner, outer, xtol=1e-8 * scale))

        limits, interrupted = [np.nan, np.nan], False
        for i, (sign, side) in enumerate(((-1.0, "below"), (1.0, "above"))):
            try:
                limits[i] = limit(sign, side)
            except KeyboardInterrupt:
                interrupted = True
                notes.append(f"stopped by the user before the limit {side} was found")
                break
    higher = max(seen.values()) - best
    if higher > 1e-6 * (1 + abs(best)):
        notes.append(f"the profile rises {higher:.3g} nats above the fit: it is not the maximum")
    visited = sorted(seen)
    return ProfileInterval(
        name, estimate, float(limits[0]), float(limits[1]), level,
        np.array(visited), np.array([seen[v] for v in visited]), tuple(notes), interrupted,
    )  # fmt: skip
