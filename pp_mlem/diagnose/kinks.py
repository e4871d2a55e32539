"""The finish of an objective with kinks: sums of absolute values, as in Laplace regressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pp_mlem.base.lazy import scipy_optimize

NOTE = (
    "the log-likelihood has kinks (absolute values), where it has its maximum and no gradient that "
    "vanishes; for standard errors use covariance('bootstrap')"
)
REASON = "no curvature at a kink of the log-likelihood; use covariance('bootstrap')"
RESTARTS = 4
BESIDE = (1e-6, 1e-4, 1e-2)
BISECTIONS = 25
JUMP = 1e-3  # of the whole change of the slope, between points that are all but one


def climb_over_kinks(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray
) -> tuple[np.ndarray, float]:
    """The highest point that BFGS finds, begun anew where it stops, and the value there.

    Newton stops at the first kink that its step meets; BFGS learns the shape of many from the
    changes of the gradient and gets down to the last (Lewis & Overton 2013,
    doi:10.1007/s10107-012-0514-2). `objective` gives value and gradient.
    """
    best, value = start, objective(start)[0]

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        height, gradient = objective(vector)
        if not np.isfinite(height) or not np.all(np.isfinite(gradient)):
            return 1e100, np.zeros_like(vector)
        return -height, -gradient

    for _ in range(RESTARTS):
        result = scipy_optimize.minimize(
            loss, best, jac=True, method="BFGS", options={"maxiter": 200}
        )
        gain = -result.fun - value
        if gain > 0:
            best, value = result.x, -result.fun
        if not gain > 1e-9 * (1 + abs(value)):
            break
    return best, float(value)


def at_kink(objective: Callable[[np.ndarray], tuple[float, np.ndarray]], point: np.ndarray) -> bool:
    """Whether the slope turns round within a short way uphill, all at once. (A slope that the
    objective does not follow is rounding: Student's t at 1e20 degrees of freedom has one. A smooth
    summit turns by as little as one moves.)"""
    uphill = objective(point)[1]
    way = (1 + np.abs(point)) * uphill / max(np.abs(uphill).max(initial=0.0), 1e-300)

    def slope(t: float) -> float:
        return float(objective(point + t * way)[1] @ way)

    for far in BESIDE:
        if not slope(far) < 0:
            continue
        low, high = 0.0, far
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if slope(middle) < 0 else (middle, high)
        return slope(low) - slope(high) > JUMP * (slope(0.0) - slope(far))
    return False
