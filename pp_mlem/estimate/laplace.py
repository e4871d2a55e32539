"""Laplace's approximation: a Gaussian at the posterior's mode in unconstrained space."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from arviz_stats.base import array_stats

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.compiling import lean_jit, quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.diagnose.exchange import exchangeable_groups
from pp_mlem.diagnose.labels import align_draws, sort_labels
from pp_mlem.diagnose.optima import label_optima
from pp_mlem.diagnose.summary import attempt, summarise, told
from pp_mlem.estimate.gradients import takes_gradients
from pp_mlem.estimate.nuts import climb
from pp_mlem.estimate.point import check_model
from pp_mlem.estimate.starts import check_init, starting_vectors
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.maximise.newton import newton_ascent
from pp_mlem.model.model import Model
from pp_mlem.target.problem import Problem
from pp_mlem.target.target import Target

STEPS = 100
TOLERANCE = 1e-6
FEWEST = 25  # draws, of which a fifth are the tail of which Pareto's shape is told
GOOD_K = 0.7


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
    starts = (10 if model.latent_names else 1) if starts is None else starts
    check_counts(starts=starts, draws=draws)
    check_seed(seed)
    with working_precision(model.dtype):
        clock = time.perf_counter()
        held = model.space.check(fixed or {}, "fixed", partial=True)
        held = {k: jnp.asarray(v) for k, v in held.items()}
        problem = model.problem(held, True)
        check_init(problem, init)
        if problem.space.size == 0:
            raise ValueError("fit_laplace: every parameter is fixed: there is no posterior.")
        vectors = climb(
            model, problem, held, starting_vectors(model, problem, held, starts, seed, init)
        )
        modes, stopped = _modes(model, problem, held, vectors)
        return _result(model, problem, held, *modes, draws, seed, clock, stopped)


def _modes(model: Model, problem: Problem, held: dict, vectors: jax.Array) -> tuple[tuple, str]:
    """Newton's method on the log posterior from every start; also minus the Hessian there. Ctrl-C
    keeps the finished starts, and says how many."""
    units = max(float(model.n_observations), 1.0)

    def one(vector: jax.Array, data: Any, values: Any) -> tuple:
        def density(v: jax.Array) -> jax.Array:
            return problem.log_posterior(v, data, values)

        found = newton_ascent(density, vector, STEPS, 1e-10 * units)
        slope = jnp.abs(found.gradient).max() / units
        return found.point, found.value, slope, -jax.hessian(density)(found.point)

    function = model.compiled(("laplace", frozenset(held)), lambda: lean_jit(one))
    found: list[tuple] = []
    stopped = ""
    try:
        for vector in np.asarray(vectors):
            ended = function(jnp.asarray(vector), model.data, held)
            found.append(tuple(np.asarray(a, float) for a in ended))
    except KeyboardInterrupt:
        if not found:
            raise
        stopped = f"stopped by the user after {len(found)} of {len(vectors)} starts"
    return tuple(np.stack(a) for a in zip(*found, strict=True)), stopped


def _smoothed(ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log weights, normalised, and the shape of their tail; -inf where they are all
    equal, since the Gaussian then is the posterior, and NaN of draws that are too few for a tail."""
    if len(ratios) > 1 and np.ptp(ratios) < 1e-8:
        return np.full(len(ratios), -np.log(len(ratios))), float("-inf")
    if len(ratios) < FEWEST:
        ratios = ratios - np.logaddexp.reduce(ratios)
        return ratios, float("nan")
    weights, khat = array_stats.psislw(ratios - ratios.max())
    return np.asarray(weights), float(khat)


