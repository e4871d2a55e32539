"""What `Model` is given of data in chunks: columns among the arguments of a program, and devices."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pp_mlem.sources import Column


def devices_of(given: int | Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    """The first devices of this process, so many, or those that are named; none: the default one."""
    if given is None:
        return ()
    local = jax.local_devices()
    if isinstance(given, int) and not isinstance(given, bool):
        if not 1 <= given <= len(local):
            raise ValueError(
                f"devices: received {given}, and this process has {len(local)} ({local[0].platform}). Of CPUs there are as many as "
                'jax.config.update("jax_num_cpu_devices", n) says before JAX is first used.'
            )
        return tuple(local[:given])
    found = tuple(given) if isinstance(given, Sequence) else ()
    if not found or not all(isinstance(d, jax.Device) for d in found):
        raise TypeError(
            f"devices: received {given!r}, expected a number or a list of jax.local_devices()."
        )
    return found


def source_of(args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """The source of the columns among the arguments.

    Raises ValueError where there are several.
    """
    columns = [a for a in (*args, *kwargs.values()) if isinstance(a, Column)]
    sources = {id(c.source): c.source for c in columns}
    if len(sources) > 1:
        raise ValueError(
            "the columns come from several sources, expected one: their rows are read together. Open the files as one source."
        )
    return next(iter(sources.values()))


def with_rows(
    args: tuple, kwargs: Mapping[str, Any], arrays: Iterator[np.ndarray], count: int, rows: int
) -> tuple[tuple, dict[str, Any]]:
    """The arguments with arrays in the place of columns; a number that is the count of all rows follows."""

    def own(value: Any) -> Any:
        if isinstance(value, Column):
            return next(arrays)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value == count
        return rows if is_count else value

    return tuple(own(a) for a in args), {k: own(v) for k, v in kwargs.items()}


def named(program: Any, args: tuple, kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The arguments by the program's own names."""
    bound = inspect.signature(program).bind(*args, **kwargs)
    named: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named += [(f"{name}[{i}]", v) for i, v in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named += list(value.items())
        else:
            named.append((name, value))
    return named
