"""The scores of a fit: information criteria, and leave-one-out predictive density with its caveats."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from pp_mlem.base.lazy import arviz_stats
from pp_mlem.fit.base import Fit

ONE_STEP = (
    "the terms are one-step-ahead predictions of a single sequence, so elpd is not leave-one-out"
)


class Loo(NamedTuple):
    """Expected log predictive density, its standard error, and a caveat ("" when none)."""

    elpd: float
    se: float
    caveat: str


NO_LOO = Loo(np.nan, np.nan, "")


def _no_loo(why: str) -> Loo:
    return Loo(np.nan, np.nan, why)


def loo_of(fit: Fit) -> Loo:
    """PSIS-LOO from the pointwise marginal log-likelihood (Vehtari, Gelman & Gabry 2017,
    doi:10.1007/s11222-016-9696-4)."""
    tree = fit.to_datatree()
    if "log_likelihood" not in tree.children:
        why = tree.attrs.get("log_likelihood", "the fit holds none")
        return _no_loo(f"no LOO: pointwise log-likelihood {why}")
    ((name, units),) = tree.children["log_likelihood"].data_vars.items()
    if units.shape[-1] < 2:
        return _no_loo("one unit only: leave-one-out means nothing")
    if not fit.has_draws and not _has_covariance(fit):
        return _no_loo("no covariance, so no draws to weight")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = arviz_stats.loo(tree, var_name=str(name), pointwise=True)
        except (ValueError, FloatingPointError, IndexError) as error:
            return _no_loo(f"LOO failed: {error}")
    khat = np.asarray(result.pareto_k)
    bad = int((khat > result.good_k).sum())
    caveats = [f"{bad} of {khat.size} Pareto k above {result.good_k:.2f}"] if bad else []
    if name == "one_step_ahead":
        caveats.insert(0, ONE_STEP)
    elif fit.model is not None and np.any(~np.isin(fit.model.unit_weights(), (0.0, 1.0))):
        caveats.insert(0, "units carry case weights, so LOO leaves out a whole weighted unit")
    return Loo(float(result.elpd), float(result.se), "; ".join(caveats))


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
