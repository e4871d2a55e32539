"""Choosing a size: one program fitted at several values of its keywords, scored in one table."""

from __future__ import annotations

import functools
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.interrupts import Watch, watching
from pp_mlem.base.lazy import pd
from pp_mlem.base.progress import Progress
from pp_mlem.comparison.folder import Folder, record_of
from pp_mlem.comparison.growth import ANOTHER, fit_before, is_below, joined, reached, split_from
from pp_mlem.comparison.ratio_test import likelihood_ratio_test
from pp_mlem.comparison.scores import NO_LOO, loo_of, scores_of
from pp_mlem.estimate.estimators import check_methods, fit_by, method_names
from pp_mlem.estimate.splits import Split
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.sources.fields import NotWhole

CRITERIA = {
    "AIC": "aims at prediction; picks too many components more often than BIC",
    "BIC": "consistent for the number of components where scales are bounded away from zero; cautious "
    "in small samples",
    "ICL": "BIC less the entropy of the latents: asks for well separated components",
    "elpd_loo": "predictive (larger is better); blank where a Pareto k says that it would be noise",
    "p_bootstrap": "parametric bootstrap likelihood-ratio test against the row before, McLachlan "
    "(1987), doi:10.2307/2347790; its level is that of each test, not of the sequence",
}
SMALLER = ("AIC", "BIC", "ICL")


@dataclass
class Selection:
    """Fits of one program at several sizes.

    Attributes:
        table: DataFrame, one row per combination and method: the varied keywords, method,
            log_likelihood, reached (by how many of the starts), parameters, AIC, BIC, ICL, elpd_loo and
            its se, p_bootstrap, status, seconds, note.
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
            hint = (
                " Point fits have one with select(..., loo=True)."
                if criterion == "elpd_loo"
                else ""
            )
            raise ValueError(f"best: no fit has a finite {criterion}.{hint}")
        return str(values.idxmin() if criterion in SMALLER else values.idxmax())

    def plot(self) -> Any:
        """The criteria against the varied keyword."""
        return verbs.plot(self)

    def __repr__(self) -> str:
        told_by_labels = [c for c in ("note", "method", *self.varied) if c in self.table]
        shown = self.table.drop(columns=told_by_labels).dropna(axis=1, how="all")
        shown = shown.rename(columns={"log_likelihood": "log-lik", "parameters": "df"})
        lines = [shown.to_string(float_format=lambda v: f"{v:.3f}", na_rep="-")]
        if self.interrupted:
            lines.insert(0, f"! stopped by the user: {len(self.fits)} of {len(self.table)} fits")
        for name, caveat in self.criteria.items():
            finite = name in shown and shown.loc[list(self.fits), name].notna().any()
            if finite and name != "p_bootstrap":
                lines.append(f"{name}: {self.chosen(name)} ({caveat})")
            elif name in shown:
                lines.append(f"{name}: {caveat}")
        for label, note in self.table["note"].items():
            if note:
                lines.append(f"! {label}: {note}")
        return "\n".join(lines)


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
    dims: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    chains: int = 4,
    draws: int = 1000,
    loo: bool | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **kwargs: Any,
) -> Selection:
    """Fit a program at every value of some keywords and score the fits in one table.

    A keyword given as a `range`, or as a list or tuple of whole numbers, strings or None, varies;
    several give every combination. Data go in as arrays.

    Local optima grow with the size, and so does the number of starts. Beside `starts` of its own a size has
    some that are split from the solution of the nearest smaller one, where a finite latent has grown: half
    of `starts` for each value that it had before (as many as `starts` where the data are large). A maximum
    likelihood below that of a size with fewer parameters, or one that only spurious starts reach, is sought
    once more from as many other starts, and told where it stays below. `reached` tells how many starts came
    to the optimum.

    Args:
        program, *args, **kwargs: as for `Model`.
        methods: estimators, "em" unless told otherwise; "nuts" has an elpd_loo only.
        starts, seed, chains, draws: of the fits.
        fixed: what every fit holds, as in `fit_em`.
        loo: whether to estimate elpd_loo; None: of methods with draws of the posterior only. Of point
            fits it comes from a normal approximation, for which every size compiles its second derivatives.
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
    _check_varied(varied, bootstrap, chosen)
    rest = {k: v for k, v in kwargs.items() if k not in varied}
    options = {"latents": tuple(latents), "parameters": tuple(parameters), "observe": observe,
               "dtype": dtype}  # fmt: skip
    options |= {k: v for k, v in {"dims": dims, "coords": coords}.items() if v is not None}
    settings = {"starts": starts, "seed": seed, "chains": chains, "draws": draws}
    folder = Folder(None if out is None else Path(out))
    if folder.path is not None:
        told = {**options, **({"fixed": dict(fixed)} if fixed else {})}
        folder.claim(record_of(program, args, rest, told, settings, "nuts" in chosen))
    combinations = _combinations(varied)
    fits = len(combinations) * len(chosen)
    with watching() as watch, Progress("select", fits, progress) as bar:
        run = _Run(folder, settings, fixed or {}, loo, watch)
        for setting in combinations:
            name = " ".join(f"{k}={_shown(v, varied[k])}" for k, v in setting.items())
            build = functools.cache(
                functools.partial(_built, program, args, {**options, **rest, **setting})
            )
            for method in chosen:
                label = f"{name} {method}"
                run.fit(label, setting, method, build)
                bar.advance(len(run.rows), "fits", label)
    table = pd.DataFrame(run.rows).set_index("label")
    table.index.name = None
    interrupted = run.interrupted
    if bootstrap:
        method = next(m for m in chosen if m in method_names(has_draws=False))
        table["p_bootstrap"] = np.nan
        tests = _Tests(folder, bootstrap, bootstrap_starts, seed)
        interrupted = interrupted or tests.fill(table, run.fits, method, progress)
    if interrupted:
        warnings.warn("select: stopped by the user; what was finished is kept", stacklevel=2)
    return Selection(table, run.fits, varied, interrupted=interrupted)


