"""The fitted components over the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.components import ComponentSite, component_densities, component_sites
from pp_mlem.show.plots.figure import new_figure

RADII = (2.4477, 1.1774)  # standard deviations that hold 95% and 50% of a normal in the plane


def plot_components(fit: Fit) -> Figure | None:
    """The fitted components over the data, for sites of one or two columns; None without such."""
    sites = component_sites(fit.model) if fit.model is not None else []
    if fit.model is None or not sites:
        return None
    figure, grid = new_figure(6.5 * len(sites), 4.5, len(sites))
    for axes, where in zip(grid, sites, strict=True):
        draw = _draw_one_dimension if where.values.shape[1] == 1 else _draw_two_dimensions
        draw(fit, fit.model, where, axes)
    return figure


def _draw_one_dimension(fit: Fit, model: Model, where: ComponentSite, axes: Axes) -> None:
    values = where.values[:, 0]
    low, high = values.min(), values.max()
    if where.discrete:
        grid = np.arange(max(low - 2, 0), high + 3)
        counts = [where.weights[values == g].sum() / where.weights.sum() for g in grid]
        axes.bar(grid, counts, color="0.85", label="data")
    else:
        margin = 0.08 * (high - low)
        grid = np.linspace(low - margin, high + margin, 600)
        edges = np.linspace(low, high, int(np.clip(4 * len(values) ** 0.5, 12, 100)))
        axes.hist(
            values, list(edges), weights=where.weights, density=True, color="0.85", label="data"
        )
    weights, densities = component_densities(model, fit.params, where, grid[:, None])
    style: dict[str, Any] = {"marker": "o", "ms": 3} if where.discrete else {}
    axes.plot(grid, weights @ densities, color="black", lw=3.5, alpha=0.35, label="sum")
    for k, (weight, density) in enumerate(zip(weights, densities, strict=True)):
        axes.plot(grid, weight * density, lw=1.5, label=_label(where, k, weight), **style)
    axes.set_xlabel(where.site)
    axes.set_title(f"{fit.method}: components over the data")
    axes.legend(fontsize=8)


def _draw_two_dimensions(fit: Fit, model: Model, where: ComponentSite, axes: Axes) -> None:
    values = where.values
    low, high = values.min(0), values.max(0)
    margin = 0.1 * (high - low)
    x, y = (np.linspace(a, b, 90) for a, b in zip(low - margin, high + margin, strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    weights, densities = component_densities(model, fit.params, where, grid)
    axes.scatter(values[:, 0], values[:, 1], s=9, color="0.6", zorder=1)
    for k, (weight, density) in enumerate(zip(weights, densities, strict=True)):
        table = density.reshape(len(y), len(x))
        levels = [table.max() * np.exp(-0.5 * r**2) for r in RADII]
        colour = f"C{k % 10}"
        axes.contour(x, y, table, levels=levels, colors=colour, linewidths=1.3)
        axes.plot([], [], color=colour, label=_label(where, k, weight))
    axes.set_xlabel(f"{where.site}[0]")
    axes.set_ylabel(f"{where.site}[1]")
    axes.set_title(f"{fit.method}: components over the data (50% and 95% contours)")
    axes.legend(fontsize=8)


def _label(where: ComponentSite, component: int, weight: float) -> str:
    return f"{where.latent} = {component} ({weight:.2f})"
