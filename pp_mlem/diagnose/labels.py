"""Labels of exchangeable components: put in order, aligned by the Hungarian method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from pp_mlem.base.lazy import scipy_optimize
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.exchange import relabeller_of
from pp_mlem.diagnose.groups import Group, elements, orbits, permute_axes, possible_orders
from pp_mlem.diagnose.traits import traits
from pp_mlem.model.model import Model


def _assignment(cost: np.ndarray, group: Group) -> np.ndarray:
    """The cheapest possible order of each lane of `cost` (lanes, reference, component)."""
    possible = possible_orders(group)
    if possible is not None:
        totals = np.stack([cost[:, np.arange(group.size), list(q)].sum(1) for q in possible], 1)
        return np.array(possible)[totals.argmin(1)]
    if group.orders:
        cost = np.where(orbits(group), cost, 1e12 + np.abs(cost).sum((1, 2), keepdims=True))
    return np.stack([scipy_optimize.linear_sum_assignment(c)[1] for c in cost])


def _solve(
    stacked: Mapping[str, np.ndarray],
    group: Group,
    orders: np.ndarray,
    model: Model,
    near: Mapping[str, Any] | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The solved parameters of each lane with its components in its own order, and which lanes
    have them."""
    with working_precision(model.dtype):
        target, relabeller = model.target(), relabeller_of(model)
        relabeller.find(target, group.slots, list(group.orders))  # it may come from a file
        vectors = np.asarray(target.unconstrained(stacked), float)
        close = None
        if near is not None:
            close = np.asarray(target.unconstrained(_one(near)), float)[0]
        words = elements(group.orders, group.size) or {}
        done = np.ones(len(vectors), bool)
        moved = np.array(vectors)
        for order in set(map(tuple, orders)):
            lanes = np.flatnonzero((orders == order).all(1))
            key = tuple(int(i) for i in order)
            moved[lanes], done[lanes] = relabeller.apply(
                target, vectors[lanes], group.slots, key, words.get(key, ()), close
            )
        params = target.constrained(moved)
    return {p: np.asarray(params[p]) for p in group.solved}, done


def permute(
    params: dict[str, Any],
    group: Group,
    order: Any,
    model: Model | None = None,
    near: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reorder the components of a group (`near`: parameters close to which the result is
    expected). What has to be solved for needs the model."""
    order = np.asarray(order)
    if np.array_equal(order, np.arange(group.size)):
        return dict(params)
    new = dict(params)
    if group.solved:
        solved, done = _solve(_one(params), group, order[None], _needed(model), near)
        if not done[0]:
            return new
        new |= {p: np.asarray(v[0]) for p, v in solved.items()}
    return permute_axes(new, group, order)


def _features(
    stacked: Mapping[str, np.ndarray], group: Group, model: Model | None
) -> dict[str, np.ndarray]:
    """What tells the components apart, (lanes, components, others) by name: the parameters, where
    all are permuted as they stand, or else the arguments of the latent's distributions."""
    if not group.solved:
        names = dict.fromkeys(name for name, _ in group.axes)
        return {p: group.features(np.asarray(stacked[p], float), p) for p in names}
    model = _needed(model)
    with working_precision(model.dtype):
        target = model.target()
        return {"": traits(target, target.unconstrained(stacked), group.slots)}


def _needed(model: Model | None) -> Model:
    if model is None:
        raise ValueError("relabelling what has to be solved for needs the model.")
    return model


def _one(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v)[None] for k, v in params.items()}


def sort_labels(
    params: dict[str, Any], groups: tuple[Group, ...], model: Model | None = None
) -> dict[str, Any]:
    """One canonical order of the components: by their first location-like parameter."""
    params = {k: np.asarray(v) for k, v in params.items()}
    for group in groups:
        if group.solved and model is None:
            continue
        if group.axes:
            name, axis = next(
                (
                    (p, a)
                    for p, a in group.axes
                    if params[p].ndim == 1 and not _sums_to_one(params[p])
                ),
                next(((p, a) for p, a in group.axes if not _sums_to_one(params[p])), group.axes[0]),
            )
            flat = np.moveaxis(params[name], axis, 0).reshape(group.size, -1)
        else:
            flat = _features(_one(params), group, model)[""][0]
        key = flat[:, 0] if flat.shape[1] else np.arange(group.size)
        params = permute(params, group, _sorting(key, group), model)
    return params


def _sorting(key: np.ndarray, group: Group) -> np.ndarray:
    """The possible order by which the key increases as early as can be."""
    possible = possible_orders(group) if group.orders else None
    if possible is not None:
        return np.array(min(possible, key=lambda q: tuple(key[list(q)])))
    order = np.arange(group.size)
    if not group.orders:
        return np.argsort(key, kind="stable")
    for orbit in np.unique(orbits(group), axis=0):
        members = np.flatnonzero(orbit)
        order[members] = members[np.argsort(key[members], kind="stable")]
    return order


def _sums_to_one(value: np.ndarray) -> bool:
    return value.ndim == 1 and bool(abs(value.sum() - 1) < 1e-9 and np.all(value >= 0))


def alignment(
    params: dict[str, Any],
    reference: dict[str, Any],
    group: Group,
    scales: dict[str, Any] | None = None,
    model: Model | None = None,
) -> np.ndarray:
    """The order that brings the components of `params` closest to those of `reference`.

    The cost is the squared distance over all that tells the components apart, each divided by its
    scale; solved by the Hungarian method. A scale is how far a parameter may be from the reference by chance,
    where `scales` has it. Else it is the spread between components, of both sides: what is nearly the same in all
    components of the reference then tells no more than what is not.
    """
    cost = np.zeros((group.size, group.size))
    theirs = _features(_one(reference), group, model)
    own = _features(_one(params), group, model)
    for name in own:
        a, b = theirs[name][0], own[name][0]
        if scales is not None and name in scales:
            spread = group.features(np.asarray(scales[name], float)[None], name)[0]
        else:
            spread = np.sqrt((a.var(0, keepdims=True) + b.var(0, keepdims=True)) / 2)
            spread += 1e-12 + 1e-6 * np.abs(a).mean()
        cost += (((a[:, None] - b[None]) / spread[:, None]) ** 2).sum(-1)
    if group.orders:
        return _assignment(cost[None], group)[0]
    return scipy_optimize.linear_sum_assignment(cost)[1]


