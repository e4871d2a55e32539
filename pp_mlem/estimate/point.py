"""Point estimation: starts, the loop, the finish, and the verdict on every start."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.checks import check_counts, check_positive, check_seed
from pp_mlem.base.fingerprint import digest
from pp_mlem.base.memory import collector_paused
from pp_mlem.base.precision import check_dtype, working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status
from pp_mlem.data.unseen import warn_of_unseen
from pp_mlem.diagnose.spurious import Scales, judge_components, rows_at
from pp_mlem.estimate.algorithm import Algorithm, State
from pp_mlem.estimate.checkpoint import Checkpoint
from pp_mlem.estimate.curved import CurvedNewton
from pp_mlem.estimate.differences import DifferenceNewton
from pp_mlem.estimate.drivers import em_driver, em_starts, is_whole, starts_too
from pp_mlem.estimate.em import EM
from pp_mlem.estimate.ends import Ends, refuse_extremes
from pp_mlem.estimate.finish import Newton
from pp_mlem.estimate.gradients import takes_gradients
from pp_mlem.estimate.lbfgs import LBFGS
from pp_mlem.estimate.loop import Driver, Run
from pp_mlem.estimate.lost import off_false_edges
from pp_mlem.estimate.online import after_online_pass, takes_online
from pp_mlem.estimate.opening import LITTLE, opened, opens
from pp_mlem.estimate.sampled import sampled_starts
from pp_mlem.estimate.squarem import Squarem
from pp_mlem.estimate.starts import check_init
from pp_mlem.estimate.verdict import SAME, Record, judge, nothing_to_fit, prepare_verdict
from pp_mlem.fit.point import PointFit
from pp_mlem.model.held import with_held_entries
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.target.streamed import StreamedTarget
from pp_mlem.target.target import Target

HANDOVER_GAIN = 1e-3  # nats per step, below which a finish is faster
LINEAR = 10.0  # times as much for an algorithm whose rate is linear
SHARE = 1e-3  # of the units, in nats, where a finish is a sweep like the others
SPARE, LINEAR_SPARE = 100, 30  # cheap looks that an algorithm may crawl before another goes on
FINISH_PARAMETERS = 200  # beyond so many there is no finish
NEWTON_STEPS = 40  # of the finish by differences of gradients
DIFFERENCES_WORK = 1e9  # of one start, beyond which exact second derivatives are compiled at once
NEWTON_LANES = 4  # starts whose second derivatives are looked at together
FINISH_STEPS = 60  # of one round of the quasi-Newton finish, where a Newton finish may follow
LONG_FINISH = 400  # of one where none does
HESSIAN_WORK = 2e7  # of a Hessian, beyond which the finish is a quasi-Newton method


@dataclass(frozen=True)
class PointOptions:
    """The arguments that all point estimators share; see `fit_em`."""

    method: str
    objective: str
    starts: int | None
    seed: int
    init: Any
    fixed: Mapping[str, Any]
    polish: bool
    max_iter: int
    tol: float
    progress: bool | None
    trace: bool
    dtype: Any
    checkpoint: str | Path | None = None
    online: bool = False


@dataclass(frozen=True)
class Settings:
    """What an algorithm is made from: the number of units and the slope for each of them at which a
    start has converged; the gain of a look, in nats, below which a finish would be faster, and after how
    many such looks, where the algorithm's rate of convergence is linear (EM) and where it is not; how
    many steps a quasi-Newton finish may take (0: there is none), and whether EM's looks serve its starts
    as well."""

    units: float
    tolerance: float
    linear: tuple[float, int]
    superlinear: tuple[float, int]
    finish_steps: int
    starts_too: bool


Make = Callable[[Settings], Algorithm]
# How often starts go on that have lost a variance or a probability; by these names a checkpoint knows the runs.
AGAIN = ("again ", "once more ", "a last time ")


def check_model(model: Any, dtype: Any) -> None:
    if not isinstance(model, Model):
        raise TypeError(
            f"model: received {type(model).__name__}, expected a pp_mlem.Model. Bind the program "
            "to its data first: Model(program, data)."
        )
    if dtype is not None and check_dtype(dtype) != model.dtype:
        raise ValueError(
            f"dtype: the model computes in {model.dtype}; build it with Model(..., dtype={dtype!r})."
        )


def _check(model: Any, options: PointOptions) -> int:
    """The number of starts, after all other options were checked."""
    if options.objective not in ("mle", "map"):
        raise ValueError(f"objective: received {options.objective!r}, expected 'mle' or 'map'.")
    starts = options.starts
    if starts is None:
        starts = 10 if model.latent_names else 1
    check_counts(starts=starts, max_iter=options.max_iter)
    check_seed(options.seed)
    check_positive(tol=options.tol)
    if options.objective == "mle":
        warn_of_unseen(model.data)
    free = set(model.space.names) - set(options.fixed)
    return 1 if is_whole(options.init, free) else int(starts)


@takes_gradients
def fit_point(model: Model, options: PointOptions, make: Make) -> PointFit:
    """Run an algorithm from every start, finish by Newton, judge, and choose the best.

    `make` gives the algorithm for the problem's settings.
    """
    check_model(model, options.dtype)
    shared = isinstance(model, StreamedModel)
    with processes.telling() if shared else contextlib.nullcontext():
        return _fit_point(model, options, make, shared)


def _fit_point(model: Model, options: PointOptions, make: Make, shared: bool) -> PointFit:
    """The same; `shared` by all processes there are."""
    model, fixed, init = with_held_entries(model, options.fixed, options.init)
    options = replace(options, fixed=fixed, init=init)
    starts = _check(model, options)
    with working_precision(model.dtype):
        clock = time.perf_counter()
        target = model.target(options.fixed, options.objective == "map")
        check_init(target.problem, options.init)
        record = Record(model, options.method, options.objective, options.seed, clock)
        if target.space.size == 0:
            return nothing_to_fit(record, target)
        settings = settings_of(target, options, starts)
        algorithm, opening = make(settings), None
        if (
            settings.finish_steps
            and not is_whole(options.init, target.space.names)
            and opens(target)
        ):
            opening = EM(settings.units, settings.tolerance, -np.inf, 0)
            algorithm = _after_opening(target, algorithm, opening)
        driver = em_driver(target, algorithm, starts, options.max_iter, options.trace)
        compiling = _prepare(model, target, driver, starts)
        told = _record_of(model, options, starts, algorithm=driver.algorithm)
        kept = Checkpoint(options.checkpoint, told, shared)
        vectors = kept.once("starts", lambda: _vectors(model, driver, starts, options, make))
        with Progress(options.method, starts, options.progress, "starts") as progress:
            if opening is not None:
                vectors = opened(replace(driver, algorithm=opening), vectors)
            if options.online and isinstance(target, StreamedTarget) and takes_online(target):
                vectors = kept.once("online", partial(after_online_pass, target, vectors))
            group = len(vectors) if isinstance(target, StreamedTarget) else driver.group
            driver = replace(driver, progress=progress, group=group)
            ends = _run(driver, settings, vectors, kept)
            for stage in AGAIN:
                if ends.interrupted or isinstance(target, StreamedTarget):
                    break
                by_slope = isinstance(driver.algorithm, LBFGS)
                higher = off_false_edges(target, ends.points, ends.values, by_slope)
                if higher is None:
                    break
                ends = ends.followed_by(_run(driver, settings, higher, kept, stage))
        ends = replace(ends, compile_seconds=ends.compile_seconds + compiling)
        return judge(record, target, refuse_extremes(target, ends), driver.at)


def _record_of(
    model: Model, options: PointOptions, starts: int, algorithm: Algorithm
) -> dict[str, Any]:
    """What a checkpoint belongs to; nothing is looked at where there is none."""
    if options.checkpoint is None:
        return {}
    own = {
        k: getattr(options, k) for k in ("method", "objective", "seed", "max_iter", "tol", "polish")
    }
    how = digest(
        [options.init, {k: np.asarray(v) for k, v in options.fixed.items()}, str(algorithm)]
    )
    return {**model.fingerprint, **own, "starts": starts, "init, fixed or algorithm": how}


def _vectors(
    model: Model, driver: Driver, starts: int, options: PointOptions, make: Make
) -> np.ndarray:
    """Where the starts begin (starts, size); of data that come in chunks, where fits of a sample have ended."""
    target = driver.target
    whole = is_whole(options.init, target.space.names)
    if not isinstance(model, StreamedModel) or whole:
        return em_starts(model, driver, starts, options.seed, options.init)

    def of_sample(sample: Model) -> PointFit:
        own = replace(options, progress=False, trace=False, checkpoint=None)
        return fit_point(sample, own, make)

    if model.summary is not None:  # a fit of few points, which say what all rows do
        found = of_sample(model.summary)
        return np.asarray(
            target.unconstrained({n: found.params[n][None] for n in target.space.names})
        )
    return sampled_starts(model, target, of_sample)


def _after_opening(target: Target, algorithm: Algorithm, opening: EM) -> Algorithm:
    """What goes on after it: to the finish at once, for whose Hessian few looks are enough."""
    if isinstance(algorithm, Squarem):
        return replace(algorithm, handover=LITTLE, slow=0, finish_steps=0)
    own = target.space.units_of_their_own()
    return DifferenceNewton(opening, opening.units, opening.tolerance, own)


def is_large(target: Target) -> bool:
    """Whether a Hessian costs so much that the finish is a quasi-Newton method."""
    return target.work.sweep * target.space.size > HESSIAN_WORK


def settings_of(target: Target, options: PointOptions, starts: int) -> Settings:
    size, units = target.space.size, target.units
    large, quick = is_large(target), target.work.is_quick(starts)
    finish = options.polish and 0 < size <= FINISH_PARAMETERS
    gain, looks = (SHARE * units, 0) if large else (HANDOVER_GAIN, 2 * size)
    gain = max(gain, HANDOVER_GAIN) if finish else -np.inf
    tolerance = options.tol if target.dtype == np.float64 else max(options.tol, 1e-5)
    return Settings(
        units=units,
        tolerance=tolerance,
        linear=(LINEAR * gain, LINEAR_SPARE if quick else looks),
        superlinear=(gain, SPARE if quick else looks // 3),
        finish_steps=(LONG_FINISH if large else FINISH_STEPS) if finish else 0,
        starts_too=starts_too(target, options.init),
    )


@collector_paused()
def _prepare(model: Model, target: Target, driver: Driver, starts: int) -> float:
    """Compile the looks in another thread, and what the verdict needs in this one; the seconds it took."""
    clock = time.perf_counter()
    somewhere = np.zeros((starts, target.space.size), target.dtype)
    looks = driver.ahead(somewhere)
    if looks is not None:
        prepare_verdict(model, target, somewhere)
        wait([looks])
    return time.perf_counter() - clock


def _run(
    driver: Driver, settings: Settings, vectors: Any, kept: Checkpoint, stage: str = ""
) -> Ends:
    """The algorithm from every start, then the finish for those that have not come to rest."""
    target, algorithm = driver.target, driver.algorithm
    run = kept.run(f"{stage}algorithm", driver, algorithm.begin(np.asarray(vectors)))
    ends = Ends.of(_looked_at(driver, run))
    verified = algorithm.unit_free
    for i, (finish, limit) in enumerate(_finishes(target, settings, algorithm)):
        waiting = ends.status != Status.NOT_FINITE
        if verified:
            waiting &= ends.status != Status.CONVERGED
        if isinstance(finish, Newton) and waiting.any() and not ends.interrupted:
            waiting &= ~_in_vain(driver, ends, waiting)
        if ends.interrupted or not waiting.any():
            break
        begun = finish.begin(ends.points)
        status = np.where(waiting, int(Status.RUNNING), int(Status.CONVERGED))
        second = replace(driver, algorithm=finish, limit=limit, with_path=False)
        begun = begun._replace(status=status)
        if isinstance(finish, Newton):
            ran = _few_at_once(second, begun)
        else:
            ran = kept.run(f"{stage}finish {i}", second, begun, True)
        ends = ends.finished(target, finish, ran, ~waiting)
        verified = True
    return ends


def _in_vain(driver: Driver, ends: Ends, waiting: np.ndarray) -> np.ndarray:
    """Which of the waiting starts have come to the optimum of one that has converged, or would be set aside by a
    verdict when one has: what their last digits are tells nothing, and second derivatives are dear to compile."""
    finite = np.isfinite(ends.values)
    known = ends.values[(ends.status == Status.CONVERGED) & finite]
    if not len(known):
        return np.zeros(len(waiting), bool)
    apart = np.abs(ends.values[:, None] - known).min(1)
    vain: np.ndarray = waiting & finite & (apart <= SAME * (1 + np.abs(ends.values)))
    others = np.flatnonzero(waiting & finite & ~vain)
    if len(others):
        target, rows = driver.target, getattr(driver.at(ends.points), "rows", None)
    for i in others:
        point = ends.points[i]
        own = rows_at(target, point) if rows is None else {k: v[i] for k, v in rows.items()}
        vain[i] = judge_components(target, Scales.at(target, point), own)[0] is not None
    return vain


def _few_at_once(driver: Driver, state: State) -> Run:
    """The run of a finish from a state. A look at all second derivatives is dear, and few starts want it: those
    that do go together, and others wait outside."""
    order = np.argsort(state.status != Status.RUNNING, kind="stable")
    back = np.argsort(order)
    few = replace(driver, group=min(driver.group, NEWTON_LANES))
    ran = few.run(jax.tree.map(lambda a: a[order], state), whole=True)
    return replace(
        ran,
        state=jax.tree.map(lambda a: a[back], ran.state),
        history=[ran.history[i] for i in back],
        path=[ran.path[i] for i in back],
    )


def _finishes(
    target: Target, settings: Settings, algorithm: Algorithm
) -> list[tuple[Algorithm, int]]:
    """How starts that have not come to rest go on, one way after the other, and for how many steps."""
    if not settings.finish_steps:
        return []
    if isinstance(target, StreamedTarget):
        own = target.space.units_of_their_own()
        newton = CurvedNewton(settings.units, settings.tolerance, own)
        return [(newton, NEWTON_STEPS)]
    units, tolerance, endless = settings.units, settings.tolerance, int(np.iinfo(np.int32).max)
    if is_large(target):
        finish = Squarem(units, tolerance, np.inf, -1, settings.finish_steps)
        return [] if isinstance(algorithm, Squarem) else [(finish, endless)]
    finishes: list[tuple[Algorithm, int]] = []
    looks = NEWTON_STEPS * (target.space.size + 2)
    if looks * target.work.sweep <= DIFFERENCES_WORK:
        own = target.space.units_of_their_own()
        finishes.append((DifferenceNewton(algorithm, units, tolerance, own), NEWTON_STEPS))
    return [*finishes, (Newton(units, tolerance), endless)]


def _looked_at(driver: Driver, run: Run) -> Run:
    """With what an algorithm that was cut off still wanted to look at: of EM, its last M-step."""
    cut = np.isin(run.state.status, (Status.MAX_ITER, Status.INTERRUPTED))
    if not cut.any():
        return run
    seen = driver.look_once(run.state)
    better = cut & (seen.value >= run.state.value)
    keep = {
        name: np.where(
            better.reshape(-1, *(1,) * (np.ndim(getattr(seen, name)) - 1)),
            getattr(seen, name),
            getattr(run.state, name),
        )
        for name in ("point", "value", "slope")
    }
    rests = better & (seen.status == Status.CONVERGED)
    keep["status"] = np.where(rests, Status.CONVERGED, run.state.status)
    return replace(run, state=run.state._replace(**keep))
