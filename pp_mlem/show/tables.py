"""A comparison in the terminal: its tables, the story of the starts, the warnings."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pp_mlem.base.lazy import pd
from pp_mlem.comparison.compare import Comparison
from pp_mlem.comparison.scores import ONE_STEP

MOST_ROWS = 60


def comparison_tables(comparison: Comparison) -> list[Table]:
    latents = [_latent_table(comparison)] if len(comparison.latents) else []
    return [
        _estimate_table(comparison),
        *latents,
        _score_table(comparison),
        _time_table(comparison),
    ]


def write_comparison(comparison: Comparison, console: Console) -> None:
    """See `Comparison.print`."""
    for table in comparison_tables(comparison):
        console.print(table)
    console.print("[bold]Starts[/bold]")
    for name, fit in comparison.fits.items():
        console.print(f"  {name}: {fit.story}", highlight=False, markup=False)
    if comparison.warnings:
        console.print("[bold]Warnings[/bold]")
        for text in comparison.warnings:
            console.print(f"  [yellow]![/yellow] {escape(text)}", highlight=False)


def _new_table(title: str, caption: str) -> Table:
    return Table(
        title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0, pad_edge=False,
        title_justify="left",
    )  # fmt: skip


def _number(value: float, digits: int = 4) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def _decimals(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if np.isfinite(value) else "-"


def _estimate_table(comparison: Comparison) -> Table:
    notes = ["± standard error (observed information)"]
    sampled = [n for n, f in comparison.fits.items() if f.has_draws]
    if sampled:
        notes.append(f"{escape(', '.join(sampled))}: posterior mean ± sd")
    if any(f.objective == "map" and not f.has_draws for f in comparison.fits.values()):
        notes.append("MAP: mode in the constrained space")
    estimates = comparison.estimates
    if len(estimates) > MOST_ROWS:
        notes.append(f"{len(estimates) - MOST_ROWS} more rows in .estimates")
    table = _new_table("Estimates", "; ".join(notes))
    table.add_column("", no_wrap=True)
    for name in comparison.fits:
        table.add_column(escape(name), justify="right", no_wrap=True)
    for scalar, row in estimates.iloc[:MOST_ROWS].iterrows():
        cells = [escape(str(scalar))]
        for name in comparison.fits:
            value, error = row[name, "estimate"], row[name, "error"]
            cells.append("-" if pd.isna(value) else f"{_number(value, 4)} ± {_number(error, 2)}")
        table.add_row(*cells)
    return table


def _latent_table(comparison: Comparison) -> Table:
    caption = (
        "posterior means against the first fit's: their correlation, and the furthest apart in the larger "
        "posterior sd; sds as a multiple of its"
    )
    table = _new_table("Latents", caption)
    for head in ("", "fit", "correlation", "furthest", "sds"):
        left = head in ("", "fit")
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    for (latent, name, _), row in comparison.latents.iterrows():
        table.add_row(
            escape(latent), escape(name), _number(row["correlation"], 5),
            _number(row["furthest"], 2), _number(row["sd_ratio"], 3),
        )  # fmt: skip
    return table


def _score_table(comparison: Comparison) -> Table:
    ahead = any(ONE_STEP in w for w in comparison.warnings)
    caption = (
        "log-likelihood in nats (with draws: at the posterior mean); AIC, BIC, ICL-BIC: smaller is "
        "better"
    )
    table = _new_table("Scores", f"{caption}; {ONE_STEP}" if ahead else caption)
    elpd = "elpd_1-step ± se" if ahead else "elpd_loo ± se"
    for head in ("", "log-lik", "df", "AIC", "BIC", "ICL-BIC", elpd, "status"):
        left = head in ("", "status")
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    for name, row in comparison.scores.iterrows():
        table.add_row(
            escape(str(name)),
            _decimals(row["log_likelihood"], 4),
            _decimals(row["parameters"], 0),
            *(_decimals(row[c], 1) for c in ("AIC", "BIC", "ICL")),
            f"{row['elpd_loo']:.1f} ± {row['se']:.1f}" if np.isfinite(row["elpd_loo"]) else "-",
            escape(row["status"]),
        )
    return table


def _time_table(comparison: Comparison) -> Table:
    table = _new_table(
        "Time", "seconds; compiling is most of what is not running; ESS: the smallest"
    )
    for head in ("", "in all", "first call (compiling)", "iterations", "effective draws a second"):
        table.add_column(head, justify="left" if not head else "right", no_wrap=True)
    for name, row in comparison.scores.iterrows():
        table.add_row(
            escape(str(name)),
            f"{row['seconds']:.1f}",
            _number(row["compile_seconds"], 2),
            str(comparison.fits[str(name)].iterations),
            _number(row["ess_per_second"], 3),
        )
    return table
