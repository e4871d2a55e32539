"""Data drawn from a fit against the data: by covariate where there is one, each channel apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pp_mlem.fit.base import Fit
from pp_mlem.model.drawing import refuse_undrawn
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Site
from pp_mlem.show.axis_labels import column_labels
from pp_mlem.show.covariates import Covariate, covariates_of
from pp_mlem.show.plots.figure import head, legend_below, new_grid, shortened
from pp_mlem.show.plots.look import INK, METHODS, OTHER_METHODS, SHADE, in_one_look

DRAWS = 100
MOST_NUMBERS = 5e6  # of all draws together
MOST_CELLS = 1e6  # of a data set, beyond which none is drawn
PANELS = 6
CONDITIONS = 3  # covariates of a site of one channel
TELLING = (
    0.02  # share of the predicted means' variance that a covariate must tell to be a condition
)
VALUES = 40  # the largest range of whole numbers that are drawn one by one
LEVELS = (0.05, 0.5, 0.95)
LAGS = 20


@dataclass(frozen=True)
class Channel:
    """One column of an observed site: its cells, their draws, and the covariates of each cell."""

    label: str
    values: np.ndarray  # (cells,)
    draws: np.ndarray  # (draws, cells)
    conditions: tuple[Covariate, ...]
    steps: bool

    @property
    def whole(self) -> bool:
        """Whether its values are a few whole numbers."""
        return bool(np.all(self.values == np.round(self.values)) and np.ptp(self.values) <= VALUES)

    @property
    def binary(self) -> bool:
        return set(np.unique(self.values)) <= {0.0, 1.0}


Draw = Callable[[Axes, Channel, str], None]


@in_one_look
def plot_predictive_check(fit: Fit, draws: int = DRAWS) -> Figure | None:
    """See `Fit.plot_predictive_check`; None where data cannot be drawn."""
    model = fit.model_for("plot_predictive_check")
    if np.any(~np.isin(model.unit_weights(), (0.0, 1.0))):
        return None
    try:
        channels = _channels(fit, model, draws)
    except (ValueError, TypeError, NotImplementedError):  # of programs that cannot be drawn from
        return None
    panels = list(islice(_panels(channels), PANELS))
    if not panels:
        return None
    colour = METHODS.get(fit.method, OTHER_METHODS[0])
    columns = min(len(panels), 3)
    figure, grid = new_grid(len(panels), columns, 3.9 if columns > 1 else 5.6, 3.0)
    for axes, (channel, draw) in zip(grid, panels, strict=True):
        draw(axes, channel, colour)
    shown = len({id(c) for c, _ in panels})
    title = f"Predictive check: data drawn from {fit.method}"
    head(figure, title, shown, len(channels), "columns")
    legend_below(figure, _handles(fit.method, colour, [draw for _, draw in panels]))
    return figure


def _handles(method: str, colour: str, drawn: list[Draw]) -> list[Any]:
    bars = _draw_histogram in drawn
    dots = any(draw is not _draw_histogram for draw in drawn)
    dot = Line2D([], [], ls="", marker="o", ms=5, color=INK, label="data")
    bar = Patch(facecolor=SHADE, edgecolor=INK, lw=0.9, label="data")
    data = [bar, dot] if bars and dots else [bar] if bars else [dot]
    return [
        *data,
        Line2D([], [], color=colour, lw=1.6, label=f"median of the draws from {method}"),
        Patch(color=colour, alpha=0.3, lw=0, label="90% of the draws"),
    ]


def _channels(fit: Fit, model: Model, draws: int) -> list[Channel]:
    refuse_undrawn(model.marginal)
    observed = model.observed_values()
    cells = sum(int(np.size(v)) for v in observed.values())
    if not 1 < cells <= MOST_CELLS:
        return []
    count = int(np.clip(MOST_NUMBERS // cells, 10, draws))
    drawn = fit.posterior_predictive(draws=count, seed=fit.seed)["posterior_predictive"]
    found = []
    for name, values in observed.items():
        site = _site(model, name)
        if site is not None and values.dtype.kind in "fiub" and values.size > 1:
            own = np.asarray(drawn[name])
            own = own.reshape(-1, *own.shape[2:])
            found += list(_of_site(model, site, name, values, own, list(observed.values())))
    return found


def _site(model: Model, name: str) -> Site | None:
    """A site of the program by its own name, with its plates."""
    own = [s for s in model.reading.observed if name in (s.name, s.origin) and not s.is_factor]
    return own[0] if own else None


def _of_site(
    model: Model,
    site: Site,
    name: str,
    values: np.ndarray,
    draws: np.ndarray,
    observed: list[np.ndarray],
) -> Iterator[Channel]:
    batch = min(max((-d for d in site.dims.values()), default=0), values.ndim)
    shape = values.shape[:batch]
    table = values.astype(float).reshape(*shape, -1)
    drawn = draws.astype(float).reshape(len(draws), *shape, -1)
    labels = column_labels(model, name, table.shape[-1])
    for channel in range(table.shape[-1]):
        own, several = table[..., channel], drawn[..., channel]
        seen = np.isfinite(own)
        if seen.sum() < 2:
            continue
        conditions = _conditions(model, shape, seen, observed)
        yield Channel(
            labels[channel], own[seen], several[:, seen], conditions,
            bool(site.scan) and batch == 1 and bool(seen.all()),
        )  # fmt: skip


def _conditions(
    model: Model, shape: tuple[int, ...], seen: np.ndarray, observed: list[np.ndarray]
) -> tuple[Covariate, ...]:
    """The covariates of every plate of a site, of each of its cells that are seen."""
    found = []
    for axis, size in enumerate(shape):
        for own in covariates_of(model, size, observed) if size > 1 else ():
            wide = np.broadcast_to(
                own.values.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape
            )
            found.append(Covariate(own.label, wide[seen]))
    return tuple(found)


def _panels(channels: list[Channel]) -> Iterator[tuple[Channel, Draw]]:
    most = CONDITIONS if len(channels) == 1 else 1
    for channel in channels:
        telling = _telling(channel)[:most]
        for condition in telling:
            yield channel, functools.partial(_draw_by, by=condition)
        if not telling:
            yield channel, _draw_counts if channel.whole else _draw_histogram
        if channel.steps and len(channels) == 1 and len(channel.values) > 3 * LAGS:
            yield channel, _draw_autocorrelation


def _telling(channel: Channel) -> list[Covariate]:
    """The covariates by which the predicted means differ, the most telling first."""
    mean = channel.draws.mean(0)
    noise = channel.draws.var(0).mean() / len(channel.draws)
    total = mean.var()
    if total <= 4 * noise:
        return []
    shares = {}
    for i, condition in enumerate(channel.conditions):
        bins = condition.bins()
        middle = np.array([mean[rows].mean() for rows in bins])
        sizes = np.array([len(rows) for rows in bins])
        between = np.average((middle - np.average(middle, weights=sizes)) ** 2, weights=sizes)
        shares[i] = between / total
    order = sorted(shares, key=lambda i: -shares[i])
    found: list[Covariate] = []
    for own in (channel.conditions[i] for i in order if shares[i] > TELLING):
        if not any(_same_order(own, other) for other in found):
            found.append(own)
    return found


def _same_order(one: Covariate, other: Covariate) -> bool:
    """Whether one is a rising or falling function of the other, as x^2 is of a positive x."""
    _, mine = np.unique(one.values, return_inverse=True)
    _, theirs = np.unique(other.values, return_inverse=True)
    return np.array_equal(mine, theirs) or np.array_equal(mine, theirs.max() - theirs)


def _draw_by(axes: Axes, channel: Channel, colour: str, by: Covariate) -> None:
    """Means within bins of a covariate against those of drawn data; where the values are no zeros and ones also
    the values, and the band of drawn ones."""
    bins = by.bins()
    middle = np.array([by.values[rows].mean() for rows in bins])
    if not channel.binary:
        low, high = np.array(
            [np.quantile(channel.draws[:, rows], (LEVELS[0], LEVELS[2])) for rows in bins]
        ).T
        if by.is_factor:
            half = 0.3 * np.min(np.diff(middle)) if len(middle) > 1 else 0.3
            axes.bar(middle, high - low, 2 * half, bottom=low, color=colour, alpha=0.18, lw=0)
        else:
            axes.fill_between(middle, low, high, color=colour, alpha=0.18, lw=0)
        some = slice(None, None, max(1, len(channel.values) // 2000))
        axes.plot(by.values[some], channel.values[some], ".", ms=3, color=SHADE, zorder=1)
    means = np.array([channel.draws[:, rows].mean(1) for rows in bins])
    low, centre, high = np.quantile(means, LEVELS, axis=1)
    axes.vlines(middle, low, high, color=colour, lw=5, alpha=0.3, zorder=2)
    if by.is_factor:
        axes.plot(middle, centre, "_", color=colour, ms=10, mew=1.6, zorder=3)
        if len(bins) <= 12:
            axes.set_xticks(np.unique(by.values))
    else:
        axes.plot(middle, centre, color=colour, lw=1.4, zorder=3)
    axes.plot(
        middle, [channel.values[rows].mean() for rows in bins], "o", color=INK, ms=4, zorder=4
    )
    axes.set_xlabel(shortened(by.label, 40))
    label = shortened(channel.label, 34)
    axes.set_ylabel(f"share of 1 in {label}" if channel.binary else label)


def _draw_histogram(axes: Axes, channel: Channel, colour: str) -> None:
    """The histogram of the data over the band of the histograms of drawn data."""
    values = channel.values
    low, high = np.quantile(channel.draws, (0.002, 0.998))
    low, high = min(low, values.min()), max(high, values.max())
    count = int(np.clip(3 * len(values) ** 0.5, 10, 60))
    edges = np.linspace(low, high, count + 1)
    width = edges[1] - edges[0]
    axes.hist(values, list(edges), density=True, color=SHADE)
    axes.hist(values, list(edges), density=True, histtype="step", color=INK, lw=0.9, zorder=4)
    heights = [np.histogram(own, edges)[0] / (len(own) * width) for own in channel.draws]
    lower, centre, upper = np.quantile(heights, LEVELS, axis=0)
    axes.stairs(upper, edges, baseline=lower, fill=True, color=colour, alpha=0.3, lw=0)
    axes.stairs(centre, edges, color=colour, lw=1.4)
    axes.set_xlabel(shortened(channel.label, 40))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_counts(axes: Axes, channel: Channel, colour: str) -> None:
    """The share of every whole number, against those of drawn data."""
    grid = np.arange(channel.values.min(), channel.values.max() + 1)
    shares = [np.mean(channel.values == g) for g in grid]
    drawn = np.stack([(channel.draws == g).mean(1) for g in grid])
    lower, centre, upper = np.quantile(drawn, LEVELS, axis=1)
    axes.vlines(grid, lower, upper, color=colour, lw=6, alpha=0.3)
    axes.plot(grid, centre, "_", color=colour, ms=10, mew=1.6)
    axes.plot(grid, shares, "o", color=INK, ms=4)
    axes.set_ylim(bottom=0)
    if len(grid) <= 12:
        axes.set_xticks(grid)
    axes.set_xlabel(shortened(channel.label, 40))
    axes.set_ylabel("share")


def _draw_autocorrelation(axes: Axes, channel: Channel, colour: str) -> None:
    """The autocorrelations of the series, against those of drawn ones."""
    lags = np.arange(1, LAGS + 1)
    drawn = np.stack([_autocorrelations(own, LAGS) for own in channel.draws])
    lower, centre, upper = np.nanquantile(drawn, LEVELS, axis=0)
    axes.fill_between(lags, lower, upper, color=colour, alpha=0.3, lw=0)
    axes.plot(lags, centre, color=colour, lw=1.4)
    axes.plot(lags, _autocorrelations(channel.values, LAGS), "o", color=INK, ms=4)
    axes.axhline(0, color=SHADE, lw=0.8, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("lag")
    axes.set_ylabel("autocorrelation")


def _autocorrelations(series: np.ndarray, lags: int) -> np.ndarray:
    away = series - series.mean()
    total = float(away @ away)
    if total == 0:
        return np.full(lags, np.nan)
    return np.array([float(away[h:] @ away[:-h]) / total for h in range(1, lags + 1)])
