"""Profiles: what each class expects of each item, with its interval."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import column_labels
from pp_mlem.show.grouped import Grouped, conditional_means, conditional_means_of_draws
from pp_mlem.show.plots.figure import head, legend_below, new_figure, shortened
from pp_mlem.show.plots.look import MARKERS, component_colour
from pp_mlem.show.plots.marks import component_handles

ITEMS = 40
DRAWS = 200  # of the parameters, for the intervals
LEVELS = (0.025, 0.975)


def plot_profile(fit: Fit, model: Model, own: Grouped) -> Figure | None:
    """Means of the items by class with 95% intervals: central ones of the posterior's draws, of a point fit
    those of its asymptotic normal distribution, which stay inside of the supports."""
    means = conditional_means(model, fit.params, own)
    if means is None:
        return None
    draws, _, _ = fit.spread_params(DRAWS, 0)
    spread = conditional_means_of_draws(model, draws, own)
    low, high = (means, means) if spread is None else np.quantile(spread, LEVELS, axis=0)
    count = min(own.columns, ITEMS)
    labels = [shortened(t) for t in column_labels(model, own.site, own.columns)[:count]]
    figure, (axes,) = new_figure(max(5.2, 0.5 * count + 2.0), 4.0)
    place = np.arange(count)
    for k in range(own.states):
        at = place + 0.12 * (k - (own.states - 1) / 2) / max(own.states / 3, 1)
        colour, mean = component_colour(k), means[k, 0, :count]
        axes.vlines(at, low[k, 0, :count], high[k, 0, :count], color=colour, lw=1.6)
        axes.plot(at, mean, color=colour, marker=MARKERS[k % len(MARKERS)], ms=5, lw=1.0)
    upright = max(map(len, labels)) * count > 60
    axes.set_xticks(
        place, labels, rotation=40 if upright else 0, ha="right" if upright else "center"
    )
    if own.support == "binary":
        axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("probability" if own.support == "binary" else "mean")
    head(figure, f"Profiles with 95% intervals, {fit.method}", count, own.columns, "items")
    handles = component_handles(model, own)
    for k, handle in enumerate(handles):
        handle.set_marker(MARKERS[k % len(MARKERS)])
    legend_below(figure, handles)
    return figure
