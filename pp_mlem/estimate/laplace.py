"""Laplace's approximation: a Gaussian at the posterior's mode in unconstrained space."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.compiling import Effort
from pp_mlem.base.lazy import arviz_stats_base, pd
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.diagnose.exchange import exchangeable_groups
from pp_mlem.diagnose.labels import align_draws, sort_labels
from pp_mlem.diagnose.optima import label_optima
from pp_mlem.diagnose.rotations import flat_directions, turns_of
from pp_mlem.diagnose.summary import attempt, summarise, told
from pp_mlem.estimate.drivers import density_driver, density_starts
from pp_mlem.estimate.gradients import takes_gradients
from pp_mlem.estimate.point import check_model
from pp_mlem.estimate.sampled import by_few_rows
from pp_mlem.estimate.starts import check_init
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.maximise.newton import newton_ascent
from pp_mlem.model.held import with_held_entries
from pp_mlem.model.model import Model
from pp_mlem.target.target import Target

STEPS = 100
TOLERANCE = 1e-6
FEWEST = 25  # draws, of which a fifth are the tail of which Pareto's shape is told
GOOD_K = 0.7


@by_few_rows
@takes_gradients
def fit_laplace(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    draws: int = 1000,
    dtype: Any = None,
) -> DrawsFit:
    """Approximate the posterior by a Gaussian at its mode in unconstrained coordinates.

    The mode is that of log Z + log prior + log|Jacobian|, the density that NUTS samples (not the
    mode of `fit_map`); the covariance is the inverse of minus its Hessian there. Draws of the
    Gaussian are weighed against the exact density: the shape k of the generalised Pareto tail of
    the weights (Vehtari et al. 2024, arXiv:1507.02646) is `diagnostics["khat"]`. Below 0.7 the
    Gaussian stands for the posterior, and standard errors and posterior spread ought to agree.

    Args:
        model: the program bound to its data.
        starts, seed, init, fixed: as in `fit_em`.
        draws: from the Gaussian.

    Returns:
        a `DrawsFit` with `draws` (1, draws, ...); `params` are their means, `vector` is the mode.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """
    check_model(model, dtype)
    model, fixed, init = with_held_entries(model, fixed, init)
    starts = (10 if model.latent_names else 1) if starts is None else starts
    check_counts(starts=starts, draws=draws)
    check_seed(seed)
    with working_precision(model.dtype):
        clock = time.perf_counter()
        target = model.target(fixed, with_prior=True)
        check_init(target.problem, init)
        if target.space.size == 0:
            raise ValueError("fit_laplace: every parameter is fixed: there is no posterior.")
        vectors = density_starts(model, density_driver(target, starts), starts, seed, init)
        modes = _modes(target, vectors)
        return _result(model, target, modes, draws, seed, clock)


@dataclass(frozen=True)
class _Modes:
    """Of every start: the mode, the density there, the largest gradient entry per unit, and minus the
    Hessian; where the user stopped it ("" if nowhere)."""

    points: np.ndarray
    values: np.ndarray
    slopes: np.ndarray
    hessians: np.ndarray
    stopped: str

    @property
    def best(self) -> int:
        return int(np.argmax(np.where(np.isfinite(self.values), self.values, -np.inf)))


def _mode(target: Target, units: float, vector: jax.Array) -> tuple:
    found = newton_ascent(target.density, vector, STEPS, 1e-10 * units)
    slope = jnp.abs(found.gradient).max() / units
    return found.point, found.value, slope, -jax.hessian(target.density)(found.point)


def _modes(target: Target, vectors: np.ndarray) -> _Modes:
    """Newton's method on the log posterior from every start. Ctrl-C keeps the finished ones."""
    run = target.compiled(_mode, target.units, effort=Effort.LEAN)
    found: list[tuple] = []
    stopped = ""
    try:
        for vector in vectors:
            ended = run(vector)
            found.append(tuple(np.asarray(a, float) for a in ended))
    except KeyboardInterrupt:
        if not found:
            raise
        stopped = f"stopped by the user after {len(found)} of {len(vectors)} starts"
    points, values, slopes, hessians = (np.stack(a) for a in zip(*found, strict=True))
    return _Modes(points, values, slopes, hessians, stopped)


