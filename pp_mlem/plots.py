"""Pictures of a comparison, as matplotlib figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pp_mlem.compare import Comparison

SCALARS = 30
STATUS_COLOURS = {
    "converged": "#2a6f97",
    "boundary": "#7a5195",
    "spurious": "#d1495b",
    "collapsed": "#8d0801",
}


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def plot_comparison(found: Comparison, scalars: int = SCALARS) -> Figure:
    """Forest of the estimates beside the paths and the starts of the point fits."""
    rows = min(len(found.estimates), scalars)
    figure, (forest, paths, starts) = _figure(15, max(4.5, 0.32 * rows + 1.5), 3)
    draw_forest(found, forest, scalars)
    draw_paths(found, paths)
    draw_starts(found, starts)
    return figure


def draw_forest(found: Comparison, axes: Axes, scalars: int = SCALARS) -> None:
    """95% intervals of each scalar by method, each scalar on the scale of its own interval."""
    table = found.estimates.iloc[:scalars]
    methods = list(found.fits)
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


def draw_paths(found: Comparison, axes: Axes) -> None:
    """Distance of the objective from the best value, by iteration, for the chosen start."""
    for name, fit in found.fits.items():
        if fit.draws is not None or len(fit.history) < 2:
            continue
        final = fit.log_likelihood + (fit.log_prior if fit.objective == "map" else 0.0)
        gap = np.maximum(final - np.append(fit.history, final), 1e-10)
        axes.semilogy(np.arange(len(gap)), gap, marker=".", label=name)
    axes.set_xlabel("evaluation")
    axes.set_ylabel("below the final objective (nats)")
    axes.set_title("Paths of the chosen starts (last step: Newton)")
    if axes.lines:
        axes.legend(fontsize=8)


def draw_starts(found: Comparison, axes: Axes) -> None:
    """Objective reached by every start, coloured by status."""
    ticks = []
    for i, (name, fit) in enumerate(found.fits.items()):
        if fit.draws is not None or not len(fit.starts):
            continue
        ticks.append((i, name))
        values = fit.starts["objective"].to_numpy(float)
        jitter = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
        for status in dict.fromkeys(fit.starts["status"]):
            mask = (fit.starts["status"] == status).to_numpy() & np.isfinite(values)
            axes.scatter(
                i + jitter[mask], values[mask], s=22,
                color=STATUS_COLOURS.get(status, "#edae49"), label=status,
            )  # fmt: skip
    if ticks:
        axes.set_xticks([t for t, _ in ticks], [n for _, n in ticks])
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize=8)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel("objective (nats)")
    axes.set_title("Where the starts ended")


def plot_posterior_against_normal(found: Comparison, scalars: int = 12) -> Figure | None:
    """Posterior draws of NUTS against the asymptotic normal of the first point fit."""
    sampled = next((f for f in found.fits.values() if f.draws is not None), None)
    point = next((f for f in found.fits.values() if f.draws is None), None)
    if sampled is None or point is None:
        return None
    names = list(found.estimates.index[:scalars])
    columns = 3
    rows = -(-len(names) // columns)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * columns, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    order = [n for n in sampled.params if n not in sampled.fixed]
    flat = np.concatenate(
        [sampled.draws[n].reshape(-1, int(np.prod(sampled.draws[n].shape[2:]))) for n in order], 1
    )
    lookup = {n: i for i, n in enumerate(sampled.scalar_names)}
    errors, estimates = point.standard_errors(), point.estimates()
    for axes, name in zip(grid, names, strict=False):
        if name in lookup:
            axes.hist(
                flat[:, lookup[name]],
                bins=60,
                density=True,
                color="0.8",
                label=f"{sampled.method} posterior",
            )
        if name in errors and np.isfinite(errors[name]) and errors[name] > 0:
            x = np.linspace(
                estimates[name] - 4 * errors[name], estimates[name] + 4 * errors[name], 200
            )
            z = (x - estimates[name]) / errors[name]
            axes.plot(
                x,
                np.exp(-0.5 * z**2) / (errors[name] * np.sqrt(2 * np.pi)),
                label=f"{point.method} asymptotic",
            )
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    grid[0].legend(fontsize=7)
    return figure


def save_pictures(found: Comparison, folder: Path) -> list[Path]:
    """Write the figures of a comparison as PNG; returns their paths."""
    figures = {
        "comparison": plot_comparison(found),
        "posterior_and_normal": plot_posterior_against_normal(found),
    }
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=120)
            paths.append(path)
    return paths
