"""Columns of a mixture in pairs, each row in the colour of its component."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import column_labels
from pp_mlem.show.grouped import Grouped
from pp_mlem.show.plots.figure import empty_figure, folded, head, legend_below, plain
from pp_mlem.show.plots.look import component_colour, faded
from pp_mlem.show.plots.marks import component_handles, draw_marks

COLUMNS = 5
RADII = (1.1774, 2.4477)  # standard deviations that hold 50% and 95% of a normal in the plane


def plot_pairs(fit: Fit, model: Model, own: Grouped) -> Figure:
    """Each pair of columns, at most five of them; on the diagonal their histograms by component."""
    count = min(own.columns, COLUMNS)
    labels = column_labels(model, own.site, own.columns)
    cell = 1.9 if count > 3 else 2.3
    figure = empty_figure(cell * count, cell * count + 0.4)
    grid: Any = figure.subplots(count, count, squeeze=False, sharex="col")
    for i, j in np.ndindex(count, count):
        axes = plain(grid[i, j])
        if j > i:
            axes.set_visible(False)
        elif i == j:
            _draw_histogram(axes, own, i)
        else:
            draw_marks(axes, own.values[:, j], own.values[:, i], own, size=8)
            _draw_ellipses(axes, own, (j, i))
        if j < i and j > 0:
            axes.tick_params(labelleft=False)
        if i == count - 1:
            axes.set_xlabel(folded(labels[j]), fontsize=8)
        if j == 0 and i > 0:
            axes.set_ylabel(folded(labels[i]), fontsize=8)
    head(figure, f"Components over the data, {fit.method}", count, own.columns, "columns")
    legend_below(figure, component_handles(model, own))
    return figure


def _draw_histogram(axes: Axes, own: Grouped, column: int) -> None:
    seen = np.isfinite(own.values[:, column]) & np.isfinite(own.posterior).all(1)
    values = own.values[seen, column]
    shares = own.posterior[seen] * own.weights[seen, None]
    edges = np.linspace(
        values.min(), values.max(), int(np.clip(2.5 * len(values) ** 0.5, 10, 60)) + 1
    )
    axes.hist(
        [values] * own.states, list(edges), weights=list(shares.T), stacked=True,
        color=[faded(component_colour(k), 0.7) for k in range(own.states)],
    )  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_ellipses(axes: Axes, own: Grouped, columns: tuple[int, int]) -> None:
    """Of the mean and covariance of a component's rows, each by its probability."""
    points = own.values[:, columns]
    seen = np.isfinite(points).all(1) & np.isfinite(own.posterior).all(1)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for k in range(own.states):
        weight = own.posterior[seen, k] * own.weights[seen]
        if weight.sum() < 2:
            continue
        mean = np.average(points[seen], 0, weight)
        covariance = np.cov(points[seen].T, aweights=weight, ddof=0)
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        for radius in RADII:
            path = mean[:, None] + radius * root @ circle
            axes.plot(*path, color=component_colour(k), lw=1.0, zorder=3)
