"""The arguments of a program: which are data (traced arrays) and which are handed over as they are."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.program.frames import TracedSeries, column_values, numeric_columns, traced_frame

AS_GIVEN = object()  # in place of a leaf: see `_Container`


@dataclass(frozen=True)
class _Plain:
    """In place of a leaf: its container is to be a plain array."""

    array: Any


class _Container:
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


class _Numbers(_Container):
    """A list or tuple of numbers: an array, or the list itself where the program needs one."""

    def restore(self, children: tuple[Any, ...]) -> Any:
        return children[0]

    def rebuild(self, children: tuple[Any, ...]) -> Any:
        return type(self.original)(np.asarray(children[0]).tolist())


class _Column(_Container):
    """A pandas Series of numbers."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Column) and self.original.index.equals(other.original.index)

    __hash__ = _Container.__hash__

    def restore(self, children: tuple[Any, ...]) -> Any:
        return TracedSeries(children[0], self.original, self.log)

    def as_array(self, children: tuple[Any, ...]) -> Any:
        return children[0]

    def rebuild(self, children: tuple[Any, ...]) -> Any:
        return pd.Series(children[0], self.original.index, name=self.original.name)


class _Frame(_Container):
    """A pandas DataFrame; its children are its columns of numbers."""

    def __eq__(self, other: object) -> bool:
        if not (isinstance(other, _Frame) and _Container.__eq__(self, other)):
            return False
        mine, theirs = self.original, other.original
        kept = [k for k in mine.columns if k not in numeric_columns(mine)]
        return mine.columns.equals(theirs.columns) and mine[kept].equals(theirs[kept])

    __hash__ = _Container.__hash__

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


class _Record(_Container):
    """A dataclass that JAX does not know: its fields are looked into like those of a dictionary."""

    def restore(self, children: tuple[Any, ...]) -> Any:
        made = copy.copy(self.original)
        for key, child in zip(self.keys, children, strict=True):
            object.__setattr__(made, key, child)
        return made


@dataclass(frozen=True)
class _Own:
    """In place of a leaf: its container is to be the user's kind of object, on this value."""

    array: Any


class _Mapping(_Record):
    """A dictionary: JAX would sort its keys, and refuse those that have no order."""

    def restore(self, children: tuple[Any, ...]) -> Any:
        return dict(zip(self.keys, children, strict=True))


def _unflatten(node: _Container, children: Any) -> Any:
    children = tuple(children)
    if any(child is AS_GIVEN for child in children):
        return node.fresh()
    if children and all(isinstance(child, _Plain) for child in children):
        return node.as_array(tuple(child.array for child in children))
    if children and all(isinstance(child, _Own) for child in children):
        return node.rebuild(tuple(child.array for child in children))
    return node.restore(children)


def _flatten_with_keys(node: _Container) -> tuple:
    keyed = [(jax.tree_util.DictKey(k), c) for k, c in zip(node.keys, node.children, strict=True)]
    return keyed, node


