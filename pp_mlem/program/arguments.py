"""The arguments of a program: which are data (traced arrays) and which are handed over as they are."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pp_mlem.program.containers import AS_GIVEN, Own, Plain, containers_of
from pp_mlem.program.leaves import Leaf, LeafKind, alike, fresh, is_object, leaves_of, same_value


@dataclass(frozen=True)
class Form:
    """How data reach a program: traced or concrete; lists of numbers as arrays or as lists; pandas
    objects as such or as plain arrays."""

    traced: bool = True
    lists: bool = False
    frames: bool = True


@dataclass(frozen=True)
class Arguments:
    """Bound arguments of a program, split into arrays (`dynamic`) and everything else.

    `names[i]` is the argument from which `dynamic[i]` comes, `labels[i]` says which part of it.
    `trees` hold the structure of each argument, the first `positional` of which have no keyword;
    `kinds` tells what each leaf is. `form` is the way in which the program takes them.
    """

    program: Callable[..., Any]
    dynamic: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    static: tuple[Any, ...]
    kinds: tuple[LeafKind, ...]
    trees: tuple[tuple[str, Any], ...]
    positional: int
    form: Form = Form()

    @property
    def traced(self) -> bool:
        """Whether the program takes traced arrays; False where it needs concrete values."""
        return self.form.traced

    def untraced(self) -> dict[str, Any]:
        """Arrays and single numbers that the program sees as they are, by name."""
        concrete = {}
        for leaf in self._leaves():
            as_list = leaf.kind is LeafKind.LIST and self.form.lists
            array = leaf.is_data and (not self.traced or as_list)
            if array or (not leaf.is_data and isinstance(leaf.value, (int, float))):
                concrete[leaf.label] = leaf.value
        return concrete

    @property
    def has_forms(self) -> bool:
        """Whether a program that fails on these arguments may run on them in another form."""
        return LeafKind.LIST in self.kinds or LeafKind.FRAME in self.kinds

    def forms(self) -> Iterator[Arguments]:
        """The same arguments in every form that a program may take them, the best first."""
        lists, frames = LeafKind.LIST in self.kinds, LeafKind.FRAME in self.kinds
        choices = [Form()]
        choices += [Form(lists=True)] if lists else []
        choices += [Form(traced=False)]
        choices += [Form(traced=False, lists=True)] if lists else []
        choices += [Form(frames=False)] if frames else []
        return (dataclasses.replace(self, form=form) for form in choices)

    def call(self, program: Callable[..., Any], dynamic: tuple[Any, ...]) -> Any:
        """Call `program` with these arguments, the arrays replaced by `dynamic`. Where those are cut
        to their first rows, numbers that are their length follow."""
        arrays, form = iter(dynamic if self.traced else self.dynamic), self.form
        statics, (length, cut) = iter(self.static), self._cut(dynamic)

        def leaf(kind: LeafKind) -> Any:
            if kind is LeafKind.STATIC:
                value = next(statics)
                return cut if type(value) is int and value == length else fresh(value)
            array = next(arrays)
            if kind is LeafKind.LIST and form.lists:
                return AS_GIVEN
            if kind is LeafKind.FRAME and not form.frames:
                return Plain(array)
            if kind is LeafKind.FRAME and not form.traced:
                return AS_GIVEN
            return array if form.traced else array.copy()

        return self._apply(program, [leaf(kind) for kind in self.kinds])

    def _cut(self, dynamic: tuple[Any, ...]) -> tuple[int, int]:
        """The length of the longest arrays, and what it is among `dynamic`."""
        lengths = [np.shape(a)[:1] for a in self.dynamic]
        length = max(lengths, default=())
        if not self.traced or not length:
            return 0, 0
        now = [a.shape[0] for a, own in zip(dynamic, lengths, strict=True) if own == length]
        return length[0], min(now)

    def values(self) -> tuple[tuple, dict[str, Any]]:
        """The arguments as a user would give them, on the present data."""
        arrays, statics = iter(self.dynamic), iter(self.static)

        def leaf(kind: LeafKind) -> Any:
            if kind is LeafKind.STATIC:
                return next(statics)
            return next(arrays) if kind is LeafKind.ARRAY else Own(next(arrays))

        return self._apply(lambda *args, **kwargs: (args, kwargs), [leaf(k) for k in self.kinds])

    def _apply(self, function: Callable[..., Any], leaves: list[Any]) -> Any:
        made, start = [], 0
        for name, tree in self.trees:
            made.append((name, jax.tree.unflatten(tree, leaves[start : start + tree.num_leaves])))
            start += tree.num_leaves
        return function(*(v for _, v in made[: self.positional]), **dict(made[self.positional :]))

    def device_arrays(self) -> tuple[jax.Array, ...]:
        """The data as JAX arrays of the current precision; empty when they are constants."""
        return (
            tuple(jax.device_put(a, may_alias=False) for a in self.dynamic) if self.traced else ()
        )

    def in_precision(self, dtype: np.dtype) -> Arguments:
        """The same arguments with floating and integer arrays converted, none of them wrapped."""
        integer = np.dtype(np.int64 if dtype == np.float64 else np.int32)

        def convert(label: str, array: np.ndarray) -> np.ndarray:
            kind = array.dtype.kind
            if kind not in "fiu" or _is_random_key(array):
                return array
            target = dtype if kind == "f" else integer
            limits: Any = np.finfo(target) if kind == "f" else np.iinfo(target)
            if array.dtype.itemsize >= target.itemsize and array.dtype != target:
                finite = array[np.isfinite(array)] if kind == "f" else array
                if finite.size and (finite.max() > limits.max or finite.min() < limits.min):
                    where = np.argwhere(np.isfinite(array) & (abs(array) > limits.max))
                    place = tuple(int(i) for i in where[0]) if len(where) else ()
                    raise ValueError(
                        f"argument '{label}': the value {array[place]} at index {place} does not "
                        f"fit {target.name}, in which this model computes. Use dtype=float64, or "
                        "smaller numbers."
                    )
            return array.astype(target, copy=False)

        arrays = tuple(convert(n, a) for n, a in zip(self.labels, self.dynamic, strict=True))
        return dataclasses.replace(self, dynamic=arrays)

    def replace(self, values: dict[str, Any]) -> Arguments:
        """The same arguments with some of those that hold data exchanged, by argument name."""
        leaves, known = self._by_name(), []
        for name, _ in self.trees:
            if any(leaf.is_data or is_object(leaf.value) for leaf in leaves[name]):
                known.append(name)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"unknown data argument(s) {unknown}; the program's array arguments are "
                f"{sorted(known)}."
            )
        trees = []
        for name, tree in self.trees:
            if name in values:
                leaves[name], tree = leaves_of(name, alike(values[name], tree))
            trees.append((name, tree))
        return _assembled(self.program, trees, leaves, self.positional, self.form)

    def _by_name(self) -> dict[str, list[Leaf]]:
        """The leaves of each argument."""
        arrays = zip(self.labels, self.dynamic, strict=True)
        statics, kinds = iter(self.static), iter(self.kinds)
        leaves: dict[str, list[Leaf]] = {}
        for name, tree in self.trees:
            leaves[name] = []
            for _ in range(tree.num_leaves):
                kind = next(kinds)
                own = (name, next(statics)) if kind is LeafKind.STATIC else next(arrays)
                leaves[name].append(Leaf(kind, *own))
        return leaves

    def _leaves(self) -> list[Leaf]:
        return [leaf for leaves in self._by_name().values() for leaf in leaves]

    def shares_structure(self, other: Arguments) -> bool:
        """Whether what was compiled for `other` holds for these arguments as well."""
        lists = self.form.lists and LeafKind.LIST in self.kinds
        return (
            self.traced
            and not lists
            and self.trees == other.trees
            and self.kinds == other.kinds
            and all(
                a.shape == b.shape and a.dtype.kind == b.dtype.kind
                for a, b in zip(self.dynamic, other.dynamic, strict=True)
            )
            and all(same_value(a, b) for a, b in zip(self.static, other.static, strict=True))
        )

    def refused(self) -> list[str]:
        """What a program asked of a pandas object under trace, in vain, since the last call."""
        asked = []
        for _, tree in self.trees:
            for node in containers_of(tree):
                asked += node.log
                node.log.clear()
        return asked

    def handed_over(self) -> str:
        """A sentence on arguments that look like data but are no numbers; empty if there are none."""
        kinds: dict[str, str] = {}
        for leaf in self._leaves():
            if not leaf.is_data and hasattr(leaf.value, "dtype") and is_object(leaf.value):
                kinds.setdefault(leaf.label, str(leaf.value.dtype))
        if not kinds:
            return ""
        which = ", ".join(f"'{label}' ({dtype})" for label, dtype in kinds.items())
        return (
            f" Argument {which} was handed over as it is: the program received no numbers, expected "
            "numbers where it computes with them. Encode labels as integers first (for example "
            "with pandas.factorize)."
        )


def _is_random_key(array: np.ndarray) -> bool:
    return array.dtype == np.uint32 and array.shape in ((2,), (4,))


def _assembled(
    program: Callable[..., Any],
    trees: list[tuple[str, Any]],
    leaves: dict[str, list[Leaf]],
    positional: int,
    form: Form = Form(),
) -> Arguments:
    every = [(name, leaf) for name, _ in trees for leaf in leaves[name]]
    data = [(name, leaf) for name, leaf in every if leaf.is_data]
    return Arguments(
        program,
        dynamic=tuple(leaf.value for _, leaf in data),
        names=tuple(name for name, _ in data),
        labels=tuple(leaf.label for _, leaf in data),
        static=tuple(leaf.value for _, leaf in every if not leaf.is_data),
        kinds=tuple(leaf.kind for _, leaf in every),
        trees=tuple(trees),
        positional=positional,
        form=form,
    )


def bind_arguments(program: Callable[..., Any], args: tuple, kwargs: dict) -> Arguments:
    """Bind and split the arguments of `program`."""
    if not callable(program):
        raise TypeError(
            f"program: received {type(program).__name__}, expected a function that holds NumPyro "
            "statements (numpyro.sample, numpyro.plate, ...)."
        )
    signature = inspect.signature(program)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(program, "__name__", repr(program))
        raise TypeError(
            f"the arguments do not fit the program {name}{signature}: {error}."
        ) from None
    labels: list[str] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            labels += [f"{name}[{i}]" for i in range(len(value))]
        elif kind in (
            inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):  # fmt: skip
            labels.append(name)
    given = [*zip(labels, bound.args, strict=False), *bound.kwargs.items()]
    trees, leaves = [], {}
    for name, value in given:
        leaves[name], tree = leaves_of(name, value)
        trees.append((name, tree))
    return _assembled(program, trees, leaves, len(bound.args))
