"""Puts fits of one program side by side: estimates, scores, warnings."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pp_mlem.base import verbs
from pp_mlem.base.lazy import pd, rich_console
from pp_mlem.comparison.concerns import (
    Concern,
    by_rank,
    concerns_of,
    difference_of,
    disagreement,
    lined_up,
    outside,
    shares_below,
)
from pp_mlem.comparison.latents import agreement
from pp_mlem.comparison.scores import NO_LOO, loo_of, scores_of
from pp_mlem.diagnose.labels import align
from pp_mlem.fit.base import Fit

CLOSE = 1e-3  # parameters nearer to each other are not turned to be compared


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
        latents: DataFrame, one row per real latent and method but the first: the `correlation` of its
            posterior means with the first's, their `furthest` difference in the larger posterior sd, the
            `sd_ratio` of the two (root mean squares) and the largest `sd_difference`. Empty without real
            latents.
        scores: DataFrame, one row per method: log_likelihood, parameters, AIC, BIC, ICL, elpd_loo,
            its se, seconds in all, of them compile_seconds, effective draws per second, status, and
            elpd_note: why there is no elpd_loo, or what to keep in mind about it.
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
        columns = {
            m: (self.estimates[m, "estimate"] - self.estimates[reference, "estimate"])
            / unit.where(unit.notna() & (unit > 0), self.estimates[m, "error"])
            for m in others
        }
        return pd.DataFrame(columns, index=self.estimates.index)

    @property
    def coverage(self) -> pd.DataFrame:
        columns: dict[tuple[str, str], pd.Series] = {}
        for sampled, draws in ((n, f.draw_table()) for n, f in self.fits.items() if f.has_draws):
            for name, fit in self.fits.items():
                if not fit.has_draws:
                    columns[sampled, name] = shares_below(draws, fit)
        return pd.DataFrame(columns)

    @cached_property
    def latents(self) -> pd.DataFrame:
        return agreement(self.fits)

    def plot(self, **options: Any) -> Any:
        """A figure: forest of estimates, paths of the log-likelihood, optima, densities."""
        return verbs.plot(self, **options)

    def print(self, console: rich_console.Console | None = None) -> None:
        """Print the tables, the story of the starts and the warnings."""
        verbs.write(self, console or rich_console.Console())

    def __repr__(self) -> str:
        buffer = io.StringIO()
        self.print(rich_console.Console(file=buffer, width=140, force_terminal=False))
        return buffer.getvalue()

    def __rich__(self) -> Any:
        return rich_console.Group(*verbs.tables(self))


def compare(fits: Mapping[str, Fit], *, loo: bool = True) -> Comparison:
    """Compare fits of the same data by different methods.

    Args:
        fits: fits by name; the first is the reference for labels.
        loo: whether to estimate leave-one-out predictive densities (elpd_loo). It is NaN, with the reason,
            where a Pareto k says that it would be noise; beyond 10,000 units it is estimated from as many.

    Raises:
        TypeError, ValueError: when something other than fits is given, or none.
    """
    _check(fits)
    aligned = _aligned(dict(fits))
    estimates = _estimates(aligned)
    apart = difference_of(aligned)
    concerns = []
    if apart:
        concerns.append(
            Concern(0, f"the fits are of {apart}: their scores and LOO cannot be compared (LOO is "
                    "left out); estimates stand side by side by name only. Fit one program to one "
                    "data set.")
        )  # fmt: skip
    scores, of_scores = _scores(aligned, with_loo=loo and not apart)
    concerns += [
        *of_scores,
        *lined_up(aligned),
        *disagreement(aligned, estimates),
        *outside(aligned),
    ]
    return Comparison(aligned, estimates, scores, by_rank(concerns))


def _check(fits: Any) -> None:
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


def _aligned(fits: dict[str, Fit]) -> dict[str, Fit]:
    """Every fit relabelled to the first one."""
    first = next(iter(fits.values()))
    aligned = {}
    for name, fit in fits.items():
        alike = set(fit.params) == set(first.params) and all(
            fit.params[k].shape == first.params[k].shape for k in fit.params
        )
        aligned[name] = towards(fit, first.params) if alike and fit is not first else fit
    return aligned


def towards(fit: Fit, reference: dict[str, Any]) -> Fit:
    """The fit with its labels, and what a rotation can turn, aligned to a reference; itself where they
    are."""
    moved = align(fit.params, reference, fit.groups, fit.model) if fit.groups else fit.params
    same = all(np.array_equal(moved[k], fit.params[k]) for k in moved)
    near = all(np.allclose(moved[k], reference[k], CLOSE, CLOSE) for k in moved)
    turned = not near and fit.model is not None and bool(fit.turns)
    return fit if same and not turned else fit.relabelled(reference)


def _estimates(fits: dict[str, Fit]) -> pd.DataFrame:
    columns: dict[tuple[str, str], pd.Series] = {}
    for name, fit in fits.items():
        columns[name, "estimate"] = fit.estimates()
        columns[name, "error"] = fit.standard_errors()
    order = list(dict.fromkeys(n for c in columns.values() for n in c.index))
    return pd.DataFrame({k: v.reindex(order) for k, v in columns.items()})


def _scores(fits: dict[str, Fit], with_loo: bool) -> tuple[pd.DataFrame, list[Concern]]:
    """The table of scores, and what each fit and its scores give to think about."""
    rows: list[dict[str, Any]] = []
    concerns: list[Concern] = []
    caveats: dict[str, list[str]] = {}
    for name, fit in fits.items():
        loo = NO_LOO
        try:
            loo = loo_of(fit) if with_loo else loo
        except KeyboardInterrupt:  # the fits are here; only their scores are cut short
            with_loo = False
            concerns.append(Concern(0, f"stopped by the user: no elpd_loo from {name} on."))
        for text in loo.told:
            caveats.setdefault(text, []).append(name)
        rows.append(
            {
                **scores_of(fit, loo),
                "seconds": fit.seconds,
                "compile_seconds": fit.compile_seconds,
                "ess_per_second": fit.diagnostics.get("min_ess", np.nan) / max(fit.seconds, 1e-9),
                "status": fit.status,
                "elpd_note": "; ".join(loo.told),
            }
        )
        concerns += concerns_of(name, fit)
    for caveat, names in caveats.items():
        concerns.append(Concern(2, f"{', '.join(names)}: {caveat}."))
    return pd.DataFrame(rows, index=list(fits)), concerns
