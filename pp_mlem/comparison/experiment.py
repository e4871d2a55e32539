"""Simulation studies: data drawn from the program, fitted by each method, errors and coverage
counted."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.checks import check_counts, check_level, check_seed
from pp_mlem.base.digits import written
from pp_mlem.base.fingerprint import digest
from pp_mlem.base.interrupts import watching
from pp_mlem.base.lazy import pd, xr
from pp_mlem.base.precision import working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.comparison.compare import towards
from pp_mlem.comparison.study import STATUS, Study, fingerprint
from pp_mlem.estimate.estimators import check_methods, fit_by
from pp_mlem.estimate.point import check_model
from pp_mlem.fit.base import Fit
from pp_mlem.model.held import with_held_entries
from pp_mlem.model.model import Model
from pp_mlem.program.space import scalar_names

SAVE_EVERY = 15.0  # seconds between writes of an unfinished study


@dataclass(frozen=True)
class Experiment:
    """A simulation study.

    Attributes:
        truth: the parameters that data were drawn at.
        results: Dataset with estimate, error, low, high (method, replicate, scalar), and
            log_likelihood, seconds (method, replicate); `status` (method, replicate).
        level: of the intervals.
        interrupted: the user stopped it; the data sets that were finished are here.
    """

    truth: pd.Series
    results: xr.Dataset
    level: float
    interrupted: bool = False

    def summary(self) -> pd.DataFrame:
        """One row per method and scalar: truth, bias and its Monte Carlo error, sd, RMSE, mean
        standard error, coverage of the intervals and its Monte Carlo error, and how many
        replicates had an interval."""
        rows = [
            {"method": str(method), "scalar": name, "truth": truth}
            | _errors(truth, self.results.sel({"method": method, "scalar": name}))
            for method in self.results["method"].values
            for name, truth in self.truth.items()
        ]
        return pd.DataFrame(rows).set_index(["method", "scalar"])

    @property
    def statuses(self) -> pd.DataFrame:
        """How the fits ended, and seconds a fit, by method."""
        rows = {}
        for method in self.results["method"].values:
            results = self.results.sel({"method": method})
            counts = pd.Series(results["status"].values.astype(str)).value_counts()
            rows[str(method)] = {
                **{k: int(v) for k, v in counts.items() if k},
                "median seconds": float(np.nanmedian(results["seconds"].values)),
            }
        return pd.DataFrame(rows).T

    def __repr__(self) -> str:
        done = int(np.isfinite(self.results["seconds"].values).all(0).sum())
        return (
            ("! stopped by the user: " if self.interrupted else "")
            + f"{done} data sets, {100 * self.level:g}% intervals\n"
            + self.summary().to_string(float_format=written)
            + "\n"
            + self.statuses.to_string(float_format=lambda v: f"{v:.3f}")
        )


def _errors(truth: float, results: xr.Dataset) -> dict[str, float]:
    """Errors of one scalar's estimates and of its intervals, over the replicates."""
    estimate = results["estimate"].values
    error = estimate[np.isfinite(estimate)] - truth
    low, high = results["low"].values, results["high"].values
    has_interval = np.isfinite(low) & np.isfinite(high)
    inside = (low[has_interval] <= truth) & (truth <= high[has_interval])
    intervals = int(has_interval.sum())
    coverage = float(inside.mean()) if intervals else np.nan
    n, m = max(len(error), 1), max(intervals, 1)
    return {
        "bias": error.mean() if len(error) else np.nan,
        "bias_mcse": error.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
        "sd": error.std(ddof=1) if n > 1 else np.nan,
        "rmse": np.sqrt((error**2).mean()) if len(error) else np.nan,
        "mean_se": np.nanmean(results["error"].values) if intervals else np.nan,
        "coverage": coverage,
        "coverage_mcse": np.sqrt(max(coverage * (1 - coverage), 0) / m),
        "intervals": intervals,
    }


