"""Finds exchangeable components: by symmetry of the likelihood under permuted axes of parameters,
or by other parameters at which the factors of log Z are the permuted ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Effort, of_program
from pp_mlem.base.precision import working_precision
from pp_mlem.data.program_data import ProgramData
from pp_mlem.diagnose.entries import slot_sets
from pp_mlem.diagnose.groups import Group, Order
from pp_mlem.diagnose.relabel import Relabeller, Relabelling
from pp_mlem.diagnose.symmetry import Axis, Symmetries, pieces_of
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.model import Model
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.sites import Site
from pp_mlem.target.parts import without_rows
from pp_mlem.target.priors import log_prior
from pp_mlem.target.target import Target

PAIRS = 5e7  # multiplications per round that a search over all pairs of values may cost
MANY_ROWS, FEW_ROWS = 1000, 500

Values = dict[str, np.ndarray]
Densities = Callable[[Values], np.ndarray]  # (log Z, log prior) at parameters


def relabeller_of(model: Model) -> Relabeller:
    """What finds and keeps relabellings, made once; in the model's precision."""
    return model.bound.kept.once("relabeller", lambda: Relabeller(model.target()))


def exchangeable_groups(model: Model, fixed: frozenset[str]) -> tuple[Group, ...]:
    """All minimal sets of parameter axes whose joint permutation leaves log Z unchanged."""
    with working_precision(model.dtype):
        groups = model.bound.kept.once("exchangeable", lambda: _find_groups(model))
    return tuple(g for g in groups if not {p for p, _ in g.axes} & fixed)


def _log_densities(
    marginal: Marginal, names: frozenset[str], params: dict[str, Any], data: ProgramData
) -> jax.Array:
    """log Z and log prior, each of it without blocks. Traceable."""
    terms = marginal.terms(marginal.natural(params, data), data)
    total = marginal.layout.total(marginal.run(terms, marginal.context(data)))
    return jnp.stack([total, log_prior(marginal.reading, params, data, names)])


def _subset(marginal: Marginal, data: ProgramData, rows: jax.Array) -> dict[str, Any]:
    return marginal.rows.subset(data, rows)


def _densities(model: Model) -> Densities:
    """log Z and log prior as functions of the parameters, on some of the rows if they are many."""
    marginal, data = model.marginal, model.data
    if marginal.rows.size > MANY_ROWS:
        some = np.linspace(0, marginal.rows.size - 1, FEW_ROWS).astype(int)
        data = replace(data, **model.bound.compiled(_subset, effort=Effort.QUICK)(data, some))
    names = frozenset(model.space.names)
    effort = of_program(model.reading.is_long)
    run = model.bound.compiled(_log_densities, names, effort=effort)
    return lambda params: np.asarray(run(params, data))


def _find_groups(model: Model) -> tuple[Group, ...]:
    at = _densities(model)
    params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 11).items()}
    latents = [s for s in model.reading.latents if s.size > 1 and s.name not in model.data.clamps]
    groups: list[Group] = []
    for latent in latents:
        groups += _axis_groups(model, latent, params, at, groups)
    for latent in latents:
        if not _covered(model, latent.name, groups):
            group = _solved_group(model, latent.name, at)
            groups += [] if group is None else [group]
    return tuple(groups)


def _involved(model: Model, latent: str, earlier: bool = False) -> set[str]:
    """The parameters of the factors that a latent enters; also those that a chain's state enters one
    step later, as in the law of another chain."""
    own = {latent} | {s.name for s in model.reading.slots if earlier and s.origin == latent}
    return {p for f in model.marginal.factors if own & {*f.latents} for p in f.parameters}


def _axis_groups(
    model: Model, latent: Site, params: Values, at: Densities, known: list[Group]
) -> list[Group]:
    """The minimal sets of axes of a latent's length whose joint permutation changes nothing."""
    involved = _involved(model, latent.name, earlier=True)
    sites = [s for s in model.space.sites if s.name in involved]
    symmetries = Symmetries(pieces_of(sites, latent.size), params, at)
    groups: list[Group] = []
    for axes in symmetries.minimal_sets():
        taken = [frozenset(g.axes) for g in (*known, *groups)]
        if not any(t <= frozenset(axes) for t in taken):
            prior = symmetries.keeps_prior(axes)
            groups.append(Group(latent.name, latent.size, axes, prior))
    return groups


