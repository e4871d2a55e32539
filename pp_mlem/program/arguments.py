"""The arguments of a program: which are data (traced arrays) and which are static."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Arguments:
    """Bound arguments of a program, split into arrays (`dynamic`) and everything else.

    `names[i]` is the argument from which `dynamic[i]` comes. `traced` is False for a program that
    needs concrete values: its arrays are then handed over as they are.
    """

    program: Callable[..., Any]
    dynamic: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    static: tuple[Any, ...]
    is_dynamic: tuple[bool, ...]
    treedef: Any
    traced: bool = True

    def call(self, program: Callable[..., Any], dynamic: tuple[Any, ...]) -> Any:
        """Call `program` with these arguments, the arrays replaced by `dynamic`."""
        arrays = iter(dynamic if self.traced else self.dynamic)
        statics = iter(self.static)
        leaves = [next(arrays) if flag else next(statics) for flag in self.is_dynamic]
        args, kwargs = jax.tree.unflatten(self.treedef, leaves)
        return program(*args, **kwargs)

    def device_arrays(self) -> tuple[jax.Array, ...]:
        """The data as JAX arrays of the current precision; empty when they are constants."""
        return tuple(jnp.asarray(a) for a in self.dynamic) if self.traced else ()

    def in_precision(self, dtype: np.dtype) -> Arguments:
        """The same arguments with floating (and for float32 also integer) arrays converted."""
        integer = np.int64 if dtype == np.float64 else np.int32

        def convert(array: np.ndarray) -> np.ndarray:
            if array.dtype.kind == "f":
                return array.astype(dtype, copy=False)
            return array.astype(integer, copy=False) if array.dtype.kind in "iu" else array

        return dataclasses.replace(self, dynamic=tuple(convert(a) for a in self.dynamic))

    def replace(self, values: dict[str, np.ndarray]) -> Arguments:
        """The same arguments with some data arrays exchanged, by argument name."""
        unknown = sorted(set(values) - set(self.names))
        if unknown:
            raise ValueError(
                f"unknown data argument(s) {unknown}; the program's array arguments are "
                f"{sorted(set(self.names))}."
            )
        dynamic = tuple(
            np.asarray(values[n]) if n in values else a
            for n, a in zip(self.names, self.dynamic, strict=True)
        )
        return Arguments(
            self.program,
            dynamic,
            self.names,
            self.static,
            self.is_dynamic,
            self.treedef,
            self.traced,
        )


def _as_array(name: str, value: Any) -> np.ndarray | None:
    """An array for array-likes (also pandas objects and lists of numbers), None for the rest."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"argument '{name}': received a JAX tracer, expected data. Build the Model outside "
            "jit, vmap and grad."
        )
    array_like = isinstance(value, (np.ndarray, jax.Array)) or hasattr(value, "to_numpy")
    if not array_like and isinstance(value, (list, tuple)) and value:
        flat = value
        while flat and isinstance(flat[0], (list, tuple)):
            flat = flat[0]
        array_like = bool(flat) and isinstance(flat[0], (numbers.Number, np.generic))
    if not array_like:
        return None
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"argument '{name}': received an array of dtype {array.dtype}, expected numbers. "
            "Encode labels as integers first (for example with pandas.factorize)."
        )
    if array.size == 0:
        raise ValueError(
            f"argument '{name}': received an empty array of shape {array.shape}, expected at "
            "least one observation."
        )
    return array


def bind_arguments(program: Callable[..., Any], args: tuple, kwargs: dict) -> Arguments:
    """Bind and split the arguments of `program`."""
    if not callable(program):
        raise TypeError(
            f"program: received {type(program).__name__}, expected a function that holds NumPyro "
            "statements (numpyro.sample, numpyro.plate, ...)."
        )
    try:
        signature = inspect.signature(program)
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(program, "__name__", repr(program))
        raise TypeError(
            f"the arguments do not fit the program {name}{inspect.signature(program)}: {error}."
        ) from None
    positional = list(bound.args)
    names = list(bound.arguments)
    labels = []
    for i in range(len(positional)):
        labels.append(names[i] if i < len(names) else f"argument {i}")
    positional = tuple(
        array if (array := _as_array(n, v)) is not None else v
        for n, v in zip(labels, positional, strict=True)
    )
    keywords = {
        n: (array if (array := _as_array(n, v)) is not None else v) for n, v in bound.kwargs.items()
    }
    paths, treedef = jax.tree_util.tree_flatten_with_path(
        (positional, keywords), is_leaf=lambda v: v is None
    )
    dynamic, origin, static, flags = [], [], [], []
    for path, leaf in paths:
        name = labels[path[1].idx] if path[0].idx == 0 else str(path[1].key)
        array = _as_array(name, leaf)
        flags.append(array is not None)
        if array is None:
            static.append(leaf)
        else:
            dynamic.append(array)
            origin.append(name)
    return Arguments(
        program, tuple(dynamic), tuple(origin), tuple(static), tuple(flags), treedef, True
    )
