"""Puts fits of one program side by side: estimates, scores, warnings."""

from __future__ import annotations

import io
import warnings as python_warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from arviz_stats import loo
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pp_mlem.base import verbs
from pp_mlem.base.digits import written
from pp_mlem.base.fingerprint import changed
from pp_mlem.diagnose.labels import align
from pp_mlem.fit.base import Fit

FAR = 1.0
ONE_STEP = (
    "the terms are one-step-ahead predictions of a single sequence, so elpd is not leave-one-out"
)


def loo_of(fit: Fit) -> tuple[float, float, str]:
    """PSIS-LOO elpd and its standard error from the pointwise marginal log-likelihood, and a
    caveat ("" when none). Vehtari, Gelman & Gabry (2017), doi:10.1007/s11222-016-9696-4."""
    tree = fit.to_datatree()
    if "log_likelihood" not in tree.children:
        why = tree.attrs.get("log_likelihood", "the fit holds none")
        return np.nan, np.nan, f"no LOO: pointwise log-likelihood {why}"
    (name,) = tree["log_likelihood"].data_vars
    units = tree["log_likelihood"][name]
    if units.shape[-1] < 2:
        return np.nan, np.nan, "one unit only: leave-one-out means nothing"
    if (
        not fit.has_draws
        and fit.covariance_details("observed").reasons
        and not np.any(np.isfinite(np.diag(fit.covariance_details("observed").matrix)))
    ):
        return np.nan, np.nan, "no covariance, so no draws to weight"
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        try:
            found = loo(tree, var_name=name, pointwise=True)
        except (ValueError, FloatingPointError, IndexError) as error:
            return np.nan, np.nan, f"LOO failed: {error}"
    khat = np.asarray(found.pareto_k)
    bad = int((khat > found.good_k).sum())
    caveat = f"{bad} of {khat.size} Pareto k above {found.good_k:.2f}" if bad else ""
    ahead = name == "one_step_ahead"
    if (
        not ahead
        and fit.model is not None
        and np.any(~np.isin(fit.model.unit_weights(), (0.0, 1.0)))
    ):
        weighted = "units carry case weights, so LOO leaves out a whole weighted unit"
        caveat = f"{weighted}; {caveat}" if caveat else weighted
    if ahead:
        caveat = f"{ONE_STEP}; {caveat}" if caveat else ONE_STEP
    return float(found.elpd), float(found.se), caveat


@dataclass
class Comparison:
    """Several fits side by side.

    Attributes:
        fits: the fits, labels aligned to the first.
        estimates: DataFrame, one row per scalar, columns (method, "estimate" / "error").
        differences: DataFrame, one row per scalar and one column per method but the first: its
            estimate less the first's, in standard errors of the first.
        coverage: DataFrame, one row per scalar, columns (posterior, point fit): the share of the
            posterior's draws below the point estimate; near 0.5 where they agree, below 0.025 or
            above 0.975 where the point estimate lies outside the central 95% interval. Empty
            without draws.
        scores: DataFrame, one row per method: log_likelihood, parameters, AIC, BIC, ICL, elpd_loo,
            its se, seconds in all, of them compile_seconds, effective draws per second, status.
        warnings: sentences, the most important first, each with what to do.
    """

    fits: dict[str, Fit]
    estimates: pd.DataFrame
    scores: pd.DataFrame
    warnings: list[str]

    @property
    def differences(self) -> pd.DataFrame:
        reference, *others = self.fits
        unit = self.estimates[reference, "error"]
        found = {
            m: (self.estimates[m, "estimate"] - self.estimates[reference, "estimate"])
            / unit.where(unit.notna() & (unit > 0), self.estimates[m, "error"])
            for m in others
        }
        return pd.DataFrame(found, index=self.estimates.index)

    @property
    def coverage(self) -> pd.DataFrame:
        found: dict[tuple[str, str], pd.Series] = {}
        for sampled, draws in ((n, f.draw_table()) for n, f in self.fits.items() if f.has_draws):
            for name, fit in self.fits.items():
                if fit.has_draws:
                    continue
                point = fit.estimates()
                shared = [c for c in draws.columns if c in point.index]
                found[sampled, name] = (draws[shared] < point[shared]).mean()
        return pd.DataFrame(found)

    def plot(self, **options: Any) -> Any:
        """A figure: forest of estimates, paths of the log-likelihood, optima, densities."""
        return verbs.plot(self, **options)

    def print(self, console: Console | None = None) -> None:
        """Print the tables, the story of the starts and the warnings."""
        console = console or Console()
        console.print(_estimate_table(self))
        console.print(_score_table(self))
        console.print(_time_table(self))
        console.print("[bold]Starts[/bold]")
        for name, fit in self.fits.items():
            console.print(f"  {name}: {fit.story}", highlight=False, markup=False)
        if self.warnings:
            console.print("[bold]Warnings[/bold]")
            for text in self.warnings:
                console.print(f"  [yellow]![/yellow] {escape(text)}", highlight=False)

    def __repr__(self) -> str:
        buffer = io.StringIO()
        self.print(Console(file=buffer, width=140, force_terminal=False))
        return buffer.getvalue()

    def __rich__(self) -> Any:
        from rich.console import Group

        return Group(_estimate_table(self), _score_table(self), _time_table(self))


