"""Sums of pytrees, as parts of the rows add up."""

from __future__ import annotations

import abc
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class Joined(abc.ABC):
    """What adds up over rows in a way of its own."""

    @abc.abstractmethod
    def joined(self: T, other: T) -> T:
        """The sum of both."""

    @abc.abstractmethod
    def times(self: T, share: float) -> T:
        """So many times this."""


def added(one: Any, other: Any) -> Any:
    """The sum of two pytrees of arrays."""
    if isinstance(one, Joined):
        return one.joined(other)
    if isinstance(one, dict):
        return {name: added(own, other[name]) for name, own in one.items()}
    if isinstance(one, tuple):
        parts = [added(a, b) for a, b in zip(one, other, strict=True)]
        return type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)
    return one if one is None else jax.tree.map(lambda a, b: a + b, one, other)


def times(tree: Any, share: float) -> Any:
    """So many times a pytree of arrays."""
    if isinstance(tree, Joined):
        return tree.times(share)
    if isinstance(tree, dict):
        return {name: times(own, share) for name, own in tree.items()}
    if isinstance(tree, tuple):
        parts = [times(own, share) for own in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree if tree is None else jax.tree.map(lambda a: a * share, tree)
