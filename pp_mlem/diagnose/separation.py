"""Recognises an optimum that lies at infinity: separated data of a discrete distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from pp_mlem.diagnose.extremes import certain_sites, extremes_at
from pp_mlem.diagnose.spurious import edge_objective, objective_at
from pp_mlem.diagnose.uncertainty import Covariance, flatten, information_function, natural_scale
from pp_mlem.model.model import Model
from pp_mlem.program.space import base_support, is_half_line, scalar_names
from pp_mlem.target.problem import Problem

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


def find_separation_old(
    model: Model, problem: Problem, vector: Any, fixed: dict, data: Any = None
) -> Separation | None:
    """Which parameters grow without bound (None where all have their maximum), on the model's data
    or on others of their shape.

    Where some row's probability is one to rounding, directions are tried in which the information
    has vanished, next to that of the same parameters drawn back until the rows tell. One is told
    when the objective does not fall on the way out along it and falls on the way back (Albert &
    Anderson 1984, doi:10.1093/biomet/71.1.1). A ridge is flat both ways.
    """
    real, positive, lines = _lines(problem)
    sites = certain_sites(problem, real, positive)
    if not sites:
        return None
    at = np.asarray(vector, float)
    data = model.data if data is None else data

    def counts(point: np.ndarray) -> tuple[float, float]:
        return _counts(model, problem, point, data, fixed, sites)

    saturated, _ = counts(at)
    if not saturated:
        return None
    values, _ = _natural(model, problem, at)
    move = _mover(problem, values)
    whole = np.where(lines, values, 0.0)
    least = counts(move((DRAWN_BACK[-1] - 1) * whole))
    if saturated <= least[0]:  # rows that are certain whatever the parameters
        return None
    points = (move((share - 1) * whole) for share in DRAWN_BACK)
    back = next(p for p in points if counts(p)[1] <= least[1])
    now, then = (_information(model, problem, p, lines, data, fixed) for p in (at, back))
    directions, dual, left = _what_is_left(now, then)
    key = (frozenset(fixed), problem.with_prior)
    evaluate = model.compiled(("edge objective", *key), lambda: edge_objective(problem))
    for limit in VANISHED:
        gone = directions[:, left < limit]
        if not gone.shape[1]:
            continue
        step = np.zeros(len(values))
        step[lines] = gone @ (dual[left < limit] @ values[lines])
        tried = [at, *(move(t * step) for t in (*OUT, *BACK))]
        found = objective_at(evaluate, at, tried, data, fixed)
        out, inward = found[1:3] - found[0], found[3:5] - found[0]
        if np.all(out >= -OUTWARD) and np.any(inward < -INWARD):
            names = np.array(scalar_names(problem.space))[lines]
            share = _share(directions, left, limit)
            return Separation(tuple(str(n) for n in names[share > OWN_SHARE]))
    return None


def _lines(problem: Problem) -> tuple[set[str], set[str], np.ndarray]:
    """The real and the positive parameters, which can grow for ever, and which scalars they are."""
    real, positive, flags = set(), set(), []
    for site in problem.space.sites:
        if isinstance(base_support(site.support), _LINES):
            real.add(site.name)
        elif is_half_line(site.support):
            positive.add(site.name)
        flags.append(np.full(int(np.prod(site.shape)), site.name in real | positive))
    return real, positive, np.concatenate(flags) if flags else np.zeros(0, bool)


def _counts(
    model: Model,
    problem: Problem,
    point: np.ndarray,
    data: Any,
    fixed: dict,
    sites: frozenset[str],
) -> tuple[float, float]:
    """How many probabilities of rows are one to rounding, and how many come near."""
    found = extremes_at(model, problem, point, data, fixed, sites).values()
    return sum(e.saturated for e in found), sum(e.near for e in found)


def _natural(model: Model, problem: Problem, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All scalars on their own scale, and their Jacobian."""
    params, jacobian = natural_scale(model, problem, point)
    return np.asarray(flatten(problem.space, params), float), jacobian


def _mover(problem: Problem, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function step -> the unconstrained vector of `values` + step."""
    sites = problem.space.sites
    ends = np.cumsum([0, *(int(np.prod(s.shape)) for s in sites)])

    def move(step: np.ndarray) -> np.ndarray:
        moved = values + step
        parts = {s.name: moved[i:j].reshape(s.shape)
                 for s, i, j in zip(sites, ends[:-1], ends[1:], strict=True)}  # fmt: skip
        return np.asarray(problem.space.to_vector(parts), float)

    return move


def _information(
    model: Model, problem: Problem, point: np.ndarray, lines: np.ndarray, data: Any, fixed: dict
) -> np.ndarray:
    """Minus the Hessian with respect to the scalars that can grow, the others held."""
    key = (frozenset(fixed), problem.with_prior)
    inform = model.compiled(("information", key), lambda: information_function(model, problem))
    matrix = np.asarray(inform(jnp.asarray(point), data, fixed)[1], float)
    _, jacobian = _natural(model, problem, point)
    inverse = np.linalg.pinv(jacobian)[:, lines]
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


def without_errors(found: Covariance, scalars: tuple[str, ...], reason: str) -> Covariance:
    """The covariance, NaN with its reason for these scalars."""
    lost = np.isin(found.names, scalars)
    matrix = found.matrix.copy()
    matrix[lost, :] = matrix[:, lost] = np.nan
    told = {n: reason for n in found.names if n in scalars}
    return replace(found, matrix=matrix, reasons={**found.reasons, **told})


def find_separation(target, vector):
    class M:
        pass

    m = M()
    m.dtype, m.n_observations, m.data, m.compiled = (
        target.dtype,
        target.units,
        target.data,
        target.kept.once,
    )
    return find_separation_old(m, target.problem, vector, target.fixed)
