"""Recognises components that rest on nothing: collapses, spurious maxima, boundaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import lean_jit, quick_jit
from pp_mlem.base.status import Status
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.sites import Role
from pp_mlem.program.space import base_support, is_half_line, is_simplex
from pp_mlem.target.priors import at_one_value
from pp_mlem.target.problem import Problem

SCALE_NAMES = ("scale", "covariance_matrix", "precision_matrix", "scale_tril")
HATHAWAY_RATIO = 1e-3
COLLAPSE_RATIO = 1e-6
EDGE_COST = 0.01  # nats lost by moving onto an edge, below which the data do not know better
NEAR = 1e-3  # of the width of an interval or a simplex: nearer entries are tried
FAR_OUT, OUTWARD = 1e7, 1e100  # values of a half-line that may be infinite; how much farther
NEAR_HALF_LINE = 1e-6
AT_ONCE = 16


def _component_scales(value: np.ndarray, name: str, latent_axis: int) -> np.ndarray:
    """(values of the latent, others): smallest standard deviation of each distribution."""
    if name in ("scale_tril", "covariance_matrix", "precision_matrix"):
        matrix = value
        if name == "scale_tril":
            matrix = matrix @ np.swapaxes(matrix, -1, -2)
        eigen = np.linalg.eigvalsh(np.where(np.isfinite(matrix), matrix, 0.0))
        extreme = 1 / eigen[..., -1] if name == "precision_matrix" else eigen[..., 0]
        value = np.sqrt(np.maximum(extreme, 0.0))
        latent_axis += 2
    moved = np.moveaxis(value, latent_axis, 0)
    return moved.reshape(moved.shape[0], -1)


def component_report(problem: Problem) -> Callable:
    """A function (vector, data, fixed) -> (status or None, note) that judges the components.

    A component is set aside when its effective rows, rounded, do not exceed the rows needed to
    determine a location and a scale (dimension + 1), or when its scale is below 1e-3 of the
    largest (the ratio of Hathaway 1985, doi:10.1214/aos/1176349557; below 1e-6 it has collapsed).
    Both hold only for components with a scale of their own: elsewhere the likelihood is bounded.
    """
    reading = problem.reading
    scaled = []
    for factor in problem.marginal.factors:
        arguments = reading.dependencies[factor.site]
        names = [n for n in SCALE_NAMES if f"argument {n}" in arguments]
        for latent in factor.latents:
            site = reading.sites[latent]
            if latent == factor.law_of or site.vmapped or site.role is not Role.LATENT:
                continue
            own = [
                n
                for n in names
                if latent in arguments[f"argument {n}"]
                and arguments[f"argument {n}"] & frozenset(problem.space.names)
            ]
            if own:
                scaled.append((factor, latent, own[0]))
    if not scaled:
        return lambda vector, data, fixed: (None, "")
    laws = [f for f in problem.marginal.factors if f.law_of]
    sites = frozenset(f.site for f, _, _ in scaled)

    @(lean_jit if reading.is_long else quick_jit)
    def measure(vector: jax.Array, data: Any, fixed: Any) -> Any:
        params = problem.params(vector, fixed)
        _, statistics = problem.expectation(vector, data, fixed)
        arguments = at_one_value(reading, params, data, site_arguments, sites)
        rows: dict[str, jax.Array] = {}
        for law in laws:
            table = statistics[law.site]
            if reading.sites[law.law_of].vmapped:
                continue
            own = table.ndim + reading.latent_dim(law.law_of)
            counts = jnp.moveaxis(table, own, 0).reshape(table.shape[own], -1).sum(1)
            rows[law.law_of] = rows.get(law.law_of, 0.0) + counts
        return arguments, rows

    def judge(vector: Any, data: Any, fixed: Any) -> tuple[Status | None, str]:
        arguments, rows = jax.device_get(measure(jnp.asarray(vector), data, fixed))
        # Sites that share their scale (a chain's first step and the others) share their rows.
        shared: dict[tuple, np.ndarray] = {}
        for factor, latent, name in scaled:
            own = np.asarray(rows[latent]) * _observations_per_unit(problem, factor, latent)
            key = _scale_parameters(problem, factor, name), own.size
            shared[key] = shared.get(key, 0.0) + own
        for factor, latent, name in scaled:
            value = np.asarray(arguments[factor.site][name])
            batch_ndim = value.ndim - (2 if name != "scale" else 0)
            axis = batch_ndim - reading.sites[factor.site].columns + reading.latent_dim(latent)
            if axis < 0 or value.shape[axis] != reading.sites[latent].size:
                continue
            axis_from_end = axis - value.ndim
            scales = _component_scales(value, name, axis_from_end)
            size = reading.sites[latent].size
            effective = shared[_scale_parameters(problem, factor, name), size]
            needed = factor.family.rows_needed(factor.event_size) if factor.family else 2
            if factor.kind == "table":
                inside = factor.parameters
                needed = max(needed, _own_parameters(problem, inside, size))
            ratio = scales / scales.max(0, keepdims=True)
            k = int(ratio.min(1).argmin())
            told = (
                f"component {k} of '{latent}': {effective[k]:.1f} effective rows, scale "
                f"{scales[k].min():.3g} against {scales.max():.3g}"
            )
            if ratio.min() < COLLAPSE_RATIO or not np.all(np.isfinite(scales)):
                return Status.COLLAPSED, told
            if ratio.min() < HATHAWAY_RATIO:
                return Status.SPURIOUS, told + f" (ratio below {HATHAWAY_RATIO:g})"
            few = np.flatnonzero(np.round(effective) <= needed)
            empty = effective < 0.5
            few = [j for j in few if not empty[j]]
            if few:
                k = int(few[0])
                return Status.SPURIOUS, (
                    f"component {k} of '{latent}' rests on {effective[k]:.1f} effective rows, not "
                    f"more than the {needed} that its own parameters need"
                )
        return None, ""

    return judge


def _scale_parameters(problem: Problem, factor: Any, name: str) -> frozenset[str]:
    """The free parameters behind a scale argument of a site."""
    behind = problem.reading.dependencies[factor.site][f"argument {name}"]
    return behind & frozenset(problem.space.names)


def _observations_per_unit(problem: Problem, factor: Any, latent: str) -> float:
    """How many draws of the site hang on one unit of the latent."""
    sizes = problem.reading.plates
    steps = {p for s in problem.reading.scans.values() for p in (s.time, s.rest)}
    extra = factor.plates - problem.reading.sites[latent].plates - steps
    columns = {n for n, _, c in factor.layout if c}
    return float(np.prod([sizes[p].size for p in extra - columns] or [1]))


def _own_parameters(problem: Problem, names: frozenset[str], size: int) -> int:
    """Scalars that each value of a latent has for itself in these parameters."""
    total = 0
    for site in problem.reading.space.sites:
        if site.name in names and size in site.shape:
            total += int(np.prod(site.shape)) // size
    return total


def edge_masks_old(
    problem: Problem, evaluate: Callable, vector: Any, params: dict[str, Any], data: Any, fixed: Any
) -> dict[str, np.ndarray]:
    """Which entries of each free parameter are at an edge of its support.

    The rule is one of information, for every family and support: an entry is at an edge when it is
    near and moving it onto the edge, all else equal, lowers the exact objective by less than
    `EDGE_COST` nats (a hundredth of one observation, where the entry is a probability or a rate).
    A probability of 1e-6 behind a thousand events is no edge: moving it to zero costs them all.
    Infinity is the other edge of a half-line, for one entry or for all that are far out in their
    proportions: the concentration of counts that are not dispersed.
    `evaluate` is a compiled `edge_objective`; it runs only where an entry is near an edge.
    """
    space = problem.space
    masks = {s.name: np.zeros(np.shape(params[s.name]), bool) for s in space.sites}
    where, proposals, owners = space.slices(), [], []
    vector = np.asarray(vector, float)
    for site in space.sites:
        value = np.asarray(params[site.name], float)
        base = base_support(site.support)
        near = _near_edge(base, value)
        for index, target, there in near:
            if there:
                masks[site.name][index] = True
                continue
            moved = value.copy()
            moved[index] = target
            if is_simplex(site.support):
                moved /= moved.sum(-1, keepdims=True)
            owners.append([(site.name, index)])
            proposals.append(_with_values(problem, vector, {site.name: moved}))
        for index, place, target in _near_coordinates(base, value, vector[where[site.name]]):
            owners.append([(site.name, index)])
            proposals.append(vector.copy())
            proposals[-1][where[site.name].start + place] = target
    for entries in _far_out(problem, params):
        values = {n: np.array(params[n], float) for n, _ in entries}
        for name, index in entries:
            values[name][index] = min(OUTWARD * values[name][index], 1e300)
        owners.append(entries)
        proposals.append(_with_values(problem, vector, values))
    if not proposals:
        return masks
    cost = objective_at(evaluate, vector, [vector], data, fixed)[0] - objective_at(
        evaluate, vector, proposals, data, fixed
    )
    for entries, lost in zip(owners, cost, strict=True):
        for name, index in entries if lost < EDGE_COST else ():
            masks[name][index] = True
    return masks


def _with_values(problem: Problem, vector: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """The vector with these parameters at these values."""
    moved, where = vector.copy(), problem.space.slices()
    for name, value in values.items():
        one = problem.space.only(frozenset({name}))
        moved[where[name]] = np.asarray(one.to_vector({name: value}))
    return moved


def _far_out(problem: Problem, params: dict[str, Any]) -> list[list[tuple[str, tuple]]]:
    """Entries of half-lines that may be on their way to infinity: each, and all together."""
    entries = [
        (site.name, index)
        for site in problem.space.sites
        if is_half_line(site.support)
        for index in np.ndindex(*np.shape(params[site.name]))
        if FAR_OUT < np.asarray(params[site.name], float)[index] < np.inf
    ]
    return [[e] for e in entries] + ([entries] if len(entries) > 1 else [])


def edge_objective(problem: Problem) -> Callable:
    """Jitted (vectors, data, fixed) -> the objective at each, one after the other."""

    def evaluate(vectors: jax.Array, data: Any, fixed: Any) -> jax.Array:
        return jax.lax.map(lambda v: problem.objective(v, data, fixed), vectors)

    return quick_jit(evaluate)


def objective_at(evaluate: Callable, fill: Any, vectors: list, data: Any, fixed: Any) -> np.ndarray:
    """The objective at every vector by a compiled `edge_objective`; -inf where it is none."""
    found = []
    for first in range(0, len(vectors), AT_ONCE):
        some = vectors[first : first + AT_ONCE]
        padded = some + [np.asarray(fill)] * (AT_ONCE - len(some))
        found.append(np.asarray(evaluate(jnp.asarray(np.stack(padded)), data, fixed))[: len(some)])
    values = np.concatenate(found)
    return np.where(np.isnan(values), -np.inf, values)


def _near_edge(base: Any, value: np.ndarray) -> list[tuple[tuple, float, bool]]:
    """(index, value at the edge, whether it is there already) of the entries near an edge of a
    simplex, an interval or a half-line."""
    kind = type(base).__name__.lstrip("_")
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if kind == "Simplex":
        lower, width, upper = 0.0, 1.0, None
    elif lower is None or kind in ("PositiveDefinite", "LowerCholesky"):
        return []
    else:
        width = 1.0 if upper is None else np.asarray(upper, float) - np.asarray(lower, float)
    found = []
    limit = NEAR_HALF_LINE if upper is None and kind != "Simplex" else NEAR
    there = 1e-150 if upper is None and kind != "Simplex" else 1e-13 * np.asarray(width)
    for edge, sign in ((lower, 1.0), (upper, -1.0)):
        if edge is None:
            continue
        edge = np.broadcast_to(np.asarray(edge, float), value.shape)
        distance = sign * (value - edge)
        on_it = np.broadcast_to(distance <= there, value.shape)
        for index in np.ndindex(*value.shape):
            if distance[index] < limit * np.broadcast_to(width, value.shape)[index]:
                found.append((index, float(edge[index]), bool(on_it[index])))
    return found


def _near_coordinates(base: Any, value: np.ndarray, free: Any) -> list[tuple[Any, int, float]]:
    """(entries, place among the coordinates, value near the edge) for correlations near plus or
    minus one and ordered values that almost touch."""
    kind, free = type(base).__name__.lstrip("_"), np.asarray(free, float)
    if kind in ("CorrCholesky", "CorrMatrix"):
        d = value.shape[-1]
        rows = np.tril_indices(d, -1)
        per = len(rows[0])
        lead = value.shape[:-2]
        return [
            (np.unravel_index(i // per, lead or (1,))[: len(lead)] + (rows[0][i % per],), i,
             float(np.sign(t) * 15.0))
            for i, t in enumerate(free)
            if abs(t) > 4.0
        ]  # fmt: skip
    if kind in ("OrderedVector", "PositiveOrderedVector", "Ordered"):
        size = value.shape[-1]
        gaps = np.exp(np.clip(free, -700, 700)).reshape(-1, size)
        total = gaps[:, 1:].sum(-1, keepdims=True)
        lead = value.shape[:-1]
        return [
            (np.unravel_index(r, lead or (1,))[: len(lead)] + (c,), r * size + c, -300.0)
            for r in range(len(gaps))
            for c in range(1, size)
            if gaps[r, c] < NEAR_HALF_LINE * max(total[r, 0], 1e-300)
        ]
    return []


def told_edges(masks: dict[str, np.ndarray]) -> str:
    """Names the parameters at an edge of a bounded support ("" when there is none)."""
    found = [f"{n} ({int(m.sum())} of {m.size})" for n, m in masks.items() if m.any()]
    return "at the boundary: " + ", ".join(found) if found else ""


def judge_components(target, vector):
    report = target.kept.once(
        ("components", target.problem), lambda: component_report(target.problem)
    )
    return report(vector, target.data, target.fixed)


def edge_masks(target, vector, params):
    evaluate = target.kept.once(
        ("edge objective", target.problem), lambda: edge_objective(target.problem)
    )
    return edge_masks_old(target.problem, evaluate, vector, params, target.data, target.fixed)
