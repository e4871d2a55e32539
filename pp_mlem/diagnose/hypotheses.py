"""Wald and score tests of restrictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pp_mlem.base.digits import written
from pp_mlem.base.lazy import scipy_stats
from pp_mlem.diagnose.uncertainty import information, scores
from pp_mlem.target.target import Target

SINGULAR = 1e-10


@dataclass(frozen=True)
class ChiSquaredTest:
    """A statistic that is chi-squared with `df` degrees of freedom where the hypothesis holds.

    `p_value` is its upper tail; NaN with a `reason` where there is no such reference.
    """

    name: str
    statistic: float
    df: int
    p_value: float
    reason: str = ""

    @classmethod
    def of(cls, name: str, statistic: float, df: int, reason: str = "") -> ChiSquaredTest:
        p = float(scipy_stats.chi2.sf(statistic, df)) if df and not reason else float("nan")
        return cls(name, float(statistic), df, p, reason)

    def __repr__(self) -> str:
        note = f" ({self.reason})" if self.reason else ""
        return (
            f"{self.name}: chi-squared {written(self.statistic)} on {self.df} degrees of freedom, "
            f"p = {self.p_value:.4g}{note}"
        )


def wald(gap: np.ndarray, covariance: np.ndarray, reason: str = "") -> ChiSquaredTest:
    """That `gap` (count,) is zero (Wald 1943, doi:10.1090/S0002-9947-1943-0012401-3); directions without
    variance are left out where the gap has no part in them."""
    if reason or not np.all(np.isfinite(covariance)):
        return ChiSquaredTest.of(
            "Wald test", np.nan, len(gap), reason or "a standard error cannot be trusted"
        )
    values, vectors = np.linalg.eigh(covariance)
    kept = values > SINGULAR * max(values.max(initial=0.0), 0.0)
    along = vectors.T @ gap
    if np.any(np.abs(along[~kept]) > 1e-8 * max(np.abs(gap).max(initial=0.0), 1e-300)):
        return ChiSquaredTest.of(
            "Wald test", np.inf, int(kept.sum()), "the restrictions contradict each other"
        )
    statistic = np.sum(along[kept] ** 2 / values[kept])
    return ChiSquaredTest.of("Wald test", statistic, int(kept.sum()))


def score(target: Target, vector: np.ndarray, df: int, kind: str) -> ChiSquaredTest:
    """Of a maximum under `df` restrictions, in the whole problem (Rao 1948, doi:10.1017/S0305004100023987).

    kind: "observed" information at the restricted maximum, or "opg", the outer product of the scores.
    """
    gradient, matrix = information(target, vector)
    if kind == "opg":
        each = scores(target, vector)
        matrix = each.T @ each
    try:
        with np.errstate(all="ignore"):
            scale = 1 / np.sqrt(np.diag(matrix))
        lower = np.linalg.cholesky(matrix * scale[:, None] * scale)
    except np.linalg.LinAlgError:
        why = "the information at the restricted maximum is not positive definite; kind='opg' is"
        return ChiSquaredTest.of("score test", np.nan, df, why)
    root = np.linalg.solve(lower, gradient * scale)
    return ChiSquaredTest.of("score test", float(root @ root), df)
