"""The full posterior by NUTS on log Z + log prior; latents are summed out, not sampled."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_counts, check_seed, check_share
from pp_mlem.base.compiling import meanwhile
from pp_mlem.base.lazy import arviz_stats, pd
from pp_mlem.base.machine import machine
from pp_mlem.base.memory import collector_paused
from pp_mlem.base.precision import working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status
from pp_mlem.diagnose.exchange import exchangeable_groups
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.labels import align, align_draws, order_draws, sort_labels
from pp_mlem.diagnose.rotations import turned_draws, turns_of
from pp_mlem.diagnose.summary import attempt, summarise, told
from pp_mlem.diagnose.switching import switched_latents, tell_switched
from pp_mlem.estimate.drivers import climbed, density_driver, density_starts
from pp_mlem.estimate.gradients import takes_gradients
from pp_mlem.estimate.loop import Driver
from pp_mlem.estimate.point import check_model
from pp_mlem.estimate.sampled import by_few_rows
from pp_mlem.estimate.sampler import Sample, Settings, compile_sampler, run_sampler
from pp_mlem.estimate.starts import check_init
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.model.held import with_held_entries
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Role
from pp_mlem.program.space import scalar_names
from pp_mlem.target.target import Target

RHAT_LIMIT = 1.01
SUSPECT = 1.05  # R-hat beyond which chains may name the same components differently
DIFFERENCE = 1e-3
FARTHEST = 20.0  # nats for each parameter that a mode may lie above a start
CLIMB_STEPS = 300  # to a mode
SAME_MODE = 1e-2  # nats between starts that have come to one mode
SMALL_MODE = 0.05  # share of the posterior, beside the largest mode's, that is worth a chain
START_FACTOR = 5
SMALL_WORK = 1e7  # multiplications of all chains' sweeps, up to which they run at once
DENSE_LIMIT = 30


@by_few_rows
@takes_gradients
def fit_nuts(
    model: Model,
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 1000,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    *,
    target_accept: float = 0.9,
    max_tree_depth: int = 10,
    chain_method: str = "auto",
    order_by: str | None = None,
    progress: bool | None = None,
    dtype: Any = None,
) -> DrawsFit:
    """Sample the posterior of the parameters with NumPyro's NUTS (Hoffman & Gelman 2014).

    The density is log Z + log prior + log|Jacobian| in unconstrained coordinates. The chains
    start around the modes that five times as many starting points lead to, those of at least a
    twentieth of the largest one's mass; the warm-up begins with the curvature at the largest.
    Labels of exchangeable components are aligned before anything is summarised (Stephens 2000,
    doi:10.1111/1467-9868.00265); the share of draws that had switched is told.

    Args:
        model: the program bound to its data.
        chains, warmup, draws: number of chains, and iterations of each.
        seed: of the starting points and of the sampler.
        init: as in `fit_em`.
        fixed: parameters held at given values.
        target_accept, max_tree_depth: of NUTS.
        chain_method: "parallel" (each chain on a thread, as many at once as there are cores),
            "sequential" (the same draws), "vectorized" (all chains in one computation: every step takes
            as long as the longest tree), or "auto": on a CPU parallel while a sweep over the data is
            cheap, since what is not is spread over the cores by itself.
        order_by: name of a parameter whose increasing order then fixes the labels, in place of
            the assignment to a reference.
        progress: show a bar; by default only in a terminal.

    Returns:
        a `DrawsFit` with `draws`; `params` are posterior means, and `diagnostics` hold divergences,
        R-hat and effective sample sizes.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """
    check_model(model, dtype)
    model, fixed, init = with_held_entries(model, fixed, init)
    check_counts(chains=chains, warmup=warmup, draws=draws, max_tree_depth=max_tree_depth)
    check_seed(seed)
    check_share(target_accept=target_accept)
    if chain_method not in ("auto", "parallel", "sequential", "vectorized"):
        raise ValueError(
            f"chain_method: received {chain_method!r}, expected 'auto', 'parallel', 'sequential' or "
            "'vectorized'."
        )
    if chain_method == "auto":
        at_once = "parallel" if machine().cpu else "vectorized"
        chain_method = at_once if run_at_once(model, chains) else "sequential"
    with working_precision(model.dtype):
        clock = time.perf_counter()
        target = model.target(fixed, with_prior=True)
        check_init(target.problem, init)
        if target.space.size == 0:
            raise ValueError("fit_nuts: every parameter is fixed, so there is nothing to sample.")
        _warn_flat(model, target)
        if order_by is not None:  # a wrong name is told before anything is sampled
            here = target.params(jnp.zeros(target.space.size))
            one = {n: np.zeros((1, *np.shape(v))) for n, v in here.items()}
            order_draws(one, exchangeable_groups(model, frozenset(target.fixed)), order_by, model)
        dense = target.space.size <= DENSE_LIMIT
        together = chains if chain_method == "vectorized" else 1
        on_threads = chain_method == "parallel"
        settings = Settings(warmup, target_accept, max_tree_depth, together, dense, on_threads)
        starts, inverse = _chain_starts(model, target, settings, chains, seed, init)
        mass = inverse if dense else np.diagonal(inverse)
        # What tells of the draws is compiled while they are made.
        telling = meanwhile(
            lambda: summarise(model, target, target.constrained(starts), {}),
            partial(working_precision, model.dtype),
        )
        with Progress("NUTS", chains, progress, "chains") as bar:
            sample = run_sampler(target, starts, mass, settings, draws, seed, bar)
        wait([telling])
        return _result(model, target, sample, seed, clock, order_by)


def run_at_once(model: Model, chains: int) -> bool:
    """Whether sweeps are so cheap that all chains go on at the same time."""
    return model.marginal.work.sweep * chains <= SMALL_WORK


def _warn_flat(model: Model, target: Target) -> None:
    flat = [
        s.name
        for s in model.reading.with_role(Role.PARAMETER)
        if s.name not in target.fixed and (not s.prior or s.distribution == "ImproperUniform")
    ]
    if flat:
        warnings.warn(
            f"parameters {flat} have no prior: NUTS takes them as flat on their support, and "
            "the posterior may be improper.",
            stacklevel=4,
        )


@collector_paused()
def _chain_starts(
    model: Model, target: Target, settings: Settings, chains: int, seed: int, init: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Around the modes of the density that several starts lead to, as far apart as draws are (chains, size);
    and the inverse curvature at the largest, for the warm-up to begin from: without it, much data
    make the first trees as deep as they may be.

    Chains that begin in a minor mode of a mixture seldom leave it; the modes themselves are what
    the starts of a point fit are for. What comes after is compiled meanwhile.
    """
    several = model.latent_names and not isinstance(init, Mapping)
    count, size = START_FACTOR * chains if several else chains, target.space.size
    driver = density_driver(target, count)
    looks = driver.ahead(np.zeros((count, size), target.dtype))
    later = compile_sampler(target, settings, np.zeros((chains, size), target.dtype))
    exchangeable_groups(model, frozenset(target.fixed))
    wait([looks] if looks else [])
    vectors = density_starts(model, driver, count, seed, init)
    points, inverse = _modes(driver, vectors)
    chosen = _in_one_labelling(model, target, np.resize(points, (chains, size)))
    spread, axes = np.linalg.eigh(inverse)
    wait(later)
    noise = np.random.default_rng(seed + 1).normal(size=chosen.shape)
    return chosen + noise * np.sqrt(np.minimum(spread, 1.0)) @ axes.T, inverse


def _modes(driver: Driver, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The modes that the starts (count, size) lead to, one for each start whose mode is worth a chain, the
    largest first; and the inverse curvature at that one. Without a mode, the starts, the highest first.

    The size of a mode is Laplace's, height and width together: a chain that begins in one of a hundredth
    of the posterior stays there for thousands of draws, and counts as much as the others.
    """
    count, size = vectors.shape
    modes = climbed(replace(driver, limit=CLIMB_STEPS), vectors)
    seen = driver.at(np.concatenate([vectors, modes])).value.reshape(2, count)
    values, heights = np.where(np.isfinite(seen), seen, -np.inf)
    # A density without a bound has no mode: the typical set is not where it leads to.
    bounded = (heights > -np.inf) & (heights - np.max(values) < FARTHEST * size)
    if not np.any(bounded):
        order = np.argsort(-values, kind="stable")
        return vectors[order], _inverse_curvature(driver, vectors[order[0]])
    modes, heights = modes[bounded], heights[bounded]
    inverses, sizes = dict[float, np.ndarray](), np.empty(len(modes))
    for i in range(len(modes)):
        alike = next((h for h in inverses if abs(h - heights[i]) < SAME_MODE), None)
        if alike is None:
            alike = float(heights[i])
            inverses[alike] = _inverse_curvature(driver, modes[i])
        sizes[i] = alike + np.linalg.slogdet(inverses[alike])[1] / 2
    best = int(np.argmax(sizes))
    worth = np.flatnonzero(sizes >= sizes[best] + np.log(SMALL_MODE))
    order = np.concatenate([[best], worth[worth != best]])
    return modes[order], _inverse_curvature(driver, modes[best])


def _in_one_labelling(model: Model, target: Target, vectors: np.ndarray) -> np.ndarray:
    """The starts of the chains with the labels of the best: dispersed in all else, so that
    chains differ only in what the posterior does not tell."""
    groups = exchangeable_groups(model, frozenset(target.fixed))
    if not groups or len(vectors) < 2 or not np.all(np.isfinite(vectors)):
        return vectors
    batch = target.constrained(vectors)
    params = [{k: np.asarray(v[i]) for k, v in batch.items()} for i in range(len(vectors))]
    moved = [align(p, params[0], groups, model) for p in params]
    new = target.unconstrained({k: np.stack([m[k] for m in moved]) for k in target.space.names})
    return np.where(np.all(np.isfinite(new), 1, keepdims=True), new, vectors)


def _inverse_curvature(driver: Driver, point: np.ndarray) -> np.ndarray:
    """(size, size), by differences of gradients."""
    size = len(point)
    step = DIFFERENCE * np.eye(size, dtype=point.dtype)
    slopes = driver.at(np.concatenate([point + step, point - step])).gradient
    curvature = -(slopes[:size] - slopes[size:]) / (2 * DIFFERENCE)
    curvature = (curvature + curvature.T) / 2
    if not np.all(np.isfinite(curvature)):
        return np.eye(size, dtype=point.dtype)
    values, vectors = np.linalg.eigh(curvature)
    inverse: np.ndarray = (vectors / np.clip(np.abs(values), 1e-1, None)) @ vectors.T
    return inverse.astype(point.dtype)


def _aligned(
    model: Model,
    target: Target,
    sample: Sample,
    groups: tuple[Group, ...],
    order_by: str | None,
    lost: dict[str, str],
) -> tuple[dict[str, np.ndarray], float]:
    """Draws (draws, ...) with the labels of all in one order and what a rotation can turn in one
    orientation, and the share that had switched."""
    vectors = sample.vectors.reshape(-1, sample.vectors.shape[-1])
    flat = target.constrained(vectors)
    best = int(np.argmin(sample.stats["potential_energy"].ravel()))
    if order_by is not None:
        aligned, switched = order_draws(flat, groups, order_by, model)
    else:
        reference = sort_labels({k: v[best] for k, v in flat.items()}, groups, model)
        aligned, switched = attempt(
            lambda: align_draws(flat, reference, groups, model),
            (flat, 0.0),
            lost,
            "alignment of labels",
        )
    turns = turns_of(target, smallest=1)
    if turns:
        aligned = turned_draws(turns, aligned, {k: v[best] for k, v in aligned.items()})
    return aligned, switched


def _status(sample: Sample, diagnostics: dict[str, Any]) -> Status:
    """How the sampler ended; of one that was stopped the diagnostics say so."""
    if sample.interrupted:
        diagnostics |= {"interrupted": sample.interrupted, "warmup_only": sample.warm}
        diagnostics["story"] = f"{sample.interrupted}; {diagnostics['story']}"
        return Status.INTERRUPTED
    clean = diagnostics["max_r_hat"] <= RHAT_LIMIT and diagnostics["divergences"] == 0
    return Status.CONVERGED if clean else Status.NOT_MIXED


def _result(
    model: Model,
    target: Target,
    sample: Sample,
    seed: int,
    clock: float,
    order_by: str | None,
) -> DrawsFit:
    stats = sample.stats
    chains, draws = sample.vectors.shape[:2]
    lost: dict[str, str] = {}  # summaries that failed; the draws never do
    found = exchangeable_groups(model, frozenset(target.fixed))
    groups = tuple(g for g in found if g.prior_symmetric)
    aligned, switched = _aligned(model, target, sample, groups, order_by, lost)
    points = target.unconstrained(aligned).reshape(chains, draws, -1)
    shaped = {k: np.asarray(v).reshape(chains, draws, *v.shape[1:]) for k, v in aligned.items()}
    mean, vector, likelihood, prior = summarise(model, target, aligned, lost)
    diagnostics = _diagnose(target, shaped, stats, switched, len(found) - len(groups), lost)
    if (
        chains > 1 and not diagnostics["max_r_hat"] <= SUSPECT
    ):  # chains that disagree may do so by names only
        names: list[str] = attempt(
            lambda: switched_latents(model, shaped, -stats["potential_energy"], groups),
            [], lost, "check of labels",
        )  # fmt: skip
        if names:
            diagnostics["labels"] = tell_switched(names, found)
            diagnostics["story"] += f"; {diagnostics['labels']}"
    status = _status(sample, diagnostics)
    return DrawsFit.from_draws(
        target,
        model=model,
        method="NUTS",
        params={n: mean[n] for n in model.space.names},
        vector=vector,
        log_likelihood=likelihood,
        prior=prior,
        slope=np.nan,
        status=status,
        status_note=diagnostics["story"],
        iterations=int(stats["num_steps"].sum()),
        history=-stats["potential_energy"],
        starts=pd.DataFrame(),
        groups=groups,
        seed=seed,
        seconds=time.perf_counter() - clock,
        compile_seconds=sample.first_seconds,
        draws={k: shaped[k] for k in target.space.names},
        draw_vectors=points,
        sample_stats={
            "diverging": stats["diverging"],
            "lp": -stats["potential_energy"],
            "energy": stats["energy"],
            "acceptance_rate": stats["accept_prob"],
            "step_size": stats["step_size"],
            "n_steps": stats["num_steps"],
            "tree_depth": np.ceil(np.log2(stats["num_steps"] + 1.0)).astype(int),
        },
        diagnostics=diagnostics,
    )


def of_chains(function: Callable, values: np.ndarray, **options: Any) -> float:
    """A diagnostic of a scalar's draws (chains, draws). A constant (the zeros of a Cholesky factor) mixes no way:
    NaN; chains that stand still apart have an R-hat of infinity."""
    if not np.ptp(values):
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(function(values, **options))


def _diagnose(
    target: Target,
    draws: dict[str, np.ndarray],
    stats: dict[str, np.ndarray],
    switched: float,
    asymmetric: int,
    lost: dict[str, str],
) -> dict[str, Any]:
    """Divergences, R-hat and effective sample sizes of every scalar, after label alignment."""
    names = scalar_names(target.space)
    columns = [draws[s.name].reshape(*draws[s.name].shape[:2], -1) for s in target.space.sites]
    stacked = np.concatenate(columns, -1)

    def each(function: Callable, **options: Any) -> dict[str, float]:
        what, one = function.__name__, partial(of_chains, function, **options)
        return {
            n: attempt(partial(one, stacked[..., i]), np.nan, lost, what)
            for i, n in enumerate(names)
        }

    found: dict[str, Any] = {
        "divergences": int(stats["diverging"].sum()),
        "switched": switched,
        "ess_bulk": each(arviz_stats.ess, method="bulk"),
        "ess_tail": each(arviz_stats.ess, method="tail", prob=(0.05, 0.95)),
    }
    several = stacked.shape[0] > 1
    found["r_hat"] = each(arviz_stats.rhat) if several else dict.fromkeys(names, float("nan"))
    for name, of, worst in (("max_r_hat", "r_hat", np.max), ("min_ess", "ess_bulk", np.min)):
        values = np.array(list(found[of].values()))
        known = values[~np.isnan(values)]
        found[name] = float(worst(known)) if known.size else float("nan")
    parts = [
        f"R-hat up to {found['max_r_hat']:.3f}",
        f"ESS at least {found['min_ess']:.0f}",
        f"{found['divergences']} divergences",
    ]
    if switched:
        parts.append(f"{100 * switched:.1f}% of draws relabelled")
    if asymmetric:
        parts.append("labels left as they are where the prior tells components apart")
    if lost:
        found["lost"] = dict(lost)
        parts.append(told(lost))
    found["story"] = ", ".join(parts)
    return found
