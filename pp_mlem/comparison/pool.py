"""Rubin's rules: estimates from several completed data sets as one (Rubin 1987, chapter 3,
doi:10.1002/9780470316696)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pp_mlem.base.checks import check_level
from pp_mlem.base.lazy import pd, scipy_stats
from pp_mlem.diagnose.uncertainty import Estimate
from pp_mlem.fit.base import Fit


@dataclass(frozen=True)
class Pooled:
    """Estimates pooled over m imputations, all arrays in the shape of one estimate.

    Attributes:
        value: their mean.
        within, between: the mean of their variances, and the variance among them.
        df: degrees of freedom of the t distribution of (value - truth) / standard_error (Barnard & Rubin 1999,
            doi:10.1093/biomet/86.4.948).
        imputations: m.
        names: of the entries, empty where they have none.
    """

    value: np.ndarray
    within: np.ndarray
    between: np.ndarray
    df: np.ndarray
    imputations: int
    names: tuple[str, ...] = ()

    @property
    def total(self) -> np.ndarray:
        """The variance, within + (1 + 1 / m) between."""
        return self.within + (1 + 1 / self.imputations) * self.between

    @property
    def standard_error(self) -> np.ndarray:
        return np.sqrt(self.total)

    @property
    def missing_information(self) -> np.ndarray:
        """The fraction of the information about each entry that is missing (Rubin 1987, 3.1.10)."""
        rise = (1 + 1 / self.imputations) * self.between / self.within
        return (rise + 2 / (self.df + 3)) / (rise + 1)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Confidence limits, by the t distribution."""
        check_level(level)
        half = scipy_stats.t.ppf((1 + level) / 2, self.df) * self.standard_error
        return self.value - half, self.value + half

    def summary(self) -> pd.DataFrame:
        """One row per entry: coef, std err, t, df, P>|t|, [0.025, 0.975], missing information."""
        low, high = self.interval()
        t = self.value / self.standard_error
        columns = {
            "coef": self.value,
            "std err": self.standard_error,
            "t": t,
            "df": self.df,
            "P>|t|": 2 * scipy_stats.t.sf(np.abs(t), self.df),
            "[0.025": low,
            "0.975]": high,
            "missing information": self.missing_information,
        }
        table = pd.DataFrame({name: np.ravel(column) for name, column in columns.items()})
        return table.set_index(pd.Index(self.names)) if self.names else table

    def __repr__(self) -> str:
        return f"{self.imputations} imputations pooled\n{self.summary().to_string()}"


def pool(
    estimates: Sequence[Any] | ArrayLike, variances: ArrayLike | None = None, df: float = np.inf
) -> Pooled:
    """Estimates from m completed data sets (`fit.impute(draws=m)`) as one, by Rubin's rules.

    Args:
        estimates: (m, ...) numbers; or m fits, or m results of `fit.estimate`, which bring their variances.
        variances: (m, ...) squared standard errors of numbers.
        df: degrees of freedom that the estimates would have with complete data.

    >>> pooled = pool([10.0, 12.0, 11.0], [4.0, 5.0, 3.0])
    >>> round(float(pooled.standard_error), 4)
    2.3094
    """
    values, squares, names = _numbers(list(estimates), variances)  # type: ignore[arg-type]
    m = len(values)
    if m < 2:
        raise ValueError(
            f"pool: received {m} estimate, expected one from each of at least 2 imputations."
        )
    if squares.shape != values.shape:
        raise ValueError(
            f"pool: variances have shape {squares.shape}, expected that of the estimates, {values.shape}."
        )
    if not df > 0:
        raise ValueError(f"pool: df: received {df!r}, expected a positive number.")
    within, between = squares.mean(0), values.var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (1 + 1 / m) * between / (within + (1 + 1 / m) * between)
        freedom = (m - 1) / share**2
        if np.isfinite(df):
            seen = (df + 1) / (df + 3) * df * (1 - share)
            freedom = 1 / (1 / freedom + 1 / seen)
    return Pooled(values.mean(0), within, between, np.asarray(freedom), m, names)


def _numbers(
    estimates: list[Any], variances: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values and variances (m, ...), and the names of the entries."""
    names: tuple[str, ...] = ()
    if estimates and all(isinstance(e, (Fit, Estimate)) for e in estimates):
        if variances is not None:
            raise ValueError("pool: fits and estimates bring their variances; pass none.")
        if all(isinstance(e, Fit) for e in estimates):
            names = estimates[0].scalar_names
            if any(e.scalar_names != names for e in estimates):
                raise ValueError("pool: the fits have different parameters.")
            values = [e.estimates().to_numpy() for e in estimates]
            errors = [e.standard_errors().to_numpy() for e in estimates]
        else:
            values = [e.value for e in estimates]
            errors = [e.standard_error for e in estimates]
        return np.asarray(values, float), np.asarray(errors, float) ** 2, names
    if variances is None:
        raise ValueError("pool: numbers need variances, the squared standard errors of each.")
    return np.asarray(estimates, float), np.asarray(variances, float), names
