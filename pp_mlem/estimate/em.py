"""Expectation-maximisation: exact, automatic, accelerated by SQUAREM, finished by Newton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.base.status import Status
from pp_mlem.estimate.loop import Lane, rounding
from pp_mlem.estimate.point import PointOptions, fit_point
from pp_mlem.fit.point import PointFit
from pp_mlem.maximise.newton import settled
from pp_mlem.model.model import Model
from pp_mlem.target.problem import Problem

# Newton steps in an M-step without closed form when EM is accelerated anyway. One would keep the
# rate of convergence of EM (Lange 1995, doi:10.1111/j.2517-6161.1995.tb02037.x).
FEW_STEPS = 2


@dataclass(frozen=True)
class EM:
    """Dempster, Laird & Rubin (1977), doi:10.1111/j.2517-6161.1977.tb01600.x, with SQUAREM of
    Varadhan & Roland (2008), doi:10.1111/j.1467-9469.2007.00585.x, in unconstrained coordinates.

    After `spare` evaluations in a row that gain less than `handover` nats a Newton finish takes
    over.
    """

    problem: Problem
    units: float
    tolerance: float
    accelerate: bool
    handover: float
    spare: int
    unit_free: bool = True

    @property
    def evaluations(self) -> int:
        return 3 if self.accelerate else 1

    def begin(self, vector: jax.Array, data: Any, fixed: Any) -> Lane:
        lowest = jnp.full((), -jnp.inf, vector.dtype)
        return Lane(
            vector=vector,
            point=vector,
            value=lowest,
            slope=jnp.full((), jnp.inf, vector.dtype),
            iterations=jnp.zeros((), int),
            status=jnp.full((), int(Status.RUNNING)),
            own=(jnp.full((), 4.0, vector.dtype), jnp.zeros((), int), jnp.zeros((), int)),
        )

    def _slope(self, gradient: Any, step: Any, value: Any) -> jax.Array:
        """The largest gradient entry per observation. Where the units of a coordinate hide what is
        still to be gained, gradient times EM's own step shows it (it is the decrement of the
        complete data, in nats): then what is above tolerance says so."""
        slope = jnp.abs(gradient).max(initial=0.0) / self.units
        hidden = gradient @ step > settled(value)
        return jnp.where(hidden, jnp.maximum(slope, 2 * self.tolerance), slope)

    def _noise(self, value: Any, grain: Any) -> jax.Array:
        """How far the objective can seem to fall by rounding: its own and that of the coordinates,
        `grain` = |gradient| times |point|, which counts where coordinates are large and cancel."""
        return rounding(value, self.units) + 4 * jnp.finfo(value.dtype).eps * grain

    def _judge(
        self, lane: Lane, point: Any, value: Any, slope: Any, grain: Any, patience: int
    ) -> tuple:
        """Status after seeing `point`, and how many steps in a row have been flat."""
        noise = self._noise(value, grain)
        gain = value - lane.value
        finite = jnp.isfinite(value) & jnp.isfinite(slope)
        still = jnp.where(gain <= noise, lane.own[1] + 1, 0)
        slow = jnp.where(gain < self.handover, lane.own[2] + 1, 0)
        status = jnp.where(
            ~finite,
            int(Status.NOT_FINITE),
            jnp.where(
                gain < -noise,
                int(Status.DECREASED),
                jnp.where(
                    slope <= self.tolerance,
                    int(Status.CONVERGED),
                    jnp.where(
                        (slow > self.spare) | (still >= patience),
                        int(Status.FLAT),
                        int(Status.RUNNING),
                    ),
                ),
            ),
        )
        kept = finite & ~(gain < -noise)
        return status, still, slow, kept

    def step(self, lane: Lane, data: Any, fixed: Any) -> tuple[Lane, jax.Array, jax.Array]:
        if self.accelerate:
            return self._squarem(lane, data, fixed)
        following, value, gradient = self.problem.em_step(lane.vector, data, fixed)
        slope = self._slope(gradient, following - lane.vector, value)
        grain = jnp.abs(gradient) @ jnp.abs(lane.vector)
        judged = self._judge(lane, lane.vector, value, slope, grain, patience=20)
        status, still, slow, kept = judged
        new = Lane(
            vector=jnp.where(kept, following, lane.point),
            point=jnp.where(kept, lane.vector, lane.point),
            value=jnp.where(kept, value, lane.value),
            slope=jnp.where(kept, slope, lane.slope),
            iterations=lane.iterations + 1,
            status=status,
            own=(lane.own[0], still, slow),
        )
        return new, jnp.where(kept, value, jnp.nan)[None], lane.vector[None]

    def _squarem(self, lane: Lane, data: Any, fixed: Any) -> tuple[Lane, jax.Array, jax.Array]:
        start = lane.vector
        longest = lane.own[0]

        # One traced EM step, run at three points.
        def visit(carry: tuple, i: jax.Array) -> tuple:
            first, second, third, _, _ = carry
            at = jnp.where(i == 0, start, jnp.where(i == 1, first, third))
            following, value, gradient = self.problem.em_step(at, data, fixed, FEW_STEPS)
            first = jnp.where(i == 0, following, first)
            second = jnp.where(i == 1, following, second)
            r = first - start
            v = (second - first) - r
            length = jnp.sqrt(jnp.sum(r**2) / jnp.maximum(jnp.sum(v**2), jnp.finfo(v.dtype).tiny))
            length = jnp.clip(length, 1.0, longest)
            leap = start + 2 * length * r + length**2 * v
            third = jnp.where(i == 1, leap, third)
            slope = self._slope(gradient, following - at, value)
            return (first, second, third, following, length), (
                value, slope, at, jnp.abs(gradient) @ jnp.abs(at)
            )  # fmt: skip

        zero = jnp.zeros_like(start)
        carry = (zero, zero, zero, zero, jnp.ones((), start.dtype))
        carry, (values, slopes, points, grains) = jax.lax.scan(visit, carry, jnp.arange(3))
        _, second, _, after_leap, length = carry
        noise = self._noise(values[1], grains[1])
        leap_good = (
            jnp.isfinite(values[2]) & (values[2] >= values[1]) & jnp.all(jnp.isfinite(after_leap))
        )
        longest = jnp.where(
            leap_good,
            jnp.where(length >= longest, longest * 4, longest),
            jnp.maximum(longest / 4, 1.0),
        )
        longest = jnp.maximum(longest, 1.0)
        status0, _, _, kept0 = self._judge(
            lane, start, values[0], slopes[0], grains[0], patience=10
        )  # fmt: skip
        fell = jnp.isfinite(values[1]) & (values[1] < values[0] - noise)
        best_value = jnp.where(leap_good, values[2], values[1])
        best_slope = jnp.where(leap_good, slopes[2], slopes[1])
        best_point = jnp.where(leap_good, points[2], points[1])
        gain = best_value - lane.value
        still = jnp.where(gain <= noise, lane.own[1] + 1, 0)
        slow = jnp.where(gain < self.handover, lane.own[2] + 3, 0)
        usable = jnp.isfinite(values[1])
        status = jnp.where(
            (status0 == Status.NOT_FINITE)
            | (status0 == Status.DECREASED)
            | (status0 == Status.CONVERGED),
            status0,
            jnp.where(
                ~usable,
                int(Status.NOT_FINITE),
                jnp.where(
                    fell,
                    int(Status.DECREASED),
                    jnp.where(
                        best_slope <= self.tolerance,
                        int(Status.CONVERGED),
                        jnp.where(
                            (slow > self.spare) | (still >= 10),
                            int(Status.FLAT),
                            int(Status.RUNNING),
                        ),
                    ),
                ),
            ),
        )
        settled = status0 == Status.CONVERGED
        at_start = settled | ((~usable | fell) & kept0)
        point = jnp.where(at_start, start, best_point)
        point = jnp.where(kept0, point, lane.point)
        value = jnp.where(kept0, jnp.where(at_start, values[0], best_value), lane.value)
        slope = jnp.where(kept0, jnp.where(at_start, slopes[0], best_slope), lane.slope)
        following = jnp.where(leap_good, after_leap, second)
        new = Lane(
            vector=jnp.where(kept0 & ~at_start, following, point),
            point=point,
            value=value,
            slope=slope,
            iterations=lane.iterations + 3,
            status=status,
            own=(longest, still, slow),
        )
        shown = jnp.stack([kept0, kept0 & usable & ~fell & ~settled, kept0 & leap_good & ~settled])
        return new, jnp.where(shown, values, jnp.nan), points


def fit_em(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    objective: str = "mle",
    accelerate: bool = True,
    polish: bool = True,
    max_iter: int = 5000,
    tol: float = 1e-8,
    progress: bool | None = None,
    trace: bool = False,
    dtype: Any = None,
) -> PointFit:
    """Fit by expectation-maximisation.

    The E-step is the gradient of the marginal log-likelihood with respect to the natural
    parameters; the M-step maximises <eta(theta), S>, in closed form where the families allow.

    Args:
        model: the program bound to its data.
        starts: number of starting points (10 with latents, 1 without).
        seed: of the starting points; the same seed gives the same result.
        init: "mixed" (k-means++ and random responsibilities in turn), "random", "kmeans++",
            "prior", or a dict of constrained values (the rest is started at random).
        fixed: parameters held at given values.
        objective: "mle" or "map" (mode in the constrained space: no Jacobian).
        accelerate: SQUAREM extrapolation, falling back to the plain step when it would lower the
            objective.
        polish: finish with safeguarded Newton steps on the exact objective.
        max_iter: EM iterations per start.
        tol: largest gradient entry, in unconstrained coordinates and per observation, at which a
            start has converged.
        progress: show a bar; by default only in a terminal.
        trace: keep the parameters of every iteration of the best start in `fit.trace`.
        dtype: float64 unless told otherwise (must be the model's).

    With `accelerate=False, polish=False` and a given `init` this is textbook EM: `fit.history`
    holds the objective before each M-step.

    Returns:
        a `PointFit`; its `status` says how the chosen start ended.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """
    options = PointOptions(
        method="EM",
        starts=starts,
        seed=seed,
        init=init,
        fixed=fixed or {},
        objective=objective,
        polish=polish,
        max_iter=max_iter,
        tol=tol,
        progress=progress,
        trace=trace,
        dtype=dtype,
    )

    def make(problem: Problem, units: float, handover: float, spare: int) -> EM:
        return EM(problem, units, tol, accelerate, handover, spare)

    return fit_point(model, options, make, key=("em", accelerate))
