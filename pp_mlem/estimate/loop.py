"""The one loop that drives every iterative algorithm, all starts at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.arrays import Array, namespace
from pp_mlem.base.compiling import Effort, at_once
from pp_mlem.base.precision import working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status
from pp_mlem.estimate.algorithm import Algorithm, State, always, choose
from pp_mlem.target.target import Target

T = TypeVar("T")

BLOCK_STEPS = 32
BLOCK_SECONDS = 0.5  # how long Ctrl-C may have to wait, where a step is shorter
FIRST_STEPS, SECOND_STEPS = 2, 8


@dataclass
class Run:
    """How far the starts have come: their states and, of each, the accepted values along the way and
    (where asked for) the points; whether the user stopped it, and how long the first look took,
    compilation included."""

    state: State
    history: list[list[float]]
    path: list[list[np.ndarray]]
    interrupted: bool = False
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Driver:
    """Runs an algorithm on a target: `limit` iterations of each start at most, `group` starts at a time:
    in one computation, or `on_threads`, each that has not ended a computation of its own.

    On the host one look is compiled and the steps are NumPy's: a first fit compiles little. Where it is
    `fused`, looks and steps are one compiled loop of up to `BLOCK_STEPS` steps: no look then waits for
    the host, which an accelerator would.
    """

    target: Target
    algorithm: Algorithm
    effort: Effort
    limit: int
    group: int
    on_threads: bool = False
    with_path: bool = False
    fused: bool = False
    progress: Progress = field(default_factory=lambda: Progress("", 0, False))

    @property
    def is_alone(self) -> bool:
        """Whether no other process waits for this one."""
        return True

    def ahead(self, vectors: Any) -> Future | None:
        """Begin to compile the looks of as many starts, in another thread."""
        if self.fused:
            return None
        some = _some(self.algorithm.begin(vectors), range(len(vectors)), self.group)
        wanted, look = self.algorithm.wanted(some), self.algorithm.look
        one = _lane(wanted, 0) if self.on_threads else wanted
        return self.target.ahead(
            look, one, effort=self.effort, lanes=(0,) * len(one), on_threads=self.on_threads
        )

    def run(
        self,
        state: State,
        whole: bool = False,
        history: list[list[float]] | None = None,
        keep: Callable[[State, Run], None] | None = None,
    ) -> Run:
        """Every start to its end; Ctrl-C returns those that had begun, or the `whole`.

        `history` are the accepted values so far, where the states are those of a run that goes on; after every
        block of steps `keep` has the states of all starts.
        """
        starts = len(state.status)
        before = [[] for _ in range(starts)] if history is None else [list(h) for h in history]
        run = Run(state, before, [[] for _ in range(starts)])
        pieces: list[State] = []
        for first in range(0, starts, self.group):
            index = range(first, min(first + self.group, starts))
            here = [_some(state, index, self.group)]

            def now(own: State, index: range = index) -> None:
                if keep is not None:
                    parts = [*pieces, _cut(own, 0, len(index)), _cut(state, index.stop, starts)]
                    keep(jax.tree.map(lambda *a: np.concatenate(a), *parts), run)

            try:
                self._to_the_end(here, run, index, now)
            except KeyboardInterrupt:
                if not self.is_alone:
                    raise
                run.interrupted = True
            pieces.append(_cut(here[0], 0, len(index)))
            if run.interrupted:
                pieces.append(_cut(state, index.stop, starts if whole else index.stop))
                break
        run.state = jax.tree.map(lambda *a: np.concatenate(a), *pieces)
        ended = Status.INTERRUPTED if run.interrupted else Status.MAX_ITER
        status = np.where(run.state.status == Status.RUNNING, ended, run.state.status)
        run.state = run.state._replace(status=status)
        run.history, run.path = run.history[: len(status)], run.path[: len(status)]
        return run

    def look_once(self, state: State) -> State:
        """One more step of every start, for what was still to be looked at when it was cut off."""
        starts = len(state.status)
        going = state._replace(status=np.full(starts, int(Status.RUNNING)))
        block = replace(self, limit=np.iinfo(np.int32).max)._block()
        pieces = []
        for first in range(0, starts, self.group):
            index = range(first, min(first + self.group, starts))
            ended = block(_some(going, index, self.group), 1)[0]
            pieces.append(_cut(ended, 0, len(index)))
        new = jax.tree.map(lambda *a: np.concatenate(a), *pieces)
        return new._replace(iterations=state.iterations)

    def at(self, points: np.ndarray) -> Any:
        """What the algorithm's look sees at points (count, size)."""
        with np.errstate(all="ignore"):  # of points at infinity
            state, pieces = self.algorithm.begin(points), []
        for first in range(0, len(points), self.group):
            index = range(first, min(first + self.group, len(points)))
            wanted = self.algorithm.wanted(_some(state, index, self.group))
            seen = self.look(np.arange(self.group) < len(index), wanted)
            pieces.append(_cut(seen, 0, len(index)))
        return jax.tree.map(lambda *a: np.concatenate(a), *pieces)

    def _to_the_end(
        self, here: list[State], run: Run, index: range, now: Callable[[State], None]
    ) -> None:
        """Step after step until every start in `here[0]` has ended; `here[0]` is always whole."""
        block, steps, count = self._block(), self._steps(FIRST_STEPS, BLOCK_SECONDS), len(index)
        while True:
            clock = time.perf_counter()
            here[0], values, points = block(here[0], steps)
            seconds = time.perf_counter() - clock
            self._note(run, index, values, points)
            state = _cut(here[0], 0, count)
            self._show(state, index)
            now(here[0])
            if not np.any((state.status == Status.RUNNING) & (state.iterations < self.limit)):
                return
            if run.compile_seconds:
                steps = self._steps(steps, seconds)
            else:  # the first block was compiled, too
                run.compile_seconds, steps = seconds, self._steps(SECOND_STEPS, BLOCK_SECONDS)

    def _steps(self, steps: int, seconds: float) -> int:
        """How many the next block has, where so many took so long."""
        return int(np.clip(steps * BLOCK_SECONDS / max(seconds, 1e-3), 2, BLOCK_STEPS))

    def _block(self) -> Callable[[State, int], tuple[State, np.ndarray, np.ndarray]]:
        """(state, steps) -> (state after so many steps at most, accepted values (starts, steps), points)."""
        return self._fused() if self.fused else self._hosted()

    def _hosted(self) -> Callable[[State, int], tuple[State, np.ndarray, np.ndarray]]:
        algorithm = self.algorithm

        def block(state: State, steps: int) -> tuple[State, np.ndarray, np.ndarray]:
            values, points = [], []
            with np.errstate(all="ignore"):
                for _ in range(steps):
                    going = (state.status == Status.RUNNING) & (state.iterations < self.limit)
                    if not going.any():
                        break
                    wanted = algorithm.wanted(state)
                    seen = self.look(going, wanted)
                    points.append(state.vector)
                    state, accepted = _step(algorithm, state, seen, going)
                    values.append(accepted)
            if not values:  # none was running
                nothing = np.full((len(state.status), 1), np.nan, state.value.dtype)
                return state, nothing, nothing[..., None] + state.vector[:, None]
            return state, np.stack(values, 1), np.stack(points, 1)

        return block

    def look(self, going: np.ndarray, wanted: tuple[Array, ...]) -> Any:
        """What the algorithm's look sees; of starts that are not `going` it may be nothing."""
        target, look = self.target, self.algorithm.look
        run = target.compiled(
            look, effort=self.effort, lanes=(0,) * len(wanted), on_threads=self.on_threads
        )
        if not self.on_threads:
            return jax.tree.map(np.asarray, run(*wanted))

        def of_lane(i: int) -> Any:
            return jax.tree.map(np.asarray, run(*_lane(wanted, i)))

        on, inside = np.flatnonzero(going).tolist(), partial(working_precision, target.dtype)
        seen = dict(zip(on, at_once(of_lane, on, inside), strict=True))
        nothing = jax.tree.map(np.zeros_like, seen[on[0]])
        return jax.tree.map(
            lambda *a: np.concatenate(a), *(seen.get(i, nothing) for i in range(len(going)))
        )

    def _fused(self) -> Callable[[State, int], tuple[State, np.ndarray, np.ndarray]]:
        run = self.target.compiled(_fused, self.algorithm, self.with_path, effort=self.effort)

        def block(state: State, steps: int) -> tuple[State, np.ndarray, np.ndarray]:
            return jax.device_get(run(state, np.asarray(steps), np.asarray(self.limit)))

        return block

    def _note(self, run: Run, index: range, values: np.ndarray, points: np.ndarray) -> None:
        for j, i in enumerate(index):
            accepted = np.isfinite(values[j])
            run.history[i] += values[j][accepted].tolist()
            if self.with_path:
                run.path[i] += list(points[j][accepted])

    def _show(self, state: State, index: range) -> None:
        self.progress.update(
            iterations=int(state.iterations.max()),
            best=float(state.value.max(initial=-np.inf, where=~np.isnan(state.value))),
            done=index.start + int((state.status != Status.RUNNING).sum()),
        )


