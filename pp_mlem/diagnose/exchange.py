"""Finds exchangeable components: by symmetry of the likelihood under permuted axes of parameters, or
by other parameters at which the factors of log Z are the permuted ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import lean_jit, quick_jit
from pp_mlem.diagnose.groups import Group, Order, permute_axes
from pp_mlem.diagnose.relabel import Relabeller, Solution, slot_sets
from pp_mlem.model.model import Model
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.space import base_support
from pp_mlem.target.priors import log_prior

AXES = 8  # beyond so many axes their subsets are not enumerated
PAIRS = 5e7  # multiplications per round that a search over all pairs of values may cost


def relabeller_of(model: Model) -> Relabeller:
    return model.compiled("relabeller", lambda: Relabeller(model))


def _is_ordered(support: Any) -> bool:
    return "Ordered" in type(base_support(support)).__name__


def exchangeable_groups(model: Model, fixed: frozenset[str]) -> tuple[Group, ...]:
    """All minimal sets of parameter axes whose joint permutation leaves log Z unchanged."""
    key = "exchangeable"
    groups = model.compiled(key, lambda: _find_groups(model))
    return tuple(g for g in groups if not {p for p, _ in g.axes} & fixed)


def _find_groups(model: Model) -> tuple[Group, ...]:
    marginal, space = model.marginal, model.space
    names = frozenset(space.names)
    data = model.data
    if marginal.rows.size > 1000:
        some = np.linspace(0, marginal.rows.size - 1, 500).astype(int)
        data = quick_jit(marginal.rows.subset)(data, jnp.asarray(some))

    def density(params: Any, d: Any) -> jax.Array:
        eta = marginal.natural(params, d)
        terms = marginal.run(marginal.terms(eta, d), marginal.context(d))
        return jnp.stack([marginal.layout.total(terms), log_prior(model.reading, params, d, names)])

    compiled = lean_jit(density) if model.reading.is_long else quick_jit(density)

    def at(params: Any) -> np.ndarray:
        return np.asarray(compiled(params, data))

    params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 11).items()}
    found: list[Group] = []
    for latent in model.reading.latents:
        if latent.size < 2 or latent.name in data.clamps:
            continue
        found += _axis_groups(model, latent, params, at, found)
    for latent in model.reading.latents:
        if latent.size < 2 or latent.name in data.clamps or _covered(model, latent.name, found):
            continue
        group = _solved_group(model, latent.name, at)
        if group is not None:
            found.append(group)
    return tuple(found)


def _involved(model: Model, latent: str) -> set[str]:
    """The parameters of the factors that a latent enters."""
    return {p for f in model.marginal.factors if latent in f.latents for p in f.parameters}


def _axis_groups(
    model: Model, latent: Any, params: dict, at: Callable, known: list[Group]
) -> list[Group]:
    """The minimal sets of axes of a latent's length whose joint permutation changes nothing."""
    sites = {s.name: s for s in model.space.sites}
    involved = _involved(model, latent.name)
    axes = [
        (p, a)
        for p in model.space.names
        if p in involved and not _is_ordered(sites[p].support)
        for a, n in enumerate(sites[p].shape)
        if n == latent.size
    ]
    base = at(params)
    order = np.roll(np.arange(latent.size), 1)
    found: list[Group] = []
    kept: list[frozenset] = [frozenset(g.axes) for g in known]

    def same(subset: tuple) -> np.ndarray | None:
        """Whether the likelihood, and the prior, are unchanged."""
        moved = at(permute_axes(params, Group(latent.name, latent.size, subset, True), order))
        close = np.isclose(moved, base, rtol=1e-9, atol=1e-9)
        return close if close[0] else None

    def keep(subset: tuple, close: np.ndarray) -> None:
        found.append(Group(latent.name, latent.size, subset, bool(close[1])))
        kept.append(frozenset(subset))

    if len(axes) > AXES:
        _shrink(axes, same, keep, [k for k in kept if k])
        return found
    for count in range(1, len(axes) + 1):
        for subset in itertools.combinations(axes, count):
            if any(k <= frozenset(subset) for k in kept):
                continue
            close = same(subset)
            if close is not None:
                keep(subset, close)
    return found


