"""What an iterative algorithm is: a state, what it wants to see next, and one step.

An algorithm is a value. Its state says where the objective is wanted next; the loop looks there and
hands in what it saw, and the step says how to go on. A look passes over the data, and is compiled; a
step is arithmetic on a few vectors, written once for the host and for compiled loops (base/arrays.py).
So the same algorithm serves data in memory and data that come in pieces.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pp_mlem.base import arrays
from pp_mlem.base.arrays import Array, eps, namespace
from pp_mlem.base.status import Status

Look = Callable[..., Any]  # (target, *wanted of one start) -> what one pass over the data gives


class State(NamedTuple):
    """The starts, along the leading axis of every array: where each is, what is known of the objective
    there, and how it stands.

    `vector` is where the objective is wanted next. `point` is the last accepted point, `value` the
    objective there in nats, `slope` its largest gradient entry per independent unit. `own` is what the
    algorithm itself needs for its next step.
    """

    vector: Array
    point: Array
    value: Array
    slope: Array
    iterations: Array
    status: Array
    own: Any


class Unkept(NamedTuple):
    """At the end of every start: what numbers of this precision cannot tell from zero, in nats, and
    whether more was promised that no step kept."""

    resolution: np.ndarray
    vain: np.ndarray


class Algorithm(abc.ABC):
    """How to begin, what to look at, and one step.

    `look` is a function of a module, compiled and mapped over the starts; `wanted` gives its arguments.
    What it sees has a `value`, the objective, which the verdict reads too.
    `step` goes on from what it gave, and tells with the new state the values it accepted (NaN where
    none). `unit_free`: converged means so whatever the units of the coordinates.
    """

    unit_free: bool

    @abc.abstractmethod
    def begin(self, vectors: np.ndarray) -> State:
        """The states of starts at vectors (starts, size)."""

    @property
    @abc.abstractmethod
    def look(self) -> Look:
        """What one pass over the data gives: a function of a target and what one start wants."""

    @abc.abstractmethod
    def wanted(self, state: State) -> tuple[Array, ...]:
        """The arguments of `look` for every start."""

    @abc.abstractmethod
    def step(self, state: State, seen: Any) -> tuple[State, Array]:
        """The states after what was seen, and the values that were accepted."""

    def unkept(self, state: State) -> Unkept:
        """What an algorithm that promises a gain, and none kept, knows of its end; most promise none."""
        starts = len(state.status)
        return Unkept(np.zeros(starts), np.zeros(starts, bool))


def at_start(vectors: np.ndarray, own: Any) -> State:
    """The state before anything was seen."""
    starts = len(vectors)
    return State(
        vector=vectors,
        point=vectors,
        value=np.full(starts, -np.inf, vectors.dtype),
        slope=np.full(starts, np.inf, vectors.dtype),
        iterations=np.zeros(starts, int),
        status=np.full(starts, int(Status.RUNNING)),
        own=own,
    )


def rounding(value: Array, units: float) -> Array:
    """How far an objective of that many units can seem to fall by rounding alone."""
    return 1e3 * eps(value) * (abs(value) + units)


def first_of(*cases: tuple[Array, Status], otherwise: Status = Status.RUNNING) -> Array:
    """The status of the first condition that holds, for each start."""
    xp = namespace(cases[0][0])
    status = xp.full(cases[0][0].shape, int(otherwise))
    for condition, chosen in reversed(cases):
        status = xp.where(condition, int(chosen), status)
    return status


def choose(condition: Array, yes: Any, no: Any) -> Any:
    """For each start the one or the other of two trees (nested named tuples of arrays)."""
    if always(condition):
        return yes
    if always(~condition):
        return no
    return _choose(condition, yes, no)


def always(condition: Array) -> bool:
    """Whether it is known on the host that a condition holds for every start."""
    return isinstance(condition, np.ndarray) and bool(condition.all())


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    if yes is None:
        return None
    if isinstance(yes, tuple):
        parts = [_choose(condition, a, b) for a, b in zip(yes, no, strict=True)]
        return type(yes)(*parts) if hasattr(yes, "_fields") else tuple(parts)
    return arrays.where(condition, yes, no)
