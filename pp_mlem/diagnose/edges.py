"""Edges of supports: which parameters the data leave at one, variances of zero above all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.diagnose.spurious import SCALE_NAMES
from pp_mlem.diagnose.uniqueness import floors
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.program.space import base_support, is_half_line, is_simplex
from pp_mlem.target.parts import adds_up
from pp_mlem.target.target import Target

Index = tuple[Any, ...]
ValueAt = Callable[[np.ndarray], np.ndarray]  # (count, size) -> the objective at each
EDGE_COST = 0.01  # nats lost by moving onto an edge, below which the data do not know better
NEAR = 1e-3  # of the width of an interval or a simplex: nearer entries are tried
FAR_OUT, OUTWARD = 1e7, 1e100  # values of a half-line that may be infinite; how much farther
NEAR_HALF_LINE = 1e-6
SMALL_NOISE = 1e-2  # of the spread of the data: smaller scales of noise are tried
AT_ONCE = 16
MANY = 256  # entries of one parameter near an edge, of which not all are tried
ALMOST_NOTHING = 1e-10  # of the largest variance of a covariance that is as good as singular


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
    where an entry is near an edge; `value_at` does it where such a function is compiled already. Of a
    parameter with hundreds of such entries (the words of a topic) those next to the edge come first, and
    once none of `AT_ONCE` is at it, those farther away are taken not to be.
    """
    vector = np.asarray(vector, float)
    masks = {s.name: np.zeros(np.shape(params[s.name]), bool) for s in target.space.sites}
    several: list[Iterator[_Move]] = []
    moves = _moves_onto_edges(target, vector, params, masks, several)
    _mark(target, vector, moves, masks, value_at)
    for in_order in several:
        while some := list(itertools.islice(in_order, AT_ONCE)):
            if not _mark(target, vector, some, masks, value_at):
                break
    return masks


def _mark(
    target: Target,
    vector: np.ndarray,
    moves: list[_Move],
    masks: dict[str, np.ndarray],
    value_at: ValueAt | None,
) -> bool:
    """Mark the entries of the moves that cost next to nothing; whether there are any."""
    if not moves:
        return False
    points = [vector, *(m.vector for m in moves)]
    values = np.full(len(points), np.nan) if value_at is None else value_at(np.stack(points))
    if not np.isfinite(values).all():  # EM sees none where a law has no variance
        values = objective_at(target, vector, points)
    values = _known(values)
    if target.reading.reals:  # where a law has no variance at all, an infinite value is rounding
        values = np.where(np.isposinf(values), -np.inf, values)
    cost = values[0] - values[1:]
    for move, lost in zip(moves, cost, strict=True):
        for name, index in move.entries if lost < EDGE_COST else ():
            masks[name][index] = True
    return bool(np.any(cost < EDGE_COST))


def _moves_onto_edges(
    target: Target,
    vector: np.ndarray,
    params: dict[str, Any],
    masks: dict[str, np.ndarray],
    several: list[Iterator[_Move]],
) -> list[_Move]:
    """What is to be tried; entries that are on an edge already are marked in `masks`. What is too much to try all goes to
    `several`, in the order of how near entries are."""
    moves, where = [], target.space.slices()
    variances = variances_of(target)
    for site in target.space.sites:
        value = np.asarray(params[site.name], float)
        base = base_support(site.support)
        near = []
        for index, edge, there in _near_edge(base, value, site.name in variances):
            if there:
                masks[site.name][index] = True
            else:
                near.append((abs(value[index] - edge), index, edge))
        onto = partial(_onto_edge, target, vector, params, site.name, is_simplex(site.support))
        if len(near) > MANY:
            in_order = sorted(near)
            several.append(map(onto, [n[1] for n in in_order], [n[2] for n in in_order]))
        else:
            moves += [onto(index, edge) for _, index, edge in near]
        for index, place, edge in _near_coordinates(base, value, vector[where[site.name]]):
            at_edge = vector.copy()
            at_edge[where[site.name].start + place] = edge
            moves.append(_Move([(site.name, index)], at_edge))
        if site.name in variances:
            for index, singular in _singular(base, value):
                at_edge = _with_values(target, vector, params, {site.name: singular})
                entries = [(site.name, (*index, *at)) for at in np.ndindex(*value.shape[-2:])]
                moves.append(_Move(entries, at_edge))
    for name, index in _small_noises(target, params):
        for factor in (0.1, 10.0):  # nearer to zero its density may have lost its digits
            moved = np.array(params[name], float)
            moved[index] *= factor
            moves.append(
                _Move([(name, index)], _with_values(target, vector, params, {name: moved}))
            )
    for name, floor in floors(target, params).items():
        value = np.asarray(params[name], float)
        for index in map(tuple, np.argwhere(value < floor.near)):
            moved = value.copy()
            moved[index] = floor.zero[index]
            moves.append(
                _Move([(name, index)], _with_values(target, vector, params, {name: moved}))
            )
    for entries in _far_out(target, params):
        values = {n: np.array(params[n], float) for n, _ in entries}
        for name, index in entries:
            values[name][index] = min(OUTWARD * values[name][index], 1e300)
        moves.append(_Move(entries, _with_values(target, vector, params, values)))
    return moves


