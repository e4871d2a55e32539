"""Pictures of a selection and of a calibration."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from pp_mlem.base.lazy import pd, scipy_stats
from pp_mlem.comparison.calibrate import Calibration, default_bins
from pp_mlem.comparison.growth import reached
from pp_mlem.comparison.selection import Selection
from pp_mlem.show.plots.figure import empty_figure, head, legend_below, literal, new_grid, plain
from pp_mlem.show.plots.look import (
    COMPONENTS,
    GRID,
    MARKERS,
    METHODS,
    OTHER_METHODS,
    SHADE,
    in_one_look,
)

CRITERIA = ("AIC", "BIC", "ICL")
LINEAR = 10.0  # nats up to which the axis of the criteria is linear


@in_one_look
def plot_ranks(calibration: Calibration, scalars: int = 12) -> Figure:
    """Rank histograms; the band holds 99% of a uniform bin's counts."""
    every = list(calibration.ranks.columns)
    names = every[:scalars]
    figure, grid = new_grid(len(names), min(4, len(names)), 3.0, 2.1)
    n, draws = len(calibration.ranks), calibration.draws
    bins = default_bins(n)
    low, high = scipy_stats.binom.ppf([0.005, 0.995], n, 1 / bins)
    for axes, name in zip(grid, names, strict=True):
        axes.axhspan(low, high, color=GRID)
        edges = list(np.linspace(-0.5, draws + 0.5, bins + 1))
        axes.hist(calibration.ranks[name], bins=edges, color=METHODS["NUTS"], alpha=0.8)
        axes.set_title(literal(str(name)), fontsize=9, loc="center")
    head(figure, "Ranks of the truth, 99% band", len(names), len(every), "scalars")
    figure.supxlabel(f"rank of the truth among {draws} draws", fontsize=9)
    return figure


@in_one_look
def plot_selection(selection: Selection) -> Figure:
    """Criteria against the one varied keyword, each above its own best; elpd with its standard error; how many
    starts reached the best optimum."""
    name, *more = selection.varied
    if more:
        raise ValueError("plot: only a selection over one keyword can be drawn.")
    table = selection.table
    methods = list(dict.fromkeys(table["method"]))
    parts = {
        "criteria": table[list(CRITERIA)].astype(float).notna().any(axis=None),
        "elpd": table["elpd_loo"].astype(float).notna().any(),
        "starts": any(reached(f)[1] for f in selection.fits.values()),
    }
    rows = [p for p, there in parts.items() if there] or ["criteria"]
    heights = {"criteria": 2.6, "elpd": 1.9, "starts": 1.5}
    figure = empty_figure(5.8, sum(heights[r] for r in rows) + 0.6)
    grid = figure.subplots(
        len(rows), 1, sharex=True, squeeze=False, height_ratios=[heights[r] for r in rows]
    )[:, 0]
    places = {str(v): i for i, v in enumerate(dict.fromkeys(table[name].map(str)))}
    draw = {"criteria": _draw_criteria, "elpd": _draw_elpd, "starts": _draw_starts}
    for axes, row in zip(grid, rows, strict=True):
        for i, method in enumerate(methods):
            own = table[table["method"] == method]
            draw[row](plain(axes), selection, own, [places[str(v)] for v in own[name]], i)
    grid[-1].set_xticks(range(len(places)), [literal(p) for p in places])
    grid[-1].set_xlabel(name)
    grid[0].set_title(f"Choosing {name} by {', '.join(m.upper() for m in methods)}")
    handles = [
        Line2D([], [], color=COMPONENTS[j], marker=MARKERS[j], ms=5, label=c)
        for j, c in enumerate(CRITERIA)
        if table[c].astype(float).notna().any()
    ]
    if len(methods) > 1:
        handles += [
            Line2D([], [], color=_colour(m, i), ls=STYLES[i % len(STYLES)], label=m.upper())
            for i, m in enumerate(methods)
        ]
    legend_below(figure, handles)
    return figure


STYLES = ("-", "--", ":", "-.")


def _colour(method: str, i: int) -> str:
    return METHODS.get(method.upper(), OTHER_METHODS[i % len(OTHER_METHODS)])


def _draw_criteria(
    axes: Axes, selection: Selection, table: pd.DataFrame, places: list[int], i: int
) -> None:
    for j, criterion in enumerate(CRITERIA):
        scores = table[criterion].astype(float)
        if scores.notna().any():
            best = float(selection.table[criterion].astype(float).min())
            axes.plot(
                places, scores - best, marker=MARKERS[j], ms=4, color=COMPONENTS[j],
                ls=STYLES[i % len(STYLES)],
            )  # fmt: skip
    axes.set_yscale("symlog", linthresh=LINEAR)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=-0.6)
    axes.set_ylabel("above the best\n(smaller is better)")


def _draw_elpd(
    axes: Axes, selection: Selection, table: pd.DataFrame, places: list[int], i: int
) -> None:
    method = str(table["method"].iloc[0])
    elpd, error = table["elpd_loo"].astype(float), table["se"].astype(float)
    shift = 0.08 * i
    axes.errorbar(
        np.array(places) + shift, elpd, yerr=error, fmt=MARKERS[i % len(MARKERS)], ms=4, capsize=2,
        color=_colour(method, i), ls=STYLES[i % len(STYLES)], lw=1.1,
    )  # fmt: skip
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set_ylabel("elpd ± standard error\n(larger is better)")


def _draw_starts(
    axes: Axes, selection: Selection, table: pd.DataFrame, places: list[int], i: int
) -> None:
    method = str(table["method"].iloc[0])
    most = 1
    for label, place in zip(table.index, places, strict=True):
        best, starts = reached(selection.fits[str(label)]) if label in selection.fits else (0, 0)
        if starts:
            at = place + 0.22 * i
            most = max(most, starts)
            axes.bar(at, starts, 0.2, color=SHADE, lw=0)
            axes.bar(at, best, 0.2, color=_colour(method, i), lw=0)
            axes.annotate(
                str(best), (at, starts), xytext=(0, 1), textcoords="offset points",
                ha="center", va="bottom", fontsize=7,
            )  # fmt: skip
    axes.margins(y=0.2)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_ylabel(f"of {most} starts\nreached the best")
