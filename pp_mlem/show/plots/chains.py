"""Chains: a series over its decoded states, and the probabilities of the states in time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import column_labels, step_axis
from pp_mlem.show.grouped import Grouped, conditional_means
from pp_mlem.show.plots.figure import (
    empty_figure,
    folded,
    head,
    legend_below,
    literal,
    new_grid,
    plain,
)
from pp_mlem.show.plots.look import INK, MANY, component_colour, faded, in_one_look
from pp_mlem.show.plots.marks import component_handles

SERIES = 6  # sequences that are drawn
CHANNELS = 4


@in_one_look
def plot_chain(
    fit: Fit, model: Model, own: Grouped, axis: tuple[np.ndarray, str] | None = None
) -> Figure:
    """A series with its most probable path of states as a band of colour and the means of those states; below,
    the smoothed probabilities. Of several sequences the first six, each over its path.

    `axis` are the places of the steps and what that axis is called; by default the index of the series.
    """
    steps = own.shape[0]
    sequences = len(own.values) // steps
    values = own.values.reshape(steps, sequences, own.columns)
    decoded = np.asarray(fit.decode()[own.latent]).reshape(steps, sequences)
    means = conditional_means(model, fit.params, own) if own.support != "categories" else None
    level = None if means is None else _levels(means, decoded, own)
    time, label = step_axis(model, steps, own.scan) if axis is None else axis
    joined = own.support != "categories"
    names = column_labels(model, own.site, own.columns)
    if sequences == 1:
        shown = min(own.columns, CHANNELS)
        figure = empty_figure(7.6, 1.9 * shown + 1.5)
        grid = figure.subplots(shown + 1, 1, sharex=True, height_ratios=[*[2.0] * shown, 1.0])
        for column, axes in enumerate(map(plain, grid[:-1])):
            own_level = None if level is None else level[:, 0, column]
            _draw_series(axes, time, values[:, 0, column], decoded[:, 0], own_level, joined)
            axes.set_ylabel(folded(names[column], 20))
        _draw_probabilities(plain(grid[-1]), time, own.posterior.reshape(steps, 1, -1)[:, 0])
        grid[-1].set_xlabel(literal(label))
        of = shown, own.columns, "columns"
    else:
        shown = min(sequences, SERIES)
        figure, cells = new_grid(shown, 2, 4.2, 1.9)
        for i, axes in enumerate(cells):
            own_level = None if level is None else level[:, i, 0]
            _draw_series(axes, time, values[:, i, 0], decoded[:, i], own_level, joined)
            axes.set_title(f"sequence {i}", fontsize=9)
        figure.supylabel(literal(names[0]), fontsize=9)
        for axes in cells[-2:]:
            axes.set_xlabel(literal(label))
        of = shown, sequences, "sequences"
    head(figure, f"The series and its decoded states, {fit.method}", *of)
    legend_below(figure, component_handles(model, own))
    return figure


def _levels(means: np.ndarray, decoded: np.ndarray, own: Grouped) -> np.ndarray:
    """The mean of the decoded state at every step (steps, sequences, columns); NaN where there is none."""
    flat = decoded.ravel()
    rows: Any = np.arange(len(flat)) if means.shape[1] > 1 else 0
    level = means[np.maximum(flat, 0), rows]
    level = np.where((flat >= 0)[:, None], level, np.nan)
    return level.reshape(*decoded.shape, own.columns)


def _draw_series(
    axes: Axes,
    time: np.ndarray,
    values: np.ndarray,
    states: np.ndarray,
    level: np.ndarray | None,
    joined: bool,
) -> None:
    """Values over the band of their states, joined by lines where they are on a scale, and the states' means."""
    edges = _edges(time)
    for first, last in _runs(states):
        if states[first] >= 0:
            colour = faded(component_colour(int(states[first])), 0.28)
            axes.axvspan(edges[first], edges[last], color=colour, lw=0, zorder=0)
    many = len(values) > MANY
    if joined:
        axes.plot(time, values, color=INK, lw=0.5 if many else 0.9, rasterized=many, zorder=2)
    if len(values) <= 300 or not joined:
        axes.plot(time, values, ".", color=INK, ms=3, zorder=2)
    if level is not None:
        for first, last in _runs(states):
            if states[first] >= 0:
                own = component_colour(int(states[first]))
                at = np.repeat(edges[first : last + 1], 2)[1:-1]
                axes.plot(at, np.repeat(level[first:last], 2), color=own, lw=2, zorder=3)
    axes.set_xlim(edges[0], edges[-1])


def _draw_probabilities(axes: Axes, time: np.ndarray, posterior: np.ndarray) -> None:
    """The states' probabilities, one upon the other."""
    edges = _edges(time)
    lower = np.zeros(len(posterior) + 1)
    for k in range(posterior.shape[1]):
        share = np.nan_to_num(posterior[:, k])
        upper = lower + np.append(share, share[-1])
        axes.fill_between(
            edges, lower, upper, step="post", color=faded(component_colour(k), 0.8), lw=0
        )
        lower = upper
    axes.set_ylim(0, 1)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylabel("probability")


def _edges(time: np.ndarray) -> np.ndarray:
    """Where the steps end, half-way to the next."""
    if time.dtype.kind == "M":
        whole = time.astype("datetime64[ns]").astype("int64")
        return _edges(whole.astype(float)).astype("int64").astype("datetime64[ns]")
    middle = (time[1:] + time[:-1]) / 2
    first, last = (time[0] - (middle[0] - time[0]), time[-1] + (time[-1] - middle[-1]))
    return np.concatenate([[first], middle, [last]])


def _runs(states: np.ndarray) -> list[tuple[int, int]]:
    """(first, behind the last) of every stretch of one state."""
    changes = np.flatnonzero(np.diff(states)) + 1
    bounds = [0, *changes.tolist(), len(states)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))
