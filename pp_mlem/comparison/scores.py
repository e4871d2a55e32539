"""The scores of a fit: information criteria, and leave-one-out predictive density where it can be trusted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pp_mlem.base.lazy import arviz_stats_base
from pp_mlem.comparison.psis import Left, good_shape, leave_one_out
from pp_mlem.fit.base import Fit
from pp_mlem.fit.datatree import OF_A_POINT, Drawn, kept_draws
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.fit.groups import ONE_STEP as TERMS
from pp_mlem.fit.pointwise import along
from pp_mlem.model.streamed import StreamedModel

ONE_STEP = (
    "the terms are one-step-ahead predictions of a single sequence, so elpd is not leave-one-out"
)
MOST_UNITS = 10_000  # of more units as many are drawn
OWN = 0x5EED  # data simulated from the same seed have other random numbers than the sample of units
NO_MATTER = 0.02  # of the standard error: what units of a bad Pareto k may cost together


class Loo(NamedTuple):
    """Expected log predictive density, its standard error, a caveat ("" when none), and what else there is
    to know of how it was had. Where it cannot be trusted both numbers are NaN and the caveat tells why."""

    elpd: float
    se: float
    caveat: str
    note: str = ""

    @property
    def told(self) -> list[str]:
        """What stands beside the numbers."""
        lead = f"{self.caveat}; do not choose by elpd_loo"
        caveat = [lead if np.isfinite(self.elpd) else self.caveat] if self.caveat else []
        return caveat + ([self.note] if self.note else [])


class _Seen(NamedTuple):
    """Pointwise log-likelihood (draws, units) of the chosen units, which `at` also has at the estimate of
    every unit; the correction of the draws (draws,) or None; effective draws for each draw."""

    pointwise: np.ndarray
    correction: np.ndarray | None
    efficiency: float
    sequential: bool
    chosen: np.ndarray | None = None
    at: np.ndarray | None = None


NO_LOO = Loo(np.nan, np.nan, "")


def _no_loo(why: str) -> Loo:
    return Loo(np.nan, np.nan, f"no elpd: {why}")


def loo_of(fit: Fit) -> Loo:
    """PSIS-LOO from the pointwise marginal log-likelihood (Vehtari, Gelman & Gabry 2017,
    doi:10.1007/s11222-016-9696-4).

    Draws of a normal approximation (point fits, Laplace) are weighed by the density that they stand for
    (Magnusson et al. 2019, https://proceedings.mlr.press/v97/magnusson19a.html): for EM and MLE the
    likelihood, as a density of the unconstrained parameters. Beyond 10,000 units it is estimated from a
    simple random sample of so many, as a difference to the log-likelihood at the estimates (Magnusson et
    al. 2020, https://proceedings.mlr.press/v108/magnusson20a.html).

    A Pareto k beyond min(1 - 1 / log10(draws), 0.7) says that so many draws do not give that unit's term to a
    useful precision, nor tell how wrong it is (Vehtari et al. 2024, doi:10.48550/arXiv.1507.02646). The sum
    is NaN where there are such units, unless what leaving them out costs is less than a fiftieth of its
    standard error in all: where weights are nearly equal a single draw can make a large k by chance.
    """
    if isinstance(fit.model, StreamedModel):
        return _no_loo(
            "it needs all rows at once, and the data come in chunks; a fit of a sample has one"
        )
    if not fit.has_draws and not _has_covariance(fit):
        return _no_loo("no covariance, so no draws to weigh")
    seen = _of_file(fit) if fit.model is None else _of_model(fit)
    if isinstance(seen, str):
        return _no_loo(seen)
    units = len(seen.pointwise[0]) if seen.at is None else len(seen.at)
    if units < 2:
        return _no_loo("one unit only: leave-one-out means nothing")
    caveats = [ONE_STEP] if seen.sequential else []
    if not caveats and fit.model is not None:
        if np.any(~np.isin(fit.model.unit_weights(), (0.0, 1.0))):
            caveats.append("units carry case weights, so LOO leaves out a whole weighted unit")
    left = leave_one_out(seen.pointwise, seen.correction, seen.efficiency)
    elpd, se, note = _summed(left.elpd, seen)
    trouble, told = _doubts(left, len(seen.pointwise), se * len(left.elpd) / units, fit.has_draws)
    if trouble:
        return Loo(np.nan, np.nan, "; ".join([*caveats, f"no elpd: {trouble}"]))
    return Loo(elpd, se, "; ".join(caveats), "; ".join(n for n in (note, told) if n))


def _doubts(left: Left, draws: int, se: float, has_draws: bool) -> tuple[str, str]:
    """Why the sum of these terms, of this standard error, cannot be trusted, and what to know where it can."""
    limit = good_shape(draws)
    bad = ~(left.shape <= limit)
    if not np.isfinite(left.elpd).all():
        return "a term is not finite", ""
    if not bad.any():
        return "", ""
    told = f"{int(bad.sum())} of {bad.size} Pareto k above {limit:.2f}"
    cost = float(np.abs(left.cost[bad]).sum())
    if cost < NO_MATTER * se:
        return "", f"{told}, of units that cost {cost:.2g} nats in all"
    remedy = "" if has_draws else "; draws of the posterior (fit_nuts) may have one"
    return f"{told} (the largest {left.shape.max():.2f}), beyond which it is noise{remedy}", ""


def _summed(terms: np.ndarray, seen: _Seen) -> tuple[float, float, str]:
    """The sum over all units, its standard error, and whether it was estimated."""
    if seen.at is None or seen.chosen is None:
        return float(terms.sum()), float(np.sqrt(terms.size * terms.var(ddof=1))), ""
    total, drawn, at, own = len(seen.at), len(terms), seen.at, seen.at[seen.chosen]
    change = total * float((terms - own).mean())
    elpd = float(at.sum()) + change
    sampling = total**2 * (1 - drawn / total) * float((terms - own).var(ddof=1)) / drawn
    squares = float((at**2).sum()) + total * float((terms**2 - own**2).mean())
    # the square of the sum, without what sampling adds to it
    variance = squares - (elpd**2 - sampling) / total
    note = f"elpd_loo from {drawn} of {total} units (sampling error {np.sqrt(sampling):.2g})"
    return elpd, float(np.sqrt(max(variance, 0.0))), note


def _of_model(fit: Fit) -> _Seen | str:
    """What the model tells along the fit's draws, or why that is too much."""
    drawn = fit.drawn()
    chains, length, size = drawn.vectors.shape
    with fit.computing("elpd_loo") as target:
        units = len(target.unit_weights)
        chosen = at = None
        if units > MOST_UNITS:
            rng = np.random.default_rng([fit.seed, OWN])
            chosen = np.sort(rng.choice(units, MOST_UNITS, replace=False))
            at = np.asarray(fit.model_for("elpd_loo").pointwise_log_likelihood(fit.params))
        kept = kept_draws(chains, length, min(units, MOST_UNITS))
        if kept is None:
            return f"{chains * length} draws are too many"
        found = along(target, drawn.vectors[:, kept].reshape(-1, size), chosen)
        sequential = target.marginal.sequential
    correction = _correction(drawn, kept, found.density)
    efficiency = 1.0
    if isinstance(fit, DrawsFit) and chains > 1:
        efficiency = _efficiency(fit.draws, kept)
    return _Seen(found.units, correction, efficiency, sequential, chosen, at)


def _correction(drawn: Drawn, kept: np.ndarray, density: np.ndarray) -> np.ndarray | None:
    """Log weights of draws of a normal approximation; None of draws of the posterior."""
    if drawn.log_q is not None:
        return np.asarray(density - drawn.log_q[:, kept].ravel())
    weights = (drawn.stats or {}).get("log_weight")
    return None if weights is None else np.ravel(weights[:, kept])


def _of_file(fit: Fit) -> _Seen | str:
    """What a file alone tells."""
    tree = fit.to_datatree()
    group = "log_likelihood" if fit.has_draws else OF_A_POINT
    group = group if group in tree.children else "log_likelihood"  # of an older file
    if group not in tree.children:
        why = tree.attrs.get("log_likelihood", "the file holds none")
        return f"pointwise log-likelihood {why}; load(path, model) computes it"
    ((name, units),) = tree.children[group].data_vars.items()
    sequential = name == "one_step_ahead" or units.attrs.get("terms") == TERMS
    values = np.asarray(units.values).reshape(-1, units.shape[-1])
    chains, length = units.shape[:2]
    stats = tree.children["sample_stats"].data_vars if "sample_stats" in tree.children else {}
    correction, efficiency = None, 1.0
    if "log_q" in stats:
        correction = np.ravel(stats["log_p"].values - stats["log_q"].values)
    elif not fit.has_draws:
        return "the file does not tell how its draws are weighed; load(path, model) computes it"
    elif "log_weight" in stats:
        correction = np.ravel(stats["log_weight"].values)
    elif isinstance(fit, DrawsFit) and chains > 1:
        efficiency = _efficiency(fit.draws, np.asarray(units["draw"].values))
    return _Seen(values, correction, efficiency, sequential)


def _efficiency(draws: dict[str, np.ndarray], kept: np.ndarray) -> float:
    """Effective draws for each draw, in the mean over all scalars."""
    every = [d[:, kept].reshape(*d[:, kept].shape[:2], -1) for d in draws.values()]
    table = np.concatenate(every, 2)
    effective = arviz_stats_base.array_stats.ess(table, chain_axis=0, draw_axis=1, method="mean")
    return float(np.mean(effective)) / (table.shape[0] * table.shape[1])


def _has_covariance(fit: Fit) -> bool:
    details = fit.covariance_details("observed")
    return not details.reasons or bool(np.any(np.isfinite(np.diag(details.matrix))))


def scores_of(fit: Fit, loo: Loo) -> dict[str, Any]:
    """A row of a table of scores."""
    return {
        "log_likelihood": fit.log_likelihood,
        "parameters": fit.n_parameters,
        "AIC": fit.aic,
        "BIC": fit.bic,
        "ICL": np.nan if fit.classification is None else fit.icl,
        "elpd_loo": loo.elpd,
        "se": loo.se,
    }
