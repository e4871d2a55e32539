"""Pictures of a comparison: estimates, paths, optima; and all of its figures."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pp_mlem.comparison.compare import Comparison
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.show.plots.components import component_figures
from pp_mlem.show.plots.figure import (
    empty_figure,
    legend_below,
    literal,
    new_figure,
    plain,
    shortened,
)
from pp_mlem.show.plots.latents import plot_latents
from pp_mlem.show.plots.loadings import plot_loadings
from pp_mlem.show.plots.look import (
    GRID,
    MARKERS,
    Rendered,
    in_one_look,
    method_colours,
    rendered,
)
from pp_mlem.show.plots.posterior import plot_posterior_against_normal
from pp_mlem.show.plots.predictive import plot_predictive_check
from pp_mlem.show.sampled import on_sample

SCALARS = 30
WHAT = {"mle": "log-likelihood", "map": "log posterior"}
CAPTIONS = {
    "estimates": "Estimates of each method with 95% intervals, each scalar in the largest of its standard "
    "errors; of draws the posterior mean and its central interval.",
    "paths": "How far the objective was below its end, along the start that was chosen.",
    "optima": "The optima that the starts found, and the share of the starts that ended there.",
    "posterior_and_normal": "Posterior draws (grey) against the normal distribution that the standard errors "
    "of the point estimate claim.",
    "latents": "Posterior means of the real latents with 95% bands.",
    "loadings": "Loadings of the factors, with their standard errors where they have any.",
    "predictive_check": "What the fit predicts, against the data.",
    "picture": "The fit as this model is usually drawn.",
}
Picture = Callable[[Fit], Figure | None]


@in_one_look
def plot_comparison(comparison: Comparison, scalars: int = SCALARS) -> Figure:
    """Forest of the estimates beside the paths and the optima of the point fits."""
    kinds = objectives_of(comparison)
    rows = min(len(comparison.estimates), scalars)
    width = 5.2 + (2.9 * max(len(kinds), 2) if kinds else 0)
    figure = empty_figure(width, max(5.4, 0.3 * rows + 1.6))
    if not kinds:
        draw_forest(comparison, plain(figure.subplots()), scalars)
    else:
        mosaic: Any = [["forest"] + ["paths"] * len(kinds), ["forest", *kinds]]
        cells = figure.subplot_mosaic(
            mosaic, width_ratios=[max(len(kinds), 2), *[1.2] * len(kinds)]
        )
        for axes in cells.values():
            plain(axes)
        draw_forest(comparison, cells["forest"], scalars)
        draw_paths(comparison, cells["paths"])
        for kind in kinds:
            draw_optima(comparison, cells[kind], kind)
    legend_below(figure, fit_handles(comparison.fits))
    return figure


@in_one_look
def plot_estimates(comparison: Comparison, scalars: int = SCALARS) -> Figure:
    """The forest alone."""
    rows = min(len(comparison.estimates), scalars)
    figure, (axes,) = new_figure(5.4, max(2.6, 0.28 * rows + 1.4))
    draw_forest(comparison, axes, scalars)
    legend_below(figure, fit_handles(comparison.fits))
    return figure


@in_one_look
def plot_paths(comparison: Comparison) -> Figure | None:
    """The paths alone; None where no fit has one."""
    drawn = {n: f for n, f in comparison.fits.items() if _has_path(f)}
    if not drawn:
        return None
    figure, (axes,) = new_figure(5.4, 3.6)
    draw_paths(comparison, axes)
    handles = [
        h for h, n in zip(fit_handles(comparison.fits), comparison.fits, strict=True) if n in drawn
    ]
    labels = [f"{literal(n)} ({len(f.history)} evaluations)" for n, f in drawn.items()]
    legend_below(figure, handles, labels)
    return figure


@in_one_look
def plot_optima(comparison: Comparison) -> Figure | None:
    """The optima alone, log-likelihoods and log posteriors on axes of their own."""
    kinds = objectives_of(comparison)
    if not kinds:
        return None
    figure, grid = new_figure(5.4 if len(kinds) > 1 else 4.2, 3.6, len(kinds))
    for axes, kind in zip(grid, kinds, strict=True):
        draw_optima(comparison, axes, kind)
    return figure


def fit_handles(fits: Mapping[str, Fit]) -> list[Line2D]:
    """What a legend says of each fit."""
    colours = method_colours(fits)
    return [
        Line2D(
            [],
            [],
            color=colours[n],
            marker=MARKERS[i % len(MARKERS)],
            ms=5,
            lw=1.4,
            label=literal(n),
        )
        for i, n in enumerate(fits)
    ]


def draw_forest(comparison: Comparison, axes: Axes, scalars: int = SCALARS) -> None:
    """95% intervals of each scalar by method, each scalar on the scale of its own interval."""
    table = comparison.estimates.iloc[:scalars]
    methods = list(comparison.fits)
    colours = method_colours(comparison.fits)
    centre = table[methods[0], "estimate"].copy()
    for m in methods[1:]:
        centre = centre.fillna(table[m, "estimate"])
    errors = np.stack([table[m, "error"].to_numpy(float) for m in methods])
    spread = np.where(np.isfinite(errors), errors, -np.inf).max(0)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    y = np.arange(len(table))[::-1]
    axes.hlines(
        y[:-1] - 0.5, 0, 1, color=GRID, lw=0.6, zorder=0, transform=axes.get_yaxis_transform()
    )
    for i, method in enumerate(methods):
        fit = comparison.fits[method]
        offset = 0.3 - 0.6 * i / max(len(methods) - 1, 1) if len(methods) > 1 else 0.0
        limits = fit.intervals().reindex(table.index)
        low, middle, high = (
            (np.asarray(v, float) - centre) / spread
            for v in (limits["low"], table[method, "estimate"], limits["high"])
        )
        axes.hlines(y + offset, low, high, color=colours[method], lw=1.6)
        axes.plot(
            middle, y + offset, ls="", marker=MARKERS[i % len(MARKERS)], ms=4, color=colours[method]
        )
    axes.set_yticks(y, [f"{shortened(str(n))} = {v:.4g}" for n, v in centre.items()])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.axvline(0, color=GRID, lw=1, zorder=0)
    axes.set_xlabel(f"difference from {literal(methods[0])}, in the largest standard error")
    axes.set_title("Estimates with 95% intervals")
    total = len(comparison.estimates)
    if total > len(table):
        axes.set_title(f"Estimates with 95% intervals,\nthe first {len(table)} of {total} scalars")


def _has_path(fit: Fit) -> bool:
    return isinstance(fit, PointFit) and len(fit.history) > 1


def draw_paths(comparison: Comparison, axes: Axes) -> None:
    """Distance of the objective from its end against time, for the chosen start.

    A fit's time without compilation is spread evenly over its evaluations.
    """
    colours = method_colours(comparison.fits)
    for i, (name, fit) in enumerate(comparison.fits.items()):
        if not isinstance(fit, PointFit) or not _has_path(fit):
            continue
        gap = np.maximum(fit.objective_value - fit.history, 1e-10)
        total = max(sum(len(h) for h in fit.histories), len(gap))
        each = max(fit.seconds - fit.compile_seconds, 1e-6) / total
        time = 1e3 * each * np.arange(1, len(gap) + 1)
        axes.loglog(time, gap, marker=MARKERS[i % len(MARKERS)], ms=3, lw=1.1, color=colours[name])
    axes.set_xlabel("milliseconds of running, without compilation")
    axes.set_ylabel("nats below the end")
    axes.set_title("Paths of the chosen starts")


def objectives_of(comparison: Comparison) -> list[str]:
    """What the point fits with starts maximised: "mle", "map" or both."""
    found = [
        f.objective for f in comparison.fits.values() if isinstance(f, PointFit) and len(f.starts)
    ]
    return list(dict.fromkeys(found))


def draw_optima(comparison: Comparison, axes: Axes, objective: str) -> None:
    """The distinct optima of the fits of one objective: height is its value, area the share of starts."""
    colours = method_colours(comparison.fits)
    fits = {
        n: f
        for n, f in comparison.fits.items()
        if isinstance(f, PointFit) and len(f.starts) and f.objective == objective
    }
    heights: list[float] = []
    for i, (name, fit) in enumerate(fits.items()):
        reached = fit.starts[fit.starts["optimum"] > 0]
        for _, members in reached.groupby("optimum"):
            status = members["status"].mode().iloc[0]
            share = len(members) / len(fit.starts)
            height = members["objective"].max()
            told = f"{100 * share:.0f}%" + ("" if status == "converged" else f"\n{status}")
            axes.scatter(
                i,
                height,
                s=20 + 380 * share,
                color=colours[name],
                alpha=0.6,
                edgecolor=colours[name],
            )
            axes.annotate(
                told, (i, height), xytext=(5 + 9 * share**0.5, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
            heights.append(height)
    axes.set_xticks(range(len(fits)), [shortened(n, 14) for n in fits])
    axes.set_xlim(-0.45, len(fits) - 0.2)
    axes.margins(y=0.15)
    if heights and np.ptp(heights) < 0.5:
        middle = sum(heights) / len(heights)
        axes.set_ylim(middle - 1, middle + 1)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set_ylabel(f"{WHAT[objective]} (nats)")
    axes.set_title("Optima (share of starts)")


Drawn = dict[str, tuple[Figure, str]]


def comparison_figures(comparison: Comparison, picture: Picture | None = None) -> Drawn:
    """{name: (figure, caption)} of every figure of a comparison that its fits allow.

    One that cannot be drawn is left out with a warning: the fits and the tables took the time. Of data in chunks
    those that show the data show a sample of the rows.

    Args:
        picture: how the model itself draws a fit, in place of the picture of its components.
    """
    found: Drawn = {}
    sampled = functools.cache(lambda: on_sample(comparison.fits))
    for draw in (_of_model, _of_estimates, _of_posterior, _of_prediction, _of_latents, _of_starts):
        try:
            if draw not in OF_DATA:
                found |= draw(comparison, picture)
                continue
            fits, told = sampled()
            drawn = draw(replace(comparison, fits=fits), picture)
            found |= {name: (figure, caption + told) for name, (figure, caption) in drawn.items()}
        except Exception as error:  # a model's own picture may raise anything
            warnings.warn(
                f"pictures: {draw.__name__.removeprefix('_of_')} cannot be drawn "
                f"({type(error).__name__}: {error})",
                stacklevel=2,
            )
    return found


def _told(**figures: Figure | None) -> Drawn:
    return {name: (f, CAPTIONS[name]) for name, f in figures.items() if f is not None}


def _of_model(comparison: Comparison, picture: Picture | None) -> Drawn:
    """As the model draws the first point fit itself, or its components."""
    fits = comparison.fits
    first = next((f for f in fits.values() if not f.has_draws), next(iter(fits.values())))
    if picture is not None and first.model is not None:
        own = in_one_look(picture)(first)
        if own is not None:
            return _told(picture=own)
    found = component_figures(first)
    return {
        "components" if len(found) == 1 else f"components_{site}": drawn
        for site, drawn in found.items()
    }


def _of_estimates(comparison: Comparison, picture: Picture | None) -> Drawn:
    return _told(estimates=plot_estimates(comparison))


def _of_posterior(comparison: Comparison, picture: Picture | None) -> Drawn:
    return _told(posterior_and_normal=plot_posterior_against_normal(comparison))


def _of_prediction(comparison: Comparison, picture: Picture | None) -> Drawn:
    last = list(comparison.fits.values())[-1]
    return _told(predictive_check=plot_predictive_check(last) if last.model else None)


def _of_latents(comparison: Comparison, picture: Picture | None) -> Drawn:
    return _told(**figures_of_latents(comparison))


def _of_starts(comparison: Comparison, picture: Picture | None) -> Drawn:
    return _told(paths=plot_paths(comparison), optima=plot_optima(comparison))


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


OF_DATA = (_of_model, _of_prediction, _of_latents)


def render_pictures(comparison: Comparison, picture: Picture | None = None) -> list[Rendered]:
    """The figures of a comparison as PNG and SVG; see `comparison_figures`."""
    figures = comparison_figures(comparison, picture)
    return [rendered(figure, name, caption) for name, (figure, caption) in figures.items()]


def save_pictures(
    comparison: Comparison, folder: Path, picture: Picture | None = None
) -> list[Path]:
    """Write the figures of a comparison as PNG and SVG; returns their paths."""
    return [path for own in render_pictures(comparison, picture) for path in own.save(folder)]
