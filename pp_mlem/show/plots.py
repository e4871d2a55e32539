"""Pictures of a comparison, as matplotlib figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats as scipy_stats

from pp_mlem.diagnose.profile import scalar_index
from pp_mlem.fit.datatree import variable_names
from pp_mlem.show.components import ComponentSite, component_densities, component_sites
from pp_mlem.show.surface import path_of, surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pp_mlem.comparison.compare import Comparison
    from pp_mlem.comparison.experiment import Calibration
    from pp_mlem.comparison.selection import Selection
    from pp_mlem.fit.base import Fit

SCALARS = 30
PREDICTIVE_CELLS = 4000  # of a data set, evenly spread, that a predictive check draws
STATUS_COLOURS = {
    "converged": "#2a6f97",
    "boundary": "#7a5195",
    "separation": "#f18f01",
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
    draw_optima(found, starts)
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
    """Distance of the objective from its end against time, for the chosen start.

    A fit's time without compilation is spread evenly over its evaluations.
    """
    for name, fit in found.fits.items():
        if fit.has_draws or len(fit.history) < 2:
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


def draw_optima(found: Comparison, axes: Axes) -> None:
    """The distinct optima of each point fit: height is the objective, area the share of starts."""
    ticks, labelled = [], set()
    for i, (name, fit) in enumerate(found.fits.items()):
        if fit.has_draws or not len(fit.starts):
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
            handle.set_sizes([40])
    axes.margins(y=0.15)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel("objective (nats)")
    axes.set_title("Optima (share of starts)")


def plot_posterior_against_normal(found: Comparison, scalars: int = 12) -> Figure | None:
    """Posterior draws (NUTS before Laplace) against the asymptotic normal of the first point fit."""
    with_draws = sorted(
        (f for f in found.fits.values() if f.has_draws), key=lambda f: f.method != "NUTS"
    )
    sampled = next(iter(with_draws), None)
    point = next((f for f in found.fits.values() if not f.has_draws), None)
    if sampled is None or point is None:
        return None
    names = list(found.estimates.index[:scalars])
    columns = 3
    rows = -(-len(names) // columns)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * columns, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    flat = sampled.draw_table()
    errors, estimates = point.standard_errors(), point.estimates()
    for axes, name in zip(grid, names, strict=False):
        if name in flat:
            axes.hist(
                flat[name],
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


def plot_components(fit: Fit) -> Figure | None:
    """The fitted components over the data, for sites of one or two columns; None without such."""
    if fit.model is None:
        return None
    sites = component_sites(fit.model)
    if not sites:
        return None
    figure, grid = _figure(6.5 * len(sites), 4.5, len(sites))
    for axes, where in zip(grid, sites, strict=True):
        draw = _draw_one_dimension if where.values.shape[1] == 1 else _draw_two_dimensions
        draw(fit, where, axes)
    return figure


def _draw_one_dimension(fit: Fit, where: ComponentSite, axes: Axes) -> None:
    values = where.values[:, 0]
    low, high = values.min(), values.max()
    if where.discrete:
        grid = np.arange(max(low - 2, 0), high + 3)
        counts = [where.weights[values == g].sum() / where.weights.sum() for g in grid]
        axes.bar(grid, counts, color="0.85", label="data")
    else:
        margin = 0.08 * (high - low)
        grid = np.linspace(low - margin, high + margin, 600)
        edges = np.linspace(low, high, int(np.clip(4 * len(values) ** 0.5, 12, 100)))
        axes.hist(values, edges, weights=where.weights, density=True, color="0.85", label="data")
    weights, densities = component_densities(fit.model, fit.params, where, grid[:, None])
    style = {"marker": "o", "ms": 3} if where.discrete else {}
    axes.plot(grid, weights @ densities, color="black", lw=3.5, alpha=0.35, label="sum")
    for k, (weight, density) in enumerate(zip(weights, densities, strict=True)):
        told = f"{where.latent} = {k} ({weight:.2f})"
        axes.plot(grid, weight * density, lw=1.5, label=told, **style)
    axes.set_xlabel(where.site)
    axes.set_title(f"{fit.method}: components over the data")
    axes.legend(fontsize=8)


def _draw_two_dimensions(fit: Fit, where: ComponentSite, axes: Axes) -> None:
    values = where.values
    low, high = values.min(0), values.max(0)
    margin = 0.1 * (high - low)
    x, y = (np.linspace(a, b, 90) for a, b in zip(low - margin, high + margin, strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    weights, densities = component_densities(fit.model, fit.params, where, grid)
    axes.scatter(values[:, 0], values[:, 1], s=9, color="0.6", zorder=1)
    for k, (weight, density) in enumerate(zip(weights, densities, strict=True)):
        table = density.reshape(len(y), len(x))
        top = table.max()
        levels = [top * np.exp(-0.5 * r**2) for r in (2.4477, 1.1774)]  # 95% and 50% of a normal
        colour = f"C{k % 10}"
        axes.contour(x, y, table, levels=levels, colors=colour, linewidths=1.3)
        axes.plot([], [], color=colour, label=f"{where.latent} = {k} ({weight:.2f})")
    axes.set_xlabel(f"{where.site}[0]")
    axes.set_ylabel(f"{where.site}[1]")
    axes.set_title(f"{fit.method}: components over the data (50% and 95% contours)")
    axes.legend(fontsize=8)


def plot_predictive_check(fit: Fit, draws: int = 40) -> Figure | None:
    """Data drawn at `draws` parameter values of a fit against the data, by arviz-plots; None where
    data cannot be drawn."""
    import arviz_base
    import arviz_plots

    model = fit.model
    if model is None or np.any(~np.isin(model.unit_weights(), (0.0, 1.0))):
        return None
    tree = fit.to_datatree()["posterior"]
    names = variable_names(n for n in fit.params if n not in fit.fixed)
    stacked = {n: tree[v].values.reshape(-1, *tree[v].shape[2:]) for n, v in names.items()}
    count = len(next(iter(stacked.values())))
    observed = [s.name for s in model.reading.observed if s.distribution != "Unit"]
    found: dict[str, list] = {n: [] for n in observed}
    try:
        for i, row in enumerate(np.linspace(0, count - 1, min(draws, count)).astype(int)):
            params = {**fit.fixed, **{n: v[row] for n, v in stacked.items()}}
            sample = model.simulate(params, seed=i)
            for n in observed:
                found[n].append(np.ravel(sample[n]))
        data = model.observed_values()
    except (ValueError, TypeError):
        return None
    sites = [n for n in observed if n in data and data[n].size > 1]
    if not sites:
        return None
    shown = {}
    for n in sites:
        seen = np.flatnonzero(np.isfinite(np.ravel(data[n]).astype(float)))
        shown[n] = seen[:: -(-len(seen) // PREDICTIVE_CELLS)]
    dt = arviz_base.from_dict(
        {
            "posterior_predictive": {n: np.stack(found[n])[None][..., shown[n]] for n in sites},
            "observed_data": {n: np.ravel(data[n])[shown[n]] for n in sites},
        }
    )
    count = len(found[sites[0]])
    collection = arviz_plots.plot_ppc_dist(
        dt, var_names=sites[:6], num_samples=count, backend="matplotlib"
    )
    figure = collection.viz["figure"].item()
    figure.supxlabel(
        f"data drawn from the {fit.method} fit (thin) and the data (black)", fontsize=9
    )
    figure.set_size_inches(max(6.5, 4.5 * min(len(sites), 3)), 4)
    return figure


def plot_surface(
    fit: Fit,
    a: str,
    b: str,
    kind: str,
    others: dict[str, Fit],
    points: int,
    width: float,
    axes: Axes | None,
) -> Figure:
    """See `Fit.plot_surface`."""
    for name in (a, b):
        if name not in fit.scalar_names:
            scalar_index(fit.problem(), name, "a" if name == a else "b")
    fits = {fit.method: fit, **others}
    centre, errors = fit.estimates(), fit.standard_errors()
    ranges = []
    for name in (a, b):
        error = errors[name] if np.isfinite(errors[name]) else 0.1 * max(abs(centre[name]), 1.0)
        reach = [centre[name] - width * error, centre[name] + width * error]
        for other in fits.values():
            where = other.estimates().get(name, np.nan)
            walked = path_of(other, a, b)[:, 0 if name == a else 1] if other.trace else []
            reach += [v for v in (where, *walked) if np.isfinite(v)]
        pad = 0.05 * (max(reach) - min(reach))
        ranges.append(np.linspace(min(reach) - pad, max(reach) + pad, points))
    over_a, over_b = ranges
    table = surface(fit, a, b, kind, over_a, over_b)
    if axes is None:
        figure, (axes,) = _figure(7, 5.6)
    else:
        figure = axes.figure
    top = max(np.nanmax(table), fit.objective_value)
    below = top - table
    levels = [0.05, 0.5, 1.92, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    levels = [v for v in levels if v < np.nanmax(below)] or [np.nanmax(below) / 2]
    filled = axes.contourf(over_a, over_b, below, levels=[0, *levels, np.nanmax(below) * 1.001],
                           cmap="Blues_r", norm="symlog", alpha=0.75)  # fmt: skip
    lines = axes.contour(over_a, over_b, below, levels=levels, colors="0.35", linewidths=0.6)
    axes.clabel(lines, fontsize=7, fmt="%g")
    figure.colorbar(filled, ax=axes, label="nats below the best", shrink=0.85)
    for i, (name, other) in enumerate(fits.items()):
        if a not in other.scalar_names or b not in other.scalar_names:
            continue
        if other.has_draws:
            draws = other.draw_table()
            draws = draws.iloc[:: max(1, len(draws) // 400)]
            axes.scatter(
                draws[a], draws[b], s=4, color="#d1495b", alpha=0.35, label=f"{name} draws"
            )
            continue
        walked = path_of(other, a, b)
        colour = ("#edae49", "#00798c", "#7a5195", "#2e933c")[i % 4]
        if len(walked):
            axes.plot(walked[:, 0], walked[:, 1], marker=".", ms=5, lw=1.2, color=colour,
                      label=f"{name} path ({len(walked)} points)")  # fmt: skip
        point = other.estimates()
        axes.plot(point[a], point[b], marker="*", ms=13, color=colour, mec="black", ls="",
                  label=f"{name} estimate")  # fmt: skip
    axes.set_xlim(over_a[0], over_a[-1])
    axes.set_ylim(over_b[0], over_b[-1])
    axes.set_xlabel(a)
    axes.set_ylabel(b)
    what = "log-likelihood" if fit.objective == "mle" else "log-likelihood + log prior"
    axes.set_title(f"{kind.capitalize()} of the {what}")
    axes.legend(fontsize=8)
    return figure


def plot_ranks(found: Calibration, scalars: int = 12) -> Figure:
    """Rank histograms; the band holds 99% of a uniform bin's counts."""
    names = list(found.ranks.columns[:scalars])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    n = len(found.ranks)
    bins = int(np.clip(n // 10, 2, 20))
    low, high = scipy_stats.binom.ppf([0.005, 0.995], n, 1 / bins)
    for axes, name in zip(grid, names, strict=False):
        axes.axhspan(low, high, color="0.9")
        axes.hist(found.ranks[name], bins=np.linspace(-0.5, found.draws + 0.5, bins + 1))
        axes.set_title(name, fontsize=9)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel(f"rank of the truth among {found.draws} draws", fontsize=9)
    return figure


def plot_selection(found: Selection) -> Figure:
    """Criteria against the one varied keyword, each above its own best."""
    (name, values), *more = found.varied.items()
    if more:
        raise ValueError("plot: only a selection over one keyword can be drawn.")
    figure, (axes,) = _figure(6.5, 4)
    method = found.table["method"].iloc[0]
    table = found.table[found.table["method"] == method]
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


def comparison_figures(found: Comparison) -> dict[str, Figure]:
    """Every figure of a comparison that its fits allow, by name."""
    first_point = next((f for f in found.fits.values() if not f.has_draws), None)
    last = list(found.fits.values())[-1]
    figures = {
        "comparison": plot_comparison(found),
        "posterior_and_normal": plot_posterior_against_normal(found),
        "components": plot_components(first_point or last),
        "predictive_check": plot_predictive_check(last),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def save_pictures(found: Comparison, folder: Path) -> list[Path]:
    """Write the figures of a comparison as PNG; returns their paths."""
    paths = []
    for name, figure in comparison_figures(found).items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths
