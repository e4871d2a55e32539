"""Recognises components that rest on nothing: collapses, spurious maxima, boundaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import of_program
from pp_mlem.base.status import Status
from pp_mlem.diagnose.uniqueness import floors
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.base import Factor
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.sites import Role
from pp_mlem.program.space import base_support, is_half_line, is_simplex
from pp_mlem.target.priors import at_one_value
from pp_mlem.target.target import Natural, Params, Target

Index = tuple[Any, ...]
ValueAt = Callable[[np.ndarray], np.ndarray]  # (count, size) -> the objective at each
SCALE_NAMES = ("scale", "covariance_matrix", "precision_matrix", "scale_tril")
HATHAWAY_RATIO = 1e-3
COLLAPSE_RATIO = 1e-6
EDGE_COST = 0.01  # nats lost by moving onto an edge, below which the data do not know better
NEAR = 1e-3  # of the width of an interval or a simplex: nearer entries are tried
FAR_OUT, OUTWARD = 1e7, 1e100  # values of a half-line that may be infinite; how much farther
NEAR_HALF_LINE = 1e-6
AT_ONCE = 16


@dataclass(frozen=True)
class _Scaled:
    """A factor whose scale `argument` each value of a latent has for itself."""

    factor: Factor
    latent: str
    argument: str

    @property
    def is_matrix(self) -> bool:
        return self.argument != "scale"

    def parameters(self, target: Target) -> frozenset[str]:
        """The free parameters behind the scale."""
        behind = target.reading.dependencies[self.factor.site][f"argument {self.argument}"]
        return behind & frozenset(target.space.names)


def _scaled_factors(target: Target) -> list[_Scaled]:
    reading, free = target.reading, frozenset(target.space.names)
    scaled = []
    for factor in target.marginal.factors:
        arguments = reading.dependencies[factor.site]
        if isinstance(factor, AffineFactor) and factor.own:
            continue  # a variance of a real latent may vanish: no density grows there without bound
        for latent in factor.latents:
            site = reading.sites[latent]
            if latent == factor.law_of or site.vmapped or site.role is not Role.LATENT:
                continue
            for name in SCALE_NAMES:
                behind = arguments.get(f"argument {name}", frozenset())
                if latent in behind and behind & free:
                    scaled.append(_Scaled(factor, latent, name))
                    break
    return scaled


@dataclass(frozen=True)
class Scales:
    """All parameters at a vector, and the arguments of distributions there whose scale each value of a
    latent has for itself, by site."""

    params: Params
    arguments: dict[str, Any]

    @classmethod
    def at(cls, target: Target, vector: np.ndarray) -> Scales:
        sites = frozenset(s.factor.site for s in _scaled_factors(target))
        return cls(*jax.device_get(target.compiled(_params_and_scales, sites)(vector)))


def _params_and_scales(
    target: Target, sites: frozenset[str], vector: jax.Array
) -> tuple[Params, dict[str, Any]]:
    params = target.params(vector)
    if not sites:
        return params, {}
    return params, at_one_value(target.reading, params, target.data, site_arguments, sites)


def rows_of(target: Target, statistics: Natural) -> dict[str, jax.Array]:
    """The expected number of units at each value of the latents, of expected statistics. Traceable."""
    reading, rows = target.reading, dict[str, jax.Array]()
    for law in target.marginal.factors:
        if not law.law_of or reading.sites[law.law_of].vmapped:
            continue
        table = statistics[law.site]
        own = table.ndim + reading.latent_dim(law.law_of)
        counts = jnp.moveaxis(table, own, 0).reshape(table.shape[own], -1).sum(1)
        rows[law.law_of] = rows.get(law.law_of, jnp.zeros(())) + counts
    return rows


def rows_at(target: Target, vector: np.ndarray) -> dict[str, np.ndarray]:
    """The same at a vector, on the host; nothing where no component has a scale of its own."""
    if not _scaled_factors(target):
        return {}
    run = target.compiled(_rows_at, effort=of_program(target.reading.is_long))
    rows: dict[str, np.ndarray] = jax.device_get(run(vector))
    return rows


def _rows_at(target: Target, vector: jax.Array) -> dict[str, jax.Array]:
    return rows_of(target, target.expectation(vector)[1])


def judge_components(
    target: Target, scales: Scales, rows: Mapping[str, Any]
) -> tuple[Status | None, str]:
    """How a component rests on nothing, and which (None, "" where none does): of its scale and the
    expected number of units at each value of the latents.

    A component is set aside when its effective rows, rounded, do not exceed the rows needed to
    determine a location and a scale (dimension + 1), or when its scale is below 1e-3 of the
    largest (the ratio of Hathaway 1985, doi:10.1214/aos/1176349557; below 1e-6 it has collapsed).
    Both hold only for components with a scale of their own: elsewhere the likelihood is bounded.
    """
    scaled = _scaled_factors(target)
    if not scaled:
        return None, ""
    # Sites that share their scale (a chain's first step and the others) share their rows.
    shared: dict[tuple[frozenset[str], int], np.ndarray] = {}
    for s in scaled:
        count = np.asarray(rows[s.latent]) * _observations_per_unit(target, s)
        key = s.parameters(target), count.size
        shared[key] = shared.get(key, np.zeros(count.size)) + count
    for s in scaled:
        size = target.reading.sites[s.latent].size
        value = np.asarray(scales.arguments[s.factor.site][s.argument])
        own = _component_scales(target, s, value)
        if own is None:
            continue
        status, note = _judge(target, s, own, shared[s.parameters(target), size])
        if status is not None:
            return status, note
    return None, ""


def _component_scales(target: Target, scaled: _Scaled, value: np.ndarray) -> np.ndarray | None:
    """(values of the latent, others): smallest standard deviation of each distribution; None where
    the argument has no axis of the latent."""
    reading, name = target.reading, scaled.argument
    batch_ndim = value.ndim - 2 * scaled.is_matrix
    columns = reading.sites[scaled.factor.site].columns
    axis = batch_ndim - columns + reading.latent_dim(scaled.latent)
    if axis < 0 or value.shape[axis] != reading.sites[scaled.latent].size:
        return None
    if scaled.is_matrix:
        if name == "scale_tril":
            value = value @ np.swapaxes(value, -1, -2)
        eigen = np.linalg.eigvalsh(np.where(np.isfinite(value), value, 0.0))
        extreme = 1 / eigen[..., -1] if name == "precision_matrix" else eigen[..., 0]
        value = np.sqrt(np.maximum(extreme, 0.0))
    moved = np.moveaxis(value, axis, 0)
    return moved.reshape(moved.shape[0], -1)


def _judge(
    target: Target, scaled: _Scaled, scales: np.ndarray, effective: np.ndarray
) -> tuple[Status | None, str]:
    """The verdict on one factor: `scales` (values, others) and effective rows (values,)."""
    factor, latent = scaled.factor, scaled.latent
    ratio = scales / scales.max(0, keepdims=True)
    k = int(ratio.min(1).argmin())
    note = (
        f"component {k} of '{latent}': {effective[k]:.1f} effective rows, scale "
        f"{scales[k].min():.3g} against {scales.max():.3g}"
    )
    if ratio.min() < COLLAPSE_RATIO or not np.all(np.isfinite(scales)):
        return Status.COLLAPSED, note
    if ratio.min() < HATHAWAY_RATIO:
        return Status.SPURIOUS, note + f" (ratio below {HATHAWAY_RATIO:g})"
    needed = factor.family.rows_needed(factor.event_size) if factor.family else 2
    if factor.kind == "table":
        needed = max(needed, _own_parameters(target, factor.parameters, len(scales)))
    few = np.flatnonzero((np.round(effective) <= needed) & (effective >= 0.5))  # or it is empty
    if len(few):
        k = int(few[0])
        return Status.SPURIOUS, (
            f"component {k} of '{latent}' rests on {effective[k]:.1f} effective rows, not "
            f"more than the {needed} that its own parameters need"
        )
    return None, ""


def _observations_per_unit(target: Target, scaled: _Scaled) -> float:
    """How many draws of the site hang on one unit of the latent."""
    reading, factor = target.reading, scaled.factor
    steps = {p for s in reading.scans.values() for p in (s.time, s.rest)}
    extra = factor.plates - reading.sites[scaled.latent].plates - steps
    columns = {n for n, _, c in factor.layout if c}
    return float(np.prod([reading.plates[p].size for p in extra - columns] or [1]))


def _own_parameters(target: Target, names: frozenset[str], size: int) -> int:
    """Scalars that each value of a latent has for itself in these parameters."""
    total = 0
    for site in target.reading.space.sites:
        if site.name in names and size in site.shape:
            total += int(np.prod(site.shape)) // size
    return total


# --- edges of supports ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Move:
    """Entries that may be at an edge together, and the vector with them on it."""

    entries: list[tuple[str, Index]]
    vector: np.ndarray


def edge_masks(
    target: Target, vector: Any, params: dict[str, Any], value_at: ValueAt | None = None
) -> dict[str, np.ndarray]:
    """Which entries of each free parameter are at an edge of its support.

    The rule is one of information, for every family and support: an entry is at an edge when it is
    near and moving it onto the edge, all else equal, lowers the exact objective by less than
    `EDGE_COST` nats (a hundredth of one observation, where the entry is a probability or a rate).
    A probability of 1e-6 behind a thousand events is no edge: moving it to zero costs them all.
    Infinity is the other edge of a half-line, for one entry or for all that are far out in their
    proportions: the concentration of counts that are not dispersed. The objective is evaluated only
    where an entry is near an edge; `value_at` does it where such a function is compiled already.
    """
    vector = np.asarray(vector, float)
    masks = {s.name: np.zeros(np.shape(params[s.name]), bool) for s in target.space.sites}
    moves = _moves_onto_edges(target, vector, params, masks)
    if not moves:
        return masks
    points = [vector, *(m.vector for m in moves)]
    if value_at is None or _variances(target):  # statistics of a law without variance are none
        values = objective_at(target, vector, points)
    else:
        values = _known(value_at(np.stack(points)))
    cost = values[0] - values[1:]
    for move, lost in zip(moves, cost, strict=True):
        for name, index in move.entries if lost < EDGE_COST else ():
            masks[name][index] = True
    return masks


def _moves_onto_edges(
    target: Target, vector: np.ndarray, params: dict[str, Any], masks: dict[str, np.ndarray]
) -> list[_Move]:
    """What is to be tried; entries that are on an edge already are marked in `masks`."""
    moves, where = [], target.space.slices()
    variances = _variances(target)
    for site in target.space.sites:
        value = np.asarray(params[site.name], float)
        base = base_support(site.support)
        for index, edge, there in _near_edge(base, value, site.name in variances):
            if there:
                masks[site.name][index] = True
                continue
            moved = value.copy()
            moved[index] = edge
            if is_simplex(site.support):
                moved /= moved.sum(-1, keepdims=True)
            at_edge = _with_values(target, vector, {site.name: moved})
            moves.append(_Move([(site.name, index)], at_edge))
        for index, place, edge in _near_coordinates(base, value, vector[where[site.name]]):
            at_edge = vector.copy()
            at_edge[where[site.name].start + place] = edge
            moves.append(_Move([(site.name, index)], at_edge))
    for name, floor in floors(target, params).items():
        value = np.asarray(params[name], float)
        for index in map(tuple, np.argwhere(value < floor.near)):
            moved = value.copy()
            moved[index] = floor.zero[index]
            moves.append(_Move([(name, index)], _with_values(target, vector, {name: moved})))
    for entries in _far_out(target, params):
        values = {n: np.array(params[n], float) for n, _ in entries}
        for name, index in entries:
            values[name][index] = min(OUTWARD * values[name][index], 1e300)
        moves.append(_Move(entries, _with_values(target, vector, values)))
    return moves


def _variances(target: Target) -> frozenset[str]:
    """The parameters behind the scale of a real latent's law. Whether such a one is at zero has no measure
    of nearness: without the latents the data may be as likely."""
    behind: set[str] = set()
    for factor in target.marginal.factors:
        if isinstance(factor, AffineFactor) and factor.own:
            parts = target.reading.dependencies[factor.site]
            behind |= parts.get("argument scale", frozenset())
    return frozenset(behind)


def _with_values(target: Target, vector: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """The vector with these parameters at these values."""
    moved, where = vector.copy(), target.space.slices()
    for name, value in values.items():
        one = target.space.only(frozenset({name}))
        moved[where[name]] = np.asarray(one.to_vector({name: value}))
    return moved


def _far_out(target: Target, params: dict[str, Any]) -> list[list[tuple[str, Index]]]:
    """Entries of half-lines that may be on their way to infinity: each, and all together."""
    entries: list[tuple[str, Index]] = [
        (site.name, index)
        for site in target.space.sites
        if is_half_line(site.support)
        for index in np.ndindex(*np.shape(params[site.name]))
        if FAR_OUT < np.asarray(params[site.name], float)[index] < np.inf
    ]
    return [[e] for e in entries] + ([entries] if len(entries) > 1 else [])


def _one_by_one(target: Target, vectors: jax.Array) -> jax.Array:
    """The objective at each vector, one after the other. Traceable."""
    return jax.lax.map(target.value, vectors)


def objective_at(target: Target, vector: Any, points: Sequence[Any]) -> np.ndarray:
    """The objective at every point; -inf where it is none. `vector`, where it is known to be, fills
    up the last block."""
    evaluate = target.compiled(_one_by_one)
    parts = []
    for first in range(0, len(points), AT_ONCE):
        some = list(points[first : first + AT_ONCE])
        padded = some + [np.asarray(vector)] * (AT_ONCE - len(some))
        parts.append(np.asarray(evaluate(np.stack(padded)))[: len(some)])
    return _known(np.concatenate(parts))


def _known(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -np.inf, values)


def _near_edge(
    base: Any, value: np.ndarray, wherever: bool = False
) -> list[tuple[Index, float, bool]]:
    """(index, value at the edge, whether it is there already) of the entries near an edge of a
    simplex, an interval or a half-line; `wherever` they are on that."""
    kind = type(base).__name__.lstrip("_")
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if kind == "Simplex":
        lower, width, upper = 0.0, 1.0, None
    elif lower is None or kind in ("PositiveDefinite", "LowerCholesky"):
        return []
    else:
        width = 1.0 if upper is None else np.asarray(upper, float) - np.asarray(lower, float)
    near: list[tuple[Index, float, bool]] = []
    limit = NEAR_HALF_LINE if upper is None and kind != "Simplex" else NEAR
    if wherever and upper is None:
        limit = np.inf
    there = 1e-150 if upper is None and kind != "Simplex" else 1e-13 * np.asarray(width)
    for edge, sign in ((lower, 1.0), (upper, -1.0)):
        if edge is None:
            continue
        edge = np.broadcast_to(np.asarray(edge, float), value.shape)
        distance = sign * (value - edge)
        on_it = np.broadcast_to(distance <= there, value.shape)
        for index in np.ndindex(*value.shape):
            if distance[index] < limit * np.broadcast_to(width, value.shape)[index]:
                near.append((index, float(edge[index]), bool(on_it[index])))
    return near


def _near_coordinates(base: Any, value: np.ndarray, free: Any) -> list[tuple[Index, int, float]]:
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
    at_edge = [f"{n} ({int(m.sum())} of {m.size})" for n, m in masks.items() if m.any()]
    return "at the boundary: " + ", ".join(at_edge) if at_edge else ""
