"""Exchangeable components: found by symmetry of the likelihood, aligned by the Hungarian method."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from pp_mlem.model import Model
from pp_mlem.precision import lean_jit, quick_jit
from pp_mlem.problem import log_prior
from pp_mlem.program.data import neutral_parameters


@dataclass(frozen=True)
class Group:
    """Parameter axes that can be permuted together without changing the likelihood.

    `axes` are (parameter, axis) pairs, all of length `size`; `latent` the latent whose values
    they index; `prior_symmetric` whether the prior is unchanged too.
    """

    latent: str
    size: int
    axes: tuple[tuple[str, int], ...]
    prior_symmetric: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name, _ in self.axes))

    def axes_of(self, name: str) -> tuple[int, ...]:
        return tuple(axis for n, axis in self.axes if n == name)

    def features(self, draws: np.ndarray, name: str) -> np.ndarray:
        """(draws, components, others): what tells the components of a parameter apart. Of one that
        has several axes of components (a transition matrix) this is its diagonal, which moves
        with a component whatever the order of the others."""
        axes = self.axes_of(name)
        if len(axes) == 1:
            moved = np.moveaxis(draws, axes[0] + 1, 1)
        else:
            moved = np.moveaxis(draws, [a + 1 for a in axes], range(1, len(axes) + 1))
            every = np.arange(self.size)
            moved = moved[(slice(None), *([every] * len(axes)))]
        return moved.reshape(len(draws), self.size, -1)


def permute(params: dict[str, Any], group: Group, order: Any) -> dict[str, Any]:
    """Reorder the components of a group."""
    new = dict(params)
    for name, axis in group.axes:
        new[name] = np.take(np.asarray(new[name]), order, axis)
    return new


def _is_ordered(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return "Ordered" in type(support).__name__


def exchangeable_groups(model: Model, fixed: frozenset[str]) -> tuple[Group, ...]:
    """All minimal sets of parameter axes whose joint permutation leaves log Z unchanged."""
    key = "exchangeable"
    groups = model.compiled(key, lambda: _find_groups(model))
    return tuple(g for g in groups if not {p for p, _ in g.axes} & fixed)


def _find_groups(model: Model) -> tuple[Group, ...]:
    marginal, space = model.marginal, model.space
    sites = {s.name: s for s in space.sites}
    names = frozenset(space.names)
    data = model.data
    if marginal.block_plate is not None:
        rows = model.reading.plates[marginal.block_plate].size
        if rows > 1000:
            cut = model.compiled("subset", lambda: quick_jit(marginal.subset))
            data = cut(data, jnp.asarray(np.linspace(0, rows - 1, 500).astype(int)))

    def density(params: Any, d: Any) -> jax.Array:
        eta = marginal.natural(params, d)
        terms = marginal.run(marginal.terms(eta, d), d)
        return jnp.stack(
            [marginal.elimination.total(terms), log_prior(model.reading, params, d, names)]
        )

    density = lean_jit(density) if model.reading.is_long else quick_jit(density)
    params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 11).items()}
    base = np.asarray(density(params, data))
    found: list[Group] = []
    for latent in model.reading.latents:
        if latent.size < 2 or latent.name in data.clamps:
            continue
        involved = {p for f in marginal.factors if latent.name in f.latents for p in f.parameters}
        axes = [
            (p, a)
            for p in space.names
            if p in involved and not _is_ordered(sites[p].support)
            for a, n in enumerate(sites[p].shape)
            if n == latent.size
        ]
        if len(axes) > 8:
            axes = axes[:8]
        order = np.roll(np.arange(latent.size), 1)
        kept: list[frozenset] = [frozenset(g.axes) for g in found]
        for count in range(1, len(axes) + 1):
            for subset in itertools.combinations(axes, count):
                if any(k <= frozenset(subset) for k in kept):
                    continue
                group = Group(latent.name, latent.size, subset, True)
                moved = np.asarray(density(permute(params, group, order), data))
                if not np.isclose(moved[0], base[0], rtol=1e-9, atol=1e-9):
                    continue
                same_prior = bool(np.isclose(moved[1], base[1], rtol=1e-9, atol=1e-9))
                found.append(Group(latent.name, latent.size, subset, same_prior))
                kept.append(frozenset(subset))
    return tuple(found)


def sort_labels(params: dict[str, Any], groups: tuple[Group, ...]) -> dict[str, Any]:
    """One canonical order of the components: by their first location-like parameter."""
    params = {k: np.asarray(v) for k, v in params.items()}
    for group in groups:
        name, axis = next(
            ((p, a) for p, a in group.axes if params[p].ndim == 1 and not _sums_to_one(params[p])),
            next(((p, a) for p, a in group.axes if not _sums_to_one(params[p])), group.axes[0]),
        )
        flat = np.moveaxis(params[name], axis, 0).reshape(group.size, -1)
        key = flat[:, 0] if flat.shape[1] else np.arange(group.size)
        params = permute(params, group, np.argsort(key, kind="stable"))
    return params


def _sums_to_one(value: np.ndarray) -> bool:
    return value.ndim == 1 and bool(abs(value.sum() - 1) < 1e-9 and np.all(value >= 0))


def alignment(
    params: dict[str, Any],
    reference: dict[str, Any],
    group: Group,
    scales: dict[str, Any] | None = None,
) -> np.ndarray:
    """The order that brings the components of `params` closest to those of `reference`.

    The cost is the squared distance over all the group's parameters, each divided by its scale;
    solved by the Hungarian method.
    """
    cost = np.zeros((group.size, group.size))
    for name in group.parameters:
        a = group.features(np.asarray(reference[name], float)[None], name)[0]
        b = group.features(np.asarray(params[name], float)[None], name)[0]
        if scales is not None:
            spread = group.features(np.asarray(scales[name], float)[None], name)[0]
        else:
            spread = a.std(0, keepdims=True) + 1e-12 + 1e-6 * np.abs(a).mean()
        cost += (((a[:, None] - b[None]) / spread[:, None]) ** 2).sum(-1)
    return linear_sum_assignment(cost)[1]


def align(
    params: dict[str, Any], reference: dict[str, Any], groups: tuple[Group, ...]
) -> dict[str, Any]:
    """Relabel every group of `params` to match `reference`."""
    for group in groups:
        params = permute(params, group, alignment(params, reference, group))
    return params


def permute_draws(draws: np.ndarray, group: Group, name: str, order: np.ndarray) -> np.ndarray:
    """Draws (draws, ...) of a parameter with the components of each in its own order
    (draws, components)."""
    for axis in group.axes_of(name):
        shape = tuple(group.size if a == axis else 1 for a in range(draws.ndim - 1))
        draws = np.take_along_axis(draws, order.reshape(len(draws), *shape), axis + 1)
    return draws


def order_draws(
    draws: dict[str, np.ndarray], groups: tuple[Group, ...], name: str
) -> tuple[dict[str, np.ndarray], float]:
    """Relabel draws so that a parameter increases over the components (an identifiability
    constraint); also the share of draws that moved.

    Raises ValueError when no exchangeable components hang on the parameter.
    """
    chosen = [g for g in groups if name in g.parameters]
    if not chosen:
        known = sorted({p for g in groups for p in g.parameters})
        raise ValueError(
            f"order_by: received {name!r}, expected a parameter of exchangeable components: "
            f"{known or 'there are none'}."
        )
    draws = {k: np.asarray(v) for k, v in draws.items()}
    moved = np.zeros(len(draws[name]), bool)
    for group in chosen:
        order = np.argsort(group.features(draws[name], name)[:, :, 0], 1, kind="stable")
        for p in group.parameters:
            draws[p] = permute_draws(draws[p], group, p, order)
        moved |= (order != np.arange(group.size)).any(1)
    return draws, float(moved.mean())


def align_draws(
    draws: dict[str, np.ndarray],
    reference: dict[str, Any],
    groups: tuple[Group, ...],
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
        permutations = list(itertools.permutations(range(group.size))) if group.size <= 5 else None
        original = {p: draws[p] for p in group.parameters}
        features = {p: group.features(np.asarray(draws[p], float), p) for p in group.parameters}
        centre = {p: group.features(np.asarray(reference[p], float)[None], p)[0] for p in features}
        scales = {p: np.full_like(centre[p], draws[p].std() + 1e-12) for p in features}
        current = np.tile(np.arange(group.size), (n, 1))
        for _ in range(rounds):
            cost = np.zeros((n, group.size, group.size))
            for p, b in features.items():
                a, s = centre[p], scales[p]
                # Gaussian log-density of draw component j under reference component i
                for i in range(group.size):
                    cost[:, i] += (((b - a[i]) / s[i]) ** 2 + 2 * np.log(s[i])).sum(-1)
            if permutations is not None:
                totals = np.stack(
                    [cost[:, np.arange(group.size), list(q)].sum(1) for q in permutations], 1
                )
                order = np.array(permutations)[totals.argmin(1)]
            else:
                order = np.stack([linear_sum_assignment(c)[1] for c in cost])
            for p, b in features.items():
                draws[p] = permute_draws(original[p], group, p, order)
                own = np.take_along_axis(b, order[:, :, None], 1)
                centre[p], scales[p] = own.mean(0), own.std(0) + 1e-12
            if np.array_equal(order, current):
                break
            current = order
        usual = max(set(map(tuple, current)), key=lambda q: (current == q).all(1).sum())
        moved |= (current != usual).any(1)
    return draws, float(moved.mean()) if n else 0.0
