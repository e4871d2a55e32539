"""Data drawn from a fit against the data."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pp_mlem.base.lazy import arviz_base, arviz_plots
from pp_mlem.base.variables import variable_names
from pp_mlem.fit.base import Fit

CELLS = 4000  # of a data set, evenly spread, that are drawn
SITES = 6


def plot_predictive_check(fit: Fit, draws: int = 40) -> Figure | None:
    """Data drawn at `draws` parameter values of a fit against the data, by arviz-plots; None where
    data cannot be drawn."""
    model = fit.model
    if model is None or np.any(~np.isin(model.unit_weights(), (0.0, 1.0))):
        return None
    sites = [s.name for s in model.reading.observed if s.distribution != "Unit"]
    points = _points(fit, draws)
    try:
        samples = [model.simulate(params, seed=i) for i, params in enumerate(points)]
        predicted = {n: np.stack([np.ravel(sample[n]) for sample in samples]) for n in sites}
        observed = model.observed_values()
    except (ValueError, TypeError):
        return None
    sites = [n for n in sites if n in observed and observed[n].size > 1][:SITES]
    if not sites:
        return None
    shown = {n: _spread(observed[n]) for n in sites}
    tree = arviz_base.from_dict(
        {
            "posterior_predictive": {n: predicted[n][None][..., shown[n]] for n in sites},
            "observed_data": {n: np.ravel(observed[n])[shown[n]] for n in sites},
        }
    )
    collection = arviz_plots.plot_ppc_dist(
        tree, var_names=sites, num_samples=len(predicted[sites[0]]), backend="matplotlib"
    )
    figure = collection.viz["figure"].item()
    figure.supxlabel(
        f"data drawn from the {fit.method} fit (thin) and the data (black)", fontsize=9
    )
    figure.set_size_inches(max(6.5, 4.5 * min(len(sites), 3)), 4)
    return figure


def _points(fit: Fit, draws: int) -> list[dict[str, np.ndarray]]:
    """Parameter values, spread over the draws of a fit."""
    posterior = fit.to_datatree(log_likelihood=False).children["posterior"].to_dataset()
    names = variable_names(n for n in fit.params if n not in fit.fixed)
    stacked = {
        n: posterior[v].values.reshape(-1, *posterior[v].shape[2:]) for n, v in names.items()
    }
    if not stacked:  # every parameter is fixed
        return [dict(fit.params)]
    count = len(next(iter(stacked.values())))
    rows = np.linspace(0, count - 1, min(draws, count)).astype(int)
    return [{**fit.fixed, **{n: v[row] for n, v in stacked.items()}} for row in rows]


def _spread(values: np.ndarray) -> np.ndarray:
    """Places of cells that are not missing, at most `CELLS`."""
    seen = np.flatnonzero(np.isfinite(np.ravel(values).astype(float)))
    return seen[:: -(-len(seen) // CELLS)]
