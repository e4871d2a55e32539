"""Starts that stand at an edge that is none: a variance near zero, a probability near zero or one, though the data
want another. In a logarithm or log-odds the slope vanishes there, and no climb leads back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pp_mlem.diagnose.edges import EDGE_COST, noises_of, objective_at, variances_of
from pp_mlem.estimate.spread import widest
from pp_mlem.program.space import base_support, is_half_line
from pp_mlem.target.target import Target

LOST = 1e-2  # of the spread of the data: a smaller variance may have been lost
SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the spread, at which it is tried
MOST = 16  # entries of one parameter that are tried
NEAR = 6.0  # log-odds of an interval's share, beyond which it is near an edge
FAR = 12.0  # at which the slope there is told from rounding
STEEP = 5.0  # nats by which the objective would rise if a slope were that of the whole interval
INSIDE = (5.0, 3.5, 2.0, 1.0)  # log-odds that are tried


def off_false_edges(
    target: Target, points: np.ndarray, values: np.ndarray, by_slope: bool
) -> np.ndarray | None:
    """Where starts (starts, size) go on; None where everything at an edge belongs there. `by_slope`: they climbed by
    the gradient, which is compiled."""
    higher, moved = np.array(points), False
    spread = widest(target)
    for i, (point, value) in enumerate(zip(points, values, strict=True)):
        if not np.isfinite(value):
            continue
        candidates = [*_with_variances(target, point, spread)]
        if by_slope:
            candidates += _with_shares(target, point)
        reached = objective_at(target, point, candidates) if candidates else np.zeros(0)
        if reached.size and np.nanmax(reached) > value + EDGE_COST:
            higher[i], moved = candidates[int(np.nanargmax(reached))], True
    return higher if moved else None


def _with_variances(target: Target, point: np.ndarray, spread: float) -> Iterator[np.ndarray]:
    """With a variance of a latent or of the noise that is far below the spread of the data at some share of it."""
    supports = {s.name: s.support for s in target.space.sites}
    every = sorted((variances_of(target) | noises_of(target)) & frozenset(supports))
    names = [n for n in every if is_half_line(supports[n])]
    if not names or not spread > 0:
        return
    params: dict[str, Any] = jax.device_get(target.space.to_params(point))
    for name in names:
        for index in np.argwhere(np.asarray(params[name]) < LOST * spread)[:MOST]:
            before = float(np.asarray(params[name])[tuple(index)])
            for size in (s * spread for s in SHARES if s * spread > before):
                own = np.array(params[name], float)
                own[tuple(index)] = size
                yield np.asarray(target.space.to_vector({**params, name: own}))


def _with_shares(target: Target, point: np.ndarray) -> list[np.ndarray]:
    """With all entries near an edge of an interval inside of it, whose slope there, in the share of the interval itself,
    leads away from the edge."""
    near = _in_intervals(target) & (np.abs(point) > NEAR)
    if not near.any():
        return []
    at = np.where(near, np.clip(point, -FAR, FAR), point)
    _, gradient = target.climb(at)
    share = 1 / (1 + np.exp(-np.where(near, at, 0.0)))
    inward = -np.sign(at) * gradient / (share * (1 - share))
    lost = near & (inward > STEEP)
    return [np.where(lost, np.sign(point) * odds, point) for odds in INSIDE] if lost.any() else []


def _in_intervals(target: Target) -> np.ndarray:
    """The coordinates of parameters between two bounds, which are log-odds."""
    where, found = target.space.slices(), np.zeros(target.space.size, bool)
    for site in target.space.sites:
        base = base_support(site.support)
        found[where[site.name]] = hasattr(base, "lower_bound") and hasattr(base, "upper_bound")
    return found