for _kind in (_Numbers, _Column, _Frame, _Record, _Mapping):
    jax.tree_util.register_pytree_with_keys(
        _kind, _flatten_with_keys, _unflatten, lambda node: (node.children, node)
    )


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
    `kinds` tells of each leaf whether it is an array ("array", or the container it belongs to) or
    "static". `form` is the way in which the program takes them.
    """

    program: Callable[..., Any]
    dynamic: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    static: tuple[Any, ...]
    kinds: tuple[str, ...]
    trees: tuple[tuple[str, Any], ...]
    positional: int
    form: Form = Form()

    @property
    def traced(self) -> bool:
        """Whether the program takes traced arrays; False where it needs concrete values."""
        return self.form.traced

    def untraced(self) -> dict[str, Any]:
        """Arrays and single numbers that the program sees as they are, by name."""
        found = {}
        for leaves in self._by_name().values():
            for kind, label, value in leaves:
                array = kind != "static" and (
                    not self.traced or (kind, self.form.lists) == ("list", True)
                )
                if array or (kind == "static" and isinstance(value, (int, float))):
                    found[label] = value
        return found

    @property
    def has_forms(self) -> bool:
        """Whether a program that fails on these arguments may run on them in another form."""
        return "list" in self.kinds or "frame" in self.kinds

    def forms(self) -> Iterator[Arguments]:
        """The same arguments in every form that a program may take them, the best first."""
        lists, frames = "list" in self.kinds, "frame" in self.kinds
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

        def leaf(kind: str) -> Any:
            if kind == "static":
                value = next(statics)
                return cut if type(value) is int and value == length else _fresh(value)
            array = next(arrays)
            if kind == "list" and form.lists:
                return AS_GIVEN
            if kind == "frame" and not form.frames:
                return _Plain(array)
            if kind == "frame" and not form.traced:
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

        def leaf(kind: str) -> Any:
            if kind == "static":
                return next(statics)
            return next(arrays) if kind == "array" else _Own(next(arrays))

        return self._apply(lambda *args, **kwargs: (args, kwargs), [leaf(k) for k in self.kinds])

    def _apply(self, function: Callable[..., Any], leaves: list[Any]) -> Any:
        made, start = [], 0
        for name, tree in self.trees:
            made.append((name, jax.tree.unflatten(tree, leaves[start : start + tree.num_leaves])))
            start += tree.num_leaves
        return function(*(v for _, v in made[: self.positional]), **dict(made[self.positional :]))

    def device_arrays(self) -> tuple[jax.Array, ...]:
        """The data as JAX arrays of the current precision; empty when they are constants."""
        return tuple(jnp.asarray(a) for a in self.dynamic) if self.traced else ()

    def in_precision(self, dtype: np.dtype) -> Arguments:
        """The same arguments with floating and integer arrays converted, none of them wrapped."""
        integer = np.dtype(np.int64 if dtype == np.float64 else np.int32)

        def convert(label: str, array: np.ndarray) -> np.ndarray:
            kind = array.dtype.kind
            if kind not in "fiu" or _is_random_key(array):
                return array
            target = dtype if kind == "f" else integer
            limits = np.finfo(target) if kind == "f" else np.iinfo(target)  # type: ignore[type-var]
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
            if any(kind != "static" or _is_object(v) for kind, _, v in leaves[name]):
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
                leaves[name], tree = _leaves(name, _alike(values[name], tree))
            trees.append((name, tree))
        return _assembled(self.program, trees, leaves, self.positional, self.form)

    def _by_name(self) -> dict[str, list[tuple[str, str, Any]]]:
        """(kind, label, value) of each argument's leaves."""
        arrays = zip(self.labels, self.dynamic, strict=True)
        statics, kinds = iter(self.static), iter(self.kinds)
        found: dict[str, list[tuple[str, str, Any]]] = {}
        for name, tree in self.trees:
            found[name] = []
            for _ in range(tree.num_leaves):
                kind = next(kinds)
                own = (name, next(statics)) if kind == "static" else next(arrays)
                found[name].append((kind, *own))
        return found

    def shares_structure(self, other: Arguments) -> bool:
        """Whether what was compiled for `other` holds for these arguments as well."""
        lists = self.form.lists and "list" in self.kinds
        return (
            self.traced
            and not lists
            and self.trees == other.trees
            and self.kinds == other.kinds
            and all(
                a.shape == b.shape and a.dtype.kind == b.dtype.kind
                for a, b in zip(self.dynamic, other.dynamic, strict=True)
            )
            and all(_same(a, b) for a, b in zip(self.static, other.static, strict=True))
        )

    def refused(self) -> list[str]:
        """What a program asked of a pandas object under trace, in vain, since the last call."""
        found = []
        for _, tree in self.trees:
            for node in _containers(tree):
                found += node.log
                node.log.clear()
        return found

    def handed_over(self) -> str:
        """A sentence on arguments that look like data but are no numbers; empty if there are none."""
        odd = {}
        for leaves in self._by_name().values():
            for kind, label, value in leaves:
                if kind == "static" and hasattr(value, "dtype") and _is_object(value):
                    odd.setdefault(label, str(value.dtype))
        if not odd:
            return ""
        told = ", ".join(f"'{label}' ({dtype})" for label, dtype in odd.items())
        return (
            f" Argument {told} was handed over as it is: the program received no numbers, expected "
            "numbers where it computes with them. Encode labels as integers first (for example "
            "with pandas.factorize)."
        )


def _is_random_key(array: np.ndarray) -> bool:
    return array.dtype == np.uint32 and array.shape in ((2,), (4,))


def _is_object(value: Any) -> bool:
    """Whether a static leaf is data that could not be traced, not an option of the program."""
    return not (
        value is None
        or callable(value)
        or isinstance(value, (numbers.Number, np.generic, str, bytes))
    )


