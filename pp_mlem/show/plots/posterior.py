"""A posterior's draws against the asymptotic normal of a point fit."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pp_mlem.comparison.compare import Comparison
from pp_mlem.show.plots.figure import new_grid


def plot_posterior_against_normal(comparison: Comparison, scalars: int = 12) -> Figure | None:
    """Posterior draws (NUTS before Laplace) against the asymptotic normal of the first point fit."""
    fits = comparison.fits.values()
    with_draws = sorted((f for f in fits if f.has_draws), key=lambda f: f.method != "NUTS")
    sampled = next(iter(with_draws), None)
    point = next((f for f in fits if not f.has_draws), None)
    if sampled is None or point is None:
        return None
    names = list(comparison.estimates.index[:scalars])
    figure, grid = new_grid(len(names), 3, 4, 2.5)
    draws = sampled.draw_table()
    errors, estimates = point.standard_errors(), point.estimates()
    for axes, name in zip(grid, names, strict=True):
        if name in draws:
            axes.hist(
                draws[name], bins=60, density=True, color="0.8",
                label=f"{sampled.method} posterior",
            )  # fmt: skip
        if name in errors and np.isfinite(errors[name]) and errors[name] > 0:
            z = np.linspace(-4, 4, 200)
            density = np.exp(-0.5 * z**2) / (errors[name] * np.sqrt(2 * np.pi))
            x = estimates[name] + z * errors[name]
            axes.plot(x, density, label=f"{point.method} asymptotic")
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
    grid[0].legend(fontsize=7)
    return figure
