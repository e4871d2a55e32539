"""What to keep in mind about fits side by side: sentences, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pp_mlem.base.digits import written
from pp_mlem.base.fingerprint import changed
from pp_mlem.base.lazy import pd
from pp_mlem.diagnose.rotations import is_rotation
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.model.streamed import StreamedModel

FAR = 1.0  # standard errors between two estimates, beyond which they disagree
FEW = 0.2  # share of the starts that reach the best optimum, below which more starts are advised
REMEDIES = {
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
BY_PRIORS = {  # where a prior is there already
    "boundary": "; fix that parameter, or give it a prior that vanishes at the edge",
    "collapsed": "; give the scales a prior that vanishes at zero, or fewer components",
    "spurious": "; more starts, a stronger prior on the scales, or fewer components",
}
OF_ROTATIONS = (
    " Ask for what no rotation changes, such as the loadings times their transpose, or write the loadings "
    "with zeros above their diagonal."
)


class Concern(NamedTuple):
    """A sentence and its rank: 0 comes first."""

    rank: int
    text: str


def by_rank(concerns: list[Concern]) -> list[str]:
    """The sentences, the most important first."""
    return [c.text for c in sorted(concerns, key=lambda c: c.rank)]


def difference_of(fits: Mapping[str, Fit]) -> str:
    """What the fits do not share: "different data", "different programs" or ""."""
    if len({f.n_observations for f in fits.values()}) > 1:
        return "different data"
    held = [(f, mark) for f in fits.values() if (mark := f.fingerprint) is not None]
    for fit, mark in held[1:]:
        differs = changed(held[0][1], mark)
        if ("data" in differs or "observe" in differs) and not same_observations(held[0][0], fit):
            return "different data"
        if "program" in differs and "python" not in differs:
            return "different programs"
    return ""


def same_observations(one: Fit, other: Fit) -> bool:
    """Whether two fits, of other covariates say, are of the same observed values."""
    if one.model is None or other.model is None or one.model.observe or other.model.observe:
        return False
    both = one.model, other.model
    if any(isinstance(m, StreamedModel) for m in both):
        sources = [m.source.fingerprint() for m in both if isinstance(m, StreamedModel)]
        if len(sources) < 2 or sources[0] != sources[1]:
            return False
    mine, theirs = (m.first_rows().observed_values() for m in both)
    return mine.keys() == theirs.keys() and all(
        np.array_equal(mine[k], theirs[k], equal_nan=mine[k].dtype.kind == "f") for k in mine
    )


def concerns_of(name: str, fit: Fit) -> Iterator[Concern]:
    """What one fit gives to think about."""
    if not fit.converged:
        of_map = isinstance(fit, PointFit) and fit.objective == "map"
        remedies = REMEDIES | BY_PRIORS if of_map else REMEDIES
        remedy = "" if "fit_map" in fit.status_note else remedies.get(fit.status, "")
        yield Concern(1, f"{name}: status {fit.status} ({fit.status_note}){remedy}.")
    if isinstance(fit, PointFit):
        yield from _of_starts(name, fit)
        yield from _of_errors(name, fit)
    if fit.diagnostics.get("labels"):
        yield Concern(1, f"{name}: {fit.diagnostics['labels']}; its means are of mixed labels.")
    if fit.diagnostics.get("switched", 0) > 0:
        yield Concern(
            4,
            f"{name}: {100 * fit.diagnostics['switched']:.1f}% of the draws had switched labels "
            "and were aligned before anything was summarised.",
        )


def _of_starts(name: str, fit: PointFit) -> Iterator[Concern]:
    """Starts that were set aside above the chosen one; a best optimum that few reached."""
    aside = fit.starts["status"].isin(["collapsed", "spurious"])
    if aside.any():
        best = fit.starts.loc[aside, "objective"].max()
        if best > fit.log_likelihood + (fit.log_prior if fit.objective == "map" else 0):
            yield Concern(
                1,
                f"{name}: {int(aside.sum())} starts with a higher objective (up to "
                f"{written(best)}) were set aside as collapsed or spurious; a prior on the scales "
                "(MAP) or fewer components would remove them.",
            )
    reached = fit.starts[~aside & (fit.starts["optimum"] > 0)]
    if len(fit.starts) >= 5 and len(reached):
        share = (reached["optimum"] == reached["optimum"].min()).mean()
        if share < FEW:
            yield Concern(
                2,
                f"{name}: only {100 * share:.0f}% of the starts reached the best optimum; try more "
                "starts.",
            )


def _of_errors(name: str, fit: PointFit) -> Iterator[Concern]:
    """Scalars without a standard error, by the reason."""
    scalars_by_reason: dict[str, list[str]] = {}
    for scalar, reason in fit.covariance_details("observed").reasons.items():
        scalars_by_reason.setdefault(reason, []).append(scalar)
    use = (
        ""
        if fit.status == "collapsed"
        else " A profile likelihood or a bootstrap gives an interval."
    )
    for reason, scalars in scalars_by_reason.items():
        told = OF_ROTATIONS if is_rotation(reason) else use
        yield Concern(2, f"{name}: no standard error for {_shown(scalars)}: {reason}.{told}")


def _shown(scalars: list[str]) -> str:
    return ", ".join(scalars[:4]) + (" ..." if len(scalars) > 4 else "")


def lined_up(fits: Mapping[str, Fit]) -> Iterator[Concern]:
    """Parameters of other sizes from fit to fit, whose entries have numbers for names."""
    reference, *others = fits
    first = fits[reference].params
    for name in others:
        for site, value in fits[name].params.items():
            mine, theirs = np.shape(first.get(site, value)), np.shape(value)
            numbers = f"{site}[{','.join('0' for _ in theirs)}]"
            if mine != theirs and numbers in fits[name].scalar_names:
                yield Concern(
                    2,
                    f"{name} and {reference}: '{site}' has shape {theirs} in one and {mine} in the other, and "
                    "its entries are lined up by position; name them by dims= and coords=, or pass "
                    "the data as a DataFrame.",
                )


def disagreement(fits: Mapping[str, Fit], estimates: pd.DataFrame) -> Iterator[Concern]:
    """Estimates farther than a standard error from those of the first fit."""
    reference, *others = fits
    for name in others:
        gap = (estimates[name, "estimate"] - estimates[reference, "estimate"]).abs()
        error = estimates[reference, "error"]
        unit = error.where(error.notna(), estimates[name, "error"])
        ratio = (gap / unit).replace(np.inf, np.nan).dropna()
        far = ratio[ratio > FAR]
        if len(far):
            worst = far.idxmax()
            yield Concern(
                3,
                f"{name} and {reference} differ by more than {FAR:g} standard error in {len(far)} "
                f"scalars, most in {worst} ({far[worst]:.1f}); see the differences and the "
                "picture of the estimates.",
            )


def shares_below(draws: pd.DataFrame, point: Fit) -> pd.Series:
    """The share of a posterior's draws below each scalar of a point fit."""
    estimates = point.estimates()
    shared = [c for c in draws.columns if c in estimates.index]
    return (draws[shared] < estimates[shared]).mean()


def outside(fits: Mapping[str, Fit]) -> Iterator[Concern]:
    """Point estimates outside the central posterior interval."""
    for sampled in (n for n, f in fits.items() if f.has_draws):
        draws = fits[sampled].draw_table()
        for name, fit in fits.items():
            if fit.has_draws or not set(draws.columns) & set(fit.scalar_names):
                continue
            below = shares_below(draws, fit)
            far = below[(below < 0.025) | (below > 0.975)]
            if len(far):
                yield Concern(
                    3,
                    f"{name}: {len(far)} of {len(below)} estimates lie outside {sampled}'s central "
                    f"95% interval ({_shown(list(far.index))}): the posterior is skewed or the "
                    "prior matters; report intervals from the draws for these.",
                )