def _fresh(value: Any) -> Any:
    """A copy of what a program could change in place."""
    mutable = (np.ndarray, pd.Series, pd.DataFrame, set, bytearray)
    sparse = type(value).__module__.startswith("scipy.sparse")
    return copy.deepcopy(value) if isinstance(value, mutable) or sparse else value


def _same(a: Any, b: Any) -> bool:
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


def _containers(tree: Any) -> list[_Container]:
    found: list[_Container] = []
    data = tree.node_data()
    if data is not None and isinstance(data[1], _Container):
        found.append(data[1])
    for child in tree.children():
        found += _containers(child)
    return found


def _alike(value: Any, tree: Any) -> Any:
    """A new value for an argument, as the kind of container that the old one had."""
    old = _containers(tree)
    node = old[0] if len(old) == 1 and tree.num_leaves == 1 else None
    plain = isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) == 1
    if isinstance(node, _Column) and plain:
        index = node.original.index if len(node.original) == len(value) else None
        return pd.Series(np.asarray(value), index, name=node.original.name)
    if isinstance(node, _Numbers) and plain:
        return np.asarray(value).tolist()
    if not old and jax.tree_util.treedef_is_leaf(tree):
        if isinstance(value, pd.Series):
            array = column_values(value)
        else:
            array = _numbers_of(value) if type(value) in (list, tuple) else None
        return value if array is None else array
    return value


def _numbers_of(value: Any) -> np.ndarray | None:
    """The array of a list or tuple of numbers (None in it is NaN); None for any other."""
    first = value
    while type(first) in (list, tuple) and first:
        first = first[0]
    if first is not None and not isinstance(first, (numbers.Number, np.generic)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None  # ragged
    return _numeric(array) if array.size else None


def _numeric(array: np.ndarray) -> np.ndarray | None:
    """The array if it holds numbers, also where its type says "object"."""
    if array.dtype.kind in "biufc":
        return array
    if array.dtype == object and array.size:
        cells = array.ravel().tolist()
        missing = [c is None or c is pd.NA for c in cells]
        number = (numbers.Real, np.generic, np.bool_)
        if not all(missing) and all(
            m or isinstance(c, number) for c, m in zip(cells, missing, strict=True)
        ):
            floats = [np.nan if m else float(c) for c, m in zip(cells, missing, strict=True)]
            return np.asarray(floats).reshape(array.shape)
    return None


def _array(name: str, value: Any) -> np.ndarray | None:
    """The array that an array-like holds; None where there are no numbers in it."""
    if isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind not in "biuf":
            return None
        hidden = np.ma.getmaskarray(value)
        plain = np.ma.getdata(value)
        return np.where(hidden, np.nan, plain.astype(float)) if hidden.any() else plain
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return None
        return _numeric(np.asarray(value))
    if isinstance(value, np.ndarray):
        return _numeric(value)
    if hasattr(value, "to_numpy"):
        if isinstance(value, (pd.api.extensions.ExtensionArray, pd.Index)):
            return column_values(pd.Series(value))
        try:
            return _numeric(np.asarray(value.to_numpy()))
        except (TypeError, ValueError):
            return None
    return None


def _is_whole(value: Any) -> bool:
    """Whether an argument is looked at as one, not by its parts."""
    if value is None or isinstance(value, (pd.Series, pd.DataFrame)):
        return True
    if type(value) in (list, tuple):
        return _numbers_of(value) is not None
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
        names = numeric_columns(value)
        arrays = tuple(column_values(value[k]) for k in names)
        made = _Frame(value.copy(), arrays, tuple(str(k) for k in names)) if names else None
        _check_size(label, np.empty(value.shape))
    elif isinstance(value, pd.Series):
        array = column_values(value)
        if array is None:  # objects that are numbers all the same
            array = _numeric(value.to_numpy()) if value.dtype == object else None
        _check_size(label, np.empty(len(value)))
        made = _Column(value.copy(), (array,), ("",)) if array is not None else None
    elif type(value) in (list, tuple):
        array = _numbers_of(value)
        made = _Numbers(copy.deepcopy(value), (array,), ("",)) if array is not None else None
    elif type(value) is dict:
        parts = tuple(_tree(f"{label}[{k!r}]", v) for k, v in value.items())
        made = _Mapping(None, parts, tuple(value))
    elif _is_record(value):
        keys = tuple(f.name for f in dataclasses.fields(value) if hasattr(value, f.name))
        parts = tuple(_tree(f"{label}.{k}", getattr(value, k)) for k in keys)
        made = _Record(value, parts, keys)
    else:
        made = _array(label, value)
        if made is not None:
            _check_size(label, made)
    return value if made is None else made


def observed_array(site: str, value: Any) -> Any:
    """What stands in obs=, as an array: a list, a pandas object or its stand-in as well."""
    if isinstance(value, (jax.Array, np.ndarray)) and value.dtype.kind in "biuf":
        return value
    complex_numbers = getattr(getattr(value, "dtype", None), "kind", "") == "c"
    if hasattr(type(value), "__jax_array__") and not complex_numbers:
        return value.__jax_array__()
    array = value if np.isscalar(value) else None
    if type(value) in (list, tuple):
        array = _numbers_of(value)
        if array is None and all(isinstance(v, jax.Array) for v in jax.tree.leaves(value)):
            alike = len({jnp.shape(v) for v in jax.tree.leaves(value)}) == 1 and not _is_ragged(
                value
            )
            array = jnp.asarray(value) if alike else None
    elif isinstance(value, pd.Series):
        array = column_values(value)
    elif array is None and not complex_numbers:
        array = _array(site, value)
    if array is None or isinstance(array, (str, bytes)):
        kind = getattr(value, "dtype", None) or type(value).__name__
        ragged = " of lists of several lengths" if _is_ragged(value) else ""
        raise TypeError(
            f"observed site '{site}': its data are {kind}{ragged}, expected numbers, or labels encoded as "
            "integers."
        )
    return array


def _is_ragged(value: Any) -> bool:
    """Whether nested lists differ in length."""
    if type(value) not in (list, tuple):
        return False
    inner = [len(v) if type(v) in (list, tuple) else -1 for v in value]
    return len(set(inner)) > 1 or any(_is_ragged(v) for v in value)


def _check_size(label: str, array: np.ndarray) -> None:
    if array.size == 0:
        raise ValueError(
            f"argument '{label}': received an empty array of shape {array.shape}, expected at "
            "least one observation."
        )


def _tree(label: str, value: Any) -> Any:
    """`_wrapped` at every part of a nested argument."""
    if _is_whole(value):
        return _wrapped(label, value)

    def part(path: tuple, leaf: Any) -> Any:
        return _wrapped(label + jax.tree_util.keystr(path), leaf)

    return jax.tree_util.tree_map_with_path(part, value, is_leaf=_is_whole)


def _kinds(wrapped: Any) -> Iterator[str]:
    """What each leaf of a wrapped argument is: see `Arguments`."""
    for item in jax.tree.leaves(wrapped, is_leaf=_is_leaf):
        if isinstance(item, _Record):
            for child in item.children:
                yield from _kinds(child)
        elif isinstance(item, _Container):
            yield from ["list" if isinstance(item, _Numbers) else "frame"] * len(item.children)
        else:
            numeric = isinstance(item, np.ndarray) and item.dtype.kind in "biufc"
            yield "array" if numeric else "static"


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, _Container)


