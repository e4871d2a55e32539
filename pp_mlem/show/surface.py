"""The objective over two scalars of any program, as a slice or a profile."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import lean_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.profile import constrained_maximum, scalar_index
from pp_mlem.fit.base import Fit, not_a_point
from pp_mlem.program.space import ParameterSpace, is_simplex
from pp_mlem.target.target import Target

BATCH = 64


def _site_of(space: ParameterSpace, index: int) -> tuple[str, int]:
    """The parameter that holds a scalar, and the scalar's place in it."""
    for site in space.sites:
        size = int(np.prod(site.shape))
        if index < size:
            return site.name, index
        index -= size
    raise IndexError(index)


def _with_scalars(
    space: ParameterSpace, params: dict[str, np.ndarray], wanted: list[tuple[int, float]]
) -> dict[str, np.ndarray] | None:
    """Parameters with some scalars set; None where that leaves the support. The other entries of
    a simplex are rescaled, a matrix stays symmetric."""
    new = {k: np.array(v, float) for k, v in params.items()}
    touched: dict[str, list[int]] = {}
    for index, value in wanted:
        name, place = _site_of(space, index)
        new[name].reshape(-1)[place] = value
        touched.setdefault(name, []).append(place)
    for site in space.sites:
        if site.name not in touched:
            continue
        value = new[site.name]
        if is_simplex(site.support):
            rows = value.reshape(-1, value.shape[-1])
            for row in {p // value.shape[-1] for p in touched[site.name]}:
                held = [
                    p % value.shape[-1] for p in touched[site.name] if p // value.shape[-1] == row
                ]
                rest = [j for j in range(value.shape[-1]) if j not in held]
                room = 1.0 - rows[row, held].sum()
                if room < 0 or (not rest and abs(room) > 1e-9):
                    return None
                if rest:
                    rows[row, rest] *= room / max(rows[row, rest].sum(), 1e-300)
        elif site.support.event_dim == 2:
            for place in touched[site.name]:
                at = np.unravel_index(place, value.shape)
                value[(*at[:-2], at[-1], at[-2])] = value[at]
        if not np.all(np.asarray(site.support.check(jnp.asarray(value)))):
            return None
    return new


def surface(
    fit: Fit, a: str, b: str, kind: str, over_a: np.ndarray, over_b: np.ndarray
) -> np.ndarray:
    """The objective on a grid, (points of b, points of a); NaN outside the parameters' support."""
    if kind not in ("slice", "profile"):
        raise ValueError(f"kind: received {kind!r}, expected 'slice' or 'profile'.")
    if fit.has_draws:
        raise not_a_point("a surface", fit.method)
    model, problem = fit.model_for("a surface"), fit.problem()
    i, j = scalar_index(problem, a, "a"), scalar_index(problem, b, "b")
    if i == j:
        raise ValueError(f"a, b: both are {a!r}; expected two different scalars.")
    space = problem.space
    with working_precision(model.dtype):
        held = {k: jnp.asarray(v) for k, v in fit.fixed.items()}
        free = {n: fit.params[n] for n in space.names}
        cells = [(va, vb) for vb in over_b for va in over_a]
        settings = [_with_scalars(space, free, [(i, va), (j, vb)]) for va, vb in cells]
        inside = [k for k, s in enumerate(settings) if s is not None]
        values = np.full(len(cells), np.nan)
        if inside:
            stacked = {
                n: jnp.asarray(np.stack([settings[k][n] for k in inside])) for n in space.names
            }
            starts = lean_jit(jax.vmap(space.unconstrain))(stacked)
            wanted = jnp.asarray([cells[k] for k in inside])
            scale = jnp.asarray([np.ptp(over_a), np.ptp(over_b)]) / 8
            key = ("surface", kind, i, j, frozenset(held), problem.with_prior)

            def make() -> Any:
                def at(start: Any, wanted: Any, scale: Any, data: Any, held: Any) -> Any:
                    target = Target(problem, data, held)
                    if kind == "slice":
                        return target.value(start)
                    return constrained_maximum(target, np.array([i, j]), start, wanted, scale)[1]

                def every(starts: Any, wanted: Any, scale: Any, data: Any, held: Any) -> Any:
                    return jax.lax.map(
                        lambda pair: at(pair[0], pair[1], scale, data, held), (starts, wanted),
                        batch_size=BATCH,
                    )  # fmt: skip

                return lean_jit(every)

            function = model.bound.kept.once(key, make)
            values[inside] = np.asarray(function(starts, wanted, scale, model.data, held))
    values = np.where(np.isfinite(values) & (values > -1e100), values, np.nan)
    return values.reshape(len(over_b), len(over_a))


def path_of(fit: Fit, a: str, b: str) -> np.ndarray:
    """(points, 2): two scalars along the iterations of a fit made with trace=True."""
    if not fit.trace:
        return np.zeros((0, 2))
    order = [n for n in fit.params if n not in fit.fixed]
    places = [list(fit.scalar_names).index(n) for n in (a, b)]
    rows = [np.concatenate([np.ravel(p[n]) for n in order])[places] for p in fit.trace]
    return np.array([*rows, fit.estimates()[[a, b]].to_numpy()])
