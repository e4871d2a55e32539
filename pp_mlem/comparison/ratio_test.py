"""Likelihood-ratio test of a smaller fit against a larger one, by its chi-squared or its bootstrap distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import scipy_stats
from pp_mlem.comparison.concerns import same_observations
from pp_mlem.estimate.estimators import fit_by, method_names
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model

SEED_STRIDE = 100_003  # replicates of two seeds share no data
BELOW = 1e-6  # nats
USABLE = ("converged", "boundary", "separation", "flat", "max_iter")


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """Twice the gain in log-likelihood and its p-value.

    Attributes:
        statistic, df: twice the gain, and how many more free parameters the larger fit has.
        reference: "chi-squared" with df degrees of freedom (Wilks 1938, doi:10.1214/aoms/1177732360), or
            "bootstrap": (1 + number as large) / (1 + replicates).
        null: the statistics of the bootstrap replicates; empty of a chi-squared test.
        failed: replicates that were left out.
        interrupted: the user stopped it, and the replicates are those that were finished.
        why: why this reference was taken.
    """

    statistic: float
    null: np.ndarray
    p_value: float
    failed: int
    interrupted: bool = False
    df: int = 0
    reference: str = "bootstrap"
    why: str = ""

    def __repr__(self) -> str:
        stopped = "! stopped by the user: " if self.interrupted else ""
        what = f"{stopped}likelihood-ratio statistic {written(self.statistic)}, "
        if self.reference == "chi-squared":
            what += f"chi-squared on {self.df} degrees of freedom, p = {self.p_value:.4g}"
        else:
            what += f"bootstrap p = {self.p_value:.4f} ({len(self.null)} replicates, {self.failed} failed)"
        return what + (f"; {self.why}" if self.why else "")


def likelihood_ratio_test(
    smaller: Fit,
    larger: Fit,
    replicates: int = 99,
    starts: int = 4,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
    *,
    reference: str = "auto",
) -> LikelihoodRatioTest:
    """Likelihood-ratio test of nested fits of the same observations.

    Args:
        smaller, larger: fits by maximum likelihood; the smaller is a special case of the larger.
        reference: "chi-squared", "bootstrap", or "auto": chi-squared where its conditions hold (the same latents
            with as many values, both fits converged inside of the parameter space and identified), the
            bootstrap elsewhere, as between numbers of components or for a variance that may be zero.
        replicates, starts, seed: of the parametric bootstrap (McLachlan 1987, doi:10.2307/2347790): data are
            drawn from the smaller fit and both models refitted, from the fitted values and from new
            starts. A refit that is set aside (collapsed, spurious) counts as failed and is left out.

    Raises:
        TypeError, ValueError: where the fits are not of the same observations, or cannot be compared so.
    """
    small, large = _models(smaller, larger)
    check_counts(replicates=replicates, starts=starts)
    check_seed(seed)
    if reference not in ("auto", "chi-squared", "bootstrap"):
        raise ValueError(
            f"reference: received {reference!r}, expected 'auto', 'chi-squared' or 'bootstrap'."
        )
    statistic = 2 * (larger.log_likelihood - smaller.log_likelihood)
    df = larger.n_parameters - smaller.n_parameters
    trouble = "" if reference == "bootstrap" else _no_chi_squared(smaller, larger)
    if reference == "chi-squared" or (reference == "auto" and not trouble):
        return _chi_squared(statistic, df, trouble)
    _refuse_labels(small, large)
    method = smaller.method.lower()
    method = method if method in method_names(has_draws=False) else "em"
    null: list[float] = []
    failed, interrupted = 0, False
    for i in range(replicates):
        try:
            drawn = small.redraw(smaller.params, seed=seed * SEED_STRIDE + i)
            below = _best(method, drawn, smaller, starts, i)
            above = _best(method, large.with_observations_of(drawn), larger, starts, i)
        except KeyboardInterrupt:
            if not null:
                raise
            interrupted, replicates = True, i
            break
        if np.isfinite(below) and np.isfinite(above):
            null.append(max(2 * (above - below), 0.0))
        else:
            failed += 1
        if on_step is not None:
            on_step(i + 1)
    if len(null) < 0.5 * replicates:
        raise ValueError(
            f"{failed} of {replicates} bootstrap refits failed (collapsed or spurious), so the "
            "test means nothing. Give the scales a prior and use MAP, or fewer components."
        )
    as_large = int(np.sum(np.asarray(null) >= statistic - 1e-9))
    p_value = (1 + as_large) / (1 + len(null))
    return LikelihoodRatioTest(
        float(statistic), np.asarray(null), p_value, failed, interrupted, df, why=trouble
    )


def _no_chi_squared(smaller: Fit, larger: Fit) -> str:
    """Why twice the gain is not chi-squared under the smaller model; "" where it is."""
    small, large = smaller.model_for("this"), larger.model_for("this")
    sizes = [
        {s.name: s.size for s in (*m.reading.latents, *m.reading.reals)} for m in (small, large)
    ]
    if sizes[0] != sizes[1]:
        return "the latents of the two differ, so the smaller lies on the edge of the larger"
    for name, fit in (("smaller", smaller), ("larger", larger)):
        if not isinstance(fit, PointFit) or fit.objective != "mle":
            return f"the {name} is no maximum of the likelihood"
        if not fit.converged:
            return f"the {name} ended as {fit.status} ({fit.status_note})"
        reasons = fit.covariance_details().reasons
        if reasons:
            scalar, reason = next(iter(reasons.items()))
            return f"the {name} has no standard error for {scalar}: {reason}"
    return ""


def _chi_squared(statistic: float, df: int, trouble: str) -> LikelihoodRatioTest:
    if df < 1:
        raise ValueError(
            f"likelihood_ratio_test: the larger fit has {df} more free parameters than the smaller; pass "
            "the special case first."
        )
    p_value = float(scipy_stats.chi2.sf(max(statistic, 0.0), df))
    why = f"take care: {trouble}" if trouble else ""
    none = np.zeros(0)
    return LikelihoodRatioTest(
        float(statistic), none, p_value, 0, df=df, reference="chi-squared", why=why
    )


def _models(smaller: Fit, larger: Fit) -> tuple[Model, Model]:
    for name, fit in (("smaller", smaller), ("larger", larger)):
        if not isinstance(fit, Fit):
            raise TypeError(
                f"{name}: received {type(fit).__name__}, expected a Fit, of fit_em say."
            )
    if larger.log_likelihood < smaller.log_likelihood - BELOW:
        raise ValueError(
            f"likelihood_ratio_test: the larger fit lies below the smaller ({written(larger.log_likelihood)} < "
            f"{written(smaller.log_likelihood)}), so the two are not nested, or it has not found its maximum: "
            "try more starts."
        )
    models = smaller.model_for("likelihood_ratio_test"), larger.model_for("likelihood_ratio_test")
    if not same_observations(smaller, larger) and not any(m.observe for m in models):
        raise ValueError(
            "likelihood_ratio_test: the fits are of different observations. Their covariates may differ, what is "
            "observed must not."
        )
    return models


def _refuse_labels(*models: Model) -> None:
    if any(model.observe for model in models):
        raise ValueError(
            "likelihood_ratio_test: labels given by observe= belong to one data set and one number "
            "of components; fit both models without them."
        )


def _best(method: str, model: Model, fit: Fit, starts: int, seed: int) -> float:
    """The highest log-likelihood of sound refits, from the fitted values and from new starts; NaN
    without such."""
    refits = [fit_by(method, model, starts=1, seed=seed, progress=False, init=fit.params)]
    if model.latent_names:
        refits.append(fit_by(method, model, starts=starts, seed=seed, progress=False))
    if any(f.interrupted for f in refits):
        raise KeyboardInterrupt
    return max((f.log_likelihood for f in refits if f.status in USABLE), default=np.nan)
