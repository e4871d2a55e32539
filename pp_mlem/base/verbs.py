"""What files further up can do with a result: verbs that are declared here and learnt there.

A `Fit` has `plot_surface`, a `Comparison` has `plot`, a `Model` describes itself; how that is done
stands in `show`, which registers itself for each class, so that no import goes up. A `Fit` is saved
by the file that knows both kinds of it.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.singledispatch
def plot(thing: Any, *args: Any, **options: Any) -> Any:
    """The picture of a result, as a matplotlib figure."""
    raise TypeError(f"plot: there is no picture of a {type(thing).__name__}.")


@functools.singledispatch
def describe(thing: Any) -> str:
    """What was read and what will be done, as text."""
    raise TypeError(f"describe: there is no description of a {type(thing).__name__}.")


@functools.singledispatch
def save(thing: Any, path: Any) -> Any:
    """Write a result to a file, and where it was written."""
    raise TypeError(f"save: a {type(thing).__name__} is not saved.")
