"""The one loop that drives every iterative algorithm: all starts at once, in blocks of steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status

BLOCK_STEPS = 32


class Lane(NamedTuple):
    """One start: where it is, what it knows of the objective there, and how it stands.

    `point` is the last point with a known `value` and largest gradient entry `slope` (per
    observation); `vector` the next one. `own` is the algorithm's state.
    """

    vector: jax.Array
    point: jax.Array
    value: jax.Array
    slope: jax.Array
    iterations: jax.Array
    status: jax.Array
    own: Any


class Algorithm(Protocol):
    """An algorithm is a value: how to begin and one step. `evaluations` objective values per step
    go to the history; a value that was not accepted is NaN."""

    evaluations: int

    def begin(self, vector: jax.Array, data: Any, fixed: Any) -> Lane: ...

    def step(self, lane: Lane, data: Any, fixed: Any) -> tuple[Lane, jax.Array, jax.Array]: ...


@dataclass
class Trace:
    """What a run left behind: lanes (host arrays), history per start, and whether it was cut."""

    lanes: Lane
    history: list[list[float]]
    vectors: list[list[np.ndarray]] = field(default_factory=list)
    interrupted: bool = False
    compile_seconds: float = 0.0
    slopeless: bool = False  # every start is finite, and has no gradient
    kinked: Any = ()  # starts that ended at kinks of the objective
    noisy: Any = ()  # starts that ended where the objective is rounding


def rounding(value: jax.Array, units: float) -> jax.Array:
    """How far an objective can seem to fall by rounding alone."""
    return 1e3 * jnp.finfo(value.dtype).eps * (jnp.abs(value) + units)


def firm(tree: Any) -> Any:
    """The same arrays, none weakly typed: the next call then needs no other compilation."""
    return jax.tree.map(lambda a: jax.lax.convert_element_type(a, jnp.result_type(a)), tree)


def make_block(algorithm: Algorithm, trace: bool, compiler: Callable) -> Callable:
    """Up to `limit` steps of every lane; returns lanes and the values along the way."""

    def lane_block(lane: Lane, data: Any, fixed: Any, limit: jax.Array, max_iter: jax.Array) -> Any:
        size = lane.vector.shape[0] if trace else 0
        values = jnp.full((BLOCK_STEPS, algorithm.evaluations), jnp.nan, lane.value.dtype)
        points = jnp.full((BLOCK_STEPS, algorithm.evaluations, size), jnp.nan, lane.value.dtype)

        def going(carry: tuple) -> jax.Array:
            i, lane, _, _ = carry
            return (i < limit) & (lane.status == Status.RUNNING) & (lane.iterations < max_iter)

        def body(carry: tuple) -> tuple:
            i, lane, values, points = carry
            lane, seen, where = algorithm.step(lane, data, fixed)
            values = values.at[i].set(seen)
            if trace:
                points = points.at[i].set(where)
            return i + 1, lane, values, points

        _, lane, values, points = jax.lax.while_loop(going, body, (0, lane, values, points))
        return firm(lane), values, points

    return compiler(jax.vmap(lane_block, in_axes=(0, None, None, None, None)))


def drive(
    block: Callable,
    begin: Callable,
    vectors: jax.Array,
    data: Any,
    fixed: Any,
    max_iter: int,
    group: int,
    progress: Progress,
    trace: bool = False,
) -> Trace:
    """Run every start to its end, `group` lanes at a time; Ctrl-C returns what there is."""
    starts = vectors.shape[0]
    history: list[list[float]] = [[] for _ in range(starts)]
    along: list[list[np.ndarray]] = [[] for _ in range(starts)]
    pieces: list[Lane] = []
    interrupted = False
    first_call = 0.0
    for first in range(0, starts, group):
        index = range(first, min(first + group, starts))
        pick = [min(i, starts - 1) for i in range(first, first + group)]
        chosen = jnp.asarray(np.asarray(vectors)[pick])
        lanes = begin(chosen, data, fixed)
        steps = 2
        try:
            while not interrupted:
                clock = time.perf_counter()
                fresh, values, points = jax.block_until_ready(
                    block(lanes, data, fixed, jnp.asarray(steps), jnp.asarray(max_iter))
                )
                seconds = time.perf_counter() - clock
                lanes = fresh
                seen = np.asarray(values)
                for j, i in enumerate(index):
                    kept = np.isfinite(seen[j]).ravel()
                    history[i] += seen[j].ravel()[kept].tolist()
                    if trace:
                        flat = np.asarray(points[j]).reshape(kept.size, -1)
                        along[i] += list(flat[kept])
                if not first_call:
                    first_call = seconds
                status = np.asarray(lanes.status)[: len(index)]
                iterations = np.asarray(lanes.iterations)[: len(index)]
                progress.update(
                    iterations=int(iterations.max()),
                    best=float(np.nanmax(np.asarray(lanes.value)[: len(index)])),
                    done=first + int((status != Status.RUNNING).sum()),
                )
                if np.all((status != Status.RUNNING) | (iterations >= max_iter)):
                    break
                if first_call != seconds:
                    steps = int(np.clip(steps * 0.5 / max(seconds, 1e-3), 2, BLOCK_STEPS))
                else:
                    steps = 8
        except KeyboardInterrupt:
            interrupted = True
        count = len(index)
        pieces.append(jax.tree.map(lambda a, n=count: np.asarray(a)[:n], lanes))
        if interrupted:
            break
    lanes = jax.tree.map(lambda *a: np.concatenate(a), *pieces)
    n = len(np.asarray(lanes.value))
    status = np.array(lanes.status)
    cut = Status.INTERRUPTED if interrupted else Status.MAX_ITER
    status = np.where(status == Status.RUNNING, cut, status)
    return Trace(
        lanes._replace(status=status),
        history[:n],
        along[:n],
        interrupted,
        first_call,
    )