def experiment(
    model: Model,
    params: Mapping[str, Any],
    replicates: int = 100,
    methods: Iterable[str] | str = ("em",),
    starts: int = 5,
    seed: int = 0,
    *,
    level: float = 0.95,
    chains: int = 2,
    draws: int = 500,
    fixed: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Experiment:
    """Draw data sets from the program at given parameters, fit each by each method, and count.

    Args:
        model: gives the program, the covariates and the shape of the data.
        params: constrained values of every parameter, the truth.
        replicates: number of data sets.
        methods: estimators by name.
        starts: per fit. Labels are aligned to the truth.
        seed: data set i is drawn with seed + i, whatever the methods.
        fixed: what every fit holds, as in `fit_em`; the truth need not agree with it.
        level: of the intervals: Wald for point fits, central posterior ones for the others.
        out: a netCDF file; written as the study runs, and a study that was cut goes on from it.

    Raises:
        ValueError: for data that cannot be drawn (see `Model.redraw`), or a file of another study.
    """
    chosen = check_methods(methods)
    check_counts(replicates=replicates, starts=starts)
    check_level(level)
    check_seed(seed)
    check_model(model, None)
    check_counts(chains=chains, draws=draws)
    with working_precision(model.dtype):
        truth = {k: np.asarray(v) for k, v in model.check_params(params).items()}
    names = list(scalar_names(model.space))
    flat = pd.Series(np.concatenate([np.ravel(truth[n]) for n in model.space.names]), index=names)
    model.redraw(truth, seed)
    _, _, reference = with_held_entries(model, fixed or {}, truth)
    settings: dict[str, Any] = {"starts": starts, "seed": seed, "level": level}
    if fixed:
        settings["fixed"] = digest(dict(fixed))
    if "nuts" in chosen:
        settings |= {"chains": chains, "draws": draws}
    path = None if out is None else Path(out)
    record = fingerprint(model, truth, **settings)
    study = Study(path, record, chosen, replicates, names)
    saved, interrupted = time.perf_counter(), False
    try:
        with watching() as watch, Progress("study", replicates, progress) as bar:
            for i in range(replicates):
                todo = study.missing(chosen, i)
                drawn = model.redraw(truth, seed + i) if todo else model
                for method in todo:
                    fit = functools.partial(
                        fit_by, method, drawn, starts=starts, seed=seed + i, chains=chains,
                        draws=draws, fixed=fixed, progress=False,
                    )  # fmt: skip
                    cells = _cells(fit, reference, level, names)
                    watch.stop_if_pressed()
                    study.put(method, i, cells)
                bar.advance(i + 1, "data sets", ", ".join(chosen))
                if todo and time.perf_counter() - saved > SAVE_EVERY:
                    study.save()
                    saved = time.perf_counter()
    except KeyboardInterrupt:
        interrupted = True
        warnings.warn("experiment: stopped by the user; what was finished is kept", stacklevel=2)
    finally:
        study.save()
    return Experiment(flat, study.of(chosen, replicates), level, interrupted)


def _cells(
    fit: Callable[[], Fit], reference: dict[str, Any], level: float, names: list[str]
) -> dict[str, Any]:
    """What the results hold of one fit of one data set."""
    clock = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = fit()
            if fitted.interrupted:
                raise KeyboardInterrupt
            fitted = towards(fitted, reference)
            limits = fitted.intervals(level=level).reindex(names)
            cells = {
                "estimate": fitted.estimates().reindex(names).to_numpy(),
                "error": fitted.standard_errors().reindex(names).to_numpy(),
                "low": limits["low"].to_numpy(),
                "high": limits["high"].to_numpy(),
                "log_likelihood": fitted.log_likelihood,
                "status": fitted.status,
            }
    except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
        cells = {"status": f"failed: {error}"[:STATUS]}
    return {**cells, "seconds": time.perf_counter() - clock}
