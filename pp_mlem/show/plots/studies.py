"""Pictures of a selection and of a calibration."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pp_mlem.base.lazy import scipy_stats
from pp_mlem.comparison.calibrate import Calibration, default_bins
from pp_mlem.comparison.selection import Selection
from pp_mlem.show.plots.figure import new_figure, new_grid


def plot_ranks(calibration: Calibration, scalars: int = 12) -> Figure:
    """Rank histograms; the band holds 99% of a uniform bin's counts."""
    names = list(calibration.ranks.columns[:scalars])
    figure, grid = new_grid(len(names), min(4, len(names)), 3.2, 2.3)
    n, draws = len(calibration.ranks), calibration.draws
    bins = default_bins(n)
    low, high = scipy_stats.binom.ppf([0.005, 0.995], n, 1 / bins)
    for axes, name in zip(grid, names, strict=True):
        axes.axhspan(low, high, color="0.9")
        axes.hist(calibration.ranks[name], bins=list(np.linspace(-0.5, draws + 0.5, bins + 1)))
        axes.set_title(name, fontsize=9)
    figure.supxlabel(f"rank of the truth among {draws} draws", fontsize=9)
    return figure


def plot_selection(selection: Selection) -> Figure:
    """Criteria against the one varied keyword, each above its own best."""
    name, *more = selection.varied
    if more:
        raise ValueError("plot: only a selection over one keyword can be drawn.")
    figure, (axes,) = new_figure(6.5, 4)
    method = selection.table["method"].iloc[0]
    table = selection.table[selection.table["method"] == method]
    for criterion, sign in (("AIC", 1), ("BIC", 1), ("ICL", 1), ("elpd_loo", -2)):
        scores = sign * table[criterion].astype(float)
        if scores.notna().any():
            axes.plot([str(v) for v in table[name]], scores - scores.min(), marker="o",
                      label=criterion if sign == 1 else "-2 elpd_loo")  # fmt: skip
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel(name)
    axes.set_ylabel("above the best (smaller is better)")
    axes.set_title(f"Choosing {name} ({method})")
    axes.legend(fontsize=8)
    return figure
