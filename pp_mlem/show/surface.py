"""The objective over two scalars of any program, as a slice or a profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Effort
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.profile import constrained_maximum, scalar_index
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.program.space import ParameterSpace, is_simplex
from pp_mlem.target.target import Target

BATCH = 64  # cells side by side
NO_VALUE = -1e100  # what lies below stands for minus infinity


def _site_of(space: ParameterSpace, index: int) -> tuple[str, int]:
    """The parameter that holds a scalar, and the scalar's place in it."""
    for site in space.sites:
        size = int(np.prod(site.shape))
        if index < size:
            return site.name, index
        index -= size
    raise IndexError(index)


def _with_scalars(
    space: ParameterSpace, params: dict[str, np.ndarray], wanted: dict[int, float]
) -> dict[str, np.ndarray] | None:
    """Parameters with some scalars set; None where that leaves the support. The other entries of
    a simplex are rescaled, a matrix stays symmetric."""
    new = {k: v.copy() for k, v in params.items()}
    touched: dict[str, list[int]] = {}
    for index, scalar in wanted.items():
        name, place = _site_of(space, index)
        new[name].reshape(-1)[place] = scalar
        touched.setdefault(name, []).append(place)
    for site in space.sites:
        places = touched.get(site.name, [])
        value = new[site.name]
        if is_simplex(site.support):
            if not _rescaled(value, places):
                return None
        elif site.support.event_dim == 2:
            for place in places:
                at = np.unravel_index(place, value.shape)
                value[(*at[:-2], at[-1], at[-2])] = value[at]
        if places and not np.all(np.asarray(site.support.check(jnp.asarray(value)))):
            return None
    return new


def _rescaled(simplices: np.ndarray, places: list[int]) -> bool:
    """Make the rows that hold these places add up to one again, by their other entries; whether
    that can be done."""
    size = simplices.shape[-1]
    rows = simplices.reshape(-1, size)
    for row in {p // size for p in places}:
        held = [p % size for p in places if p // size == row]
        rest = [j for j in range(size) if j not in held]
        room = 1.0 - rows[row, held].sum()
        if room < 0 or (not rest and abs(room) > 1e-9):
            return False
        if rest:
            rows[row, rest] *= room / max(rows[row, rest].sum(), 1e-300)
    return True


def surface(
    fit: PointFit, a: str, b: str, kind: str, over_a: np.ndarray, over_b: np.ndarray
) -> np.ndarray:
    """The objective on a grid, (points of b, points of a); NaN outside the parameters' support."""
    if kind not in KINDS:
        raise ValueError(f"kind: received {kind!r}, expected 'slice' or 'profile'.")
    model, problem = fit.model_for("a surface"), fit.problem()
    i, j = scalar_index(problem, a, "a"), scalar_index(problem, b, "b")
    if i == j:
        raise ValueError(f"a, b: both are {a!r}; expected two different scalars.")
    space = problem.space
    cells = [(va, vb) for vb in over_b for va in over_a]
    with working_precision(model.dtype):
        target = model.target(fit.fixed, problem.with_prior)
        free = {n: np.array(fit.params[n], float) for n in space.names}
        settings = {
            k: _with_scalars(space, free, {i: va, j: vb}) for k, (va, vb) in enumerate(cells)
        }
        inside = {k: s for k, s in settings.items() if s is not None}
        values = np.full(len(cells), np.nan)
        if inside:
            starts = target.unconstrained(
                {n: jnp.asarray([s[n] for s in inside.values()]) for n in space.names}
            )
            wanted = jnp.asarray([cells[k] for k in inside])
            scale = jnp.asarray([np.ptp(over_a), np.ptp(over_b)]) / 8
            run = target.compiled(_over_grid, KINDS[kind], i, j, effort=Effort.LEAN)
            values[list(inside)] = np.asarray(run(jnp.asarray(starts), wanted, scale))
    values = np.where(np.isfinite(values) & (values > NO_VALUE), values, np.nan)
    return values.reshape(len(over_b), len(over_a))


def _at(target: Target, i: int, j: int, start: Any, wanted: Any, scale: Any) -> jax.Array:
    """The objective with the other scalars as they are. Traceable."""
    return target.value(start)


def _best(target: Target, i: int, j: int, start: Any, wanted: Any, scale: Any) -> jax.Array:
    """The objective with the other scalars at their best. Traceable."""
    return constrained_maximum(target, jnp.array([i, j]), start, wanted, scale)[1]


KINDS: dict[str, Callable[..., jax.Array]] = {"slice": _at, "profile": _best}


def _over_grid(
    target: Target,
    objective: Callable[..., jax.Array],
    i: int,
    j: int,
    starts: jax.Array,
    wanted: jax.Array,
    scale: jax.Array,
) -> jax.Array:
    def cell(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return objective(target, i, j, *pair, scale)

    return jax.lax.map(cell, (starts, wanted), batch_size=BATCH)


def path_of(fit: Fit, a: str, b: str) -> np.ndarray:
    """(points, 2): two scalars along the iterations of a fit made with trace=True."""
    if not isinstance(fit, PointFit) or not fit.trace:
        return np.zeros((0, 2))
    order = [n for n in fit.params if n not in fit.fixed]
    places = [list(fit.scalar_names).index(n) for n in (a, b)]
    rows = [np.concatenate([np.ravel(p[n]) for n in order])[places] for p in fit.trace]
    return np.array([*rows, fit.estimates()[[a, b]].to_numpy()])
