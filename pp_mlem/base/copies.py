"""Models and programs on their way to other processes: what is compiled stays behind."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

try:
    import cloudpickle
except ImportError:  # joblib and Dask bring it
    cloudpickle = None


def packed(program: Callable[..., Any]) -> Callable[..., Any] | Packed:
    """A program as another process can take it: by its name where a module holds it, else by
    value.

    Raises:
        TypeError: for a lambda or a closure where cloudpickle is not installed.
    """
    module = getattr(program, "__module__", None)
    name = getattr(program, "__qualname__", "")
    if module not in (None, "__main__") and module in sys.modules and "<locals>" not in name:
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is program:
            return program
    if cloudpickle is not None:
        return Packed(program)
    if module == "__main__" and "<" not in name:
        return program
    raise TypeError(
        f"the program '{name or program!r}' is a lambda, a closure or an object that another "
        "process cannot import. Define it at the top of a module, or install cloudpickle."
    )


class Packed:
    """A program by value, whatever pickles it."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self.program = program

    def __reduce__(self) -> tuple:
        return pickle.loads, (cloudpickle.dumps(self.program),)