def _leaves(name: str, value: Any) -> tuple[list[tuple[str, str, Any]], Any]:
    """(kind, label, value) of each leaf of an argument, and its tree."""
    wrapped = _tree(name, value)
    paths, tree = jax.tree_util.tree_flatten_with_path(wrapped, is_leaf=lambda v: v is None)
    found = []
    for (path, leaf), kind in zip(paths, _kinds(wrapped), strict=True):
        found.append((kind, name + jax.tree_util.keystr(path).replace("['']", ""), leaf))
    return found, tree


def _assembled(
    program: Callable[..., Any],
    trees: list[tuple[str, Any]],
    leaves: dict[str, list[tuple[str, str, Any]]],
    positional: int,
    form: Form = Form(),
) -> Arguments:
    every = [(name, *leaf) for name, _ in trees for leaf in leaves[name]]
    data = [(name, label, value) for name, kind, label, value in every if kind != "static"]
    return Arguments(
        program,
        dynamic=tuple(value for _, _, value in data),
        names=tuple(name for name, _, _ in data),
        labels=tuple(label for _, label, _ in data),
        static=tuple(value for _, kind, _, value in every if kind == "static"),
        kinds=tuple(kind for _, kind, _, _ in every),
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
        leaves[name], tree = _leaves(name, value)
        trees.append((name, tree))
    return _assembled(program, trees, leaves, len(bound.args))
