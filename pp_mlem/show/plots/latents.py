"""Real latents: effects in order of their means, and series in time, with their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pp_mlem.fit.base import Fit
from pp_mlem.model.latents import Moments
from pp_mlem.program.sites import Site
from pp_mlem.show.axis_labels import step_axis, unit_labels
from pp_mlem.show.plots.figure import head, legend_below, literal, new_grid, shortened
from pp_mlem.show.plots.look import (
    GRID,
    INK,
    MANY,
    MARKERS,
    OTHER_METHODS,
    SOFT,
    in_one_look,
    method_colours,
)

HALF_WIDTH = 1.959963984540054  # of a 95% band, in standard deviations
PANELS = 12
NAMED = 40  # units, beyond which they are not named and only the first fit is drawn
WIDTH, HEIGHT = 4.2, 3.0
Colours = Mapping[str, str]


@in_one_look
def plot_latents(
    fit: Fit,
    names: Sequence[str] | None = None,
    *,
    others: Mapping[str, Fit] | None = None,
    units: Mapping[str, Sequence[Any]] | None = None,
    forecasts: Mapping[str, Moments] | None = None,
    observed: Mapping[str, Any] | None = None,
) -> Figure:
    """See `Fit.plot_latents`."""
    model = fit.model_for("plot_latents")
    reals = {s.name: s for s in model.reading.reals}
    unknown = sorted(set(names or ()) - reals.keys())
    if unknown or not reals:
        raise ValueError(
            f"plot_latents: received names {unknown}; the real latents of this model are {list(reals)}."
        )
    fits = {fit.method: fit, **(others or {})}
    told, colours = {n: f.posterior() for n, f in fits.items()}, method_colours(fits)
    every: list[_Panel] = []
    for site in (s for n, s in reals.items() if names is None or n in names):
        own = {n: p[site.name] for n, p in told.items() if site.name in p}
        every += _panels(site, own, (forecasts or {}).get(site.name))
    every.sort(key=lambda p: (not p.site.scan, p.units == 1))
    shown = every[:PANELS]
    columns = 1 if len(shown) == 1 else 2 if len(shown) in (2, 4) else 3
    most = max((p.units for p in shown if not p.site.scan and p.units <= NAMED), default=0)
    height = max(HEIGHT, 0.2 * most + 1.0)
    figure, grid = new_grid(len(shown), columns, 5.6 if columns == 1 else WIDTH, height)
    for axes, panel in zip(grid, shown, strict=True):
        site = panel.site
        if site.scan:
            time, label = step_axis(model, panel.units, site.scan)
            data = (observed or {}).get(site.name)
            seen = None if data is None else np.asarray(data, float).reshape(panel.units, -1)
            draw_series(
                axes, panel.told, panel.ahead, seen, colours=colours, time=time, label=label
            )
        else:
            named = unit_labels(model, list(site.dims), panel.units)
            named = [""] if named is None and panel.units == 1 else named
            draw_caterpillar(axes, panel.told, (units or {}).get(site.name, named), colours)
        where = model.reading.told_plates(site)
        title = f"{site.name}{panel.entry}"
        axes.set_title(shortened(f"{title}, {where}" if where else title, 40))
    head(figure, "Latents, posterior means", len(shown), len(every), "entries")
    handles = _handles(fits, colours, shown)
    if observed:
        handles.insert(0, Line2D([], [], ls="", marker=".", ms=7, color=SOFT, label="data"))
    legend_below(figure, handles)
    return figure


def _handles(fits: Mapping[str, Fit], colours: Colours, shown: Sequence[_Panel]) -> list[Any]:
    drawn = {n for panel in shown for n in panel.told}
    handles: list[Any] = [
        Line2D([], [], color=colours[n], marker=MARKERS[i % len(MARKERS)], ms=4, label=literal(n))
        for i, n in enumerate(fits)
        if n in drawn
    ]
    handles.append(Patch(color=SOFT, alpha=0.3, lw=0, label="95% band"))
    if any(p.ahead is not None for p in shown):
        handles.append(Line2D([], [], color=INK, ls="--", label="forecast"))
    return handles


Band = tuple[np.ndarray, np.ndarray]  # mean and standard deviation of every unit


@dataclass(frozen=True)
class _Panel:
    """One entry of a latent's event: its index as text, by fit mean and sd of every unit, a forecast."""

    site: Site
    entry: str
    told: dict[str, Band]
    ahead: Band | None

    @property
    def units(self) -> int:
        return len(next(iter(self.told.values()))[0])


