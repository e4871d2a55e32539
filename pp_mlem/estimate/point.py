"""Point estimation: starts, the loop, the Newton finish, and the verdict on every start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from pp_mlem.base.checks import check_counts, check_positive, check_seed
from pp_mlem.base.compiling import lean_jit, quick_jit
from pp_mlem.base.precision import check_dtype, working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status
from pp_mlem.diagnose.exchange import exchangeable_groups
from pp_mlem.diagnose.extremes import collapse_note, drawn_back
from pp_mlem.diagnose.kinks import NOTE as KINKED
from pp_mlem.diagnose.kinks import at_kink, climb_over_kinks
from pp_mlem.diagnose.labels import sort_labels
from pp_mlem.diagnose.optima import label_optima
from pp_mlem.diagnose.separation import find_separation
from pp_mlem.diagnose.spurious import edge_masks, judge_components, told_edges
from pp_mlem.estimate.gradients import takes_gradients
from pp_mlem.estimate.loop import drive, firm, make_block, rounding
from pp_mlem.estimate.starts import check_init, starting_vectors
from pp_mlem.fit.point import PointFit, prior_of
from pp_mlem.maximise.broyden import quasi_newton_em
from pp_mlem.maximise.newton import newton_ascent
from pp_mlem.model.model import Model
from pp_mlem.program.space import is_half_line, off_the_edge
from pp_mlem.target.problem import Problem
from pp_mlem.target.solution import Solution
from pp_mlem.target.target import Target

HANDOVER_GAIN = 1e-3
SPARE = 300  # cheap steps that EM may crawl before a Newton finish is compiled
POLISH_STEPS = 60
SWEEPS = 100  # of the quasi-Newton finish of large problems
POLISH_PARAMETERS = 200
LANE_WORK = 3e5  # beyond it starts run one after the other: none waits for the slowest
QUICK_WORK = 1e5
SINGLE_WORK = 1e8  # of a function that runs once
HESSIAN_WORK = 2e7
NOTHING = "the density is not finite, or drowned in rounding errors at extreme parameters"
SLOPELESS = (
    "the density is finite but its gradient is not, as where a latent makes the mean of a "
    "NegativeBinomial2 zero (z * mu): keep such an argument above zero, by a floor of 1e-6 say"
)
KINK = 1e-3  # nats that Newton promises in vain
FINE = 1e-7  # nats: where rounding is less, it was not rounding that stopped Newton
ATTEMPTS = 3
COLLAPSING = 10.0  # nats gained by a finish that has not ended: the density has no bound
NEARLY = 1e-4  # slope below which a flat stop can be one at an edge
NEIGHBOURS = 5
HIGHEST = 750.0  # log density of one number that float64 can hold
EXTREME = 20.0  # unconstrained coordinate of a positive parameter; exp(20) is 5e8


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
    check_model(model, options.dtype)
    if options.objective not in ("mle", "map"):
        raise ValueError(f"objective: received {options.objective!r}, expected 'mle' or 'map'.")
    starts = options.starts
    if starts is None:
        starts = 10 if model.latent_names else 1
    check_counts(starts=starts, max_iter=options.max_iter)
    check_seed(options.seed)
    check_positive(tol=options.tol)
    if isinstance(options.init, Mapping):
        free = set(model.space.names) - set(options.fixed)
        if free <= set(options.init):
            starts = 1
    return int(starts)


def work_per_step(model: Model) -> float:
    """Multiplications of one sweep over the data, roughly."""
    total = 1.0
    for factor in model.marginal.factors:
        values = float(np.prod([model.reading.sites[v].size for v in factor.latents] or [1]))
        rows = float(np.prod([size for _, size, _ in factor.layout] or [1]))
        event = factor.event_size
        width = event * (event + 3) / 2 + 1 if factor.family and factor.family.event_dim else 3
        total += values * rows * width
    return total


def steady_jit(model: Model) -> Callable[..., Any]:
    """How to compile very many sweeps over the data."""
    return jax.jit if model.reading.scans and work_per_step(model) > LANE_WORK else lean_jit


def loop_jit(model: Model, lanes: int = 1) -> Callable[..., Any]:
    """How to compile some sweeps over the data, for so many lanes at a time."""
    return quick_jit if work_per_step(model) * lanes <= QUICK_WORK else steady_jit(model)


def is_large(model: Model, size: int) -> bool:
    """Whether a Hessian costs so much that the finish is a quasi-Newton method."""
    return work_per_step(model) * size > HESSIAN_WORK


@takes_gradients
def fit_point(
    model: Model,
    options: PointOptions,
    make: Callable[[Problem, float, float, int], Any],
    key: tuple,
) -> PointFit:
    """Run an algorithm from every start, finish by Newton, judge, and choose the best."""
    starts = _check(model, options)
    with working_precision(model.dtype):
        return _fit_point(model, options, make, key, starts)


def _fit_point(
    model: Model, options: PointOptions, make: Callable, key: tuple, starts: int
) -> PointFit:
    clock = time.perf_counter()
    fixed = {
        k: jnp.asarray(v)
        for k, v in model.space.check(options.fixed, "fixed", partial=True).items()
    }
    problem = model.problem(fixed, options.objective == "map")
    check_init(problem, options.init)
    units = max(float(model.n_observations), 1.0)
    work = work_per_step(model)
    size = problem.space.size
    polish = options.polish and 0 < size <= POLISH_PARAMETERS
    large = is_large(model, size)
    handover = (max(HANDOVER_GAIN, 1e-5 * units) if large else HANDOVER_GAIN) if polish else -np.inf
    tol = options.tol if model.dtype == np.float64 else max(options.tol, 1e-5)
    compiler = loop_jit(model, starts)
    quick = compiler is quick_jit
    algorithm = make(problem, units, handover, SPARE if quick else 0 if large else 2 * size)
    structure = (
        compiler,
        *key,
        frozenset(fixed),
        options.objective,
        polish,
        tol,
        units,
        options.trace,
    )
    block = model.compiled(
        ("block", structure), lambda: make_block(algorithm, options.trace, compiler)
    )
    begin = model.compiled(
        ("begin", structure),
        lambda: quick_jit(jax.vmap(lambda *a: firm(algorithm.begin(*a)), in_axes=(0, None, None))),
    )
    vectors = starting_vectors(model, problem, fixed, starts, options.seed, options.init)
    if size == 0:
        return _nothing_to_fit(model, problem, fixed, options, clock)
    group = starts if work <= LANE_WORK else 1
    with Progress(options.method, starts, options.progress) as progress:
        trace = drive(
            block, begin, vectors, model.data, fixed, options.max_iter, group, progress,
            options.trace,
        )  # fmt: skip
    lanes = trace.lanes
    points, values, slopes = (np.array(a) for a in (lanes.point, lanes.value, lanes.slope))
    status = np.array(lanes.status)
    last = (status == Status.MAX_ITER) | (status == Status.INTERRUPTED)
    if last.any():  # the vector after the last M-step has not been evaluated yet
        evaluate = _evaluator(model, problem, structure, units)
        new_values, new_slopes = (
            np.asarray(a) for a in evaluate(jnp.asarray(lanes.vector), model.data, fixed)
        )
        take = last & np.isfinite(new_values)
        points[take], values[take] = np.asarray(lanes.vector)[take], new_values[take]
        slopes[take] = new_slopes[take]
        status[take & (slopes <= tol)] = Status.CONVERGED
    steps = np.zeros(len(status), int)
    if polish and not trace.interrupted:
        try:
            points, values, slopes, status, steps, trace.kinked = _polish(
                model, problem, structure, units, tol, fixed, points, values, slopes, status,
                algorithm.unit_free,
            )  # fmt: skip
        except KeyboardInterrupt:
            trace.interrupted = True
    sums = float(sum(np.size(a) for a in model.data.dynamic))
    beyond = values > HIGHEST * max(units, sums)  # than any density that float64 holds
    trace.noisy = _drowned(model, problem, structure, fixed, points, values, units)
    status = np.where(beyond | trace.noisy, Status.NOT_FINITE, status)
    trace.slopeless = _slopeless(model, problem, structure, fixed, points, status, units)
    return _judge(
        model, problem, options, fixed, trace, points, values, slopes, status, steps, units,
        clock,
    )  # fmt: skip


def _drowned(
    model: Model,
    problem: Problem,
    structure: tuple,
    fixed: dict,
    points: np.ndarray,
    values: np.ndarray,
    units: float,
) -> np.ndarray:
    """Which starts ended where the density is nothing but rounding error: at extreme parameters
    (degrees of freedom of 1e15, say) a relative step of 1e-9 changes it by more than it should."""
    where = problem.space.slices()
    half_lines = [where[s.name] for s in problem.space.sites if is_half_line(s.support)]
    largest = [points[:, w].max(1, initial=-np.inf) for w in half_lines]
    extreme = np.isfinite(values) & (
        np.max([*largest, np.full(values.shape, -np.inf)], 0) > EXTREME
    )
    if not extreme.any():
        return extreme
    evaluate = _evaluator(model, problem, structure, units)
    rng, noisy = np.random.default_rng(0), np.zeros(values.shape, bool)
    for _ in range(NEIGHBOURS):  # rounding errors come in steps: one neighbour may share them
        beside = points * (1 + 3e-9 * rng.uniform(-1, 1, points.shape))
        moved = np.asarray(evaluate(jnp.asarray(beside), model.data, fixed)[0])
        noisy |= ~(np.abs(moved - values) <= 1e-6 * (np.abs(values) + units))
    return extreme & noisy


def _slopeless(
    model: Model,
    problem: Problem,
    structure: tuple,
    fixed: dict,
    points: np.ndarray,
    status: np.ndarray,
    units: float,
) -> bool:
    """Whether every start failed at a finite density, for want of a gradient."""
    if not len(status) or (status != Status.NOT_FINITE).any():
        return False
    evaluate = _evaluator(model, problem, structure, units)
    values, slopes = (np.asarray(a) for a in evaluate(jnp.asarray(points), model.data, fixed))
    return bool(np.all(np.isfinite(values) & ~np.isfinite(slopes)))


def _evaluator(model: Model, problem: Problem, structure: tuple, units: float) -> Callable:
    """Compiled (vectors, data, fixed) -> objective and largest gradient entry at each."""

    def evaluate(vector: jax.Array, data: Any, fixed: Any) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(problem.objective)(vector, data, fixed)
        return value, jnp.abs(gradient).max(initial=0.0) / units

    compiler = quick_jit if work_per_step(model) <= SINGLE_WORK else lean_jit
    return model.compiled(
        ("evaluate", structure), lambda: compiler(jax.vmap(evaluate, in_axes=(0, None, None)))
    )


class _Finish(NamedTuple):
    """How Newton ended, of every start: `vain` where no step keeps what the curvature promises."""

    point: Any
    value: Any
    slope: Any
    steps: Any
    done: Any
    resolution: Any
    vain: Any


def _polish(
    model: Model,
    problem: Problem,
    structure: tuple,
    units: float,
    tol: float,
    fixed: dict,
    points: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
    status: np.ndarray,
    verified: bool,
) -> tuple:
    """Newton on the exact objective for every start that has not converged yet; those that have,
    by a gradient alone whose size depends on units, too."""

    large = is_large(model, problem.space.size)

    def finish(vector: jax.Array, data: Any, values_fixed: Any) -> Any:
        if large:
            result = quasi_newton_em(
                lambda v: problem.em_step(v, data, values_fixed), vector, SWEEPS, tol * units,
                lambda value: rounding(value, units),
            )  # fmt: skip
        else:
            result = newton_ascent(
                lambda v: problem.objective(v, data, values_fixed), vector, POLISH_STEPS,
                tol * units,
            )  # fmt: skip
        # Where the units put the tolerance below float64's rounding, the objective stops rising
        # first; what the curvature still promises knows no units.
        slope = jnp.abs(result.gradient).max() / units
        done = result.decrement <= result.resolution
        ended = result.steps < (SWEEPS if large else POLISH_STEPS)
        done = done & ((slope <= tol) | ended)
        # Much is promised, and no step keeps it, or only small ones: the slope changes at once.
        promised = jnp.where(jnp.isfinite(result.decrement), result.decrement, 0.0)
        vain = ((promised > KINK) | ~ended) & (not large)
        return _Finish(
            result.point, result.value, slope, result.steps, done, result.resolution, vain
        )

    function = model.compiled(
        ("polish", structure), lambda: structure[0](jax.vmap(finish, in_axes=(0, None, None)))
    )
    steps = np.zeros(len(status), int)
    hopeless = status == Status.NOT_FINITE
    if verified:
        hopeless = hopeless | (status == Status.CONVERGED)
    if hopeless.all():
        return points, values, slopes, status, steps, np.zeros(len(status), bool)
    size = len(points) if work_per_step(model) <= LANE_WORK else 1
    for _ in range(ATTEMPTS):
        parts = [
            jax.device_get(function(jnp.asarray(points[i : i + size]), model.data, fixed))
            for i in range(0, len(points), size)
        ]
        end = _Finish(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        noise = 1e3 * np.finfo(values.dtype).eps * (np.abs(values) + units) + end.resolution
        better = ~hopeless & np.isfinite(end.value) & (end.value >= values - noise)
        with np.errstate(invalid="ignore"):  # from minus infinity to minus infinity
            gained = np.where(better, end.value - values, 0.0)
        points = np.where(better[:, None], end.point, points)
        values = np.where(better, end.value, values)
        slopes = np.where(better, end.slope, slopes)
        steps = np.where(better, steps + end.steps, steps)
        done = end.done.astype(bool)
        status = np.where(better & done, Status.CONVERGED, status)
        status = np.where(better & ~done & (status != Status.MAX_ITER), Status.FLAT, status)
        vain = end.vain.astype(bool) & ~done & (status == Status.FLAT) & ~hopeless
        hopeless = ~vain  # what rounding stopped goes on from elsewhere
        if not vain.any():
            break
    kinked = vain & (end.resolution < FINE) & (gained < COLLAPSING)
    if kinked.any():
        objective = Target(problem, model.data, fixed, model.bound.kept).climb
        for i in np.flatnonzero(kinked):
            points[i], values[i] = climb_over_kinks(objective, points[i])
            kinked[i] = at_kink(objective, points[i])
    return points, values, slopes, status, steps, kinked


def _judge(
    model: Model,
    problem: Problem,
    options: PointOptions,
    fixed: dict,
    trace: Any,
    points: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray,
    status: np.ndarray,
    steps: np.ndarray,
    units: float,
    clock: float,
) -> PointFit:
    """Recognise collapsed, spurious and boundary starts; choose the best of the sound ones."""
    groups = exchangeable_groups(model, frozenset(fixed))
    if problem.with_prior:  # elsewhere the objective would be another
        groups = tuple(g for g in groups if g.keeps_mode)
    all_params = []
    notes = []
    verdict = status.copy()
    target = Target(problem, model.data, fixed, model.bound.kept)
    key = frozenset(fixed)
    constrain = model.compiled(
        ("constrain", key), lambda: quick_jit(jax.vmap(problem.params, in_axes=(0, None)))
    )
    unconstrain = model.compiled(
        ("unconstrain", key), lambda: quick_jit(jax.vmap(problem.space.unconstrain))
    )
    batch = jax.device_get(constrain(jnp.asarray(points), fixed))
    for site in problem.space.sites:
        batch[site.name] = off_the_edge(site.support, batch[site.name])
    sorted_params = [
        sort_labels({k: v[i] for k, v in batch.items()}, groups, model) for i in range(len(points))
    ]
    stacked = {k: np.stack([p[k] for p in sorted_params]) for k in problem.space.names}
    points = np.array(unconstrain(stacked))
    for i, (point, params) in enumerate(zip(points, sorted_params, strict=True)):
        finite = bool(np.isfinite(values[i]) and status[i] != Status.NOT_FINITE)
        known = np.isfinite(values[i])  # if higher than any density, still of some component
        flag, note = judge_components(target, point) if known else (None, "")
        if flag is None:
            at = drawn_back(problem, point) if trace.noisy[i] else point
            note = collapse_note(Solution(target, at, values[i], slopes[i]), status[i])
            flag = Status.COLLAPSED if note else None
        if flag is not None:
            verdict[i] = flag
        elif not finite:
            nothing = SLOPELESS if trace.slopeless else NOTHING
            note = nothing if status[i] == Status.NOT_FINITE else ""
        elif len(trace.kinked) and trace.kinked[i]:
            note = KINKED
        elif status[i] == Status.CONVERGED or (status[i] == Status.FLAT and slopes[i] < NEARLY):
            note = told_edges(edge_masks(target, point, params))
            verdict[i] = Status.BOUNDARY if note else verdict[i]
        all_params.append(params)
        notes.append(note)
    values = np.where(status == Status.NOT_FINITE, np.nan, values)  # a number that means nothing
    sound = np.isfinite(values) & ~np.isin(
        verdict, (Status.COLLAPSED, Status.SPURIOUS, Status.NOT_FINITE)
    )
    pool = np.flatnonzero(sound if sound.any() else np.isfinite(values))
    if not len(pool):
        pool = np.array([int(np.argmax(verdict == Status.COLLAPSED))])
    best = int(pool[np.argmax(values[pool])])
    # Among equal optima prefer one that converged.
    close = [int(i) for i in pool if values[i] >= values[best] - 1e-7 * (1 + abs(values[best]))]
    best = min(close or [best], key=lambda i: (verdict[i] != Status.CONVERGED, slopes[i]))
    ended = [i for i in close if verdict[i] in (Status.CONVERGED, Status.FLAT, Status.MAX_ITER)]
    if best in ended:
        separation = find_separation(target, points[best])
        for i in ended if separation else ():
            verdict[i], notes[i] = Status.SEPARATION, separation.note
    if verdict[best] not in (Status.CONVERGED, Status.BOUNDARY) and np.isfinite(values[best]):
        # Far out the same density has other rounding errors by the way that it is computed: what is
        # told is that of the parameters that are told.
        values[best] = model.log_likelihood(all_params[best])
        if problem.with_prior:
            values[best] += prior_of(target, all_params[best])
    optima = label_optima(values, verdict)
    table = pd.DataFrame(
        {
            "objective": values,
            "status": [Status(s).label for s in verdict],
            "iterations": np.asarray(trace.lanes.iterations),
            "newton_steps": steps,
            "gradient": slopes,
            "optimum": optima,
            "note": notes,
        }
    )
    table.index.name = "start"
    chosen = Status.INTERRUPTED if trace.interrupted else Status(int(verdict[best]))
    return PointFit.from_point(
        Solution(target, points[best], float(values[best]), float(slopes[best])),
        model=model,
        method=options.method,
        params=all_params[best],
        status=chosen,
        status_note=notes[best],
        iterations=int(np.asarray(trace.lanes.iterations)[best] + steps[best]),
        history=np.asarray(trace.history[best]),
        histories=[np.asarray(h) for h in trace.history],
        trace=_unstack(constrain(jnp.asarray(np.stack(trace.vectors[best])), fixed))
        if options.trace and trace.vectors[best]
        else None,
        starts=table,
        start_params=all_params,
        groups=groups,
        seed=options.seed,
        seconds=time.perf_counter() - clock,
        compile_seconds=trace.compile_seconds,
    )


def _unstack(params: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    host = jax.device_get(params)
    count = len(next(iter(host.values())))
    return [{k: v[i] for k, v in host.items()} for i in range(count)]


def _nothing_to_fit(
    model: Model, problem: Problem, fixed: dict, options: PointOptions, clock: float
) -> PointFit:
    params = {k: np.asarray(v) for k, v in fixed.items()}
    value = model.log_likelihood(params)
    table = pd.DataFrame(
        {
            "objective": [value],
            "status": ["converged"],
            "iterations": [0],
            "newton_steps": [0],
            "gradient": [0.0],
            "optimum": [1],
            "note": [""],
        }
    )
    table.index.name = "start"
    target = Target(problem, model.data, fixed, model.bound.kept)
    return PointFit.from_point(
        Solution(target, np.zeros(0), value, 0.0), model=model, method=options.method,
        params=params, status=Status.CONVERGED, status_note="every parameter is fixed", iterations=0,
        history=np.zeros(0), histories=[np.zeros(0)], trace=None, starts=table,
        start_params=[params], groups=(), seed=options.seed,
        seconds=time.perf_counter() - clock, compile_seconds=0.0,
    )  # fmt: skip
