"""Pictures of a comparison: estimates, paths, optima; and all of its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from pp_mlem.comparison.compare import Comparison
from pp_mlem.fit.point import PointFit
from pp_mlem.show.plots.components import plot_components
from pp_mlem.show.plots.figure import new_figure
from pp_mlem.show.plots.latents import plot_latents
from pp_mlem.show.plots.loadings import plot_loadings
from pp_mlem.show.plots.posterior import plot_posterior_against_normal
from pp_mlem.show.plots.predictive import plot_predictive_check

SCALARS = 30
STATUS_COLOURS = {
    "converged": "#2a6f97",
    "boundary": "#7a5195",
    "separation": "#f18f01",
    "spurious": "#d1495b",
    "collapsed": "#8d0801",
}


def plot_comparison(comparison: Comparison, scalars: int = SCALARS) -> Figure:
    """Forest of the estimates beside the paths and the starts of the point fits."""
    rows = min(len(comparison.estimates), scalars)
    figure, (forest, paths, starts) = new_figure(15, max(4.5, 0.32 * rows + 1.5), 3)
    draw_forest(comparison, forest, scalars)
    draw_paths(comparison, paths)
    draw_optima(comparison, starts)
    return figure


def draw_forest(comparison: Comparison, axes: Axes, scalars: int = SCALARS) -> None:
    """95% intervals of each scalar by method, each scalar on the scale of its own interval."""
    table = comparison.estimates.iloc[:scalars]
    methods = list(comparison.fits)
    centre = table[methods[0], "estimate"]
    errors = np.stack([table[m, "error"].to_numpy(float) for m in methods])
    spread = np.where(np.isfinite(errors), errors, -np.inf).max(0)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    y = np.arange(len(table))[::-1]
    for i, method in enumerate(methods):
        offset = 0.3 - 0.6 * i / max(len(methods) - 1, 1)
        middle = (table[method, "estimate"] - centre) / spread
        half = 1.96 * table[method, "error"].fillna(0.0) / spread
        axes.errorbar(middle, y + offset, xerr=half, fmt="o", ms=4, lw=1.4, label=method)
    labels = [f"{n} = {v:.4g}" for n, v in centre.items()]
    axes.set_yticks(y, labels, fontsize=8)
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    axes.set_xlabel(f"difference from {methods[0]}, in its largest standard error")
    axes.set_title("Estimates with 95% intervals")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=len(methods))


def draw_paths(comparison: Comparison, axes: Axes) -> None:
    """Distance of the objective from its end against time, for the chosen start.

    A fit's time without compilation is spread evenly over its evaluations.
    """
    for name, fit in comparison.fits.items():
        if not isinstance(fit, PointFit) or len(fit.history) < 2:
            continue
        gap = np.maximum(fit.objective_value - fit.history, 1e-10)
        total = max(sum(len(h) for h in fit.histories), len(gap))
        each = max(fit.seconds - fit.compile_seconds, 1e-6) / total
        time = 1e3 * each * np.arange(1, len(gap) + 1)
        axes.loglog(time, gap, marker=".", label=f"{name} ({len(gap)} evaluations)")
    axes.set_xlabel("milliseconds of running, compilation apart")
    axes.set_ylabel("nats below the end")
    axes.set_title("Paths of the chosen starts")
    if axes.lines:
        axes.legend(fontsize=8)


def draw_optima(comparison: Comparison, axes: Axes) -> None:
    """The distinct optima of each point fit: height is the objective, area the share of starts."""
    ticks, labelled = [], set()
    for i, (name, fit) in enumerate(comparison.fits.items()):
        if not isinstance(fit, PointFit) or not len(fit.starts):
            continue
        ticks.append((i, name))
        reached = fit.starts[fit.starts["optimum"] > 0]
        for _, members in reached.groupby("optimum"):
            status = members["status"].mode().iloc[0]
            share = len(members) / len(fit.starts)
            height = members["objective"].max()
            colour = STATUS_COLOURS.get(status, "#edae49")
            axes.scatter(
                i, height, s=60 + 900 * share, color=colour, alpha=0.6, edgecolor=colour,
                label=None if status in labelled else status,
            )  # fmt: skip
            labelled.add(status)
            axes.annotate(
                f"{100 * share:.0f}%", (i, height), xytext=(16, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
    if ticks:
        axes.set_xticks([t for t, _ in ticks], [n for _, n in ticks])
        axes.set_xlim(ticks[0][0] - 0.6, ticks[-1][0] + 0.8)
        legend = axes.legend(fontsize=8)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([40])
    axes.margins(y=0.15)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel("objective (nats)")
    axes.set_title("Optima (share of starts)")


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Every figure of a comparison that its fits allow, by name."""
    first_point = next((f for f in comparison.fits.values() if not f.has_draws), None)
    last = list(comparison.fits.values())[-1]
    figures = {
        "comparison": plot_comparison(comparison),
        "posterior_and_normal": plot_posterior_against_normal(comparison),
        "components": plot_components(first_point or last),
        "predictive_check": plot_predictive_check(last),
    }
    figures |= figures_of_latents(comparison)
    return {name: figure for name, figure in figures.items() if figure is not None}


def figures_of_latents(comparison: Comparison) -> dict[str, Figure]:
    """Of the real latents by all fits that have their model, and of loadings that turn with them."""
    with_model = {n: f for n, f in comparison.fits.items() if f.model and f.model.reading.reals}
    if not with_model:
        return {}
    (_, first), *others = with_model.items()
    figures = {"latents": plot_latents(first, others=dict(others))}
    point = next((f for f in with_model.values() if not f.has_draws), first)
    if point.turns:
        figures["loadings"] = plot_loadings(point)
    return figures


def save_pictures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the figures of a comparison as PNG; returns their paths."""
    paths = []
    for name, figure in comparison_figures(comparison).items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths
