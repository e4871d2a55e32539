"""Contours of the objective over two scalars, with the fits' paths and draws on it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pp_mlem.diagnose.profile import scalar_index
from pp_mlem.fit.base import Fit, not_a_point
from pp_mlem.fit.point import PointFit
from pp_mlem.show.plots.figure import legend_under, literal, new_figure
from pp_mlem.show.plots.look import INK, MANY, MARKERS, PAPER, SOFT, in_one_look, method_colours
from pp_mlem.show.surface import path_of, surface

LEVELS = [0.05, 0.5, 1.92, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]  # nats
MOST_DRAWS = 400


@in_one_look
def plot_surface(
    fit: Fit,
    a: str,
    b: str,
    *,
    kind: str,
    others: dict[str, Fit],
    points: int,
    width: float,
    axes: Axes | None,
) -> Figure | SubFigure:
    """See `Fit.plot_surface`."""
    for argument, name in (("a", a), ("b", b)):
        if name not in fit.scalar_names:
            scalar_index(fit.problem(), name, argument)
    if not isinstance(fit, PointFit):
        raise not_a_point("a surface", fit.method)
    fits = {fit.method: fit, **others}
    over_a, over_b = (
        np.linspace(*_reach(fit, list(fits.values()), (a, b), i, width), points) for i in (0, 1)
    )
    table = surface(fit, a, b, kind, over_a, over_b)
    if axes is None:
        _, (axes,) = new_figure(7, 5.6)
    figure = axes.figure
    below = max(np.nanmax(table), fit.objective_value) - table
    _draw_contours(axes, over_a, over_b, below)
    colours = method_colours(fits)
    for i, (name, other) in enumerate(fits.items()):
        if a in other.scalar_names and b in other.scalar_names:
            _draw_fit(axes, name, other, (a, b), colours[name], MARKERS[i % len(MARKERS)])
    axes.set_xlim(over_a[0], over_a[-1])
    axes.set_ylim(over_b[0], over_b[-1])
    axes.set_xlabel(literal(a))
    axes.set_ylabel(literal(b))
    what = "log-likelihood" if fit.objective == "mle" else "log-likelihood + log prior"
    axes.set_title(f"{kind.capitalize()} of the {what}")
    legend_under(axes)
    return figure


def _reach(
    fit: Fit, fits: list[Fit], scalars: tuple[str, str], i: int, width: float
) -> tuple[float, float]:
    """The ends of an axis: `width` standard errors to either side, and all that is drawn on it."""
    name = scalars[i]
    centre, error = fit.estimates()[name], fit.standard_errors()[name]
    error = error if np.isfinite(error) else 0.1 * max(abs(centre), 1.0)
    reach = [centre - width * error, centre + width * error]
    for other in fits:
        estimate = other.estimates().get(name, np.nan)
        path = path_of(other, *scalars)[:, i]
        reach += [v for v in (estimate, *path) if np.isfinite(v)]
    pad = 0.05 * (max(reach) - min(reach))
    return min(reach) - pad, max(reach) + pad


def _draw_contours(axes: Axes, over_a: np.ndarray, over_b: np.ndarray, below: np.ndarray) -> None:
    deepest = np.nanmax(below)
    levels = [v for v in LEVELS if v < deepest] or [deepest / 2]
    filled = axes.contourf(over_a, over_b, below, levels=[0, *levels, deepest * 1.001],
                           cmap="Greys_r", norm="symlog", alpha=0.45)  # fmt: skip
    lines = axes.contour(over_a, over_b, below, levels=levels, colors=SOFT, linewidths=0.6)
    axes.clabel(lines, fontsize=7, fmt="%g", colors=INK)
    bar = axes.figure.colorbar(filled, ax=axes, label="nats below the best", shrink=0.85)
    bar.ax.tick_params(labelsize=8)


def _draw_fit(
    axes: Axes, name: str, fit: Fit, scalars: tuple[str, str], colour: str, marker: str
) -> None:
    """The draws of a fit, or its path and its estimate."""
    a, b = scalars
    if fit.has_draws:
        draws = fit.draw_table()
        draws = draws.iloc[:: max(1, len(draws) // MOST_DRAWS)]
        axes.scatter(
            draws[a], draws[b], s=5, color=colour, alpha=0.4, lw=0, label=f"{literal(name)} draws"
        )
        return
    path = path_of(fit, a, b)
    if len(path):
        axes.plot(path[:, 0], path[:, 1], marker=".", ms=5, lw=1.2, color=colour,
                  rasterized=len(path) > MANY, label=f"{literal(name)} path ({len(path)} points)")  # fmt: skip
    point = fit.estimates()
    axes.plot(point[a], point[b], marker=marker, ms=9, color=colour, mec=PAPER, mew=1.2, ls="",
              label=f"{literal(name)} estimate")  # fmt: skip
