"""Simulation studies: data drawn from the program, fitted by each method, errors and coverage
counted; and simulation-based calibration of the posterior."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats as scipy_stats

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_counts, check_level, check_seed
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.digits import written
from pp_mlem.base.files import verified, write_netcdf
from pp_mlem.base.fingerprint import PYTHON, changed, digest
from pp_mlem.base.precision import working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.diagnose.labels import align, sort_labels
from pp_mlem.estimate.estimators import check_methods, fit_by
from pp_mlem.estimate.nuts import fit_nuts
from pp_mlem.estimate.point import check_model
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.program.draw import drawing_function
from pp_mlem.program.sites import Role
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
        rows = []
        for method in self.results["method"].values:
            found = self.results.sel({"method": method})
            for name in self.truth.index:
                value = found["estimate"].sel(scalar=name).values
                seen = np.isfinite(value)
                error = value[seen] - self.truth[name]
                low, high = (found[k].sel(scalar=name).values for k in ("low", "high"))
                told = np.isfinite(low) & np.isfinite(high)
                inside = (low[told] <= self.truth[name]) & (self.truth[name] <= high[told])
                n, m = max(int(seen.sum()), 1), max(int(told.sum()), 1)
                cover = float(inside.mean()) if told.any() else np.nan
                rows.append(
                    {
                        "method": str(method),
                        "scalar": name,
                        "truth": self.truth[name],
                        "bias": error.mean() if seen.any() else np.nan,
                        "bias_mcse": error.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
                        "sd": error.std(ddof=1) if n > 1 else np.nan,
                        "rmse": np.sqrt((error**2).mean()) if seen.any() else np.nan,
                        "mean_se": np.nanmean(found["error"].sel(scalar=name).values)
                        if told.any()
                        else np.nan,
                        "coverage": cover,
                        "coverage_mcse": np.sqrt(max(cover * (1 - cover), 0) / m),
                        "intervals": int(told.sum()),
                    }
                )
        return pd.DataFrame(rows).set_index(["method", "scalar"])

    @property
    def statuses(self) -> pd.DataFrame:
        """How the fits ended, and seconds a fit, by method."""
        rows = {}
        for method in self.results["method"].values:
            found = self.results.sel({"method": method})
            counts = pd.Series(found["status"].values.astype(str)).value_counts()
            rows[str(method)] = {
                **{k: int(v) for k, v in counts.items() if k},
                "median seconds": float(np.nanmedian(found["seconds"].values)),
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


def _fingerprint(model: Model, truth: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    at = {f"truth {k}": digest(np.asarray(v, float)) for k, v in truth.items()}
    return {"format": 2, **model.fingerprint, **at, **settings}


def experiment(
    model: Model,
    params: Mapping[str, Any],
    replicates: int = 100,
    methods: Iterable[str] | str = ("em",),
    starts: int = 5,
    seed: int = 0,
    level: float = 0.95,
    chains: int = 2,
    draws: int = 500,
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
    settings = {"starts": starts, "seed": seed, "level": level}
    if "nuts" in chosen:
        settings |= {"chains": chains, "draws": draws}
    path = None if out is None else Path(out)
    results = _resumed(path, _fingerprint(model, truth, **settings), chosen, replicates, names)
    written, interrupted = time.perf_counter(), False
    try:
        with Progress("study", replicates, progress) as bar:
            for i in range(replicates):
                todo = [m for m in chosen if not np.isfinite(
                    results["seconds"].sel({"method": m}).values[i])]  # fmt: skip
                if todo:
                    drawn = model.redraw(truth, seed + i)
                for method in todo:
                    _record(
                        results, method, i, drawn, truth, starts, seed + i, level, chains, draws
                    )
                bar.advance(i + 1, "data sets", ", ".join(chosen))
                if path is not None and todo and time.perf_counter() - written > SAVE_EVERY:
                    write_netcdf(path, results, "out")
                    written = time.perf_counter()
    except KeyboardInterrupt:
        interrupted = True
        warnings.warn("experiment: stopped by the user; what was finished is kept", stacklevel=2)
    finally:
        if path is not None:
            write_netcdf(path, results, "out")
    shown = results.sel({"method": list(chosen)}).isel(replicate=slice(replicates))
    return Experiment(flat, shown, level, interrupted)


def _table_of_results(methods: list[str], replicates: int, names: list[str]) -> xr.Dataset:
    shape = (len(methods), replicates, len(names))
    cells = ("method", "replicate", "scalar")
    return xr.Dataset(
        {
            **{k: (cells, np.full(shape, np.nan)) for k in ("estimate", "error", "low", "high")},
            **{k: (cells[:2], np.full(shape[:2], np.nan)) for k in ("log_likelihood", "seconds")},
            "status": (cells[:2], np.full(shape[:2], "", dtype="<U24")),
        },
        coords={"method": methods, "scalar": names},
    )


def _resumed(
    path: Path | None,
    mark: dict[str, Any],
    methods: tuple[str, ...],
    replicates: int,
    names: list[str],
) -> xr.Dataset:
    """A table of results for what is asked and what the file already holds, filled with that."""
    held, old = _held(path)
    for key in ("chains", "draws"):  # they concern NUTS only, which either run may have left out
        mark |= {key: old[key]} if key in old and key not in mark else {}
        old |= {key: mark[key]} if key in mark and key not in old and old else {}
    differs = changed(old, mark) if old else []
    if differs:
        if "format" in differs:
            differs = ["the version of pp_mlem"]
        elif "python" in differs:
            differs = [f"Python {old['python']}, where this is {PYTHON}"]
        raise ValueError(
            f"out: {path} holds another study (it differs in {', '.join(differs)}). Choose "
            "another file."
        )
    if held is None:
        results = _table_of_results(list(methods), replicates, names)
    else:
        every = list(dict.fromkeys([*map(str, held["method"].values), *methods]))
        results = _table_of_results(every, max(replicates, held.sizes["replicate"]), names)
        for method in map(str, held["method"].values):
            for name in results.data_vars:
                found = held[name].sel({"method": method}).values
                results[name].loc[{"method": method}][: len(found)] = found
    results.attrs["fingerprint"] = json.dumps(mark)
    return results


def _held(path: Path | None) -> tuple[xr.Dataset | None, dict[str, Any]]:
    """What a file of an unfinished study holds, and the fingerprint of that study."""
    if path is None or not path.exists():
        return None, {}
    try:
        sealed = verified(path, "out")
        with xr.open_dataset(path, engine="netcdf4") as opened:
            held = opened.load()
        mark = json.loads(held.attrs["fingerprint"]) if sealed else {"format": 1}
        if not isinstance(mark, dict):
            raise ValueError("its fingerprint is no record")
    except Exception as error:
        raise ValueError(
            f"out: {path} cannot be read as a study ({type(error).__name__}: {error}). Remove it, "
            "or choose another file."
        ) from error
    if not sealed and "fingerprint" not in held.attrs:
        raise ValueError(f"out: {path} holds no study. Choose another file.")
    return held, mark


def _record(
    results: xr.Dataset,
    method: str,
    i: int,
    model: Model,
    truth: dict,
    starts: int,
    seed: int,
    level: float,
    chains: int,
    draws: int,
) -> None:
    clock = time.perf_counter()
    at: dict[str, Any] = {"method": method, "replicate": i}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = fit_by(
                method, model, starts=starts, seed=seed, chains=chains, draws=draws, progress=False
            )
            if fit.interrupted:
                raise KeyboardInterrupt
            fit = _towards(fit, truth)
            limits, errors = fit.intervals(level=level), fit.standard_errors().to_numpy()
        results["estimate"].loc[at] = fit.estimates().to_numpy()
        results["error"].loc[at] = errors
        results["low"].loc[at] = limits["low"].to_numpy()
        results["high"].loc[at] = limits["high"].to_numpy()
        results["log_likelihood"].loc[at] = fit.log_likelihood
        results["status"].loc[at] = fit.status
    except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
        results["status"].loc[at] = f"failed: {error}"[:24]
    results["seconds"].loc[at] = time.perf_counter() - clock


def _towards(fit: Fit, truth: dict) -> Fit:
    """The fit with its labels aligned to the truth."""
    if not fit.groups:
        return fit
    moved = align(fit.params, truth, fit.groups, fit.model)
    same = all(np.array_equal(moved[k], fit.params[k]) for k in moved)
    return fit if same else fit.relabelled(truth)


# --- simulation-based calibration -----------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Ranks of the true values among posterior draws (Talts et al. 2018, arXiv:1804.06788).

    Attributes:
        ranks: DataFrame (replicates, scalars), whole numbers from 0 to `draws`.
        draws: how many (thinned) draws each rank is among.
        divergences: of each replicate.
        interrupted: the user stopped it; the replicates that were finished are here.
    """

    ranks: pd.DataFrame
    draws: int
    divergences: np.ndarray
    interrupted: bool = False

    def uniformity(self, bins: int | None = None) -> pd.DataFrame:
        """Chi-squared test that the ranks are uniform, per scalar: statistic and p-value."""
        n = len(self.ranks)
        levels = self.draws + 1
        bins = int(np.clip(n // 10, 2, 20)) if bins is None else bins
        edges = np.linspace(0, levels, bins + 1)
        expected = np.diff(np.ceil(edges)) / levels * n
        rows = {}
        for name, ranks in self.ranks.items():
            counts = np.histogram(ranks, np.ceil(edges) - 0.5)[0]
            statistic, p = scipy_stats.chisquare(counts, expected)
            rows[name] = {"chi2": statistic, "p": p}
        return pd.DataFrame(rows).T

    def plot(self, scalars: int = 12) -> Any:
        """Rank histograms with the band that uniform ranks stay in 99% of the time."""
        return verbs.plot(self, scalars)

    def __repr__(self) -> str:
        head = "! stopped by the user: " if self.interrupted else ""
        head += f"{len(self.ranks)} data sets, ranks among {self.draws} draws"
        return head + "\n" + self.uniformity().to_string(float_format=written)


def calibrate(
    model: Model,
    replicates: int = 200,
    warmup: int = 300,
    draws: int = 495,
    thin: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    """Simulation-based calibration of `fit_nuts`: parameters from the prior, data from the
    program, and the rank of each parameter among the draws of its posterior.

    Exchangeable components are put in one order, truth and draws alike, so that ranks do not
    depend on labels. Two chains are run and thinned by `thin`.

    Raises:
        ValueError: when a parameter has no prior, or data cannot be drawn.
    """
    check_model(model, None)
    check_counts(replicates=replicates, warmup=warmup, draws=draws, thin=thin)
    check_seed(seed)
    flat = [s.name for s in model.reading.with_role(Role.PARAMETER) if not s.prior]
    if flat:
        raise ValueError(f"calibrate: parameters {flat} have no prior to draw from.")
    names = list(scalar_names(model.space))
    ranks, divergences = [], []
    kept, interrupted = 0, False
    draw = drawing_function(model.arguments)
    draw = quick_jit(draw) if model.arguments.traced else draw

    def one(i: int) -> tuple[np.ndarray, int, int]:
        with working_precision(model.dtype):
            arrays = model.arguments.device_arrays()
            drawn, _ = draw(arrays, {}, jax.random.key(seed + i))
        truth = {n: np.asarray(drawn[n]) for n in model.space.names}
        fit = fit_nuts(
            model.redraw(truth, seed + i), 2, warmup, draws, seed + i, init=truth, progress=False
        )
        if fit.interrupted:
            raise KeyboardInterrupt
        truth = sort_labels(truth, fit.groups, fit.model)
        thinned = {k: v[:, ::thin].reshape(-1, *v.shape[2:]) for k, v in fit.draws.items()}
        ordered = _in_order(thinned, fit.groups, fit.model)
        count = len(next(iter(ordered.values())))
        row = [
            (ordered[n].reshape(count, -1) < np.ravel(truth[n])).sum(0) for n in model.space.names
        ]
        return np.concatenate(row), fit.diagnostics["divergences"], count

    with Progress("calibrate", replicates, progress) as bar:
        for i in range(replicates):
            try:
                row, divergent, kept = one(i)
            except KeyboardInterrupt:
                if not ranks:
                    raise
                interrupted = True
                warnings.warn(
                    "calibrate: stopped by the user; what was finished is here", stacklevel=2
                )
                break
            ranks.append(row)
            divergences.append(divergent)
            bar.advance(i + 1, "data sets", f"{sum(divergences)} divergences")
    table = pd.DataFrame(np.array(ranks), columns=names)
    return Calibration(table, kept, np.array(divergences), interrupted)


def _in_order(draws: dict[str, np.ndarray], groups: tuple, model: Model) -> dict[str, np.ndarray]:
    """Every draw with its components in the canonical order of `sort_labels`."""
    if not groups:
        return draws
    count = len(next(iter(draws.values())))
    rows = [sort_labels({k: v[i] for k, v in draws.items()}, groups, model) for i in range(count)]
    return {k: np.stack([r[k] for r in rows]) for k in draws}
