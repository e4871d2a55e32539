"""Loadings of factors: which column of the data each real latent moves, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.show.axis_labels import column_labels
from pp_mlem.show.plots.figure import literal, new_grid, shortened
from pp_mlem.show.plots.look import DIVERGING, ON_DARK, ON_PALE, in_one_look

WRITTEN = 40  # rows of loadings, beyond which no numbers stand in the cells


@in_one_look
def plot_loadings(
    fit: Fit,
    loadings: str | Callable[[dict[str, Any]], Any] | None = None,
    *,
    rows: Sequence[Any] | None = None,
) -> Figure:
    """See `Fit.plot_loadings`."""
    name, values, errors = _tables(fit, loadings)
    rows = _rows_of(fit, values.shape[1]) if rows is None else rows
    count = len(values)
    shown = min(values.shape[1], WRITTEN)
    height = max(2.6, 0.27 * shown + 1.3)
    longest = max((len(shortened(str(r))) for r in rows or ()), default=2)
    width = max(3.4, 0.95 * values.shape[2] + 0.075 * longest + 1.6)
    figure, grid = new_grid(count, min(count, 4), width, height)
    largest = float(np.nanmax(np.abs(values))) or 1.0
    for i, axes in enumerate(grid):
        _draw(axes, values[i], errors[i], largest, rows)
        axes.set_title(
            f"Loadings {literal(name)}, {fit.method}"
            if count == 1
            else f"{literal(name)}[{i}], {fit.method}"
        )
    if any(name == n for turn in fit.turns if turn.size > 1 for n, _ in turn.axes):
        figure.supxlabel("any rotation of the columns fits as well")
    return figure


def _rows_of(fit: Fit, count: int) -> Sequence[Any] | None:
    """The columns of the one observed site that has as many, by the words of the docstring or by name."""
    model = fit.model
    own = [] if model is None else [s for s in model.reading.observed if not s.is_factor]
    if model is None or len(own) != 1:
        return None
    labels = column_labels(model, own[0].name, count)
    return None if labels[0] == f"{own[0].name}[0]" else labels


def _tables(fit: Fit, loadings: Any) -> tuple[str, np.ndarray, np.ndarray]:
    """(name, values, standard errors), both (tables, rows, factors)."""
    if callable(loadings):
        told = fit.estimate(loadings)
        name, value, error = "loadings", np.asarray(told.value), np.asarray(told.standard_error)
        axis = value.ndim - 1
    else:
        name, axis = _found(fit, loadings)
        value = np.asarray(fit.params[name], float)
        error = _errors_of(fit, name)
    value, error = (np.moveaxis(a, axis, -1) if a.ndim > 1 else a[:, None] for a in (value, error))
    return name, value.reshape(-1, *value.shape[-2:]), error.reshape(-1, *value.shape[-2:])


def _errors_of(fit: Fit, name: str) -> np.ndarray:
    """The standard errors of one parameter in its shape; NaN where it is fixed."""
    errors = fit.standard_errors().to_numpy()
    start, value = 0, np.asarray(fit.params[name])
    for other, array in fit.params.items():
        if other in fit.fixed:
            continue
        size = int(np.size(array))
        if other == name:
            own: np.ndarray = errors[start : start + size].reshape(value.shape)
            return own
        start += size
    return np.full(value.shape, np.nan)


def _found(fit: Fit, name: str | None) -> tuple[str, int]:
    """The parameter, and its axis of factors: the one that a rotation turns, or its last."""
    axes = {n: a for turn in fit.turns for n, a in turn.axes}
    if name is None and not axes:
        raise ValueError(
            "plot_loadings: no parameter turns with a real latent. Name the one that holds the loadings, or "
            "give a function of the parameters that returns them (rows, factors)."
        )
    name = next(iter(axes)) if name is None else name
    if name not in fit.params or np.ndim(fit.params[name]) == 0:
        raise ValueError(
            f"plot_loadings: received '{name}', expected the name of a parameter with rows: "
            f"{[n for n, v in fit.params.items() if np.ndim(v)]}."
        )
    axis = axes.get(name)
    return name, np.ndim(fit.params[name]) - 1 if axis is None else axis


def _draw(
    axes: Axes, values: np.ndarray, errors: np.ndarray, largest: float, rows: Sequence[Any] | None
) -> None:
    """A heat map with the loadings, and their standard errors where there are any, in its cells."""
    axes.imshow(values, cmap=DIVERGING, vmin=-largest, vmax=largest, aspect="auto")
    count, factors = values.shape
    names = list(range(count)) if rows is None else list(rows)
    axes.set_xticks(range(factors), [f"factor {k}" for k in range(factors)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if count > WRITTEN:
        axes.set_ylabel(f"{count} rows")
        return
    axes.set_yticks(range(count), [shortened(str(n)) for n in names])
    for i, j in np.ndindex(count, factors):
        text = f"{values[i, j]:.2f}"
        if np.isfinite(errors[i, j]):
            text += f" ± {errors[i, j]:.2f}"
        light = abs(values[i, j]) > 0.6 * largest
        axes.text(
            j, i, text, ha="center", va="center", fontsize=7, color=ON_DARK if light else ON_PALE
        )