def _onto_edge(
    target: Target,
    vector: np.ndarray,
    params: dict[str, Any],
    name: str,
    sums_to_one: bool,
    index: Index,
    edge: float,
) -> _Move:
    """An entry on its edge; the others of its simplex share what it had."""
    moved = np.array(params[name], float)
    moved[index] = edge
    if sums_to_one:
        moved /= moved.sum(-1, keepdims=True)
    return _Move([(name, index)], _with_values(target, vector, params, {name: moved}))


def variances_of(target: Target) -> frozenset[str]:
    """The parameters behind the scale of a real latent's law, or behind a mean with real latents, where a
    law that is not centred has its scale. Whether such a one is at zero has no measure of nearness: without
    the latents the data may be as likely."""
    behind: set[str] = set()
    for factor in target.marginal.factors:
        if isinstance(factor, AffineFactor):
            parts = target.reading.dependencies[factor.site]
            for name in ("loc", *(SCALE_NAMES if factor.own else ())):
                behind |= parts.get(f"argument {name}", frozenset())
    return frozenset(behind)


def noises_of(target: Target) -> frozenset[str]:
    """The parameters behind the scale of an observation whose mean real latents enter."""
    behind: set[str] = set()
    for factor in target.marginal.factors:
        if isinstance(factor, AffineFactor) and not factor.own:
            behind |= target.reading.dependencies[factor.site].get("argument scale", frozenset())
    return frozenset(behind)


def _singular(base: Any, value: np.ndarray) -> list[tuple[Index, np.ndarray]]:
    """(index, the value with that matrix made singular) of covariances of latents and of their roots: some
    combination of the latents has no variance, as with correlations of plus or minus one."""
    kind, found = type(base).__name__.lstrip("_"), []
    if kind not in ("PositiveDefinite", "LowerCholesky"):
        return []
    for index in np.ndindex(*value.shape[:-2]):
        matrix, moved = value[index], value.copy()
        if kind == "PositiveDefinite":
            scale = np.sqrt(np.diagonal(matrix))
            values, vectors = np.linalg.eigh(matrix / scale[:, None] / scale)
            values[0] = ALMOST_NOTHING
            moved[index] = (vectors * values) @ vectors.T * scale[:, None] * scale
            found.append((index, moved))
            continue
        for i in range(len(matrix)):
            moved = value.copy()
            moved[(*index, i, i)] *= ALMOST_NOTHING
            found.append((index, moved))
    return found


def _small_noises(target: Target, params: dict[str, Any]) -> list[tuple[str, Index]]:
    """Entries of scales of observations with real latents that are small beside the data: where these
    explain a column without remainder (a Heywood case) its scale is zero."""
    supports = {s.name: s.support for s in target.space.sites}
    found: list[tuple[str, Index]] = []
    for factor in target.marginal.factors:
        if not isinstance(factor, AffineFactor) or factor.own:
            continue
        data = target.data.sites[factor.site]
        value = np.asarray(data.value)
        if data.shift_rows is not None:
            value = value - np.asarray(data.shift_rows)
        spread = float(np.sqrt((value**2).mean()))
        for name in target.reading.dependencies[factor.site].get("argument scale", ()):
            if name in supports and is_half_line(supports[name]):
                own = np.asarray(params[name], float)
                small = np.argwhere(own < SMALL_NOISE * spread)
                found += [(name, tuple(int(i) for i in at)) for at in small]
    return found


def _with_values(
    target: Target, vector: np.ndarray, params: dict[str, Any], values: dict[str, np.ndarray]
) -> np.ndarray:
    """The vector, of these parameters, with some of them at other values."""
    moved, where = vector.copy(), target.space.slices()
    every = {**params, **values}
    new = target.unconstrained({name: np.asarray(every[name])[None] for name in target.space.names})
    for name in values:
        moved[where[name]] = new[0, where[name]]
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


@adds_up
def _one_by_one(target: Target, vectors: jax.Array, count: jax.Array) -> jax.Array:
    """The objective at the first `count` vectors, one after the other. Traceable."""

    def step(i: jax.Array, values: jax.Array) -> jax.Array:
        return values.at[i].set(target.value(vectors[i]))

    return jax.lax.fori_loop(0, count, step, jnp.zeros(len(vectors), vectors.dtype))


def objective_at(target: Target, vector: Any, points: Sequence[Any]) -> np.ndarray:
    """The objective at every point; -inf where it is none. `vector`, where it is known to be, fills
    up the last block."""
    evaluate = target.compiled(_one_by_one)
    parts = []
    for first in range(0, len(points), AT_ONCE):
        some = list(points[first : first + AT_ONCE])
        padded = some + [np.asarray(vector)] * (AT_ONCE - len(some))
        parts.append(np.asarray(evaluate(np.stack(padded), len(some)))[: len(some)])
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