@dataclass(frozen=True)
class StreamedDriver(Driver):
    """Of data that come in chunks: a look is one pass over them, all starts in the same one; so is a block. In
    several processes all states are those of the first; an interrupt of one ends all."""

    @property
    def is_alone(self) -> bool:
        return processes.count() == 1

    def _block(self) -> Callable[[State, int], tuple[State, np.ndarray, np.ndarray]]:
        block = super()._block()

        def same(state: State, steps: int) -> tuple[State, np.ndarray, np.ndarray]:
            found: tuple = processes.of_first(block(state, steps), "the states of the starts")
            return found

        return same

    def _steps(self, steps: int, seconds: float) -> int:
        return 1

    def ahead(self, vectors: Any) -> Future | None:
        return None

    def look(self, going: np.ndarray, wanted: tuple[Array, ...]) -> Any:
        target: Any = self.target
        return target.looked(self.algorithm.look, going, wanted)


def _some(state: State, index: range, count: int) -> State:
    """The starts of the index, the last one repeated so that there are `count`."""
    pick = np.minimum(np.arange(index.start, index.start + count), index.stop - 1)
    return jax.tree.map(lambda a: np.asarray(a)[pick], state)


def _lane(wanted: tuple[Array, ...], i: int) -> tuple[Array, ...]:
    """What is wanted of one start, as of so many starts."""
    own: tuple[Array, ...] = jax.tree.map(lambda a: np.asarray(a)[i : i + 1], wanted)
    return own


