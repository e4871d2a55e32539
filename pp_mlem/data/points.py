"""Few weighted rows with the moments of all: where the log density of a row is quadratic in its values.

Rows of one plate whose latents are their own and real, and which differ in their values x alone, enter log Z by
the sums of 1, x and x x'. So do D + 1 points of equal weight with the mean and the covariance of all rows, the
corners of a simplex (the sigma points of Julier & Uhlmann 2004, doi:10.1109/JPROC.2003.823141): log Z of the
whole data is exactly that of these points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.laid import Laid

ROWS = 4  # for each number of a row, from which points are fewer by enough


def points_of(sites: Mapping[str, Laid]) -> dict[str, Laid]:
    """The rows of all sites together as few points. Traceable."""
    centred = {
        n: s.value if s.shift_rows is None else s.value - s.shift_rows for n, s in sites.items()
    }
    flat = jnp.concatenate([v.reshape(-1, v.shape[-1]) for v in centred.values()])
    mean = flat.mean(-1)
    root = jnp.linalg.qr((flat - mean[:, None]).T, mode="r") / np.sqrt(flat.shape[-1])
    corners = _corners(len(flat)) * np.sqrt(len(flat) + 1.0)
    points = mean[:, None] + (jnp.asarray(corners, flat.dtype) @ root).T
    found, begin = {}, 0
    for name, value in centred.items():
        size = int(np.prod(value.shape[:-1]))
        own = points[begin : begin + size].reshape(*value.shape[:-1], -1)
        found[name] = replace(sites[name], value=own, shift_rows=None)
        begin += size
    return found


def _corners(size: int) -> np.ndarray:
    """Corners (size + 1, size) of a simplex about zero, its columns orthonormal."""
    first = np.concatenate([np.ones((size + 1, 1)), np.eye(size + 1, size)], 1)
    return np.linalg.qr(first)[0][:, 1:]