def _covered(model: Model, latent: str, groups: list[Group]) -> bool:
    size = model.reading.sites[latent].size
    involved = _involved(model, latent)
    return any(g.size == size and involved & set(g.parameters) for g in groups)


def _swap(size: int, i: int, j: int) -> Order:
    order = list(range(size))
    order[i], order[j] = j, i
    return tuple(order)


def _solved_group(model: Model, latent: str, at: Densities) -> Group | None:
    """The orders of a latent's values that some other parameters attain."""
    if not _involved(model, latent):
        return None
    size = model.reading.sites[latent].size
    target, relabeller = model.target(), relabeller_of(model)
    for slots in slot_sets(model, latent):
        if any(s in model.data.clamps for s in slots):
            continue
        attained = _attained(relabeller, target, slots, size)
        if attained:
            return _group_of(_Orders(latent, size, slots, attained), target, at)
    return None


def _attained(
    relabeller: Relabeller, target: Target, slots: tuple[str, ...], size: int
) -> dict[Order, Relabelling]:
    """Orders that generate all that are possible: swaps, or else turns of the whole."""
    entries, parameters = relabeller.entries, target.space.size
    work = len(entries.chosen) * parameters**2 + entries.size * (1 + parameters)
    attained: dict[Order, Relabelling] = {}
    if work * size * size > PAIRS:  # all with the first, and neighbours
        pairs = [(0, j) for j in range(1, size)] + [(j - 1, j) for j in range(2, size)]
        attained |= relabeller.find(target, slots, [_swap(size, i, j) for i, j in pairs])
    else:
        left = list(range(size))
        while len(left) > 1:  # which values can change places with the first of those left
            swaps = {_swap(size, left[0], j): j for j in left[1:]}
            new = relabeller.find(target, slots, list(swaps))
            attained |= new
            gone = {left[0], *(swaps[o] for o in new)}
            left = [j for j in left if j not in gone]
    if not attained and size > 2:
        turns = [tuple(range(size))[::-1], tuple(np.roll(np.arange(size), 1).tolist())]
        attained = relabeller.find(target, slots, turns)
    return attained


@dataclass(frozen=True)
class _Orders:
    """The orders of a latent's values that were attained, with what is permuted together."""

    latent: str
    size: int
    slots: tuple[str, ...]
    attained: dict[Order, Relabelling]


@without_rows
def _volumes(target: Target, vector: jax.Array) -> jax.Array:
    return target.space.log_abs_det_jacobian(vector)


def _group_of(orders: _Orders, target: Target, at: Densities) -> Group | None:
    """The group of these orders: what moves, what is merely permuted, whether the prior knows."""
    space = target.space
    volume = target.compiled(_volumes, lanes=(0,))
    moved: set[str] = set()
    plain = {(s.name, a) for s in space.sites for a, n in enumerate(s.shape) if n == orders.size}
    posterior = mode = True
    for order, known in orders.attained.items():
        old, new = target.constrained(known.points), target.constrained(known.images)
        moved |= {n for n in space.names if not np.allclose(old[n], new[n], rtol=1e-6, atol=1e-7)}
        plain = {
            (name, axis)
            for name, axis in plain
            if np.allclose(np.take(old[name], order, axis + 1), new[name], rtol=1e-6, atol=1e-7)
        }
        points, images = np.asarray(known.points), np.asarray(known.images)
        lifted = np.asarray(volume(images)) - np.asarray(volume(points)) + known.log_volumes
        for i in range(len(points)):
            before, after = (at({k: np.asarray(v[i]) for k, v in p.items()}) for p in (old, new))
            if not np.isclose(after[0], before[0], rtol=1e-7, atol=1e-7):
                return None
            mode &= bool(np.isclose(after[1], before[1], rtol=1e-7, atol=1e-7))
            posterior &= bool(np.isclose(after[1] + lifted[i], before[1], rtol=1e-6, atol=1e-6))
    if not moved:
        return None
    several = {n for n, _ in plain if sum(m == n for m, _ in plain) > 1}
    axes: tuple[Axis, ...] = tuple(sorted((a for a in plain if a[0] in moved - several), key=str))
    solved = tuple(n for n in space.names if n in moved - {p for p, _ in axes})
    return Group(
        orders.latent, orders.size, axes, posterior, solved, orders.slots,
        tuple(orders.attained), mode,
    )  # fmt: skip
