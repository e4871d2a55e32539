"""Profile likelihood: the best objective at given values of some functions of the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_level
from pp_mlem.base.compiling import Effort
from pp_mlem.base.lazy import scipy_optimize, scipy_stats
from pp_mlem.diagnose.uncertainty import Covariance, flatten, natural_scale
from pp_mlem.maximise.newton import newton_ascent
from pp_mlem.program.space import scalar_names
from pp_mlem.target.problem import Problem
from pp_mlem.target.solution import Solution
from pp_mlem.target.target import Target

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


def constrained_maximum(
    target: Target, which: Any, start: jax.Array, wanted: Any, scale: Any
) -> tuple[jax.Array, jax.Array]:
    """(vector, objective) of the maximum where the scalars of index `which` are as `wanted`;
    `scale` is their unit. Traceable.

    By a quadratic penalty in two stages (Nocedal & Wright 2006, section 17.1): the values are met
    to 1e-9 of a standard error, far below what the objective can tell.
    """
    space = target.space

    def gap(v: jax.Array) -> jax.Array:
        return (flatten(space, space.constrain(v))[which] - wanted) / scale

    point = start
    for tight in TIGHT:

        def penalised(v: jax.Array, tight: float = tight) -> jax.Array:
            return target.value(v) - 0.5 * tight * jnp.sum(gap(v) ** 2)

        point = newton_ascent(penalised, point, STEPS).point
    met = jnp.max(jnp.abs(gap(point))) < 1e-4
    return point, jnp.where(met, target.value(point), -jnp.inf)


def scalar_index(problem: Problem, name: str, argument: str = "name") -> int:
    """The place of a scalar among the free ones."""
    names = scalar_names(problem.space)
    if name not in names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(
            f"{argument}: received {name!r}, expected one of the free scalars: {shown}."
        )
    return names.index(name)


class _Profile:
    """The profile of one scalar about its estimate, remembered where it has been visited."""

    def __init__(self, solution: Solution, index: int, free: np.ndarray) -> None:
        """`free` is the covariance of the unconstrained vector, for where to look."""
        target, vector = solution.target, np.asarray(solution.vector)
        self.solve = target.compiled(constrained_maximum, effort=Effort.LEAN)
        self.index, self.top = index, solution.value
        scalars = flatten(target.space, target.space.to_params(vector))
        self.estimate = float(scalars[index])
        _, jacobian = natural_scale(target, vector)
        variance = float(jacobian[index] @ free @ jacobian[index])
        known = bool(np.isfinite(variance) and variance > 0)
        self.scale = np.sqrt(variance) if known else 0.1 * max(abs(self.estimate), 1.0)
        slope = free @ jacobian[index]
        self.slope = slope / variance if known else 0 * slope  # of the vector along the profile
        self.objective: dict[float, float] = {self.estimate: self.top}
        self.points: dict[float, np.ndarray] = {self.estimate: vector}

    def fall(self, value: float) -> float:
        """How far the profile lies below its top at a value."""
        near = min(self.points, key=lambda v: abs(v - value))
        start = self.points[near] + self.slope * (value - near)
        point, reached = self.solve(
            self.index, np.asarray(start), np.asarray(value), np.asarray(self.scale)
        )
        objective = float(reached)
        if not np.isfinite(objective):
            return np.inf
        self.objective[value], self.points[value] = objective, np.asarray(point)
        return self.top - objective

    def limit(self, sign: float, drop: float) -> tuple[float, str]:
        """Where the profile has fallen by `drop` on one side, and a note ("" where there it is)."""
        side = "below" if sign < 0 else "above"
        inner, step = self.estimate, 1.0
        outer = self.estimate + sign * self.scale
        while self.fall(outer) < drop:
            inner, step = outer, step * 1.5
            outer = self.estimate + sign * step * self.scale
            if step > FARTHEST:
                return sign * np.inf, (
                    f"the likelihood does not fall enough within {FARTHEST:g} standard errors "
                    f"{side}"
                )
        edge = not np.isfinite(self.fall(outer))
        while edge and abs(outer - inner) > 1e-7 * self.scale:  # the support ends on the way
            middle = 0.5 * (inner + outer)
            fallen = self.fall(middle)
            if not np.isfinite(fallen):
                outer = middle
            elif fallen < drop:
                inner = middle
            else:
                outer, edge = middle, False
        if edge:
            return inner, f"the limit {side} is the edge of the parameter's support"
        if self.fall(inner) >= drop:
            return inner, ""
        tight = 1e-8 * self.scale
        return float(
            scipy_optimize.brentq(lambda v: self.fall(v) - drop, inner, outer, xtol=tight)
        ), ""


def profile_interval(
    solution: Solution, covariance: Covariance, name: str, level: float
) -> ProfileInterval:
    """Where the profile falls by half a chi-squared quantile on either side of the estimate; the
    covariance tells how far away to look."""
    check_level(level)
    index = scalar_index(solution.target.problem, name)
    drop = float(scipy_stats.chi2.ppf(level, 1) / 2)
    profile = _Profile(solution, index, covariance.free)
    limits, notes, interrupted = [np.nan, np.nan], [], False
    for i, (sign, side) in enumerate(((-1.0, "below"), (1.0, "above"))):
        try:
            limits[i], note = profile.limit(sign, drop)
        except KeyboardInterrupt:
            interrupted = True
            notes.append(f"stopped by the user before the limit {side} was found")
            break
        notes += [note] if note else []
    higher = max(profile.objective.values()) - profile.top
    if higher > 1e-6 * (1 + abs(profile.top)):
        notes.append(f"the profile rises {higher:.3g} nats above the fit: it is not the maximum")
    visited = sorted(profile.objective)
    return ProfileInterval(
        name, profile.estimate, float(limits[0]), float(limits[1]), level,
        np.array(visited), np.array([profile.objective[v] for v in visited]), tuple(notes),
        interrupted,
    )  # fmt: skip
