"""What the axes of pictures are called: the words of the docstring, with their units, or the names of columns.

A line `x: velocity (1000 km/s)` in the docstring of a program, or of the file that holds it, tells what a site
or an argument is. Several words, separated by commas, are those of its columns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.model.model import Model

LINE = re.compile(r"^\s*(?:[-*]\s+)?`{0,2}(\w+)`{0,2}\s*(?:\([^()]*\))?:\s+(\S.*?)\s*$")
COMMA = re.compile(r",\s+(?![^()]*\))")  # outside of brackets
LONGEST = 200


def docstring_words(model: Model) -> dict[str, str]:
    """What the docstring says of each argument and site that it names."""
    program = inspect.unwrap(model.program)
    texts = [getattr(program, "__doc__", None), _of_file(program)]
    names = set(model.reading.sites) | set(model.arguments.names)
    names |= {s.origin for s in model.reading.sites.values() if s.origin}
    found: dict[str, str] = {}
    for text in texts:
        for line in (text or "").splitlines():
            match = LINE.match(line)
            if match and match[1] in names and len(match[2]) <= LONGEST:
                found.setdefault(match[1], match[2].rstrip("."))
    return found


def _of_file(program: Any) -> str:
    return str(getattr(program, "__globals__", {}).get("__doc__") or "")


def label_of(model: Model, name: str) -> str:
    """A site or an argument as an axis calls it: its words, or its name."""
    words = docstring_words(model).get(name, "")
    return words if words and len(words) <= 60 else name


def column_labels(model: Model, name: str, count: int) -> list[str]:
    """Each column of an observed site or of an argument as an axis calls it."""
    words = docstring_words(model).get(name, "")
    if count == 1:
        return [label_of(model, name)]
    parts = COMMA.split(words) if words else []
    if len(parts) == count:
        return parts
    columns = _columns_of(model, name, count)
    return columns or [f"{name}[{i}]" for i in range(count)]


def _columns_of(model: Model, name: str, count: int) -> list[str]:
    """The columns of the table that is an argument, or whose values are those of an observed site."""
    args, kwargs = model.arguments.values()
    names = [n for n, _ in model.arguments.trees]
    given = dict(zip(names, [*args, *kwargs.values()], strict=True))
    for argument, value in given.items():
        if isinstance(value, pd.DataFrame) and value.shape[1] == count and argument == name:
            return [str(c) for c in value.columns]
    coords = model.reading.names.coords
    dims = model.reading.names.dims.get(name, ())
    own = next((coords[d] for d in dims if len(coords.get(d, ())) == count), ())
    return [str(c) for c in own]


def value_labels(model: Model, latent: str, count: int) -> list[str]:
    """The values of a finite latent as a legend calls them."""
    known = model.reading.names.coords.get(latent, ())
    return [f"{latent} = {v}" for v in (known if len(known) == count else range(count))]


def step_axis(model: Model, length: int, scan: str) -> tuple[np.ndarray, str]:
    """Where the steps of a scan stand, and what that axis is called: the index of a series, or their numbers."""
    known = model.reading.names.coords.get(scan, ())
    index = pd.Index(known) if len(known) == length else _index_of(model, length)
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if index is None or not (isinstance(index, pd.DatetimeIndex) or index.dtype.kind in "iuf"):
        return np.arange(length), "step"
    return index.to_numpy(), str(index.name or "")


def _index_of(model: Model, length: int) -> pd.Index | None:
    """The index of a table or series among the arguments that has so many rows, unless it only counts them."""
    args, kwargs = model.arguments.values()
    for value in (*args, *kwargs.values()):
        is_table = isinstance(value, (pd.Series, pd.DataFrame))
        if is_table and len(value) == length and not value.index.equals(pd.RangeIndex(length)):
            return value.index
    return None


def unit_labels(model: Model, plates: Sequence[str], count: int) -> list[str] | None:
    """The units of a plate by the names that the user gave them."""
    known = [model.reading.names.coords.get(p, ()) for p in plates]
    if len(known) == 1 and len(known[0]) == count:
        return [str(v) for v in known[0]]
    return None
