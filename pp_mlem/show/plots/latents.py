"""Real latents: effects in order of their means, and series in time, with their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit
from pp_mlem.model.latents import Moments
from pp_mlem.program.sites import Site
from pp_mlem.show.plots.figure import new_grid

HALF_WIDTH = 1.959963984540054  # of a 95% band, in standard deviations
PANELS = 12
NAMED = 40  # units, beyond which they are not named and only the first fit is drawn
COLOURS = ("#2a6f97", "#d1495b", "#edae49", "#7a5195", "#2e933c")
WHOLE, WIDTH, HEIGHT = "#1d2730", 5.2, 3.6


def plot_latents(
    fit: Fit,
    names: Sequence[str] | None = None,
    *,
    others: Mapping[str, Fit] | None = None,
    units: Mapping[str, Sequence[Any]] | None = None,
    forecasts: Mapping[str, Moments] | None = None,
) -> Figure:
    """See `Fit.plot_latents`."""
    model = fit.model_for("plot_latents")
    reals = {s.name: s for s in model.reading.reals}
    unknown = sorted(set(names or ()) - reals.keys())
    if unknown or not reals:
        raise ValueError(
            f"plot_latents: received names {unknown}; the real latents of this model are {list(reals)}."
        )
    told = {n: f.posterior() for n, f in {fit.method: fit, **(others or {})}.items()}
    every: list[_Panel] = []
    for site in (s for n, s in reals.items() if names is None or n in names):
        own = {n: p[site.name] for n, p in told.items() if site.name in p}
        every += _panels(site, own, (forecasts or {}).get(site.name))
    shown = every[:PANELS]
    tall = any(not p.site.scan and p.units <= NAMED for p in shown)
    figure, grid = new_grid(len(shown), min(len(shown), 3), WIDTH, HEIGHT + 1.4 * tall)
    for axes, panel in zip(grid, shown, strict=True):
        if panel.site.scan:
            draw_series(axes, panel.told, panel.ahead)
        else:
            draw_caterpillar(axes, panel.told, (units or {}).get(panel.site.name))
        where = model.reading.told_plates(panel.site)
        title = f"{panel.site.name}{panel.entry}"
        axes.set_title(f"{title}, {where}" if where else title, fontsize=10)
    if len(every) > PANELS:
        figure.supxlabel(f"{PANELS} of {len(every)} entries of the latents", fontsize=8)
    return figure


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
    axes: Axes, told: Mapping[str, Band], names: Sequence[Any] | None = None
) -> None:
    """Posterior means with 95% bands, in the order of the first fit's means; the others beside them where
    there is room, or their means alone."""
    first, *others = told.items()
    mean, sd = first[1]
    order = np.argsort(mean, kind="stable")
    place = np.arange(len(mean))
    few = len(mean) <= NAMED
    drawn = [first, *others] if few else [first]
    lowest, highest = np.min(mean - HALF_WIDTH * sd), np.max(mean + HALF_WIDTH * sd)
    for i, (name, (centre, spread)) in enumerate(drawn):
        offset = 0.0 if len(drawn) == 1 else 0.3 - 0.6 * i / (len(drawn) - 1)
        low, high = (centre[order] + s * HALF_WIDTH * spread[order] for s in (-1, 1))
        colour = COLOURS[i % len(COLOURS)]
        if few:
            axes.hlines(place + offset, low, high, color=colour, lw=1.6, label=name)
            axes.plot(centre[order], place + offset, "o", ms=4, color=colour)
        else:
            axes.fill_betweenx(place, low, high, color=colour, alpha=0.25, lw=0, label="95%")
            axes.plot(centre[order], place, color=colour, lw=1.4, label=name)
    for i, (name, (centre, _)) in enumerate([] if few else others, start=1):
        axes.plot(centre[order], place, ".", ms=2, color=COLOURS[i % len(COLOURS)], label=name)
    if few:
        names = [str(i) for i in place] if names is None else [str(n) for n in names]
        axes.set_yticks(place, [names[i] for i in order], fontsize=7)
    else:
        axes.set_ylabel(f"{len(mean)} units, in order of their means")
    if lowest < 0 < highest:
        axes.axvline(0.0, color="0.8", lw=0.8, zorder=0)
    if len(told) > 1 or not few:
        axes.legend(fontsize=7, loc="lower right")


def draw_series(
    axes: Axes,
    told: Mapping[str, Band],
    forecast: Band | None = None,
    observed: np.ndarray | None = None,
) -> None:
    """A state in time with its 95% band, observations as points, and a forecast with its wider band after the
    end of the first fit's."""
    length = 0
    for i, (name, band) in enumerate(told.items()):
        length = len(band[0])
        _band(axes, np.arange(length), band, COLOURS[i % len(COLOURS)], name)
    if observed is not None:
        axes.plot(np.arange(len(observed)), observed, ".", ms=3, color="0.55", zorder=1)
    if forecast is not None:
        mean, sd = forecast
        last = next(iter(told.values()))
        further = np.append(last[0][-1:], mean), np.append(last[1][-1:], sd)
        time = length - 1 + np.arange(len(mean) + 1)
        _band(axes, time, further, WHOLE, "forecast", "--")
        axes.axvline(length - 1, color="0.8", lw=0.8, zorder=0)
    axes.set_xlabel("step")
    axes.legend(fontsize=7)


def _band(axes: Axes, x: np.ndarray, band: Band, colour: str, label: str, style: str = "-") -> None:
    mean, sd = band
    low, high = mean - HALF_WIDTH * sd, mean + HALF_WIDTH * sd
    axes.fill_between(x, low, high, color=colour, alpha=0.22, lw=0)
    axes.plot(x, mean, style, color=colour, lw=1.3, label=label)