def _smoothed(ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log weights, normalised, and the shape of their tail; -inf where they are all
    equal, since the Gaussian then is the posterior, and NaN of draws that are too few for a tail."""
    if len(ratios) > 1 and np.ptp(ratios) < 1e-8:
        return np.full(len(ratios), -np.log(len(ratios))), float("-inf")
    if len(ratios) < FEWEST:
        ratios = ratios - np.logaddexp.reduce(ratios)
        return ratios, float("nan")
    weights, khat = arviz_stats_base.array_stats.psislw(ratios - ratios.max())
    return np.asarray(weights), float(khat)


@dataclass(frozen=True)
class _Sample:
    """Draws of the Gaussian at the best mode, (draws, size), with their log weights, and how good they are;
    `turning`: along which rotations, that leave the posterior as it is, they have no spread."""

    vectors: np.ndarray
    log_weights: np.ndarray
    khat: float
    effective: float
    log_evidence: float
    curved: bool
    turning: str


def _drawn(target: Target, modes: _Modes, draws: int, seed: int) -> _Sample:
    best = modes.best
    turns = turns_of(target)
    flat = flat_directions(target, modes.points[best], turns)
    across = np.eye(len(flat))
    if flat.size:
        across = np.linalg.svd(flat, full_matrices=True)[0][:, flat.shape[1] :]
    eigenvalues, axes = np.linalg.eigh(across.T @ modes.hessians[best] @ across)
    curved = bool(np.all(np.isfinite(eigenvalues)) and eigenvalues[0] > 0)
    safe = np.clip(eigenvalues, 1e-10 * max(eigenvalues[-1], 1e-10), None)
    noise = np.random.default_rng(seed).standard_normal((draws, len(eigenvalues)))
    vectors = modes.points[best] + (noise / np.sqrt(safe)) @ axes.T @ across.T
    density = target.compiled(Target.density, lanes=(0,))
    exact = np.asarray(density(vectors), float)
    ratios = np.where(np.isfinite(exact), exact, -np.inf) + 0.5 * (noise**2).sum(1)
    weights, khat = _smoothed(ratios)
    effective = float(np.exp(-np.logaddexp.reduce(2 * weights)))
    evidence = float(modes.values[best] - 0.5 * np.log(safe / (2 * np.pi)).sum())
    if turns:  # its volume is that of an orbit, which no Gaussian has
        evidence = float("nan")
    turning = "; ".join(turn.told() for turn in turns)
    return _Sample(vectors, weights, khat, effective, evidence, curved, turning)


def _told(modes: _Modes, sample: _Sample, lost: dict[str, str]) -> tuple[Status, str, str]:
    """(status, note, story): how good the approximation is."""
    draws = len(sample.vectors)
    story = f"Pareto k {sample.khat:.2f}, {sample.effective:.0f} effective of {draws} draws"
    if lost:
        story += f", {told(lost)}"
    at_mode = bool(modes.slopes[modes.best] <= TOLERANCE) and sample.curved
    good = at_mode and sample.khat < GOOD_K
    status = Status.CONVERGED if good else Status.POOR_APPROXIMATION
    note = story
    if at_mode and sample.turning:
        status = Status.POOR_APPROXIMATION
        note = f"{sample.turning}: the draws have one orientation, and there is no evidence"
    elif not at_mode:
        status = Status.FLAT
        note = "no mode with positive curvature was reached; " + story
    elif np.isnan(sample.khat):
        note = f"{draws} draws cannot tell how good the approximation is; ask for hundreds"
    elif sample.khat >= GOOD_K:
        note = f"the posterior is not Gaussian around its mode ({story}); use fit_nuts"
    if modes.stopped:
        return Status.INTERRUPTED, f"{modes.stopped}; {note}", f"{modes.stopped}; {story}"
    return status, note, story


def _starts_table(modes: _Modes) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "objective": modes.values,
            "status": np.where(modes.slopes <= TOLERANCE, "converged", "flat"),
            "gradient": modes.slopes,
            "optimum": label_optima(modes.values, np.full(len(modes.values), Status.CONVERGED)),
            "note": "",
        }
    )
    table.index.name = "start"
    return table


def _result(
    model: Model, target: Target, modes: _Modes, draws: int, seed: int, clock: float
) -> DrawsFit:
    best = modes.best
    groups = exchangeable_groups(model, frozenset(target.fixed))
    groups = tuple(g for g in groups if g.prior_symmetric)
    sample = _drawn(target, modes, draws, seed)
    flat = target.constrained(sample.vectors)
    mode = {k: v[0] for k, v in target.constrained(modes.points[best][None]).items()}
    reference = sort_labels(mode, groups, model)
    lost: dict[str, str] = {}
    aligned, _ = attempt(
        lambda: align_draws(flat, reference, groups, model),
        (flat, 0.0),
        lost,
        "alignment of labels",
    )
    moved = target.unconstrained(aligned)
    mean, _, likelihood, prior = summarise(model, target, aligned, lost)
    status, note, story = _told(modes, sample, lost)
    diagnostics: dict[str, Any] = {
        "khat": sample.khat,
        "effective_draws": sample.effective,
        "log_evidence": sample.log_evidence,
        "mode": {k: np.asarray(v).tolist() for k, v in reference.items()},
        "story": story,
    }
    diagnostics |= {"interrupted": modes.stopped} if modes.stopped else {}
    diagnostics |= {"lost": lost} if lost else {}
    return DrawsFit.from_draws(
        target,
        model=model,
        method="LAPLACE",
        params={n: mean[n] for n in model.space.names},
        vector=modes.points[best],
        log_likelihood=likelihood,
        prior=prior,
        slope=float(modes.slopes[best]),
        status=status,
        status_note=note,
        iterations=STEPS,
        history=np.zeros(0),
        starts=_starts_table(modes),
        groups=groups,
        seed=seed,
        seconds=time.perf_counter() - clock,
        compile_seconds=float("nan"),
        draws={k: np.asarray(aligned[k])[None] for k in target.space.names},
        draw_vectors=moved[None],
        sample_stats={"log_weight": np.asarray(sample.log_weights)[None]},
        diagnostics=diagnostics,
    )
