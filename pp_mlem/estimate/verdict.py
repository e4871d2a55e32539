"""The verdict on every start: collapsed, spurious, at a boundary, separated, or sound; and the best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.base.status import Status
from pp_mlem.diagnose.edges import ValueAt, edge_masks, told_edges
from pp_mlem.diagnose.exchange import exchangeable_groups
from pp_mlem.diagnose.extremes import collapse_note, drawn_back
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.kinks import NOTE as KINKED
from pp_mlem.diagnose.labels import sort_labels
from pp_mlem.diagnose.optima import label_optima
from pp_mlem.diagnose.separation import find_separation
from pp_mlem.diagnose.spurious import Scales, judge_components, rows_at
from pp_mlem.estimate.ends import Ends, is_beyond
from pp_mlem.estimate.heywood import at_floors
from pp_mlem.fit.point import PointFit, prior_of
from pp_mlem.model.model import Model
from pp_mlem.program.space import off_the_edge
from pp_mlem.target.solution import Solution
from pp_mlem.target.streamed import StreamedTarget
from pp_mlem.target.target import Target

NOTHING = "the density is not finite, or drowned in rounding errors at extreme parameters"
SLOPELESS = (
    "the density is finite but its gradient is not, as where a latent makes the mean of a "
    "NegativeBinomial2 zero (z * mu): keep such an argument above zero, by a floor of 1e-6 say"
)
NEARLY = 1e-4  # slope below which a flat stop can be one at an edge
SAME = 1e-7  # relative difference of objectives that are one optimum's
LookAt = Callable[[np.ndarray], Any]  # points (count, size) -> what the algorithm sees there
ASIDE = (Status.COLLAPSED, Status.SPURIOUS, Status.NOT_FINITE)


@dataclass(frozen=True)
class Record:
    """What a fit is called and when it began."""

    model: Model
    method: str
    objective: str
    seed: int
    clock: float


@dataclass(frozen=True)
class Verdicts:
    """Of every start: its parameters in one order of the labels, its vector, status and note."""

    params: list[dict[str, np.ndarray]]
    points: np.ndarray
    status: np.ndarray
    notes: list[str]


def judge(record: Record, target: Target, ends: Ends, look: LookAt) -> PointFit:
    """Recognise collapsed, spurious and boundary starts; choose the best of the sound ones. `look` is
    that of the algorithm, at points (count, size)."""
    model = record.model
    groups = exchangeable_groups(model, frozenset(target.fixed))
    if target.problem.with_prior:  # elsewhere the objective would be another
        groups = tuple(g for g in groups if g.keeps_mode)
    ends = at_floors(target, ends)
    verdicts = _verdicts(model, target, ends, groups, look)
    # A number that means nothing is none.
    values = np.where(ends.status == Status.NOT_FINITE, np.nan, ends.values)
    best, equal = _best(values, ends.slopes, verdicts.status)
    if not isinstance(target, StreamedTarget):  # one chunk's covariates tell nothing of separation
        _tell_separation(target, verdicts, best, equal)
    if verdicts.status[best] not in (Status.CONVERGED, Status.BOUNDARY) and np.isfinite(
        values[best]
    ):
        # Far out the same density has other rounding errors by the way that it is computed: what is
        # told is that of the parameters that are told.
        told = model.log_likelihood(verdicts.params[best])
        if target.problem.with_prior:
            told += prior_of(target, verdicts.params[best])
        # A matrix that is singular but for rounding gives any number there, 1e92 too: none is told.
        meaningless = not np.isfinite(told) or is_beyond(target, abs(told - values[best]))
        values[best] = np.nan if meaningless else told
    table = _table(ends, values, verdicts)
    chosen = Status.INTERRUPTED if ends.interrupted else Status(int(verdicts.status[best]))
    solution = Solution(
        target, verdicts.points[best], float(values[best]), float(ends.slopes[best])
    )
    return PointFit.from_point(
        solution,
        model=model,
        method=record.method,
        params=verdicts.params[best],
        status=chosen,
        status_note=verdicts.notes[best],
        iterations=int(ends.iterations[best] + ends.newton_steps[best]),
        history=np.asarray(ends.history[best]),
        histories=[np.asarray(h) for h in ends.history],
        trace=_path(target, ends.path[best]),
        starts=table,
        start_params=verdicts.params,
        groups=groups,
        seed=record.seed,
        seconds=time.perf_counter() - record.clock,
        compile_seconds=ends.compile_seconds,
    )


def prepare_verdict(model: Model, target: Target, somewhere: np.ndarray) -> None:
    """Let everything compile that a verdict on as many starts runs (starts, size)."""
    exchangeable_groups(model, frozenset(target.fixed))
    params = Scales.at(target, somewhere[0]).params
    target.unconstrained({k: np.stack([v] * len(somewhere)) for k, v in params.items()})


def _verdicts(
    model: Model, target: Target, ends: Ends, groups: tuple[Group, ...], look: LookAt
) -> Verdicts:
    params = []
    for point in ends.points:
        own: dict[str, Any] = Scales.at(target, point).params
        for site in target.space.sites:
            own[site.name] = off_the_edge(site.support, own[site.name])
        params.append(sort_labels(own, groups, model))
    names = target.space.names
    points = target.unconstrained({k: np.stack([p[k] for p in params]) for k in names})
    seen = look(points)
    judging = _Judging(target, ends, points, getattr(seen, "rows", None), lambda p: look(p).value)
    status, notes = ends.status.copy(), []
    for i in range(len(points)):
        status[i], note = judging.one(i, params[i])
        notes.append(note)
    return Verdicts(params, points, status, notes)


@dataclass(frozen=True)
class _Judging:
    """What the verdict on one start needs: where all ended, their vectors in order of the labels, the
    effective rows there (starts, values) where the algorithm's looks tell them, and its looks."""

    target: Target
    ends: Ends
    points: np.ndarray
    rows: dict[str, np.ndarray] | None
    value_at: ValueAt

    def one(self, i: int, params: dict[str, np.ndarray]) -> tuple[int, str]:
        """Status of a start, and why."""
        ends, target, point = self.ends, self.target, self.points[i]
        status, value, slope = ends.status[i], ends.values[i], ends.slopes[i]
        finite = bool(np.isfinite(value) and status != Status.NOT_FINITE)
        flag, note = None, ""
        if np.isfinite(value):  # if higher than any density, still of some component
            if self.rows is None:
                rows = rows_at(target, point)
            else:
                rows = {k: v[i] for k, v in self.rows.items()}
            flag, note = judge_components(target, Scales.at(target, point), rows)
        if flag is None:
            at = drawn_back(target.problem, point) if ends.noisy[i] else point
            note = collapse_note(Solution(target, at, value, slope), status)
            flag = Status.COLLAPSED if note else None
        if flag is not None:
            return flag, note
        if not finite:
            nothing = SLOPELESS if ends.slopeless else NOTHING
            return status, nothing if status == Status.NOT_FINITE else ""
        if ends.kinked[i]:
            return status, KINKED
        if status == Status.CONVERGED or (status == Status.FLAT and slope < NEARLY):
            note = told_edges(edge_masks(target, point, params, self.value_at))
            return (Status.BOUNDARY if note else status), note
        return status, ""


