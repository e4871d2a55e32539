"""Rows that say what they say by their means and covariances alone: one pass over them is then enough.

Where the log density of a row is quadratic in its numbers (a Gaussian, a linear regression, random effects of rows
that are groups, factor analysis) the sum over all rows is that over D + 1 weighted points with the same mean and
covariance, as in `data/points.py`. Whether it is so is seen on the first rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from pp_mlem.data.stream import Part
from pp_mlem.marginal.units import reweighted, unit_layout
from pp_mlem.model.model import Model
from pp_mlem.program.neutral import neutral_parameters

MOST = 200  # numbers of a row
CLOSE = 1e-9


@dataclass
class Moments:
    """Of the numbers of rows (D,): how many rows, their mean, and the sum of squares and products about it; added
    to chunk by chunk (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""

    count: float
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        mean = rows.mean(0)
        centred = rows - mean
        return cls(float(len(rows)), mean, centred.T @ centred)

    def joined(self, other: Moments) -> Moments:
        count = self.count + other.count
        gap = other.mean - self.mean
        squares = self.squares + other.squares
        squares = squares + np.outer(gap, gap) * (self.count * other.count / count)
        return Moments(count, self.mean + gap * (other.count / count), squares)

    def points(self) -> np.ndarray:
        """(D + 1, D): rows with this mean and covariance, each of the same weight."""
        size = len(self.mean)
        values, vectors = np.linalg.eigh(self.squares / self.count)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        first = np.concatenate([np.ones((size + 1, 1)), np.eye(size + 1, size)], 1)
        corners = np.linalg.qr(first)[0][:, 1:] * np.sqrt(size + 1.0)
        return self.mean + corners @ root.T


def flat_rows(part: Part, wanted: tuple[bool, ...]) -> np.ndarray:
    """(count, D): the numbers of the rows of a chunk."""
    own = [
        a[: part.count].reshape(part.count, -1)
        for a, w in zip(part.arrays, wanted, strict=True)
        if w
    ]
    return np.concatenate(own, 1).astype(np.float64)


def model_of_points(
    moments: Moments, shapes: list[tuple[int, ...]], build: Callable[[list[np.ndarray]], Model]
) -> Model | None:
    """The program on points of these moments, each with its weight; None where its units are not rows. `shapes` are
    those of one row of each column."""
    points, arrays, begin = moments.points(), [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        arrays.append(points[:, begin : begin + size].reshape(-1, *shape))
        begin += size
    try:
        model = build(arrays)
        layout = unit_layout(model.marginal, model.data)
        if len(layout) != 1 or layout[0][1] != (len(points),):
            return None
        weights = jnp.full(len(points), moments.count / len(points))
        data = reweighted(model.marginal, model.data, weights)
    except ValueError:  # points that no support allows, units that cannot be weighed
        return None
    model.bound = replace(model.bound, data=data)
    return model


def says_the_same(rows: Model, points: Model) -> bool:
    """Whether the points say of the parameters what the rows do."""
    if {s.name: s.shape for s in rows.space.sites} != {s.name: s.shape for s in points.space.sites}:
        return False
    for seed in (0, 1, 2):
        params = {k: np.asarray(v) for k, v in neutral_parameters(rows.reading, seed).items()}
        one, other = rows.log_likelihood(params), points.log_likelihood(params)
        if not np.isclose(one, other, rtol=CLOSE, atol=CLOSE):
            return False
    return True