def _result(
    model: Model,
    problem: Problem,
    held: dict,
    points: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
    hessians: np.ndarray,
    draws: int,
    seed: int,
    clock: float,
    stopped: str,
) -> DrawsFit:
    safe = np.where(np.isfinite(values), values, -np.inf)
    best = int(np.argmax(safe))
    found = exchangeable_groups(model, frozenset(held))
    groups = tuple(g for g in found if g.prior_symmetric)
    eigenvalues, axes = np.linalg.eigh(hessians[best])
    curved = bool(np.all(np.isfinite(eigenvalues)) and eigenvalues[0] > 0)
    safe_eigen = np.clip(eigenvalues, 1e-10 * max(eigenvalues[-1], 1e-10), None)
    noise = np.random.default_rng(seed).standard_normal((draws, len(eigenvalues)))
    vectors = points[best] + (noise / np.sqrt(safe_eigen)) @ axes.T
    density = model.compiled(
        ("log posterior", frozenset(held)),
        lambda: quick_jit(jax.vmap(problem.log_posterior, in_axes=(0, None, None))),
    )
    exact = np.asarray(density(jnp.asarray(vectors), model.data, held), float)
    gaussian = -0.5 * (noise**2).sum(1)
    ratios = np.where(np.isfinite(exact), exact, -np.inf) - gaussian
    weights, khat = _smoothed(ratios)
    constrain = model.compiled(
        ("constrain", frozenset(held)),
        lambda: quick_jit(jax.vmap(problem.params, in_axes=(0, None))),
    )
    flat = jax.device_get(constrain(jnp.asarray(vectors), held))
    mode = {k: np.asarray(v) for k, v in problem.params(jnp.asarray(points[best]), held).items()}
    reference = sort_labels(mode, groups, model)
    lost: dict[str, str] = {}
    aligned, _ = attempt(
        lambda: align_draws(flat, reference, groups, model),
        (flat, 0.0),
        lost,
        "alignment of labels",
    )
    unconstrain = model.compiled(
        ("unconstrain", frozenset(held)), lambda: quick_jit(jax.vmap(problem.space.unconstrain))
    )
    moved = np.asarray(unconstrain({k: aligned[k] for k in problem.space.names}))
    shaped = {k: np.asarray(v)[None] for k, v in aligned.items()}
    target = Target(problem, model.data, held, model.bound.kept)
    mean, _, likelihood, prior = summarise(model, target, aligned, lost)
    effective = float(np.exp(-np.logaddexp.reduce(2 * weights)))
    story = f"Pareto k {khat:.2f}, {effective:.0f} effective of {draws} draws"
    if lost:
        story += f", {told(lost)}"
    at_mode = bool(slopes[best] <= TOLERANCE) and curved
    status = Status.CONVERGED if at_mode and khat < GOOD_K else Status.POOR_APPROXIMATION
    note = story
    if not at_mode:
        status = Status.FLAT
        note = "no mode with positive curvature was reached; " + story
    elif np.isnan(khat):
        note = f"{draws} draws cannot tell how good the approximation is; ask for hundreds"
    elif khat >= GOOD_K:
        note = f"the posterior is not Gaussian around its mode ({story}); use fit_nuts"
    if stopped:
        status, note = Status.INTERRUPTED, f"{stopped}; {note}"
        story = f"{stopped}; {story}"
    table = pd.DataFrame(
        {
            "objective": values,
            "status": np.where(slopes <= TOLERANCE, "converged", "flat"),
            "gradient": slopes,
            "optimum": label_optima(values, np.full(len(values), Status.CONVERGED)),
            "note": "",
        }
    )
    table.index.name = "start"
    log_evidence = float(values[best] - 0.5 * np.log(safe_eigen / (2 * np.pi)).sum())
    return DrawsFit.from_draws(
        target,
        model=model,
        method="LAPLACE",
        params={n: mean[n] for n in model.space.names},
        vector=points[best],
        log_likelihood=likelihood,
        log_prior=prior,
        slope=float(slopes[best]),
        status=status,
        status_note=note,
        iterations=STEPS,
        history=np.zeros(0),
        starts=table,
        groups=groups,
        seed=seed,
        seconds=time.perf_counter() - clock,
        compile_seconds=float("nan"),
        draws={k: shaped[k] for k in problem.space.names},
        draw_vectors=moved[None],
        sample_stats={"log_weight": np.asarray(weights)[None]},
        diagnostics={
            "khat": khat,
            "effective_draws": effective,
            "log_evidence": log_evidence,
            "mode": {k: np.asarray(v).tolist() for k, v in reference.items()},
            "story": story,
        }
        | ({"interrupted": stopped} if stopped else {})
        | ({"lost": lost} if lost else {}),
    )
