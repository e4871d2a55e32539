"""The finish of an objective with kinks: sums of absolute values, as in Laplace regressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

NOTE = (
    "the log-likelihood has kinks (absolute values), where it has its maximum and no gradient that "
    "vanishes; for standard errors use covariance('bootstrap')"
)
REASON = "no curvature at a kink of the log-likelihood; use covariance('bootstrap')"
RESTARTS = 4
BESIDE = (1e-6, 1e-4, 1e-2)


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
        found = minimize(loss, best, jac=True, method="BFGS", options={"maxiter": 200})
        gain = -found.fun - value
        if gain > 0:
            best, value = found.x, -found.fun
        if not gain > 1e-9 * (1 + abs(value)):
            break
    return best, float(value)


def at_kink(objective: Callable[[np.ndarray], tuple[float, np.ndarray]], point: np.ndarray) -> bool:
    """Whether the slope turns round within a short way uphill. (A slope that the objective does not
    follow is rounding: Student's t at 1e20 degrees of freedom has one.)"""
    uphill = objective(point)[1]
    uphill = uphill / max(np.abs(uphill).max(initial=0.0), 1e-300)
    scale = 1 + np.abs(point)
    return any(objective(point + h * scale * uphill)[1] @ uphill < 0 for h in BESIDE)
