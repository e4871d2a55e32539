"""Mixtures of regressions: the rows against a covariate, and the mean of each component as a curve."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import column_labels
from pp_mlem.show.covariates import Covariate, covariates_of
from pp_mlem.show.grouped import Grouped, conditional_means
from pp_mlem.show.plots.figure import legend_below, literal, new_figure
from pp_mlem.show.plots.look import component_colour, in_one_look
from pp_mlem.show.plots.marks import component_handles, draw_marks

SMOOTH = 4.0  # times its range that a curve may go up and down


@in_one_look
def plot_curves(fit: Fit, model: Model, own: Grouped) -> Figure | None:
    """Rows in the colours of their components against the covariate that the means are smoothest in; means as
    curves where that covariate tells them, else as points."""
    means = conditional_means(model, fit.params, own)
    if means is None or means.shape[1] != len(own.values) or len(own.shape) != 1:
        return None
    mean = means[:, :, 0]
    found = covariates_of(model, len(own.values), [own.values])
    if not found:
        return None
    rough = [_roughness(c, mean) for c in found]
    best = int(np.argmin(rough))
    x = found[best].values
    figure, (axes,) = new_figure(6.2, 4.4)
    draw_marks(axes, x, own.values[:, 0], own)
    order = np.argsort(x, kind="stable")
    for k in range(own.states):
        style = "-" if rough[best] <= SMOOTH else "."
        axes.plot(x[order], mean[k, order], style, color=component_colour(k), lw=2, ms=3, zorder=3)
    axes.set_xlabel(literal(found[best].label))
    axes.set_ylabel(literal(column_labels(model, own.site, 1)[0]))
    axes.set_title(f"Components over the data, {fit.method}")
    legend_below(figure, component_handles(model, own))
    return figure


def _roughness(covariate: Covariate, mean: np.ndarray) -> float:
    """How far the means go up and down along a covariate, in their range."""
    order = np.lexsort((mean[0], covariate.values))
    travelled = np.abs(np.diff(mean[:, order], axis=1)).sum(1)
    return float(np.max(travelled / np.maximum(np.ptp(mean, axis=1), 1e-300)))
