"""Arguments that are more than one array (lists, pandas objects, dictionaries, dataclasses) as
nodes of JAX's trees, which a program sees as the objects that they stand for."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.program.frames import TracedSeries, numeric_columns, traced_frame

AS_GIVEN = object()  # in place of a leaf: see `Container`


@dataclass(frozen=True)
class Plain:
    """In place of a leaf: its container is to be a plain array."""

    array: Any


@dataclass(frozen=True)
class Own:
    """In place of a leaf: its container is to be the user's kind of object, on this value."""

    array: Any


class Container:
    """A node of the arguments' tree that a program sees as the object it stands for.

    Its children are arrays. `restore` makes what a program sees under trace; a child `AS_GIVEN`
    asks for a fresh copy of the user's own object; `rebuild` is such an object on other values.
    """

    def __init__(self, original: Any, children: tuple[Any, ...], keys: tuple[Any, ...]) -> None:
        self.original, self.children, self.keys = original, children, keys
        self.log: list[str] = []

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.keys == other.keys

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.keys))

    def restore(self, children: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def as_array(self, children: tuple[Any, ...]) -> Any:
        return self.restore(children)

    def rebuild(self, children: tuple[Any, ...]) -> Any:
        return self.restore(children)

    def fresh(self) -> Any:
        return copy.deepcopy(self.original)


class Numbers(Container):
    """A list or tuple of numbers: an array, or the list itself where the program needs one."""

    def restore(self, children: tuple[Any, ...]) -> Any:
        return children[0]

    def rebuild(self, children: tuple[Any, ...]) -> Any:
        return type(self.original)(np.asarray(children[0]).tolist())


class Column(Container):
    """A pandas Series of numbers."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Column) and self.original.index.equals(other.original.index)

    __hash__ = Container.__hash__

    def restore(self, children: tuple[Any, ...]) -> Any:
        return TracedSeries(children[0], self.original, self.log)

    def as_array(self, children: tuple[Any, ...]) -> Any:
        return children[0]

    def rebuild(self, children: tuple[Any, ...]) -> Any:
        return pd.Series(children[0], self.original.index, name=self.original.name)


class Frame(Container):
    """A pandas DataFrame; its children are its columns of numbers."""

    def __eq__(self, other: object) -> bool:
        if not (isinstance(other, Frame) and Container.__eq__(self, other)):
            return False
        mine, theirs = self.original, other.original
        kept = [k for k in mine.columns if k not in numeric_columns(mine)]
        return mine.columns.equals(theirs.columns) and mine[kept].equals(theirs[kept])

    __hash__ = Container.__hash__

    def restore(self, children: tuple[Any, ...]) -> Any:
        return traced_frame(self.original, children, self.log)

    def as_array(self, children: tuple[Any, ...]) -> Any:
        if len(children) < self.original.shape[1]:
            return self.fresh()
        return jnp.stack(children, axis=1)

    def rebuild(self, children: tuple[Any, ...]) -> Any:
        made = self.fresh()
        for key, child in zip(numeric_columns(self.original), children, strict=True):
            made[key] = child
        return made


class Record(Container):
    """A dataclass that JAX does not know: its fields are looked into like those of a dictionary."""

    def restore(self, children: tuple[Any, ...]) -> Any:
        made = copy.copy(self.original)
        for key, child in zip(self.keys, children, strict=True):
            object.__setattr__(made, key, child)
        return made


class Mapping(Record):
    """A dictionary: JAX would sort its keys, and refuse those that have no order."""

    def restore(self, children: tuple[Any, ...]) -> Any:
        return dict(zip(self.keys, children, strict=True))


def _restored(node: Container, children: Any) -> Any:
    children = tuple(children)
    if any(child is AS_GIVEN for child in children):
        return node.fresh()
    if children and all(isinstance(child, Plain) for child in children):
        return node.as_array(tuple(child.array for child in children))
    if children and all(isinstance(child, Own) for child in children):
        return node.rebuild(tuple(child.array for child in children))
    return node.restore(children)


def _flatten_with_keys(node: Container) -> tuple:
    keyed = [(jax.tree_util.DictKey(k), c) for k, c in zip(node.keys, node.children, strict=True)]
    return keyed, node


for _kind in (Numbers, Column, Frame, Record, Mapping):
    jax.tree_util.register_pytree_with_keys(
        _kind, _flatten_with_keys, _restored, lambda node: (node.children, node)
    )


def containers_of(tree: Any) -> list[Container]:
    """The containers among the nodes of an argument's tree."""
    containers: list[Container] = []
    data = tree.node_data()
    if data is not None and isinstance(data[1], Container):
        containers.append(data[1])
    for child in tree.children():
        containers += containers_of(child)
    return containers