def compare(fits: Mapping[str, Fit]) -> Comparison:
    """Compare fits of the same data by different methods.

    Args:
        fits: fits by name; the first is the reference for labels.

    Raises:
        TypeError, ValueError: when something other than fits is given, or none.
    """
    if not isinstance(fits, Mapping) or not fits:
        raise ValueError(
            'compare: expected a non-empty dict of fits, as in compare({"EM": em, "NUTS": nuts}).'
        )
    for name, fit in fits.items():
        if not isinstance(fit, Fit):
            raise TypeError(
                f"compare: '{name}' is {type(fit).__name__}, expected a Fit (the result of "
                "fit_em, fit_mle, fit_map, fit_nuts or load)."
            )
    aligned = _aligned(dict(fits))
    told: list[tuple[int, str]] = []
    apart = _apart(aligned)
    same = not apart
    if apart:
        told.append(
            (0, f"the fits are of {apart}: their scores and LOO cannot be compared (LOO is left "
                "out); estimates stand side by side by name only. Fit one program to one data set.")
        )  # fmt: skip
    columns: dict[tuple[str, str], pd.Series] = {}
    for name, fit in aligned.items():
        columns[name, "estimate"] = fit.estimates()
        columns[name, "error"] = fit.standard_errors()
    order = list(dict.fromkeys(n for c in columns.values() for n in c.index))
    estimates = pd.DataFrame({k: v.reindex(order) for k, v in columns.items()})
    rows, caveats = [], {}
    for name, fit in aligned.items():
        try:
            elpd, se, caveat = loo_of(fit) if same else (np.nan, np.nan, "")
        except KeyboardInterrupt:  # the fits are here; only their scores are cut short
            same, elpd, se, caveat = False, np.nan, np.nan, ""
            told.append((0, f"stopped by the user: no elpd_loo from {name} on."))
        if caveat:
            caveats.setdefault(caveat, []).append(name)
        rows.append(
            {
                "log_likelihood": fit.log_likelihood,
                "parameters": fit.n_parameters,
                "AIC": fit.aic,
                "BIC": fit.bic,
                "ICL": np.nan if fit.classification is None else fit.icl,
                "elpd_loo": elpd,
                "se": se,
                "seconds": fit.seconds,
                "compile_seconds": fit.compile_seconds,
                "ess_per_second": fit.diagnostics.get("min_ess", np.nan) / max(fit.seconds, 1e-9),
                "status": fit.status,
            }
        )
        told += _concerns(name, fit)
    for caveat, names in caveats.items():
        told.append((2, f"{', '.join(names)}: {caveat}; do not choose by elpd_loo."))
    told += _disagreement(aligned, estimates)
    told += _outside(aligned)
    scores = pd.DataFrame(rows, index=list(aligned))
    ranked = [text for _, text in sorted(told, key=lambda t: t[0])]
    return Comparison(aligned, estimates, scores, ranked)


def _aligned(fits: dict[str, Fit]) -> dict[str, Fit]:
    """Every fit relabelled to the first one."""
    first = next(iter(fits.values()))
    found = {}
    for name, fit in fits.items():
        if fit is first or not fit.groups or set(fit.params) != set(first.params):
            found[name] = fit
            continue
        if any(fit.params[k].shape != first.params[k].shape for k in fit.params):
            found[name] = fit
            continue
        moved = align(fit.params, first.params, fit.groups, fit.model)
        same = all(np.array_equal(moved[k], fit.params[k]) for k in moved)
        found[name] = fit if same else fit.relabelled(first.params)
    return found