def _check_varied(varied: dict[str, list], bootstrap: int, methods: tuple[str, ...]) -> None:
    if not varied:
        raise ValueError(
            "select: no keyword varies. Give one as a range or a list of values, as in "
            "select(program, x, K=range(1, 9))."
        )
    if bootstrap and (len(varied) > 1 or not set(methods) & set(method_names(has_draws=False))):
        raise ValueError(
            "bootstrap: the likelihood-ratio test needs one varied keyword and a point method "
            f"(em, mle); received {list(varied)} and {list(methods)}."
        )


def _is_varied(value: Any) -> bool:
    if isinstance(value, range):
        return True
    plain = (str, bool, int, np.integer, type(None))
    return isinstance(value, (list, tuple)) and bool(value) and all(
        isinstance(v, plain) for v in value
    )  # fmt: skip


def _combinations(varied: dict[str, list]) -> list[dict[str, Any]]:
    distinct = ({(type(v), v): v for v in values}.values() for values in varied.values())
    return [dict(zip(varied, values, strict=True)) for values in itertools.product(*distinct)]


def _shown(value: Any, values: list) -> str:
    """A varied value as a label shows it; a string that reads like another value is quoted."""
    alike = any(str(v) == str(value) and type(v) is not type(value) for v in values)
    return repr(value) if alike else str(value)


def _built(program: Any, args: tuple, options: dict) -> tuple[Model | None, str]:
    """The model, or why there is none."""
    try:
        return Model(program, *args, **options), ""
    except NotWhole:  # of the data, whatever varies
        raise
    except (ValueError, TypeError, FloatingPointError) as error:
        return None, str(error) or type(error).__name__


def _no_fit(status: str, seconds: float, note: str) -> dict[str, Any]:
    return {
        "log_likelihood": np.nan,
        "reached": "",
        **dict.fromkeys(("parameters", *SMALLER, "elpd_loo", "se"), np.nan),
        "status": status,
        "seconds": seconds,
        "note": note,
    }


