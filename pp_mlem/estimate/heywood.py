"""Starts that ran into a Heywood case: their vanishing scales on the floor, and the rest at its best there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pp_mlem.base.status import Status
from pp_mlem.diagnose.edges import EDGE_COST
from pp_mlem.diagnose.kinks import climb_over_kinks
from pp_mlem.diagnose.spurious import Scales
from pp_mlem.diagnose.uniqueness import floors
from pp_mlem.estimate.ends import Ends
from pp_mlem.target.target import Target


def at_floors(target: Target, ends: Ends) -> Ends:
    """The ends with residual scales that vanish on their floors, where the density can still be computed."""
    if not target.reading.reals:
        return ends
    moved = replace(
        ends, points=ends.points.copy(), values=ends.values.copy(), slopes=ends.slopes.copy(),
        status=ends.status.copy(), kinked=ends.kinked.copy(),
    )  # fmt: skip
    lowest = floors(target, Scales.at(target, ends.points[0]).params)
    where = target.space.slices()
    for i in map(int, np.flatnonzero(np.isfinite(ends.values)) if lowest else ()):
        params = {k: np.asarray(v) for k, v in Scales.at(target, ends.points[i]).params.items()}
        low = np.zeros(target.space.size, bool)
        for name, floor in lowest.items():
            settled = ends.status[i] == Status.CONVERGED
            below = params[name] < (floor.zero if settled else floor.near)
            low[where[name]] = below.ravel()
            params[name] = np.where(below, floor.zero, params[name])
        if low.any() and not low.all():
            lifted = target.space.to_vector({n: params[n] for n in target.space.names})
            _settle(target, moved, i, np.asarray(lifted, float), low)
    return moved


def _settle(target: Target, ends: Ends, i: int, vector: np.ndarray, held: np.ndarray) -> None:
    """One end at its best with these coordinates held; left alone where it was higher by more than what a
    boundary may cost."""
    point = vector.copy()

    def climb(free: np.ndarray) -> tuple[float, np.ndarray]:
        point[~held] = free
        value, gradient = target.climb(point)
        return value, gradient[~held]

    free, value = climb_over_kinks(climb, vector[~held])
    if not np.isfinite(value) or value < ends.values[i] - EDGE_COST:
        return
    slope = float(np.abs(climb(free)[1]).max() / target.units)
    ends.points[i], ends.values[i], ends.slopes[i] = point, value, slope
    ends.status[i], ends.kinked[i] = Status.FLAT, False
