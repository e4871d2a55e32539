"""Recognises an optimum that lies at infinity: separated data of a discrete distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from pp_mlem.diagnose.edges import objective_at
from pp_mlem.diagnose.extremes import certain_sites, extremes_at
from pp_mlem.diagnose.uncertainty import Covariance, flatten, information, natural_scale
from pp_mlem.program.space import base_support, is_half_line, scalar_names
from pp_mlem.target.target import Target

DRAWN_BACK = tuple(0.5**i for i in range(1, 13))
# Information left of what there was, as many directions as grow together first; then all.
VANISHED = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, np.inf)
NOTHING = 1e-10  # of the largest information: a ridge, drawn back or not
OUTWARD = 1e-6  # nats that may be lost on the way out, to rounding
INWARD = 0.1  # nats that must be lost on the way back
OUT, BACK = (0.1, 1.0), (-0.95, -1.0)  # in parts of the way from zero
OWN_SHARE = 1e-2  # of a scalar's variance owed to directions whose information has vanished
ROUNDING = 1e-13
REASON = "separation: the likelihood rises as it grows without bound; use a prior (fit_map)"
UNBOUNDED = "collapsed: the likelihood has no bound there"
_LINES = (type(constraints.real), type(constraints.ordered_vector))


@dataclass(frozen=True)
class Separation:
    """The scalars that grow without bound."""

    scalars: tuple[str, ...]

    @property
    def note(self) -> str:
        shown = ", ".join(self.scalars[:6]) + (" ..." if len(self.scalars) > 6 else "")
        one = len(self.scalars) == 1
        return (
            f"the data are separated: the likelihood rises as {shown} {'grows' if one else 'grow'} "
            f"without bound; give {'it' if one else 'them'} a prior and use fit_map, or drop what "
            "separates the outcomes"
        )


def find_separation(target: Target, vector: Any) -> Separation | None:
    """Which parameters grow without bound (None where all have their maximum).

    Where some row's probability is one to rounding, directions are tried in which the information
    has vanished, next to that of the same parameters drawn back until the rows tell. One is told
    when the objective does not fall on the way out along it and falls on the way back (Albert &
    Anderson 1984, doi:10.1093/biomet/71.1.1). A ridge is flat both ways.
    """
    real, positive, unbounded = _unbounded(target)
    sites = certain_sites(target, real, positive)
    if not sites:
        return None
    at = np.asarray(vector, float)
    saturated, _ = _counts(target, at, sites)
    if not saturated:
        return None
    values, _ = _natural(target, at)
    move = _mover(target, values)
    whole = np.where(unbounded, values, 0.0)
    least = _counts(target, move((DRAWN_BACK[-1] - 1) * whole), sites)
    if saturated <= least[0]:  # rows that are certain whatever the parameters
        return None
    points = (move((share - 1) * whole) for share in DRAWN_BACK)
    back = next(p for p in points if _counts(target, p, sites)[1] <= least[1])
    now, then = (_information(target, p, unbounded) for p in (at, back))
    directions, dual, left = _what_is_left(now, then)
    for limit in VANISHED:
        gone = directions[:, left < limit]
        if not gone.shape[1]:
            continue
        step = np.zeros(len(values))
        step[unbounded] = gone @ (dual[left < limit] @ values[unbounded])
        reached = objective_at(target, at, [at, *(move(t * step) for t in (*OUT, *BACK))])
        out, inward = reached[1:3] - reached[0], reached[3:5] - reached[0]
        if np.all(out >= -OUTWARD) and np.any(inward < -INWARD):
            names = np.array(scalar_names(target.space))[unbounded]
            share = _share(directions, left, limit)
            return Separation(tuple(str(n) for n in names[share > OWN_SHARE]))
    return None


def _unbounded(target: Target) -> tuple[set[str], set[str], np.ndarray]:
    """The real and the positive parameters, which can grow for ever, and which scalars they are."""
    real, positive, flags = set(), set(), []
    for site in target.space.sites:
        if isinstance(base_support(site.support), _LINES):
            real.add(site.name)
        elif is_half_line(site.support):
            positive.add(site.name)
        flags.append(np.full(int(np.prod(site.shape)), site.name in real | positive))
    return real, positive, np.concatenate(flags) if flags else np.zeros(0, bool)


def _counts(target: Target, point: np.ndarray, sites: frozenset[str]) -> tuple[float, float]:
    """How many probabilities of rows are one to rounding, and how many come near."""
    extremes = extremes_at(target, point, sites).values()
    return sum(e.saturated for e in extremes), sum(e.near for e in extremes)


def _natural(target: Target, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All scalars on their own scale, and their Jacobian."""
    params, jacobian = natural_scale(target, point)
    return np.asarray(flatten(target.space, params), float), jacobian


def _mover(target: Target, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function step -> the unconstrained vector of `values` + step."""
    sites = target.space.sites
    ends = np.cumsum([0, *(int(np.prod(s.shape)) for s in sites)])

    def move(step: np.ndarray) -> np.ndarray:
        moved = values + step
        parts = {s.name: moved[i:j].reshape(s.shape)
                 for s, i, j in zip(sites, ends[:-1], ends[1:], strict=True)}  # fmt: skip
        return np.asarray(target.space.to_vector(parts), float)

    return move


def _information(target: Target, point: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    """Minus the Hessian with respect to the chosen scalars, the others held."""
    _, matrix = information(target, point)
    _, jacobian = _natural(target, point)
    inverse = np.linalg.pinv(jacobian)[:, scalars]
    return inverse.T @ matrix @ inverse


def _what_is_left(now: np.ndarray, then: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions (columns) in which `then` is the identity, the rows by which a vector is taken
    apart into them, and what `now` is along them; those in which `then` is nothing already are left
    out."""
    if not (np.all(np.isfinite(now)) and np.all(np.isfinite(then))):
        return np.eye(len(now)), np.eye(len(now)), np.zeros(len(now))  # all of them, or none
    diagonal = np.abs(np.diag(then))
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    size, vectors = np.linalg.eigh(then * scale[:, None] * scale)
    size = np.abs(size)
    kept = size > NOTHING * size.max(initial=0.0)
    size, vectors = np.sqrt(size[kept]), vectors[:, kept]
    basis = scale[:, None] * vectors / size
    left, turned = np.linalg.eigh(basis.T @ now @ basis)
    return basis @ turned, turned.T @ (size[:, None] * vectors.T / scale), left


def _share(directions: np.ndarray, left: np.ndarray, limit: float) -> np.ndarray:
    """Of each scalar's variance, what is owed to the directions whose information has vanished."""
    least = max(ROUNDING * np.abs(left).max(initial=0.0), 1e-300)  # below it: nothing at all
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        variance = directions**2 / np.maximum(left, least)
        share = variance[:, left < limit].sum(1) / variance.sum(1)
    return np.nan_to_num(share)


def without_errors(covariance: Covariance, scalars: tuple[str, ...], reason: str) -> Covariance:
    """The covariance, NaN with its reason for these scalars."""
    lost = np.isin(covariance.names, scalars)
    matrix = covariance.matrix.copy()
    matrix[lost, :] = matrix[:, lost] = np.nan
    reasons = {n: reason for n in covariance.names if n in scalars}
    return replace(covariance, matrix=matrix, reasons={**covariance.reasons, **reasons})
