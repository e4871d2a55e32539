"""A posterior's draws against the asymptotic normal of a point fit."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pp_mlem.comparison.compare import Comparison
from pp_mlem.show.plots.figure import head, legend_below, literal, new_grid, shortened
from pp_mlem.show.plots.look import SHADE, in_one_look, method_colours

TAILS = (0.002, 0.998)  # of the draws that are drawn


@in_one_look
def plot_posterior_against_normal(comparison: Comparison, scalars: int = 12) -> Figure | None:
    """Posterior draws (NUTS before Laplace) against the asymptotic normal of the first point fit."""
    fits = comparison.fits
    with_draws = sorted(
        (n for n, f in fits.items() if f.has_draws), key=lambda n: fits[n].method != "NUTS"
    )
    points = [n for n, f in fits.items() if not f.has_draws]
    if not with_draws or not points:
        return None
    sampled, point = with_draws[0], points[0]
    colours = method_colours(fits)
    draws = fits[sampled].draw_table()
    errors, estimates = fits[point].standard_errors(), fits[point].estimates()
    every = list(comparison.estimates.index)
    names = every[:scalars]
    figure, grid = new_grid(len(names), {1: 1, 2: 2, 4: 2}.get(len(names), 3), 2.1, 1.6)
    for axes, name in zip(grid, names, strict=True):
        if name in draws:
            low, high = np.quantile(draws[name], TAILS)
            axes.hist(draws[name], bins=50, range=(low, high), density=True, color=SHADE)
        if name in errors and np.isfinite(errors[name]) and errors[name] > 0:
            z = np.linspace(-4, 4, 200)
            density = np.exp(-0.5 * z**2) / (errors[name] * np.sqrt(2 * np.pi))
            axes.plot(estimates[name] + z * errors[name], density, color=colours[point])
        elif name in estimates:
            axes.axvline(estimates[name], color=colours[point], ls="--")
        axes.set_title(shortened(str(name), 24), fontsize=9, loc="center")
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=4)
        axes.spines["left"].set_visible(False)
    head(figure, f"{literal(sampled)} against {literal(point)}", len(names), len(every), "scalars")
    legend_below(
        figure,
        [
            Patch(color=SHADE, label=f"draws of {literal(sampled)}"),
            Line2D(
                [],
                [],
                color=colours[point],
                label=f"normal by the standard error of {literal(point)}",
            ),
            Line2D(
                [], [], color=colours[point], ls="--", label="estimate without a standard error"
            ),
        ][: 3 if errors.reindex(names).isna().any() else 2],
    )
    return figure