def _best(values: np.ndarray, slopes: np.ndarray, status: np.ndarray) -> tuple[int, list[int]]:
    """The best of the sound starts, and those that share its optimum; among equal optima one that
    converged."""
    sound = np.isfinite(values) & ~np.isin(status, ASIDE)
    pool = np.flatnonzero(sound if sound.any() else np.isfinite(values))
    if not len(pool):
        pool = np.array([int(np.argmax(status == Status.COLLAPSED))])
    best = int(pool[np.argmax(values[pool])])
    level = values[best] - SAME * (1 + abs(values[best]))
    equal = [int(i) for i in pool if values[i] >= level]
    best = min(equal or [best], key=lambda i: (status[i] != Status.CONVERGED, slopes[i]))
    return best, equal


def _tell_separation(target: Target, verdicts: Verdicts, best: int, equal: list[int]) -> None:
    ended = [
        i for i in equal if verdicts.status[i] in (Status.CONVERGED, Status.FLAT, Status.MAX_ITER)
    ]
    if best not in ended:
        return
    separation = find_separation(target, verdicts.points[best])
    if separation is None:
        return
    for i in ended:
        verdicts.status[i], verdicts.notes[i] = Status.SEPARATION, separation.note


def _table(ends: Ends, values: np.ndarray, verdicts: Verdicts) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "objective": values,
            "status": [Status(s).label for s in verdicts.status],
            "iterations": ends.iterations,
            "newton_steps": ends.newton_steps,
            "gradient": ends.slopes,
            "optimum": label_optima(values, verdicts.status),
            "note": verdicts.notes,
        }
    )
    table.index.name = "start"
    return table


def _path(target: Target, points: list[np.ndarray]) -> list[dict[str, np.ndarray]] | None:
    """The parameters along the way, where they were kept."""
    if not points:
        return None
    params: dict[str, Any] = target.constrained(np.stack(points))
    return [{k: v[i] for k, v in params.items()} for i in range(len(points))]


def nothing_to_fit(record: Record, target: Target) -> PointFit:
    """The fit of a problem whose parameters are all fixed."""
    params = {k: np.asarray(v) for k, v in target.fixed.items()}
    value = record.model.log_likelihood(params)
    table = pd.DataFrame(
        {
            "objective": [value], "status": ["converged"], "iterations": [0], "newton_steps": [0],
            "gradient": [0.0], "optimum": [1], "note": [""],
        }
    )  # fmt: skip
    table.index.name = "start"
    return PointFit.from_point(
        Solution(target, np.zeros(0), value, 0.0), model=record.model, method=record.method,
        params=params, status=Status.CONVERGED, status_note="every parameter is fixed", iterations=0,
        history=np.zeros(0), histories=[np.zeros(0)], trace=None, starts=table,
        start_params=[params], groups=(), seed=record.seed,
        seconds=time.perf_counter() - record.clock, compile_seconds=0.0,
    )  # fmt: skip
