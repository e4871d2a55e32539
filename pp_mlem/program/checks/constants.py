"""The arrays and numbers that a program holds outside of its arguments, by their names there."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from pp_mlem.base.fingerprint import in_library
from pp_mlem.base.lazy import pd

MOST_OBJECTS = 2000
DEEPEST = 4  # functions that call functions, dictionaries of arrays, ...


def held_by(program: Any) -> dict[str, Any]:
    """Arrays and numbers that a program reads from its closure, globals, defaults and objects.

    Names are those of the program, as in "sizes", "data['y']" or "self.x". Nothing is called.
    """
    values: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(name: str, value: Any, depth: int) -> None:
        if isinstance(value, (np.ndarray, np.generic, jax.Array, int, float)):
            values.setdefault(name, value)
            return
        if id(value) in seen or len(seen) > MOST_OBJECTS or depth > DEEPEST:
            return
        seen.add(id(value))
        for inner, part in _parts(name, value):
            visit(inner, part, depth + 1)

    visit("", program, 0)
    return {name: value for name, value in values.items() if name}


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield name, value.func
        code = getattr(value.func, "__code__", None)
        names = code.co_varnames if code else ()
        yield from zip(names, value.args, strict=False)
        yield from value.keywords.items()
    elif isinstance(value, types.MethodType):
        yield name, value.__func__
        yield "self", value.__self__
    elif isinstance(value, types.FunctionType):
        if not in_library(value.__module__ or ""):
            yield from _read_by(value)
    elif isinstance(value, pd.DataFrame):
        yield from ((f"{name}[{key!r}]", _numbers(value[key])) for key in value.columns)
    elif isinstance(value, pd.Series):
        yield name, _numbers(value)
    elif isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield name, _numbers(value)
    elif not isinstance(value, (type, types.ModuleType, str, bytes)):
        for key, part in getattr(value, "__dict__", {}).items():
            # What wraps a program (a handler, a decorator) adds no name of its own.
            yield (f"{name}.{key}" if name else "" if callable(part) else key), part


def _numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        return None
    return array if array.dtype.kind in "biuf" and array.ndim else None


def _read_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += constant.co_names
    for name in names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
    if hasattr(function, "__wrapped__"):
        yield "", function.__wrapped__