def _shrink(axes: list, same: Callable, keep: Callable, known: list[frozenset]) -> None:
    """Minimal sets among many axes: all of them, less one at a time as long as nothing changes;
    then the same among the rest. Where not all axes belong together, one axis or two are left out
    first."""
    rest = [a for a in axes if not any(a in k for k in known)]
    while rest:
        whole = next(
            (
                tuple(a for a in rest if a not in out)
                for count in range(min(3, len(rest)))
                for out in itertools.combinations(rest, count)
                if same(tuple(a for a in rest if a not in out)) is not None
            ),
            None,
        )
        if whole is None:
            return
        for axis in whole:
            smaller = tuple(a for a in whole if a != axis)
            if smaller and same(smaller) is not None:
                whole = smaller
        keep(whole, same(whole))
        rest = [a for a in rest if a not in whole]


def _covered(model: Model, latent: str, found: list[Group]) -> bool:
    size = model.reading.sites[latent].size
    involved = _involved(model, latent)
    return any(g.size == size and involved & set(g.parameters) for g in found)


def _swap(size: int, i: int, j: int) -> Order:
    order = list(range(size))
    order[i], order[j] = j, i
    return tuple(order)


def _solved_group(model: Model, latent: str, at: Callable) -> Group | None:
    """The orders of a latent's values that some other parameters attain."""
    size = model.reading.sites[latent].size
    if not _involved(model, latent):
        return None
    relabeller = relabeller_of(model)
    for slots in slot_sets(model, latent):
        if any(s in model.data.clamps for s in slots):
            continue
        found: dict[Order, Solution] = {}
        left = list(range(size))
        work = len(relabeller.factors.chosen) * model.space.size**2
        if work * size * size > PAIRS:  # all with the first, and neighbours
            pairs = [(0, j) for j in left[1:]] + [(j - 1, j) for j in left[2:]]
            found |= relabeller.find(model, slots, [_swap(size, i, j) for i, j in pairs])
            left = []
        while len(left) > 1:  # which values can change places with the first of those left
            swaps = {_swap(size, left[0], j): j for j in left[1:]}
            attained = relabeller.find(model, slots, list(swaps))
            found |= attained
            gone = {left[0], *(swaps[o] for o in attained)}
            left = [j for j in left if j not in gone]
        if not found and size > 2:
            whole = [tuple(range(size))[::-1], tuple(np.roll(np.arange(size), 1).tolist())]
            found = relabeller.find(model, slots, whole)
        if found:
            return _group_of(model, latent, slots, found, at)
    return None


def _group_of(
    model: Model, latent: str, slots: tuple[str, ...], found: dict[Order, Solution], at: Callable
) -> Group | None:
    """The group of these orders: what moves, what is merely permuted, and whether the prior knows."""
    size = model.reading.sites[latent].size
    space = model.space
    volume = quick_jit(jax.vmap(space.log_abs_det_jacobian))
    constrain = model.compiled("constrain lanes", lambda: quick_jit(jax.vmap(space.constrain)))
    moves: set[str] = set()
    plain = {(s.name, a) for s in space.sites for a, n in enumerate(s.shape) if n == size}
    posterior = mode = True
    for order, solution in found.items():
        points, images = jnp.asarray(solution.points), jnp.asarray(solution.images)
        old, new = jax.device_get((constrain(points), constrain(images)))
        for name in space.names:
            if not np.allclose(old[name], new[name], rtol=1e-6, atol=1e-7):
                moves.add(name)
        for name, axis in tuple(plain):
            permuted = np.take(old[name], order, axis + 1)
            if not np.allclose(permuted, new[name], rtol=1e-6, atol=1e-7):
                plain.discard((name, axis))
        lifted = np.asarray(volume(images)) - np.asarray(volume(points)) + solution.log_volumes
        for i in range(len(points)):
            before, after = (at({k: v[i] for k, v in p.items()}) for p in (old, new))
            if not np.isclose(after[0], before[0], rtol=1e-7, atol=1e-7):
                return None
            mode &= bool(np.isclose(after[1], before[1], rtol=1e-7, atol=1e-7))
            posterior &= bool(np.isclose(after[1] + lifted[i], before[1], rtol=1e-6, atol=1e-6))
    several = {n for n, _ in plain if sum(m == n for m, _ in plain) > 1}
    axes = tuple(sorted((a for a in plain if a[0] in moves - several), key=str))
    solved = tuple(n for n in space.names if n in moves - {p for p, _ in axes})
    if not moves:
        return None
    return Group(latent, size, axes, posterior, solved, slots, tuple(found), mode)
