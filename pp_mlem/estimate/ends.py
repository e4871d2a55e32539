"""Where the starts have ended, as one value; and ends that are none: densities that are rounding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pp_mlem.base.status import Status
from pp_mlem.diagnose.kinks import at_kink, climb_over_kinks
from pp_mlem.estimate.algorithm import Algorithm
from pp_mlem.estimate.loop import Run
from pp_mlem.program.space import is_half_line
from pp_mlem.target.target import Target, value_and_gradient

FINE = 1e-7  # nats: where rounding is less, it was not rounding that stopped Newton
COLLAPSING = 10.0  # nats gained by a finish that has not ended: the density has no bound
NEIGHBOURS = 5
HIGHEST = 750.0  # log density of one number that float64 can hold
EXTREME = 20.0  # unconstrained coordinate of a positive parameter; exp(20) is 5e8


@dataclass(frozen=True)
class Ends:
    """Of every start: the last accepted point, the objective there, the largest gradient entry per unit,
    the status, how many iterations the algorithm and how many steps its finishes took; how the values
    went. `kinked`: it stands on a kink; `noisy`: the density there is rounding error; `slopeless`: every
    start failed at a finite density.
    """

    points: np.ndarray
    values: np.ndarray
    slopes: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    newton_steps: np.ndarray
    history: list[list[float]]
    path: list[list[np.ndarray]]
    interrupted: bool
    compile_seconds: float
    kinked: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    noisy: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    slopeless: bool = False

    def followed_by(self, later: Ends) -> Ends:
        """The ends of a run that began where these starts had been, or higher."""
        return replace(
            later,
            iterations=self.iterations + later.iterations,
            newton_steps=self.newton_steps + later.newton_steps,
            history=[a + b for a, b in zip(self.history, later.history, strict=True)],
            path=[a + b for a, b in zip(self.path, later.path, strict=True)],
            compile_seconds=self.compile_seconds + later.compile_seconds,
        )

    @classmethod
    def of(cls, run: Run) -> Ends:
        state = run.state
        status, none = np.array(state.status), np.zeros(len(state.status), bool)
        return cls(
            points=np.array(state.point),
            values=np.array(state.value),
            slopes=np.array(state.slope),
            status=status,
            iterations=np.array(state.iterations),
            newton_steps=np.zeros(len(status), int),
            history=run.history,
            path=run.path,
            interrupted=run.interrupted,
            compile_seconds=run.compile_seconds,
            kinked=none,
            noisy=none,
        )

    def finished(self, target: Target, finish: Algorithm, run: Run, skipped: np.ndarray) -> Ends:
        """After a finish, where it ended higher (or where rounding hides that it did)."""
        state = run.state
        resolution, vain = finish.unkept(state)
        noise = (
            1e3 * np.finfo(self.values.dtype).eps * (np.abs(self.values) + target.units)
            + resolution
        )
        better = ~skipped & np.isfinite(state.value) & (state.value >= self.values - noise)
        with np.errstate(invalid="ignore"):  # from minus infinity to minus infinity
            gained = np.where(better, state.value - self.values, 0.0)
        done = state.status == Status.CONVERGED
        status = np.where(better & done, Status.CONVERGED, self.status)
        left = better & ~done & (status != Status.MAX_ITER)
        status = np.where(left, Status.FLAT, status)
        history = [
            [*old, *new] if take else old
            for old, new, take in zip(self.history, run.history, better, strict=True)
        ]
        ends = replace(
            self,
            points=np.where(better[:, None], state.point, self.points),
            values=np.where(better, state.value, self.values),
            slopes=np.where(better, state.slope, self.slopes),
            status=status,
            newton_steps=self.newton_steps + np.where(skipped, 0, state.iterations),
            history=history,
            interrupted=run.interrupted,
        )
        stuck = vain & left & (resolution < FINE) & (gained < COLLAPSING)
        return _over_kinks(target, ends, stuck) if stuck.any() else ends


def _over_kinks(target: Target, ends: Ends, stuck: np.ndarray) -> Ends:
    """The starts where Newton promised in vain, after a method that learns the shape of kinks."""
    points, values, kinked = ends.points.copy(), ends.values.copy(), stuck.copy()
    for i in np.flatnonzero(stuck):
        points[i], values[i] = climb_over_kinks(target.climb, points[i])
        kinked[i] = at_kink(target.climb, points[i])
    return replace(ends, points=points, values=values, kinked=kinked)


def is_beyond(target: Target, values: Any) -> Any:
    """Whether an objective is higher than that of any density that float64 can hold."""
    numbers = float(sum(np.size(a) for a in target.data.dynamic))
    return values > HIGHEST * max(target.units, numbers)


def refuse_extremes(target: Target, ends: Ends) -> Ends:
    """The same, not finite where a value cannot be one of a density, or is nothing but rounding."""
    beyond = is_beyond(target, ends.values)
    noisy = _drowned(target, ends.points, ends.values)
    status = np.where(beyond | noisy, Status.NOT_FINITE, ends.status)
    slopeless = _slopeless(target, ends.points, status)
    return replace(ends, status=status, noisy=noisy, slopeless=slopeless)


def _look(target: Target, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objective and largest gradient entry per unit at points (lanes, size)."""
    run = target.compiled(value_and_gradient, effort=target.work.once, lanes=(0,))
    values, gradients = (np.asarray(a) for a in run(points))
    return values, np.abs(gradients).max(1, initial=0.0) / target.units


def _drowned(target: Target, points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which starts ended where the density is nothing but rounding error: at extreme parameters
    (degrees of freedom of 1e15, say) a relative step of 1e-9 changes it by more than it should."""
    where = target.space.slices()
    half_lines = [where[s.name] for s in target.space.sites if is_half_line(s.support)]
    largest = [points[:, w].max(1, initial=-np.inf) for w in half_lines]
    far = np.max([*largest, np.full(values.shape, -np.inf)], 0) > EXTREME
    extreme = np.isfinite(values) & far
    if not extreme.any():
        return extreme
    rng, noisy = np.random.default_rng(0), np.zeros(values.shape, bool)
    for _ in range(NEIGHBOURS):  # rounding errors come in steps: one neighbour may share them
        beside = points * (1 + 3e-9 * rng.uniform(-1, 1, points.shape))
        moved, _ = _look(target, beside)
        noisy |= ~(np.abs(moved - values) <= 1e-6 * (np.abs(values) + target.units))
    return extreme & noisy


def _slopeless(target: Target, points: np.ndarray, status: Any) -> bool:
    """Whether every start failed at a finite density, for want of a gradient."""
    if not len(status) or (status != Status.NOT_FINITE).any():
        return False
    values, slopes = _look(target, points)
    return bool(np.all(np.isfinite(values) & ~np.isfinite(slopes)))
