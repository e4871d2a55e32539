"""Groups of values of a latent that can be permuted without changing the likelihood."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Order = tuple[int, ...]
ELEMENTS = 720  # orders of a group that are enumerated


@dataclass(frozen=True)
class Group:
    """Values of a latent that can be permuted, with parameters, without changing the likelihood.

    `axes` are (parameter, axis) pairs, all of length `size`, that are permuted as they stand;
    `latent` the latent whose values they index; `prior_symmetric` whether the posterior is
    unchanged too, and so the prior with the map's volume.

    Where the parameters behind the latent are more than permuted (weights θ and 1 - θ), `solved`
    are those that are solved for, `slots` what is permuted together, `orders` the orders that
    generate all that are possible, and `mode_symmetric` tells whether the prior's density is
    unchanged, as MAP needs.
    """

    latent: str
    size: int
    axes: tuple[tuple[str, int], ...]
    prior_symmetric: bool
    solved: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    orders: tuple[Order, ...] = ()
    mode_symmetric: bool | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Group:
        """From what `dataclasses.asdict` gave, as a file holds it."""
        return cls(
            record["latent"],
            record["size"],
            tuple((p, a) for p, a in record["axes"]),
            record["prior_symmetric"],
            tuple(record.get("solved", ())),
            tuple(record.get("slots", ())),
            tuple(tuple(o) for o in record.get("orders", ())),
            record.get("mode_symmetric"),
        )

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(name for name, _ in self.axes), *self.solved)))

    @property
    def keeps_mode(self) -> bool:
        """Whether log Z + log prior, without a Jacobian, is unchanged."""
        return self.prior_symmetric if self.mode_symmetric is None else self.mode_symmetric

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
            diagonal: tuple[Any, ...] = (slice(None), *[np.arange(self.size)] * len(axes))
            moved = moved[diagonal]
        return moved.reshape(len(draws), self.size, -1)


@functools.cache
def elements(orders: tuple[Order, ...], size: int) -> dict[Order, tuple[Order, ...]] | None:
    """Every order that these generate, each with a word of generators for it; None beyond
    ELEMENTS."""
    identity = tuple(range(size))
    words: dict[Order, tuple[Order, ...]] = {identity: ()}
    fresh = [identity]
    while fresh:
        reached = []
        for order in fresh:
            for generator in orders:
                new = tuple(order[i] for i in generator)
                if new not in words:
                    words[new] = (*words[order], generator)
                    reached.append(new)
        if len(words) > ELEMENTS:
            return None
        fresh = reached
    return words


def possible_orders(group: Group) -> list[Order] | None:
    """The orders to choose from; None where there are too many to enumerate."""
    if not group.orders:
        return list(itertools.permutations(range(group.size))) if group.size <= 5 else None
    words = elements(group.orders, group.size)
    return None if words is None else list(words)


def orbits(group: Group) -> np.ndarray:
    """(values, values): which value can come to stand for which."""
    same = np.eye(group.size, dtype=bool)
    for order in group.orders:
        same[np.arange(group.size), list(order)] = True
    for _ in range(int(np.ceil(np.log2(group.size))) + 1):
        same = same @ same | same.T
    return same


def permute_axes(params: Mapping[str, Any], group: Group, order: Any) -> dict[str, Any]:
    """Reorder the axes of a group's components."""
    new = dict(params)
    for name, axis in group.axes:
        new[name] = np.take(np.asarray(new[name]), order, axis)
    return new