@dataclass
class _Run:
    """The rows and fits of a selection while it runs."""

    folder: Folder
    settings: dict[str, int]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    loo: bool | None = None
    watch: Watch = field(default_factory=Watch)
    rows: list[dict[str, Any]] = field(default_factory=list)
    fits: dict[str, Fit] = field(default_factory=dict)
    finished: dict[str, list[tuple[dict[str, Any], Fit]]] = field(default_factory=dict)
    interrupted: bool = False

    def fit(
        self,
        label: str,
        setting: dict[str, Any],
        method: str,
        build: Callable[[], tuple[Model | None, str]],
    ) -> None:
        """Add a row; after Ctrl-C without a fit."""
        row, fit = _no_fit("interrupted", 0.0, "stopped by the user"), None
        if not self.interrupted:
            try:
                row, fit = self._fitted(label, setting, method, build)
            except KeyboardInterrupt:
                self.interrupted = True
        self.rows.append({"label": label, **setting, "method": method, **row})
        if fit is not None:
            self.fits[label] = fit
            self.finished.setdefault(method, []).append((setting, fit))

    def _fitted(
        self,
        label: str,
        setting: dict[str, Any],
        method: str,
        build: Callable[[], tuple[Model | None, str]],
    ) -> tuple[dict[str, Any], Fit | None]:
        """The row of one fit, from the folder where it was finished before."""
        model, trouble = build()
        clock = time.perf_counter()
        fit, smaller = None, fit_before(setting, self.finished.get(method, []))
        if model is not None:
            try:
                fit = self._found(label, method, model, smaller)
            except (ValueError, TypeError, FloatingPointError) as error:
                trouble = str(error) or type(error).__name__
        if fit is None:
            return _no_fit("failed", time.perf_counter() - clock, trouble), None
        wanted = fit.has_draws if self.loo is None else self.loo
        loo = loo_of(fit) if wanted else NO_LOO
        best, starts = reached(fit)
        notes = [] if fit.converged else [f"{fit.status} ({fit.status_note})"]
        if best == 1 < starts and not isinstance(model, StreamedModel):  # whose starts are distinct
            notes.append(
                "its optimum was reached by one start only: more starts may find a higher one"
            )
        if is_below(fit, smaller) and fit.converged:
            notes.append(
                "its log-likelihood is below that of a smaller size: its maximum was not found"
            )
        scores = scores_of(fit, loo)
        row = {
            "log_likelihood": scores.pop("log_likelihood"),
            "reached": f"{best} of {starts}" if starts else "",
            **scores,
            "status": fit.status,
            "seconds": fit.seconds,
            "note": "; ".join([*notes, *loo.told]),
        }
        return row, fit

    def _found(self, label: str, method: str, model: Model, smaller: Fit | None) -> Fit:
        """The fit, sought once more where it is below a smaller one."""
        fit = self.folder.held(label, model)
        split: Split | None = None
        if fit is None:
            split = split_from(smaller, model, self.settings["starts"])
            fit = self._by(method, model, split, 0)
            self.folder.keep(label, fit)
        if isinstance(fit, PointFit) and is_below(fit, smaller):
            split = split or split_from(smaller, model, self.settings["starts"])
            try:
                fit = joined(fit, self._by(method, model, split, ANOTHER))
            except KeyboardInterrupt:
                self.interrupted = True
            else:
                self.folder.keep(label, fit)
        return fit

    def _by(self, method: str, model: Model, split: Split | None, more: int) -> Any:
        """A fit from the starts of its own and those that are split, by another seed where `more` is added."""
        starts, seed = self.settings["starts"], self.settings["seed"] + more
        own: dict[str, Any] = {**self.settings, "seed": seed, "fixed": self.fixed}
        if split is not None:
            own |= {"starts": starts + split.count, "init": split}
        fit = fit_by(method, model, **own, progress=False)
        if fit.interrupted:
            raise KeyboardInterrupt
        self.watch.stop_if_pressed()
        return fit


@dataclass(frozen=True)
class _Tests:
    """The likelihood-ratio tests of each size against the one before."""

    folder: Folder
    replicates: int
    starts: int
    seed: int

    def fill(
        self, table: pd.DataFrame, fits: dict[str, Fit], method: str, progress: bool | None
    ) -> bool:
        """Fill in p_bootstrap; whether the user stopped it."""
        labels = [i for i in table.index if table.loc[i, "method"] == method]
        kept = self.folder.tests(self.replicates, self.starts)
        with Progress("bootstrap", self.replicates * (len(labels) - 1), progress) as bar:
            for i, (before, after) in enumerate(itertools.pairwise(labels)):
                pair = f"{before} < {after}"
                if before in fits and after in fits and pair not in kept:
                    done = i * self.replicates
                    step = functools.partial(_advance, bar, done, after)
                    try:
                        kept[pair] = self._test(fits[before], fits[after], step)
                    except KeyboardInterrupt:
                        return True
                    self.folder.keep_tests(self.replicates, self.starts, kept)
                if pair in kept:
                    p_value, note = kept[pair]
                    table.loc[after, "p_bootstrap"] = np.nan if p_value is None else p_value
                    notes = [n for n in (table.loc[after, "note"], note) if n]
                    table.loc[after, "note"] = "; ".join(notes)
        return False

    def _test(
        self, smaller: Fit, larger: Fit, on_step: Callable[[int], None]
    ) -> tuple[float | None, str]:
        """The p-value, or why there is none."""
        try:
            test = likelihood_ratio_test(
                smaller, larger, self.replicates, self.starts, self.seed, on_step
            )
        except ValueError as error:
            return None, f"no bootstrap test: {error}"
        if test.interrupted:
            raise KeyboardInterrupt
        return test.p_value, ""


def _advance(bar: Progress, done: int, label: str, replicates: int) -> None:
    bar.advance(done + replicates, "refits", label)
