"""Directions among the coordinates of a fit: what the data tell of, and what they leave flat."""

from __future__ import annotations

import numpy as np

SINGULAR = 1e-12


def across_of(
    flat: np.ndarray, information: np.ndarray, active: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Directions as columns that with the flat ones span the active coordinates, and which of them are
    used: the coordinates as they are, where nothing is flat."""
    size = len(active)
    if not flat[active].any():
        return np.eye(size), active
    scale = scales(np.diag(information))[active]
    values = np.linalg.svd(flat[active] / scale[:, None], full_matrices=True)
    rank = int((values[1] > SINGULAR * values[1].max()).sum())
    across = np.zeros((size, int(active.sum()) - rank))
    across[active] = scale[:, None] * values[0][:, rank:]
    return across, np.ones(across.shape[1], bool)


def told_by_data(
    jacobian: np.ndarray, active: np.ndarray, known: list[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """A basis, as columns, and which of it moves some scalar that the data tell of (`known`)."""
    turn, told = np.eye(len(active)), active.copy()
    if not all(known):
        _, length, rows = np.linalg.svd(jacobian[np.array(known)][:, active])
        rank = int((length > 1e-10 * length.max(initial=0.0)).sum())
        turn[np.ix_(active, active)] = rows.T
        told[np.flatnonzero(active)[rank:]] = False
    return turn, told


def scales(diagonal: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
