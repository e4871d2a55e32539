"""The data of an observed site by the components of a fit, whichever picture that needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import column_labels
from pp_mlem.show.components import ComponentSite, component_densities, component_sites
from pp_mlem.show.grouped import Grouped, grouped_sites
from pp_mlem.show.plots.chains import plot_chain
from pp_mlem.show.plots.curves import plot_curves
from pp_mlem.show.plots.figure import legend_below, literal, new_figure
from pp_mlem.show.plots.look import INK, PAPER, component_colour, faded, in_one_look
from pp_mlem.show.plots.marks import component_handles, draw_marks
from pp_mlem.show.plots.pairs import plot_pairs
from pp_mlem.show.plots.profiles import plot_profile

RADII = (2.4477, 1.1774)  # standard deviations that hold 95% and 50% of a normal in the plane
PICTURES = 4  # sites of a program that are drawn


@dataclass(frozen=True)
class Kind:
    """A picture of grouped data: when it is the right one, how it is drawn, and what it shows."""

    fits: Callable[[Grouped], bool]
    draw: Callable[[Fit, Model, Grouped], Figure | None]
    caption: str


@in_one_look
def plot_components(fit: Fit, site: str | None = None) -> Figure | None:
    """See `Fit.plot_components`; None where no site has a picture."""
    model = fit.model_for("plot_components")
    known = [s.origin or s.name for s in model.reading.observed]
    if site is not None and site not in known:
        raise ValueError(
            f"plot_components: received site {site!r}; the observed sites are {known}."
        )
    figures = component_figures(fit, () if site is None else (site,))
    return next((figure for figure, _ in figures.values()), None)


@in_one_look
def component_figures(fit: Fit, sites: tuple[str, ...] = ()) -> dict[str, tuple[Figure, str]]:
    """{site: (figure, caption)} of the observed sites whose distribution one finite latent chooses."""
    model = fit.model
    if model is None or not model.reading.latents:
        return {}
    found: dict[str, tuple[Figure, str]] = {}
    for own in grouped_sites(model, fit.params):
        kind = next((k for k in KINDS if k.fits(own)), None)
        if kind is None or (sites and own.site not in sites) or len(found) == PICTURES:
            continue
        figure = kind.draw(fit, model, own)
        if figure is not None:
            found[own.site] = figure, kind.caption
    return found


def _density_site(model: Model, name: str) -> ComponentSite | None:
    return next((s for s in component_sites(model) if s.site == name), None)


def _one_dimension(fit: Fit, model: Model, own: Grouped) -> Figure | None:
    """A histogram, each bar divided by the posterior probabilities, under the weighted densities."""
    where = _density_site(model, own.site)
    if where is None:
        return None
    figure, (axes,) = new_figure(6.2, 3.9)
    seen = np.isfinite(own.values[:, 0]) & np.isfinite(own.posterior).all(1)
    values, shares = own.values[seen, 0], own.posterior[seen] * own.weights[seen, None]
    low, high = values.min(), values.max()
    colours = [faded(component_colour(k), 0.45) for k in range(own.states)]
    if where.discrete:
        grid = np.arange(max(low - 2, 0) if low >= 0 else low - 2, high + 3)
        bars = np.stack([shares[values == g].sum(0) for g in grid]) / shares.sum()
        bottom = np.zeros(len(grid))
        for k in range(own.states):
            axes.bar(grid, bars[:, k], bottom=bottom, color=colours[k], width=0.8)
            bottom += bars[:, k]
    else:
        margin = 0.08 * (high - low)
        grid = np.linspace(low - margin, high + margin, 600)
        edges = np.linspace(low, high, int(np.clip(4 * len(values) ** 0.5, 12, 100)))
        axes.hist(
            [values] * own.states, list(edges), weights=list(shares.T), density=True, stacked=True,
            color=colours,
        )  # fmt: skip
    weights, densities = component_densities(model, fit.params, where, grid[:, None])
    style: dict[str, Any] = {"marker": "o", "ms": 3} if where.discrete else {}
    axes.plot(grid, weights @ densities, color=INK, lw=3, alpha=0.35)
    for k, (weight, density) in enumerate(zip(weights, densities, strict=True)):
        axes.plot(grid, weight * density, color=component_colour(k), lw=1.6, **style)
    axes.set_xlabel(literal(column_labels(model, own.site, 1)[0]))
    axes.set_ylabel("share of the data" if where.discrete else "density")
    axes.set_title(f"Components over the data, {fit.method}")
    sums = Line2D([], [], color=INK, lw=3, alpha=0.35, label="all")
    legend_below(figure, [*component_handles(model, own), sums])
    return figure


def _two_dimensions(fit: Fit, model: Model, own: Grouped) -> Figure:
    """The rows by their most probable component, and the contours of the components' densities."""
    figure, (axes,) = new_figure(6.2, 5.2)
    x, y = own.values.T
    draw_marks(axes, x, y, own)
    where = _density_site(model, own.site)
    if where is not None:
        _draw_contours(axes, model, fit, where)
    labels = column_labels(model, own.site, 2)
    axes.set_xlabel(literal(labels[0]))
    axes.set_ylabel(literal(labels[1]))
    axes.set_title(f"Components over the data, {fit.method}")
    legend_below(figure, component_handles(model, own))
    return figure


