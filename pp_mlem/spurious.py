"""Recognises components that rest on nothing: collapses, spurious maxima, boundaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.precision import lean_jit, quick_jit
from pp_mlem.problem import Problem, at_one_value
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.sites import Role
from pp_mlem.program.space import ParameterSpace
from pp_mlem.status import Status

SCALE_NAMES = ("scale", "covariance_matrix", "precision_matrix", "scale_tril")
HATHAWAY_RATIO = 1e-3
COLLAPSE_RATIO = 1e-6
BOUNDARY_EDGE = 1e-6


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


def boundary_edge(units: float) -> float:
    """How near to an edge a probability says that its event is not in the data: a hundredth of
    one observation, and 1e-6 at least."""
    return max(BOUNDARY_EDGE, min(1e-3, 0.01 / max(units, 1.0)))


def at_boundary(space: ParameterSpace, params: dict[str, Any], units: float) -> str:
    """Names the parameters at an edge of a bounded support ("" when there is none)."""
    found = []
    for site in space.sites:
        inside = ~boundary_mask(site.support, np.asarray(params[site.name]), boundary_edge(units))
        if not inside.all():
            found.append(f"{site.name} ({int((~inside).sum())} of {inside.size})")
    return "at the boundary: " + ", ".join(found) if found else ""


def boundary_mask(support: Any, value: np.ndarray, edge: float) -> np.ndarray:
    """Entries of a simplex, an interval or a half-line that lie at its edge."""
    base = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    if type(base).__name__ == "_Simplex" or type(base).__name__ == "Simplex":
        return value < edge
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if value.ndim and type(base).__name__ in ("_PositiveDefinite", "PositiveDefinite"):
        return np.zeros(value.shape, bool)
    if lower is not None and upper is not None:
        width = np.asarray(upper) - np.asarray(lower)
        return (value - lower < edge * width) | (upper - value < edge * width)
    if lower is not None:
        return value - np.asarray(lower) < 1e-8
    return np.zeros(value.shape, bool)