def _apart(fits: dict[str, Fit]) -> str:
    """What the fits do not share: "different data", "different programs" or ""."""
    if len({f.n_observations for f in fits.values()}) > 1:
        return "different data"
    marks = [f.fingerprint for f in fits.values() if f.fingerprint is not None]
    for mark in marks[1:]:
        differs = changed(marks[0], mark)
        if "data" in differs or "observe" in differs:
            return "different data"
        if "program" in differs and "python" not in differs:
            return "different programs"
    return ""


def _outside(fits: dict[str, Fit]) -> list[tuple[int, str]]:
    """Point estimates outside the central posterior interval."""
    told = []
    for sampled in (n for n, f in fits.items() if f.has_draws):
        draws = fits[sampled].draw_table()
        for name, fit in fits.items():
            if fit.has_draws or not set(draws.columns) & set(fit.scalar_names):
                continue
            point = fit.estimates()
            shared = [c for c in draws.columns if c in point.index]
            below = (draws[shared] < point[shared]).mean()
            far = below[(below < 0.025) | (below > 0.975)]
            if len(far):
                shown = ", ".join(far.index[:4]) + (" ..." if len(far) > 4 else "")
                told.append(
                    (3, f"{name}: {len(far)} of {len(below)} estimates lie outside {sampled}'s "
                        f"central 95% interval ({shown}): the posterior is skewed or the prior "
                        "matters; report intervals from the draws for these.")
                )  # fmt: skip
    return told


def _concerns(name: str, fit: Fit) -> list[tuple[int, str]]:
    told = []
    if not fit.converged:
        told.append((1, f"{name}: status {fit.status} ({fit.status_note}){_remedy(fit)}."))
    if not fit.has_draws:
        aside = fit.starts["status"].isin(["collapsed", "spurious"])
        if aside.any():
            best = fit.starts.loc[aside, "objective"].max()
            if best > fit.log_likelihood + (fit.log_prior if fit.objective == "map" else 0):
                told.append(
                    (1, f"{name}: {int(aside.sum())} starts with a higher objective (up to "
                        f"{written(best)}) were set aside as collapsed or spurious; a prior on the "
                        "scales (MAP) or fewer components would remove them.")
                )  # fmt: skip
        main = fit.starts[~aside & (fit.starts["optimum"] > 0)]
        if len(fit.starts) >= 5 and len(main):
            share = (main["optimum"] == main["optimum"].min()).mean()
            if share < 0.2:
                told.append(
                    (2, f"{name}: only {100 * share:.0f}% of the starts reached the best optimum; "
                        "try more starts.")
                )  # fmt: skip
        reasons = fit.covariance_details("observed").reasons
        if reasons:
            kinds: dict[str, list[str]] = {}
            for scalar, why in reasons.items():
                kinds.setdefault(why, []).append(scalar)
            for why, scalars in kinds.items():
                shown = ", ".join(scalars[:4]) + (" ..." if len(scalars) > 4 else "")
                use = " Use profile(...) or bootstrap(...) for an interval."
                use = "" if fit.status == "collapsed" else use
                told.append((2, f"{name}: no standard error for {shown}: {why}.{use}"))
    if fit.diagnostics.get("labels"):
        told.append((1, f"{name}: {fit.diagnostics['labels']}; its means are of mixed labels."))
    if fit.diagnostics.get("switched", 0) > 0:
        told.append(
            (4, f"{name}: {100 * fit.diagnostics['switched']:.1f}% of the draws had switched "
                "labels and were aligned before anything was summarised.")
        )  # fmt: skip
    return told


_REMEDIES = {
    "flat": "; try another seed, or fewer parameters",
    "max_iter": "; raise max_iter",
    "boundary": "; fix that parameter, or give it a prior and use MAP",
    "collapsed": "; give the scales a prior and use MAP, or fewer components",
    "spurious": "; more starts, a prior on the scales (MAP), or fewer components",
    "not_finite": "; check the data for impossible values, or pass init=",
    "interrupted": "; run it again, or go on with what there is",
    "not mixed": "; run longer chains or raise target_accept",
    "poor approximation": "; its intervals are not the posterior's",
}


