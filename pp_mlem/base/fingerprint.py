"""Fingerprints of programs and data: the same bytecode, constants, closures and values, or not."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

LIBRARIES = ("jax", "jaxlib", "numpy", "numpyro", "scipy", "pandas", "pp_mlem", "builtins")
VOLATILE = {"trace", "rng_key"}  # attributes that NumPyro's handlers change while they run
MOST_OBJECTS = 200_000
DEEPEST = 150
PYTHON = ".".join(map(str, sys.version_info[:2]))


def digest(value: Any) -> str:
    """A short SHA-256 of any value: equal for equal contents, whatever the process.

    Functions count by their bytecode, constants, defaults, closures and the globals that they
    read, nested functions included; line numbers, comments and names do not count. What belongs
    to an installed library counts by its name. Nothing is called or evaluated.
    """
    return _Digest().of(value)[:32]


def changed(held: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """The parts in which two records of fingerprints differ, by name."""
    every = dict.fromkeys([*own, *held])
    return [k for k in every if held.get(k) != own.get(k)]


@functools.cache
def _library_folders() -> tuple[str, ...]:
    names = ("purelib", "platlib", "stdlib", "platstdlib")
    return tuple({str(Path(sysconfig.get_path(n)).resolve()) for n in names})


@functools.cache
def in_library(module: str) -> bool:
    root = module.partition(".")[0]
    if root in LIBRARIES or root in sys.stdlib_module_names:
        return root != "__main__"
    file = getattr(sys.modules.get(root), "__file__", None)
    return file is not None and str(Path(file).resolve()).startswith(_library_folders())


class _Digest:
    """A walk over an object graph. An object counts by its contents wherever it stands; one that
    holds itself by how far up it is met again."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.known: dict[int, bytes] = {}
        self.above: list[int] = []
        self.kept: list[Any] = []

    def of(self, value: Any) -> str:
        self.feed(value)
        return self.sha.hexdigest()

    def put(self, *parts: Any) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self.sha.update(len(data).to_bytes(8, "little"))
            self.sha.update(data)

    def feed(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self.put(type(value).__name__, repr(value))
            return
        mark = id(value)
        if mark not in self.known:
            if mark in self.above:
                self.put("again", len(self.above) - self.above.index(mark))
                return
            if len(self.kept) >= MOST_OBJECTS or len(self.above) >= DEEPEST:
                self.put("deep", type(value).__qualname__)
                return
            self.kept.append(value)  # an id stays taken while its object lives
            self.above.append(mark)
            outer, self.sha = self.sha, hashlib.sha256()
            try:
                self._feed(value)
                self.known[mark] = self.sha.digest()
            finally:
                self.sha = outer
                self.above.pop()
        self.put(self.known[mark])

    def _feed(self, value: Any) -> None:
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            self._array(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, types.ModuleType):
            self.put("module", value.__name__)
        elif isinstance(value, (list, tuple)):
            self.put(type(value).__name__, len(value))
            for item in value:
                self.feed(item)
        elif isinstance(value, Mapping):
            items = sorted((digest(k), v) for k, v in value.items()) if value else []
            self.put("mapping", len(items))
            for key, item in items:
                self.put(key)
                self.feed(item)
        elif isinstance(value, Set):
            self.put("set", *sorted(digest(v) for v in value))
        elif _named_by_library(value):
            self.put("library", value.__module__, getattr(value, "__qualname__", value.__name__))
        elif isinstance(value, types.MethodType):
            self.put("method")
            self.feed(value.__func__)
            self.feed(value.__self__)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self.put("class", value.__name__)
            self.feed([b for b in value.__bases__ if b is not object])
            self._attributes({k: v for k, v in vars(value).items() if not k.startswith("__")
                              or k in ("__call__", "__init__")})  # fmt: skip
        else:
            self._object(value)

    def _array(self, value: Any) -> None:
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        self.put("array", array.dtype.str, array.shape)
        if array.dtype == object:
            self.feed(array.ravel().tolist())
        else:
            self.sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _code(self, code: types.CodeType) -> None:
        self.put("code", code.co_code, code.co_argcount, code.co_kwonlyargcount, code.co_flags)
        self.put(*code.co_names, "|", *code.co_varnames, "|", *code.co_freevars)
        self.feed(list(code.co_consts))

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._code(code)
        self.feed([function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            try:
                self.feed(cell.cell_contents)
            except ValueError:
                self.put("empty cell")
        for name in _globals_of(code):
            if name in function.__globals__:
                self.put("global", name)
                self.feed(function.__globals__[name])

    def _object(self, value: Any) -> None:
        self.put("object", type(value).__module__, type(value).__qualname__)
        if not in_library(type(value).__module__):
            self.feed(type(value))
        if isinstance(value, functools.partial):
            self.feed([value.func, value.args, value.keywords])
            return
        if type(value).__module__.startswith(("pandas", "polars")) and hasattr(value, "to_numpy"):
            columns = list(getattr(value, "columns", ()))
            self.feed([str(c) for c in columns])
            self.feed([value[c].to_numpy() for c in columns] if columns else value.to_numpy())
            return
        if hasattr(value, "__wrapped__"):
            self.feed(value.__wrapped__)
        state = dict(getattr(value, "__dict__", {}))
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name) and name not in ("__weakref__", "__dict__"):
                    state[name] = getattr(value, name)
        self._attributes(state)

    def _attributes(self, state: Mapping[str, Any]) -> None:
        for name in sorted(state):
            if name not in VOLATILE and name != "__wrapped__":
                self.put(name)
                self.feed(state[name])


def _named_by_library(value: Any) -> bool:
    """A function or class that an installed library holds under its name."""
    kinds = (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc, type(jax.jit(len)))
    module = getattr(value, "__module__", None)
    if not isinstance(value, kinds) or not hasattr(value, "__name__"):
        return False
    if module is None:
        return isinstance(value, (types.BuiltinFunctionType, np.ufunc))
    return "<locals>" not in getattr(value, "__qualname__", "") and in_library(module)


@functools.lru_cache(maxsize=1024)
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Names of the globals that a function and the functions inside it read, in order."""
    found = {
        str(i.argval): None
        for i in dis.get_instructions(code)
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= dict.fromkeys(_globals_of(constant))
    return tuple(found)