def _panels(site: Site, told: Mapping[str, Moments], ahead: Moments | None) -> list[_Panel]:
    """A panel for each entry of what comes after the units: the steps of a series, the plates of others, of
    a vector of which there is one its entries."""
    shape = next(iter(told.values())).mean.shape
    lead = 1 if site.scan else len(shape) - len(site.event_shape) or len(shape)
    return [
        _Panel(
            site,
            f"[{','.join(map(str, index))}]" if index else "",
            {n: _entry(m, lead, index) for n, m in told.items()},
            None if ahead is None else _entry(ahead, lead, index),
        )
        for index in np.ndindex(*shape[lead:])
    ]


def _entry(moments: Moments, units: int, index: tuple[int, ...]) -> Band:
    """Mean and sd of one entry, of every unit."""
    where: Any = (*(slice(None),) * units, *index)
    return moments.mean[where].ravel(), moments.sd[where].ravel()


def draw_caterpillar(
    axes: Axes,
    told: Mapping[str, Band],
    names: Sequence[Any] | None = None,
    colours: Colours | None = None,
) -> None:
    """Posterior means with 95% bands, in the order of the first fit's means; the others beside them where
    there is room, or their means alone."""
    first, *others = told.items()
    colours = _colours(told) if colours is None else colours
    mean, sd = first[1]
    order = np.argsort(mean, kind="stable")
    place = np.arange(len(mean))
    few = len(mean) <= NAMED
    drawn = [first, *others] if few else [first]
    lowest, highest = np.min(mean - HALF_WIDTH * sd), np.max(mean + HALF_WIDTH * sd)
    for i, (name, (centre, spread)) in enumerate(drawn):
        offset = 0.0 if len(drawn) == 1 else 0.3 - 0.6 * i / (len(drawn) - 1)
        low, high = (centre[order] + s * HALF_WIDTH * spread[order] for s in (-1, 1))
        colour = colours[name]
        if few:
            marker = MARKERS[i % len(MARKERS)]
            axes.hlines(place + offset, low, high, color=colour, lw=1.5, label=name)
            axes.plot(centre[order], place + offset, ls="", marker=marker, ms=4, color=colour)
        else:
            axes.fill_betweenx(place, low, high, color=colour, alpha=0.25, lw=0, label="95%")
            axes.plot(centre[order], place, color=colour, lw=1.4, label=name)
    many = len(mean) > MANY
    for name, (centre, _) in [] if few else others:
        axes.plot(centre[order], place, ".", ms=2, color=colours[name], label=name, rasterized=many)
    if few:
        names = [str(i) for i in place] if names is None else [str(n) for n in names]
        axes.set_yticks(place, [shortened(names[i]) for i in order])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(mean) - 0.4)
    else:
        axes.set_ylabel(f"{len(mean)} units, in order of their means")
    if lowest < 0 < highest:
        axes.axvline(0.0, color=GRID, lw=1, zorder=0)
    axes.set_xlabel("posterior mean")


def _colours(told: Mapping[str, Any]) -> Colours:
    return {n: OTHER_METHODS[i % len(OTHER_METHODS)] for i, n in enumerate(told)}


def draw_series(
    axes: Axes,
    told: Mapping[str, Band],
    forecast: Band | None = None,
    observed: np.ndarray | None = None,
    *,
    colours: Colours | None = None,
    time: np.ndarray | None = None,
    label: str = "step",
) -> None:
    """A state in time with its 95% band, observations as points, and a forecast with its wider band after the
    end of the first fit's."""
    colours = _colours(told) if colours is None else colours
    length = len(next(iter(told.values()))[0])
    x = np.arange(length) if time is None else time
    for i, (name, band) in enumerate(told.items()):
        _band(axes, x, band, colours[name], name, filled=i == 0)
    if observed is not None:
        axes.plot(x[: len(observed)], observed, ".", ms=5, color=SOFT, zorder=1)
    if forecast is not None:
        mean, sd = forecast
        last = next(iter(told.values()))
        further = np.append(last[0][-1:], mean), np.append(last[1][-1:], sd)
        step = x[-1] - x[-2] if length > 1 else 1
        ahead = x[-1] + step * np.arange(len(mean) + 1)
        _band(axes, ahead, further, INK, "forecast", "--")
        axes.axvline(x[-1], color=GRID, lw=1, zorder=0)
    axes.set_xlabel(literal(label))


def _band(
    axes: Axes, x: np.ndarray, band: Band, colour: str, label: str, style: str = "-",
    filled: bool = True,
) -> None:  # fmt: skip
    """A mean with its 95% band, filled or between two dotted lines."""
    mean, sd = band
    low, high = mean - HALF_WIDTH * sd, mean + HALF_WIDTH * sd
    if filled:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    else:
        axes.plot(x, low, ":", x, high, ":", color=colour, lw=0.9)
    axes.plot(x, mean, style, color=colour, lw=1.3, label=label)