def _cut(state: T, first: int, last: int) -> T:
    part: T = jax.tree.map(lambda a: np.asarray(a)[first:last], state)
    return part


def _step(algorithm: Algorithm, state: State, seen: Any, going: Array) -> tuple[State, Array]:
    """One step of the starts that are going; of the others nothing changes."""
    new, accepted = algorithm.step(state, seen)
    if always(going):
        return new, accepted
    xp = namespace(going)
    return choose(going, new, state), xp.where(going, accepted, xp.nan)


def _fused(
    target: Target,
    algorithm: Algorithm,
    with_path: bool,
    state: State,
    steps: jax.Array,
    limit: jax.Array,
) -> tuple[State, jax.Array, jax.Array]:
    """Up to `steps` steps of every start; the accepted values along the way, and where they were."""
    starts, size = state.vector.shape
    dtype = state.value.dtype
    values = jnp.full((starts, BLOCK_STEPS), jnp.nan, dtype)
    points = jnp.full((starts, BLOCK_STEPS, size if with_path else 0), jnp.nan, dtype)

    def running(state: State) -> jax.Array:
        return (state.status == Status.RUNNING) & (state.iterations < limit)

    def going(carry: tuple) -> jax.Array:
        i, state, _, _ = carry
        return (i < steps) & running(state).any()

    def body(carry: tuple) -> tuple:
        i, state, values, points = carry
        wanted, on = algorithm.wanted(state), running(state)
        seen = jax.vmap(lambda *own: algorithm.look(target, *own))(*wanted)
        new, accepted = _step(algorithm, state, seen, on)
        values = values.at[:, i].set(accepted)
        points = points.at[:, i].set(state.vector) if with_path else points
        same = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, state)
        return i + 1, same, values, points

    state = jax.tree.map(jnp.asarray, state)
    _, state, values, points = jax.lax.while_loop(going, body, (0, state, values, points))
    return state, values, points
