"""What the floors above can do with a result: verbs that are declared here and taught by `show`.

A `Fit` has `plot_surface`, a `Comparison` has `plot`, a `Model` describes itself; how that is done
stands in `show`, which registers itself for each class, so that no import goes up. It is loaded
when a verb is first used. A `Fit` is saved by the file that knows both kinds of it.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

TEACHER = "pp_mlem.show.verbs"


def _taught(verb: Any, thing: Any) -> Any:
    """What the verb does with a thing of this class, once `show` is loaded."""
    importlib.import_module(TEACHER)
    function = verb.dispatch(type(thing))
    if function is verb.dispatch(object):
        raise TypeError(f"{verb.__name__}: not known for a {type(thing).__name__}.")
    return function


@functools.singledispatch
def plot(thing: Any, *args: Any, **options: Any) -> Any:
    """The picture of a result, as a matplotlib figure."""
    return _taught(plot, thing)(thing, *args, **options)


@functools.singledispatch
def plot_components(thing: Any, site: Any) -> Any:
    """The picture of data by the components of a result, as a matplotlib figure."""
    return _taught(plot_components, thing)(thing, site)


@functools.singledispatch
def plot_predictive_check(thing: Any, draws: int) -> Any:
    """The picture of data drawn from a result, as a matplotlib figure."""
    return _taught(plot_predictive_check, thing)(thing, draws)


@functools.singledispatch
def plot_latents(thing: Any, names: Any, **options: Any) -> Any:
    """The picture of what a result tells of real latents, as a matplotlib figure."""
    return _taught(plot_latents, thing)(thing, names, **options)


@functools.singledispatch
def plot_loadings(thing: Any, loadings: Any, **options: Any) -> Any:
    """The picture of the loadings of a result, as a matplotlib figure."""
    return _taught(plot_loadings, thing)(thing, loadings, **options)


@functools.singledispatch
def describe(thing: Any) -> str:
    """What was read and what will be done, as text."""
    return _taught(describe, thing)(thing)


@functools.singledispatch
def tables(thing: Any) -> list[Any]:
    """The tables of a result, as rich prints them."""
    return _taught(tables, thing)(thing)


@functools.singledispatch
def write(thing: Any, console: Any) -> None:
    """Print a result in full to a rich console."""
    _taught(write, thing)(thing, console)


@functools.singledispatch
def save(thing: Any, path: Any, *options: Any) -> Any:
    """Write a result to a file, and where it was written."""
    return _taught(save, thing)(thing, path, *options)
