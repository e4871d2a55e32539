"""How a fit of Gaussians with real latents opens: coefficients at their maximum given the scales, then a few
steps of EM.

Given the scales log Z is quadratic in the coefficients that multiply no latent, so that differences of its
gradient are its Hessian and one step is the maximum (generalised least squares). EM alone would crawl along
them: a latent with a variance of its own takes up what an intercept leaves.
"""

from __future__ import annotations

import numpy as np

from pp_mlem.estimate.loop import Driver
from pp_mlem.maximise.blocks.gaussian import Gaussian
from pp_mlem.target.target import Target

COEFFICIENTS = 12  # with more, the looks for their Hessian cost more than they save
EM_STEPS = 6
LITTLE = 3.0  # nats of a step of EM, below which the Hessian of all parameters is worth its looks
HEAVY = 1e5  # numbers in the steps of log Z, from which looks are dear
NEWTON = 30  # parameters, up to which so few looks as those of a Hessian are few


def fixed_coordinates(target: Target) -> np.ndarray:
    """The coordinates of a vector in which log Z is quadratic, the others given."""
    where = target.space.slices()
    names = [n for b in target.problem.blocks if isinstance(b, Gaussian) for n in b.means.fixed]
    parts = [np.arange(where[n].start, where[n].stop) for n in names if n in where]
    return np.concatenate(parts) if parts else np.zeros(0, int)


def opens(target: Target) -> bool:
    """Whether looks are so dear that an opening pays: units of latents are crossed, and maximum likelihood
    has its M-step in closed form."""
    blocks = [b for b in target.problem.blocks if isinstance(b, Gaussian)]
    few = 0 < target.space.size <= NEWTON
    return few and len(blocks) == len(target.problem.blocks) and target.marginal.entries >= HEAVY


def opened(driver: Driver, vectors: np.ndarray) -> np.ndarray:
    """Where the starts (starts, size) have come to after the opening; `driver` is one of EM."""
    points = _least_squares(driver, vectors)
    value = np.full(len(points), -np.inf)
    for _ in range(EM_STEPS):
        seen = driver.at(points)
        better = np.isfinite(seen.value) & np.isfinite(seen.following).all(-1)
        points = np.where(better[:, None], seen.following, points)
        gain = np.where(better, seen.value - value, 0.0)
        value = np.where(better, seen.value, value)
        if not np.any(gain > LITTLE):
            break
    return points


def _least_squares(driver: Driver, points: np.ndarray) -> np.ndarray:
    """The points with their coefficients at the maximum given the rest."""
    own = fixed_coordinates(driver.target)
    if not 0 < len(own) <= COEFFICIENTS:
        return points
    gradient = driver.at(points).gradient[:, own]
    rows = []
    for i in own:
        beside = points.copy()
        beside[:, i] += 1.0
        rows.append(driver.at(beside).gradient[:, own] - gradient)
    new = points.copy()
    for start, (slope, row) in enumerate(zip(gradient, np.stack(rows, 1), strict=True)):
        curvature = -(row + row.T) / 2
        if np.isfinite(curvature).all() and np.isfinite(slope).all():
            values, vectors = np.linalg.eigh(curvature)
            if values[0] > 1e-12 * values[-1] > 0:
                new[start, own] += vectors @ ((vectors.T @ slope) / values)
    return new
