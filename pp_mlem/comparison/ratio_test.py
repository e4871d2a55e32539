"""Parametric bootstrap likelihood-ratio test of a smaller fit against a larger one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.digits import written
from pp_mlem.estimate.estimators import fit_by, method_names
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model

SEED_STRIDE = 100_003  # replicates of two seeds share no data
USABLE = ("converged", "boundary", "separation", "flat", "max_iter")


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """Twice the gain in log-likelihood, its bootstrap distribution under the smaller model, and
    the p-value (1 + number as large) / (1 + replicates). `interrupted`: the user stopped it, and
    the replicates are those that were finished."""

    statistic: float
    null: np.ndarray
    p_value: float
    failed: int
    interrupted: bool = False

    def __repr__(self) -> str:
        return (
            ("! stopped by the user: " if self.interrupted else "")
            + f"likelihood-ratio statistic {written(self.statistic)}, bootstrap p = {self.p_value:.4f} "
            f"({len(self.null)} replicates, {self.failed} failed)"
        )


def likelihood_ratio_test(
    smaller: Fit,
    larger: Fit,
    replicates: int = 99,
    starts: int = 4,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> LikelihoodRatioTest:
    """Parametric bootstrap test of a smaller fit against a larger one (McLachlan 1987,
    doi:10.2307/2347790): data are drawn from the smaller fit and both models refitted.

    The usual chi-squared does not hold between numbers of components. A refit that is set aside
    (collapsed, spurious) counts as failed and is left out.
    """
    small, large = _models(smaller, larger)
    check_counts(replicates=replicates, starts=starts)
    check_seed(seed)
    _refuse_labels(small, large)
    statistic = 2 * (larger.log_likelihood - smaller.log_likelihood)
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
    return LikelihoodRatioTest(float(statistic), np.asarray(null), p_value, failed, interrupted)


def _models(smaller: Fit, larger: Fit) -> tuple[Model, Model]:
    for name, fit in (("smaller", smaller), ("larger", larger)):
        if not isinstance(fit, Fit):
            raise TypeError(
                f"{name}: received {type(fit).__name__}, expected a Fit, of fit_em say."
            )
    return smaller.model_for("likelihood_ratio_test"), larger.model_for("likelihood_ratio_test")


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