def _draw_contours(axes: Axes, model: Model, fit: Fit, where: ComponentSite) -> None:
    values = where.values[np.isfinite(where.values).all(1)]
    low, high = values.min(0), values.max(0)
    margin = 0.1 * (high - low)
    x, y = (np.linspace(a, b, 90) for a, b in zip(low - margin, high + margin, strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    if where.discrete:
        return
    _, densities = component_densities(model, fit.params, where, grid)
    for k, density in enumerate(densities):
        table = density.reshape(len(y), len(x))
        levels = [table.max() * np.exp(-0.5 * r**2) for r in RADII]
        if np.isfinite(table).all() and levels[0] > 0:
            lines = axes.contour(
                x, y, table, levels=levels, colors=component_colour(k), linewidths=1.3
            )
            lines.set_path_effects([withStroke(linewidth=2.6, foreground=PAPER)])


def _is_chain(own: Grouped) -> bool:
    return bool(own.scan)


def _is_curve(own: Grouped) -> bool:
    return own.varies and own.columns == 1


def _is_profile(own: Grouped) -> bool:
    many = own.columns > (1 if own.support == "binary" else 2)
    return not own.varies and own.support in ("binary", "counts") and many


def _is_pairs(own: Grouped) -> bool:
    return own.support == "real" and own.columns > 2


def _is_plane(own: Grouped) -> bool:
    return not own.varies and own.columns == 2 and own.support in ("real", "counts")


def _is_line(own: Grouped) -> bool:
    return not own.varies and own.columns == 1


SHADED = "in the colour of its most probable component, paler where that is less probable"
KINDS = (
    Kind(
        _is_chain, plot_chain,
        "The series over its most probable states, and the probability of each state at every step.",
    ),
    Kind(
        _is_curve, plot_curves,
        f"Each row {SHADED}, and the mean of each component.",
    ),
    Kind(
        _is_profile, plot_profile,
        "What each class expects of each item, with 95% intervals.",
    ),
    Kind(
        _is_pairs, plot_pairs,
        f"Each row {SHADED}; ellipses hold 50% and 95% of a normal with the mean and covariance of the "
        "component's rows.",
    ),
    Kind(
        _is_plane, _two_dimensions,
        f"Each row {SHADED}; contours hold 50% and 95% of a normal component.",
    ),
    Kind(
        _is_line, _one_dimension,
        "The data, divided by the probability of each component, and the components' densities with their "
        "weights.",
    ),
)  # fmt: skip
