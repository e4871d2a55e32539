"""An argument taken apart into leaves: its arrays, which are data, and all else, handed over."""

from __future__ import annotations

import copy
import dataclasses
import enum
import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.program.arrays import array_of, numbers_of, numeric
from pp_mlem.program.containers import (
    Column,
    Container,
    Frame,
    Mapping,
    Numbers,
    Record,
    containers_of,
)
from pp_mlem.program.frames import column_values, numeric_columns


class LeafKind(enum.Enum):
    """What a leaf of an argument is to the program."""

    ARRAY = "an array"
    LIST = "the array of a list or tuple of numbers"
    FRAME = "an array of a pandas object"
    STATIC = "handed over as it is"


@dataclass(frozen=True)
class Leaf:
    """One leaf of an argument; `label` says which part of it."""

    kind: LeafKind
    label: str
    value: Any

    @property
    def is_data(self) -> bool:
        return self.kind is not LeafKind.STATIC


def leaves_of(name: str, value: Any) -> tuple[list[Leaf], Any]:
    """The leaves of an argument, and its tree."""
    wrapped = _tree(name, value)
    paths, tree = jax.tree_util.tree_flatten_with_path(wrapped, is_leaf=lambda v: v is None)
    leaves = [
        Leaf(kind, name + jax.tree_util.keystr(path).replace("['']", ""), leaf)
        for (path, leaf), kind in zip(paths, _kinds(wrapped), strict=True)
    ]
    return leaves, tree


def _tree(label: str, value: Any) -> Any:
    """`_wrapped` at every part of a nested argument."""
    if _is_whole(value):
        return _wrapped(label, value)

    def part(path: tuple, leaf: Any) -> Any:
        return _wrapped(label + jax.tree_util.keystr(path), leaf)

    return jax.tree_util.tree_map_with_path(part, value, is_leaf=_is_whole)


def _kinds(wrapped: Any) -> Iterator[LeafKind]:
    """What each leaf of a wrapped argument is: see `LeafKind`."""
    for item in jax.tree.leaves(wrapped, is_leaf=_is_leaf):
        if isinstance(item, Record):
            for child in item.children:
                yield from _kinds(child)
        elif isinstance(item, Container):
            kind = LeafKind.LIST if isinstance(item, Numbers) else LeafKind.FRAME
            yield from [kind] * len(item.children)
        else:
            is_number = isinstance(item, np.ndarray) and item.dtype.kind in "biufc"
            yield LeafKind.ARRAY if is_number else LeafKind.STATIC


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, Container)


def _is_whole(value: Any) -> bool:
    """Whether an argument is looked at as one, not by its parts."""
    if value is None or isinstance(value, (pd.Series, pd.DataFrame)):
        return True
    if type(value) in (list, tuple):
        return numbers_of(value) is not None
    return type(value) is dict or _is_record(value)


def _is_record(value: Any) -> bool:
    return (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type)
        and jax.tree_util.treedef_is_leaf(jax.tree.structure(value))
    )


def _wrapped(label: str, value: Any) -> Any:
    """An argument (or a part of it) with its arrays as NumPy arrays, in containers known here."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"argument '{label}': received a JAX tracer, expected data. Build the Model outside "
            "jit, vmap and grad."
        )
    if isinstance(value, Iterator):
        raise TypeError(
            f"argument '{label}': received an iterator ({type(value).__name__}), which one run of "
            f"the program would use up. Pass list({label})."
        )
    made: Any = None
    if isinstance(value, pd.DataFrame):
        made = _frame(label, value)
    elif isinstance(value, pd.Series):
        made = _column(label, value)
    elif type(value) in (list, tuple):
        array = numbers_of(value)
        made = Numbers(copy.deepcopy(value), (array,), ("",)) if array is not None else None
    elif type(value) is dict:
        parts = tuple(_tree(f"{label}[{k!r}]", v) for k, v in value.items())
        made = Mapping(None, parts, tuple(value))
    elif _is_record(value):
        keys = tuple(f.name for f in dataclasses.fields(value) if hasattr(value, f.name))
        parts = tuple(_tree(f"{label}.{k}", getattr(value, k)) for k in keys)
        made = Record(value, parts, keys)
    else:
        made = array_of(value)
        if made is not None:
            _check_size(label, made.shape)
    return value if made is None else made


def _frame(label: str, value: pd.DataFrame) -> Frame | None:
    names = numeric_columns(value)
    arrays = tuple(column_values(value[k]) for k in names)
    made = Frame(value.copy(), arrays, tuple(str(k) for k in names)) if names else None
    _check_size(label, value.shape)
    return made


def _column(label: str, value: pd.Series) -> Column | None:
    array = column_values(value)
    if array is None:  # objects that are numbers all the same
        array = numeric(value.to_numpy()) if value.dtype == object else None
    _check_size(label, value.shape)
    return Column(value.copy(), (array,), ("",)) if array is not None else None


def _check_size(label: str, shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise ValueError(
            f"argument '{label}': received an empty array of shape {shape}, expected at "
            "least one observation."
        )


def alike(value: Any, tree: Any) -> Any:
    """A new value for an argument, as the kind of container that the old one had."""
    old = containers_of(tree)
    node = old[0] if len(old) == 1 and tree.num_leaves == 1 else None
    plain = isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) == 1
    if isinstance(node, Column) and plain:
        index = node.original.index if len(node.original) == len(value) else None
        return pd.Series(np.asarray(value), index, name=node.original.name)
    if isinstance(node, Numbers) and plain:
        return np.asarray(value).tolist()
    if not old and jax.tree_util.treedef_is_leaf(tree):
        if isinstance(value, pd.Series):
            array = column_values(value)
        else:
            array = numbers_of(value) if type(value) in (list, tuple) else None
        return value if array is None else array
    return value


def is_object(value: Any) -> bool:
    """Whether a static leaf is data that could not be traced, not an option of the program."""
    return not (
        value is None
        or callable(value)
        or isinstance(value, (numbers.Number, np.generic, str, bytes))
    )


def fresh(value: Any) -> Any:
    """A copy of what a program could change in place."""
    mutable = (np.ndarray, pd.Series, pd.DataFrame, set, bytearray)
    sparse = type(value).__module__.startswith("scipy.sparse")
    return copy.deepcopy(value) if isinstance(value, mutable) or sparse else value


def same_value(a: Any, b: Any) -> bool:
    """Whether two static leaves are equal for certain."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and bool(np.all(a == b))
    if isinstance(a, (pd.Series, pd.DataFrame)):
        return bool(a.equals(b))
    simple = isinstance(a, (numbers.Number, np.generic, str, bytes, set))
    return simple and bool(a == b)