def align(
    params: dict[str, Any],
    reference: dict[str, Any],
    groups: tuple[Group, ...],
    model: Model | None = None,
    scales: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Relabel every group of `params` to match `reference`; where parameters have to be solved for
    only with the model. `scales` are as of `alignment`."""
    for group in groups:
        if group.solved and model is None:
            continue
        order = alignment(params, reference, group, scales, model)
        params = permute(params, group, order, model, reference)
    return params


def permute_draws(draws: np.ndarray, group: Group, name: str, order: np.ndarray) -> np.ndarray:
    """Draws (draws, ...) of a parameter with the components of each in its own order
    (draws, components)."""
    for axis in group.axes_of(name):
        shape = tuple(group.size if a == axis else 1 for a in range(draws.ndim - 1))
        draws = np.take_along_axis(draws, order.reshape(len(draws), *shape), axis + 1)
    return draws


def reorder_draws(
    draws: Mapping[str, np.ndarray],
    group: Group,
    order: np.ndarray,
    model: Model | None = None,
    near: Mapping[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draws (draws, ...) with the components of each in its own order (draws, components), and
    the order that each then has: a draw whose parameters could not be solved for keeps its own."""
    new = dict(draws)
    lanes = np.flatnonzero((order != np.arange(group.size)).any(1))
    if group.solved and len(lanes):
        some = {k: np.asarray(v)[lanes] for k, v in draws.items()}
        solved, done = _solve(some, group, order[lanes], _needed(model), near)
        if not done.all():
            warnings.warn(
                f"{(~done).sum()} draws keep their labels of '{group.latent}': no parameters were "
                "found that permute them.",
                stacklevel=2,
            )
            order = order.copy()
            order[lanes[~done]] = np.arange(group.size)
        for p, values in solved.items():
            new[p] = np.array(draws[p])
            new[p][lanes[done]] = values[done]
    for p in dict.fromkeys(name for name, _ in group.axes):
        new[p] = permute_draws(np.asarray(draws[p]), group, p, order)
    return new, order


def order_draws(
    draws: dict[str, np.ndarray],
    groups: tuple[Group, ...],
    name: str,
    model: Model | None = None,
) -> tuple[dict[str, np.ndarray], float]:
    """Relabel draws so that a parameter increases over the components (an identifiability
    constraint); also the share of draws that moved.

    Raises ValueError when no exchangeable components hang on the parameter.
    """
    chosen = [g for g in groups if name in {p for p, _ in g.axes}]
    if not chosen:
        known = sorted({p for g in groups for p, _ in g.axes})
        raise ValueError(
            f"order_by: received {name!r}, expected a parameter of exchangeable components: "
            f"{known or 'there are none'}."
        )
    draws = {k: np.asarray(v) for k, v in draws.items()}
    moved = np.zeros(len(draws[name]), bool)
    for group in chosen:
        keys = group.features(draws[name], name)[:, :, 0]
        if group.orders:
            order = np.stack([_sorting(key, group) for key in keys])
        else:
            order = np.argsort(keys, 1, kind="stable")
        draws, order = reorder_draws(draws, group, order, model)
        moved |= (order != np.arange(group.size)).any(1)
    return draws, float(moved.mean())


def align_draws(
    draws: dict[str, np.ndarray],
    reference: dict[str, Any],
    groups: tuple[Group, ...],
    model: Model | None = None,
    rounds: int = 5,
) -> tuple[dict[str, np.ndarray], float]:
    """Relabel posterior draws (draws, ...) by repeated assignment to their own mean.

    Starts from `reference`; each round aligns every draw to the mean of the aligned draws, scaled
    by their standard deviation (the k-means form of Stephens 2000, doi:10.1111/1467-9868.00265).

    Returns:
        the relabelled draws and the share of draws whose labels were moved.
    """
    draws = {k: np.array(v) for k, v in draws.items()}
    n = len(next(iter(draws.values()))) if draws else 0
    moved = np.zeros(n, bool)
    for group in groups:
        features = _features(draws, group, model)
        centre = {p: f[0] for p, f in _features(_one(reference), group, model).items()}
        scales = {
            p: np.full_like(centre[p], np.std(draws.get(p, f)) + 1e-12) for p, f in features.items()
        }
        current = np.tile(np.arange(group.size), (n, 1))
        for _ in range(rounds):
            cost = np.zeros((n, group.size, group.size))
            for p, b in features.items():
                a, s = centre[p], scales[p]
                # Gaussian log-density of draw component j under reference component i
                for i in range(group.size):
                    cost[:, i] += (((b - a[i]) / s[i]) ** 2 + 2 * np.log(s[i])).sum(-1)
            order = _assignment(cost, group)
            for p, b in features.items():
                own = np.take_along_axis(b, order[:, :, None], 1)
                centre[p], scales[p] = own.mean(0), own.std(0) + 1e-12
            if np.array_equal(order, current):
                break
            current = order
        draws, order = reorder_draws(draws, group, order, model, reference)
        usual = max(set(map(tuple, order)), key=lambda q: (order == q).all(1).sum())
        moved |= (order != usual).any(1)
    return draws, float(moved.mean()) if n else 0.0
