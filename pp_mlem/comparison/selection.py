"""Choosing a size: one program fitted at several values of its keywords, scored in one table."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.digits import written
from pp_mlem.base.files import read_json, write_json
from pp_mlem.base.fingerprint import PYTHON, changed, digest
from pp_mlem.base.progress import Progress
from pp_mlem.comparison.compare import loo_of
from pp_mlem.estimate.estimators import check_methods, fit_by, method_names
from pp_mlem.fit.base import Fit
from pp_mlem.fit.saving import load
from pp_mlem.model.model import Model

CRITERIA = {
    "AIC": "aims at prediction; picks too many components more often than BIC",
    "BIC": "consistent for the number of components where scales are bounded away from zero; cautious "
    "in small samples",
    "ICL": "BIC less the entropy of the latents: asks for well separated components",
    "elpd_loo": "predictive (larger is better); trust it only where no Pareto k is above 0.7",
    "p_bootstrap": "parametric bootstrap likelihood-ratio test against the row before, McLachlan "
    "(1987), doi:10.2307/2347790; its level is that of each test, not of the sequence",
}
SMALLER = ("AIC", "BIC", "ICL")
RECORD = "select.json"


@dataclass
class Selection:
    """Fits of one program at several sizes.

    Attributes:
        table: DataFrame, one row per combination and method: the varied keywords, method,
            log_likelihood, parameters, AIC, BIC, ICL, elpd_loo and its se, p_bootstrap, status,
            seconds, note.
        fits: the fits by row label, such as "K=3 em"; failed ones are missing.
        varied: the keywords that varied and their values.
        criteria: what to keep in mind about each score.
        interrupted: the user stopped it; what was finished is here, and the fit that was cut and
            those after it are rows of status "interrupted" without a fit.
    """

    table: pd.DataFrame
    fits: dict[str, Fit]
    varied: dict[str, list]
    criteria: dict[str, str] = field(default_factory=lambda: dict(CRITERIA))
    interrupted: bool = False

    def best(self, criterion: str = "BIC") -> Fit:
        """The fit that a criterion prefers, among those that converged, ended at a boundary or
        are separated (any, when none did)."""
        return self.fits[self.chosen(criterion)]

    def chosen(self, criterion: str = "BIC") -> str:
        """Row label of the fit that a criterion prefers."""
        if criterion not in (*SMALLER, "elpd_loo"):
            raise ValueError(
                f"criterion: received {criterion!r}, expected one of {[*SMALLER, 'elpd_loo']}."
            )
        values = self.table.loc[list(self.fits), criterion].astype(float)
        sound = self.table.loc[values.index, "status"].isin(["converged", "boundary", "separation"])
        values = values[sound & values.notna()] if (sound & values.notna()).any() else values
        if values.notna().sum() == 0:
            raise ValueError(f"best: no fit has a finite {criterion}.")
        return str(values.idxmin() if criterion in SMALLER else values.idxmax())

    def plot(self) -> Any:
        """The criteria against the varied keyword."""
        return verbs.plot(self)

    def __repr__(self) -> str:
        shown = self.table.drop(columns=[c for c in ("note",) if c in self.table])
        shown = shown.dropna(axis=1, how="all")
        lines = [shown.to_string(float_format=lambda v: f"{v:.3f}")]
        if self.interrupted:
            lines.insert(0, f"! stopped by the user: {len(self.fits)} of {len(self.table)} fits")
        for name, caveat in self.criteria.items():
            if name in shown and name != "p_bootstrap" and self.fits:
                lines.append(f"{name}: {self.chosen(name)} ({caveat})")
            elif name in shown:
                lines.append(f"{name}: {caveat}")
        for label, note in self.table["note"].items():
            if note:
                lines.append(f"! {label}: {note}")
        return "\n".join(lines)


def _is_varied(value: Any) -> bool:
    if isinstance(value, range):
        return True
    plain = (str, bool, int, np.integer, type(None))
    return isinstance(value, (list, tuple)) and bool(value) and all(
        isinstance(v, plain) for v in value
    )  # fmt: skip


def select(
    program: Callable[..., Any],
    *args: Any,
    methods: Iterable[str] | str = ("em",),
    starts: int = 10,
    seed: int = 0,
    bootstrap: int = 0,
    bootstrap_starts: int = 4,
    latents: Iterable[str] = (),
    parameters: Iterable[str] = (),
    observe: Mapping[str, Any] | None = None,
    dtype: Any = None,
    chains: int = 4,
    draws: int = 1000,
    out: str | Path | None = None,
    progress: bool | None = None,
    **kwargs: Any,
) -> Selection:
    """Fit a program at every value of some keywords and score the fits in one table.

    A keyword given as a `range`, or as a list or tuple of whole numbers, strings or None, varies;
    several give every combination. Data go in as arrays.

    Args:
        program, *args, **kwargs: as for `Model`.
        methods: estimators, "em" unless told otherwise; "nuts" has an elpd_loo only.
        starts, seed, chains, draws: of the fits.
        bootstrap: replicates of the parametric bootstrap likelihood-ratio test of each value of the
            one varied keyword against the value before; 0 leaves it out. Each replicate is fitted
            from the fitted values and from `bootstrap_starts` starts.
        out: a folder; finished fits are kept there, and a run that was cut goes on from them.

    Returns:
        a `Selection`. A size that cannot be fitted is a row whose note says why.

    Raises:
        ValueError: when no keyword varies, or `out` holds another selection.
    """
    chosen = check_methods(methods)
    check_counts(starts=starts, bootstrap_starts=bootstrap_starts, chains=chains, draws=draws)
    check_counts(0, bootstrap=bootstrap)
    check_seed(seed)
    varied = {k: list(v) for k, v in kwargs.items() if _is_varied(v)}
    if not varied:
        raise ValueError(
            "select: no keyword varies. Give one as a range or a list of values, as in "
            "select(program, x, K=range(1, 9))."
        )
    if bootstrap and (
        len(varied) > 1 or not any(m in method_names(has_draws=False) for m in chosen)
    ):
        raise ValueError(
            "bootstrap: the likelihood-ratio test needs one varied keyword and a point method "
            f"(em, mle); received {list(varied)} and {list(chosen)}."
        )
    rest = {k: v for k, v in kwargs.items() if k not in varied}
    options = {"latents": tuple(latents), "parameters": tuple(parameters), "observe": observe,
               "dtype": dtype}  # fmt: skip
    settings = {"starts": starts, "seed": seed, "chains": chains, "draws": draws}
    folder = None if out is None else Path(out)
    if folder is not None:
        _claim(folder, program, args, rest, options, settings, "nuts" in chosen)
    rows, fits, interrupted = [], {}, False
    combinations = [
        dict(zip(varied, values, strict=True))
        for values in itertools.product(*(_distinct(v) for v in varied.values()))
    ]
    with Progress("select", len(combinations) * len(chosen), progress) as bar:
        for setting in combinations:
            name = " ".join(f"{k}={_told(v, varied[k])}" for k, v in setting.items())
            model, trouble = None, ""
            for method in chosen:
                label = f"{name} {method}"
                row: dict[str, Any] = _empty("interrupted", 0.0, "stopped by the user")
                fit = None
                try:
                    if not interrupted and model is None and not trouble:
                        model, trouble = _built(program, args, {**options, **rest, **setting})
                    if not interrupted:
                        found, fit = _one(model, trouble, label, method, folder, **settings)
                        interrupted = fit is not None and fit.interrupted
                        row, fit = (row, None) if interrupted else (found, fit)
                except KeyboardInterrupt:
                    interrupted = True
                rows.append({"label": label, **setting, "method": method, **row})
                if fit is not None:
                    fits[label] = fit
                bar.advance(len(rows), "fits", label)
    table = pd.DataFrame(rows).set_index("label")
    table.index.name = None
    if bootstrap:
        method = next(m for m in chosen if m in method_names(has_draws=False))
        table["p_bootstrap"] = np.nan
        interrupted = interrupted or _tests(
            table, fits, method, bootstrap, bootstrap_starts, seed, folder, progress
        )
    if interrupted:
        warnings.warn("select: stopped by the user; what was finished is kept", stacklevel=2)
    return Selection(table, fits, varied, interrupted=interrupted)


def _distinct(values: list) -> list:
    return list({(type(v), v): v for v in values}.values())


def _told(value: Any, values: list) -> str:
    """A varied value as a label shows it; a string that reads like another value is quoted."""
    alike = any(str(v) == str(value) and type(v) is not type(value) for v in values)
    return repr(value) if alike else str(value)


def _built(program: Any, args: tuple, options: dict) -> tuple[Model | None, str]:
    """The model, or why there is none."""
    try:
        return Model(program, *args, **options), ""
    except (ValueError, TypeError, FloatingPointError) as error:
        return None, str(error) or type(error).__name__


def _claim(
    folder: Path, program: Any, args: tuple, rest: dict, options: dict, settings: dict, nuts: bool
) -> None:
    """Mark the folder as this selection's, or refuse another's with what differs."""
    try:
        names = list(inspect.signature(program).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {i}" for i in range(len(names), len(args))]
    own: dict[str, Any] = {"format": 2, "program": digest(program), "python": PYTHON}
    given = [*zip(names, args, strict=False), *rest.items()]
    for name, value in given:
        data = hasattr(value, "shape") or isinstance(value, (list, tuple, dict))
        own[f"argument {name}, data" if data else f"argument {name}"] = digest(value)
    own |= {k: digest(sorted(v) if isinstance(v, tuple) else v) for k, v in options.items()}
    own |= {k: settings[k] for k in ("starts", "seed")}
    if nuts:
        own |= {k: settings[k] for k in ("chains", "draws")}
    path = folder / RECORD
    held = read_json(path, "out") if path.exists() else {}
    for key in ("chains", "draws"):  # they concern NUTS only, which either run may have left out
        own |= {key: held[key]} if key in held and key not in own else {}
        held |= {key: own[key]} if key in own and key not in held and held else {}
    if held and (differs := changed(held, own)):
        if "format" in differs:
            differs = ["the version of pp_mlem"]
        elif "python" in differs:
            differs = [f"Python {held['python']}, where this is {PYTHON}"]
        raise ValueError(
            f"out: {folder} holds another selection (it differs in {', '.join(differs)}). Choose "
            "another folder, or empty this one."
        )
    write_json(path, own, "out")


def _file_of(folder: Path, label: str) -> Path:
    """A file of its own for every label, whatever characters that has."""
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=-+_")
    name = "".join(
        c if c in plain else "." if c == " " else "".join(f"%{b:02X}" for b in c.encode())
        for c in label
    )
    if len(name) > 180:
        name = f"{name[:160]}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    return folder / f"{name}.nc"


def _empty(status: str, seconds: float, note: str) -> dict[str, Any]:
    scores = ("log_likelihood", "parameters", *SMALLER, "elpd_loo", "se")
    return {**dict.fromkeys(scores, np.nan), "status": status, "seconds": seconds, "note": note}


def _held(path: Path | None, model: Model) -> Fit | None:
    """The finished fit that a file holds; a damaged one, or one that was cut, is fitted anew."""
    if path is None or not path.exists():
        return None
    try:
        load(path)
    except ValueError as error:
        warnings.warn(f"{error} It is fitted anew.", stacklevel=4)
        return None
    fit = load(path, model)
    return None if fit.interrupted else fit


def _one(
    model: Model | None,
    trouble: str,
    label: str,
    method: str,
    folder: Path | None,
    starts: int,
    seed: int,
    chains: int,
    draws: int,
) -> tuple[dict[str, Any], Fit | None]:
    """The row of one fit, from the folder where it was finished before."""
    path = None if folder is None else _file_of(folder, label)
    clock = time.perf_counter()
    fit = None
    if model is not None:
        fit = _held(path, model)
    if model is not None and fit is None:
        try:
            fit = fit_by(
                method, model, starts=starts, seed=seed, chains=chains, draws=draws, progress=False
            )
            if path is not None and not fit.interrupted:
                fit.save(path)
        except (ValueError, TypeError, FloatingPointError) as error:
            fit, trouble = None, str(error) or type(error).__name__
    if fit is None:
        return _empty("failed", time.perf_counter() - clock, trouble), None
    if fit.interrupted:
        return _empty("interrupted", time.perf_counter() - clock, fit.status_note), fit
    elpd, se, caveat = loo_of(fit)
    notes = [] if fit.converged else [f"{fit.status} ({fit.status_note})"]
    notes += [caveat] if caveat else []
    return {
        "log_likelihood": fit.log_likelihood,
        "parameters": fit.n_parameters,
        "AIC": fit.aic,
        "BIC": fit.bic,
        "ICL": fit.icl,
        "elpd_loo": elpd,
        "se": se,
        "status": fit.status,
        "seconds": fit.seconds,
        "note": "; ".join(notes),
    }, fit


def _tests(
    table: pd.DataFrame,
    fits: dict[str, Fit],
    method: str,
    replicates: int,
    starts: int,
    seed: int,
    folder: Path | None,
    progress: bool | None,
) -> bool:
    """Fill in p_bootstrap, each size against the one before; whether the user stopped it."""
    labels = [i for i in table.index if table.loc[i, "method"] == method]
    path = None if folder is None else folder / f"bootstrap-{replicates}-{starts}.json"
    kept = read_json(path, "out") if path is not None and path.exists() else {}
    with Progress("bootstrap", replicates * (len(labels) - 1), progress) as bar:
        done = 0
        for before, after in itertools.pairwise(labels):
            pair = f"{before} < {after}"
            if before in fits and after in fits and pair not in kept:
                try:
                    test = likelihood_ratio_test(
                        fits[before], fits[after], replicates, starts, seed,
                        lambda i, done=done, after=after: bar.advance(done + i, "refits", after),
                    )  # fmt: skip
                    if test.interrupted:
                        return True
                    kept[pair] = [test.p_value, ""]
                except KeyboardInterrupt:
                    return True
                except ValueError as error:
                    kept[pair] = [None, f"no bootstrap test: {error}"]
                if path is not None:
                    write_json(path, kept, "out")
            if pair in kept:
                p_value, told = kept[pair]
                table.loc[after, "p_bootstrap"] = np.nan if p_value is None else p_value
                was = table.loc[after, "note"]
                if told:
                    table.loc[after, "note"] = f"{was}; {told}" if was else told
            done += replicates
    return False


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
    for name, fit in (("smaller", smaller), ("larger", larger)):
        if not isinstance(fit, Fit):
            raise TypeError(
                f"{name}: received {type(fit).__name__}, expected a Fit, of fit_em say."
            )
    check_counts(replicates=replicates, starts=starts)
    check_seed(seed)
    small, large = (
        smaller.model_for("likelihood_ratio_test"),
        larger.model_for("likelihood_ratio_test"),
    )
    if small.observe or large.observe:
        raise ValueError(
            "likelihood_ratio_test: labels given by observe= belong to one data set and one number "
            "of components; fit both models without them."
        )
    statistic = 2 * (larger.log_likelihood - smaller.log_likelihood)
    method = (
        smaller.method.lower() if smaller.method.lower() in method_names(has_draws=False) else "em"
    )
    null, failed, interrupted = [], 0, False

    def end(model: Model, fit: Fit, i: int) -> float:
        refits = [fit_by(method, model, starts=1, seed=i, progress=False, init=fit.params)]
        if model.latent_names:
            refits.append(fit_by(method, model, starts=starts, seed=i, progress=False))
        if any(f.interrupted for f in refits):
            raise KeyboardInterrupt
        usable = ("converged", "boundary", "separation", "flat", "max_iter")
        sound = [f for f in refits if f.status in usable]
        return max((f.log_likelihood for f in sound), default=np.nan)

    for i in range(replicates):
        try:
            drawn = small.redraw(smaller.params, seed=seed * 100_003 + i)
            ends = [end(drawn, smaller, i), end(large.with_observations_of(drawn), larger, i)]
        except KeyboardInterrupt:
            if not null:
                raise
            interrupted, replicates = True, i
            break
        if np.all(np.isfinite(ends)):
            null.append(max(2 * (ends[1] - ends[0]), 0.0))
        else:
            failed += 1
        if on_step is not None:
            on_step(i + 1)
    if len(null) < 0.5 * replicates:
        raise ValueError(
            f"{failed} of {replicates} bootstrap refits failed (collapsed or spurious), so the "
            "test means nothing. Give the scales a prior and use MAP, or fewer components."
        )
    larger_ones = int(np.sum(np.asarray(null) >= statistic - 1e-9))
    return LikelihoodRatioTest(
        float(statistic), np.asarray(null), (1 + larger_ones) / (1 + len(null)), failed,
        interrupted,
    )  # fmt: skip
