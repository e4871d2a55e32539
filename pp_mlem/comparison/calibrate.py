"""Simulation-based calibration of the posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd, scipy_stats
from pp_mlem.base.precision import working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.diagnose.labels import sort_labels
from pp_mlem.diagnose.rotations import turned_draws, turned_to
from pp_mlem.estimate.nuts import fit_nuts
from pp_mlem.estimate.point import check_model
from pp_mlem.model.model import Model
from pp_mlem.program.draw import drawing_function
from pp_mlem.program.sites import Role
from pp_mlem.program.space import scalar_names

CHAINS = 2


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
        bins = default_bins(n) if bins is None else bins
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


def default_bins(replicates: int) -> int:
    """Of a histogram of ranks."""
    return int(np.clip(replicates // 10, 2, 20))


class Replicate(NamedTuple):
    ranks: np.ndarray
    draws: int
    divergences: int


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
    draw_prior = _prior(model)
    finished: list[Replicate] = []
    interrupted = False
    with Progress("calibrate", replicates, progress) as bar:
        for i in range(replicates):
            try:
                truth = draw_prior(seed + i)
                finished.append(_replicate(model, truth, warmup, draws, thin, seed + i))
            except KeyboardInterrupt:
                if not finished:
                    raise
                interrupted = True
                warnings.warn(
                    "calibrate: stopped by the user; what was finished is here", stacklevel=2
                )
                break
            divergent = sum(r.divergences for r in finished)
            bar.advance(i + 1, "data sets", f"{divergent} divergences")
    names = list(scalar_names(model.space))
    ranks = pd.DataFrame(np.array([r.ranks for r in finished]), columns=names)
    divergences = np.array([r.divergences for r in finished])
    return Calibration(ranks, finished[-1].draws, divergences, interrupted)


def _prior(model: Model) -> Callable[[int], dict[str, np.ndarray]]:
    """seed -> parameters drawn from the prior."""
    draw = drawing_function(model.arguments)
    draw = quick_jit(draw) if model.arguments.traced else draw

    def truth(seed: int) -> dict[str, np.ndarray]:
        with working_precision(model.dtype):
            arrays = model.arguments.device_arrays()
            drawn, _ = draw(arrays, {}, jax.random.key(seed))
        return {n: np.asarray(drawn[n]) for n in model.space.names}

    return truth


def _replicate(
    model: Model, truth: dict[str, np.ndarray], warmup: int, draws: int, thin: int, seed: int
) -> Replicate:
    """The ranks of a truth among the draws of NUTS on data that were drawn at it."""
    drawn = model.redraw(truth, seed)
    fit = fit_nuts(
        drawn, chains=CHAINS, warmup=warmup, draws=draws, seed=seed, init=truth, progress=False
    )
    if fit.interrupted:
        raise KeyboardInterrupt
    truth = sort_labels(truth, fit.groups, fit.model)
    thinned = {k: v[:, ::thin].reshape(-1, *v.shape[2:]) for k, v in fit.draws.items()}
    ordered = _in_order(thinned, fit.groups, drawn)
    # what a rotation leaves as good is turned to an orientation that neither truth nor draws have chosen
    anywhere = np.random.default_rng(0)
    reference = {k: anywhere.normal(size=np.shape(v)) for k, v in truth.items()}
    truth = turned_to(fit.turns, truth, reference)
    ordered = turned_draws(fit.turns, ordered, reference)
    count = len(next(iter(ordered.values())))
    ranks = [(ordered[n].reshape(count, -1) < np.ravel(truth[n])).sum(0) for n in model.space.names]
    return Replicate(np.concatenate(ranks), count, fit.diagnostics["divergences"])


def _in_order(draws: dict[str, np.ndarray], groups: tuple, model: Model) -> dict[str, np.ndarray]:
    """Every draw with its components in the canonical order of `sort_labels`."""
    if not groups:
        return draws
    count = len(next(iter(draws.values())))
    rows = [sort_labels({k: v[i] for k, v in draws.items()}, groups, model) for i in range(count)]
    return {k: np.stack([r[k] for r in rows]) for k in draws}