def _remedy(fit: Fit) -> str:
    if "fit_map" in fit.status_note:  # which says it already
        return ""
    return _REMEDIES.get(fit.status, "")


def _disagreement(fits: dict[str, Fit], estimates: pd.DataFrame) -> list[tuple[int, str]]:
    names = list(fits)
    reference = names[0]
    told = []
    for name in names[1:]:
        gap = (estimates[name, "estimate"] - estimates[reference, "estimate"]).abs()
        unit = estimates[reference, "error"].where(
            estimates[reference, "error"].notna(), estimates[name, "error"]
        )
        ratio = (gap / unit).replace(np.inf, np.nan).dropna()
        far = ratio[ratio > FAR]
        if len(far):
            worst = far.idxmax()
            told.append(
                (3, f"{name} and {reference} differ by more than {FAR:g} standard error in "
                    f"{len(far)} scalars, most in {worst} ({far[worst]:.1f}); see .differences and "
                    "the picture of the estimates.")
            )  # fmt: skip
    return told


def _number(value: float, digits: int = 4) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def _estimate_table(found: Comparison) -> Table:
    table = Table(
        title="Estimates", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left"
    )
    table.add_column("", no_wrap=True)
    for name in found.fits:
        table.add_column(escape(name), justify="right", no_wrap=True)
    notes = ["± standard error (observed information)"]
    sampled = [n for n, f in found.fits.items() if f.has_draws]
    if sampled:
        notes.append(f"{escape(', '.join(sampled))}: posterior mean ± sd")
    if any(f.objective == "map" and not f.has_draws for f in found.fits.values()):
        notes.append("MAP: mode in the constrained space")
    table.caption = "; ".join(notes)
    limit = 60
    for scalar in found.estimates.index[:limit]:
        cells = [escape(str(scalar))]
        for name in found.fits:
            value = found.estimates.loc[scalar, (name, "estimate")]
            error = found.estimates.loc[scalar, (name, "error")]
            cells.append("-" if pd.isna(value) else f"{_number(value, 4)} ± {_number(error, 2)}")
        table.add_row(*cells)
    if len(found.estimates) > limit:
        table.caption += f"; {len(found.estimates) - limit} more rows in .estimates"
    return table


def _score_table(found: Comparison) -> Table:
    table = Table(
        title="Scores", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left"
    )
    table.caption = "log-likelihood in nats (with draws: at the posterior mean); AIC, BIC, ICL-BIC: smaller is better"
    ahead = any(ONE_STEP in w for w in found.warnings)
    if ahead:
        table.caption += f"; {ONE_STEP}"
    elpd_head = "elpd_1-step ± se" if ahead else "elpd_loo ± se"
    heads = ("", "log-lik", "df", "AIC", "BIC", "ICL-BIC", elpd_head, "status")
    for head in heads:
        justify = "left" if head in ("", "status") else "right"
        table.add_column(head, justify=justify, no_wrap=True)
    for name, row in found.scores.iterrows():
        elpd = (
            "-" if not np.isfinite(row["elpd_loo"]) else f"{row['elpd_loo']:.1f} ± {row['se']:.1f}"
        )
        cells = [
            "-" if not np.isfinite(row[c]) else f"{row[c]:.{d}f}"
            for c, d in (
                ("log_likelihood", 4),
                ("parameters", 0),
                ("AIC", 1),
                ("BIC", 1),
                ("ICL", 1),
            )
        ]
        table.add_row(escape(str(name)), *cells, elpd, escape(row["status"]))
    return table


def _time_table(found: Comparison) -> Table:
    table = Table(
        title="Time", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left"
    )
    table.caption = "seconds; compiling is most of what is not running; ESS: the smallest"
    for head in ("", "in all", "first call (compiling)", "iterations", "effective draws a second"):
        table.add_column(head, justify="left" if not head else "right", no_wrap=True)
    for name, row in found.scores.iterrows():
        table.add_row(
            escape(str(name)),
            f"{row['seconds']:.1f}",
            _number(row["compile_seconds"], 2),
            str(found.fits[str(name)].iterations),
            _number(row["ess_per_second"], 3),
        )
    return table
