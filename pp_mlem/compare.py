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
from rich.table import Table

from pp_mlem.fit import Fit
from pp_mlem.labels import align
from pp_mlem.status import Status

FAR = 1.0
ONE_STEP = (
    "the terms are one-step-ahead predictions of a single sequence, so elpd is not leave-one-out"
)


def loo_of(fit: Fit) -> tuple[float, float, str]:
    """PSIS-LOO elpd and its standard error from the pointwise marginal log-likelihood, and a
    caveat ("" when none). Vehtari, Gelman & Gabry (2017), doi:10.1007/s11222-016-9696-4."""
    tree = fit.to_datatree()
    (name,) = tree["log_likelihood"].data_vars
    units = tree["log_likelihood"][name]
    if units.shape[-1] < 2:
        return np.nan, np.nan, "one unit only: leave-one-out means nothing"
    if (
        fit.draws is None
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
        scores: DataFrame, one row per method: log_likelihood, parameters, AIC, BIC, ICL, elpd_loo,
            its se, seconds, status.
        warnings: sentences, the most important first.
    """

    fits: dict[str, Fit]
    estimates: pd.DataFrame
    scores: pd.DataFrame
    warnings: list[str]

    def plot(self, **options: Any) -> Any:
        """A figure: forest of estimates, paths of the log-likelihood, optima, densities."""
        from pp_mlem.plots import plot_comparison

        return plot_comparison(self, **options)

    def print(self, console: Console | None = None) -> None:
        """Print the tables, the story of the starts and the warnings."""
        console = console or Console()
        console.print(_estimate_table(self))
        console.print(_score_table(self))
        console.print("[bold]Starts[/bold]")
        for name, fit in self.fits.items():
            console.print(f"  {name}: {fit.story}", highlight=False)
        if self.warnings:
            console.print("[bold]Warnings[/bold]")
            for text in self.warnings:
                console.print(f"  [yellow]![/yellow] {text}", highlight=False)

    def __repr__(self) -> str:
        buffer = io.StringIO()
        self.print(Console(file=buffer, width=140, force_terminal=False))
        return buffer.getvalue()

    def __rich__(self) -> Any:
        from rich.console import Group

        return Group(_estimate_table(self), _score_table(self))


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
    same = _same_data(aligned)
    if not same:
        told.append(
            (0, "the fits are of different data: scores and LOO cannot be compared; estimates "
                "stand side by side by name only.")
        )  # fmt: skip
    columns: dict[tuple[str, str], pd.Series] = {}
    for name, fit in aligned.items():
        columns[name, "estimate"] = fit.estimates()
        columns[name, "error"] = fit.standard_errors()
    order = list(dict.fromkeys(n for c in columns.values() for n in c.index))
    estimates = pd.DataFrame({k: v.reindex(order) for k, v in columns.items()})
    rows = []
    for name, fit in aligned.items():
        elpd, se, caveat = loo_of(fit) if same else (np.nan, np.nan, "")
        if caveat:
            told.append((2, f"{name}: {caveat}; its elpd_loo is unreliable."))
        rows.append(
            {
                "log_likelihood": fit.log_likelihood,
                "parameters": fit.n_parameters,
                "AIC": fit.aic,
                "BIC": fit.bic,
                "ICL": fit.icl
                if fit.model is not None or fit._cache.get("classification")
                else np.nan,
                "elpd_loo": elpd,
                "se": se,
                "seconds": fit.seconds,
                "status": fit.status,
            }
        )
        told += _concerns(name, fit)
    told += _disagreement(aligned, estimates)
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
        moved = align(fit.params, first.params, fit.groups)
        same = all(np.array_equal(moved[k], fit.params[k]) for k in moved)
        found[name] = fit if same else fit.relabelled(first.params)
    return found


def _same_data(fits: dict[str, Fit]) -> bool:
    counts = {f.n_observations for f in fits.values()}
    arrays = [f.model.arguments.dynamic for f in fits.values() if f.model is not None]
    if len(counts) > 1:
        return False
    return all(
        len(a) == len(arrays[0])
        and all(
            np.array_equal(x, y, equal_nan=x.dtype.kind == "f" and y.dtype.kind == "f")
            for x, y in zip(a, arrays[0], strict=True)
        )
        for a in arrays[1:]
    )


def _concerns(name: str, fit: Fit) -> list[tuple[int, str]]:
    told = []
    if not fit.converged:
        told.append((1, f"{name}: status {fit.status} ({fit.status_note})."))
    if fit.draws is None:
        aside = fit.starts["status"].isin(["collapsed", "spurious"])
        if aside.any():
            best = fit.starts.loc[aside, "objective"].max()
            if best > fit.log_likelihood + (fit.log_prior if fit.objective == "map" else 0):
                told.append(
                    (1, f"{name}: {int(aside.sum())} starts with a higher objective (up to "
                        f"{best:.4f}) were set aside as collapsed or spurious; see the story of "
                        "the starts.")
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
                told.append((2, f"{name}: no standard error for {shown}: {why}."))
    elif fit.status != Status.CONVERGED.label:
        told.append((2, f"{name}: run longer chains or raise target_accept."))
    return told


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
                    f"{len(far)} scalars, most in {worst} ({far[worst]:.1f}).")
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
        table.add_column(name, justify="right", no_wrap=True)
    notes = ["± standard error (observed information)"]
    if any(f.draws is not None for f in found.fits.values()):
        notes.append("NUTS: posterior mean ± sd")
    if any(f.objective == "map" and f.draws is None for f in found.fits.values()):
        notes.append("MAP: mode in the constrained space")
    table.caption = "; ".join(notes)
    limit = 60
    for scalar in found.estimates.index[:limit]:
        cells = [scalar]
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
    table.caption = (
        "log-likelihood in nats (NUTS: at the posterior mean); AIC, BIC, ICL-BIC: smaller is better"
    )
    ahead = any(ONE_STEP in w for w in found.warnings)
    if ahead:
        table.caption += f"; {ONE_STEP}"
    elpd_head = "elpd_1-step ± se" if ahead else "elpd_loo ± se"
    heads = ("", "log-lik", "df", "AIC", "BIC", "ICL-BIC", elpd_head, "sec", "status")
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
        table.add_row(str(name), *cells, elpd, f"{row['seconds']:.1f}", row["status"])
    return table
