"""Wald intervals that stay inside the supports of the scalars."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpyro.distributions import constraints

from pp_mlem.program.sites import Site
from pp_mlem.program.space import ParameterSpace, base_support, is_simplex

_CORRELATIONS = (type(constraints.corr_cholesky), type(constraints.corr_matrix))
_COVARIANCES = (type(constraints.positive_definite), type(constraints.lower_cholesky))
_POSITIVE_ORDERED = type(constraints.positive_ordered_vector)


def bounds_of(space: ParameterSpace) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest value of every scalar, infinite where there is none."""
    pairs = [_bounds(site) for site in space.sites]
    empty = np.zeros(0)
    low = np.concatenate([low.ravel() for low, _ in pairs] or [empty])
    high = np.concatenate([high.ravel() for _, high in pairs] or [empty])
    return low, high


def _bounds(site: Site) -> tuple[np.ndarray, np.ndarray]:
    base, shape = base_support(site.support), site.shape
    low: Any = getattr(base, "lower_bound", -np.inf)
    high: Any = getattr(base, "upper_bound", np.inf)
    if is_simplex(site.support):
        low, high = 0.0, 1.0
    elif isinstance(base, _POSITIVE_ORDERED):
        low = 0.0
    elif isinstance(base, _CORRELATIONS):
        low, high = -1.0, 1.0
    elif isinstance(base, _COVARIANCES):
        low = np.where(np.eye(shape[-1], dtype=bool), 0.0, -np.inf)
    return np.broadcast_to(np.asarray(low, float), shape), np.broadcast_to(
        np.asarray(high, float), shape
    )


def limits(
    estimates: np.ndarray, errors: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], half: float
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates less and plus `half` standard errors: on the scale of the logarithm of the distance from a bound,
    or of the log-odds between two, where there are bounds (Meeker & Escobar 1995,
    doi:10.1080/00031305.1995.10476112). An estimate on its bound stays there."""
    low, high = bounds
    below, above = estimates - low, high - estimates
    with np.errstate(all="ignore"):
        left, right = estimates - half * errors, estimates + half * errors
        one = np.isfinite(low) & np.isinf(high)
        factor = np.exp(half * errors / below)
        left, right = (
            np.where(one, low + below / factor, left),
            np.where(one, low + below * factor, right),
        )
        other = np.isinf(low) & np.isfinite(high)
        factor = np.exp(half * errors / above)
        left = np.where(other, high - above * factor, left)
        right = np.where(other, high - above / factor, right)
        both = np.isfinite(low) & np.isfinite(high)
        factor = np.exp(half * errors * (high - low) / (below * above))
        left = np.where(both, low + (high - low) / (1 + factor * above / below), left)
        right = np.where(both, low + (high - low) / (1 + above / (factor * below)), right)
    known = np.isfinite(errors)
    return np.where(known, left, np.nan), np.where(known, right, np.nan)
