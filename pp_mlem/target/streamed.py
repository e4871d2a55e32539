"""A target whose rows come in chunks: what adds up over rows is summed chunk by chunk."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.compiling import Effort, Work, in_turn
from pp_mlem.data.program_data import ProgramData
from pp_mlem.target.parts import WITHOUT_ROWS, Parts, over_rows
from pp_mlem.target.problem import Problem
from pp_mlem.target.target import Target

# One pass: of each chunk what its data are laid out from, and how often each of its units counts.
Feed = Callable[[], Iterator[tuple[Any, Any]]]


@dataclass(frozen=True, eq=False)
class PartProblem(Problem):
    """A problem on some of the rows: without the prior, which belongs to none of them. `rows` is how many
    units a chunk has."""

    rows: int = field(kw_only=True)


@dataclass(frozen=True)
class Chunks:
    """The rows of a streamed target: one pass over them (`feed`), from the data of a chunk and the weights of its
    units the data that a part of a target has (`lay`), how many units there are, and rows and chunks; the `devices`
    that take chunks in turn, the default one where none are named; what else gives the sum over all chunks, if this
    process does not pass over them (`spread`)."""

    feed: Feed
    lay: Callable[..., ProgramData]
    units: float
    rows: int
    chunks: int
    devices: tuple[jax.Device, ...] = ()
    spread: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Asked:
    """What is asked of every chunk: the part of a function and its static arguments, how two of its values are joined,
    and the axes of its arrays along which it is mapped (`lanes`)."""

    part: Callable[..., Any]
    join: Callable[[Any, Any], Any]
    static: tuple[Hashable, ...] = ()
    lanes: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class StreamedTarget(Target):
    """Of a problem and all chunks of its rows; `data` are those of the first chunk, for what reads no rows.

    `summary` is a target in memory with the same objective, where few weighted rows say what all rows do. What is
    compiled for a chunk serves all of them. Sums are in float64, on the host, in the order of the chunks.
    """

    streamed: Chunks = field(kw_only=True)
    summary: Target | None = None

    @property
    def likelihood_alone(self) -> Target:
        alone = super().likelihood_alone
        few = None if self.summary is None else self.summary.likelihood_alone
        return replace(alone, summary=few) if isinstance(alone, StreamedTarget) else alone

    def compiled(
        self,
        function: Callable[..., Any],
        *static: Hashable,
        effort: Effort = Effort.QUICK,
        lanes: tuple[int | None, ...] | None = None,
        on_threads: bool = False,
    ) -> Callable[..., Any]:
        how = over_rows(function)
        if how == WITHOUT_ROWS:
            return super().compiled(function, *static, effort=effort, lanes=lanes)
        if not isinstance(how, Parts):
            raise NotImplementedError(
                f"this needs all rows at once ('{told(function)}'), and the data come in chunks. Ask it of a model on a sample of "
                "the rows, model.subsample(rows), or of the data in memory."
            )
        if how.by_objective and self.summary is not None:
            return self.summary.compiled(function, *static, effort=effort, lanes=lanes)
        asked = Asked(how.part, how.join, static, lanes)
        return functools.partial(self._in_chunks, how, asked)

    def _in_chunks(self, how: Parts, asked: Asked, *arrays: Any) -> Any:
        """The whole function, of all its lanes."""
        lanes = asked.lanes or ()
        mapped = [a for a, axis in zip(arrays, lanes, strict=bool(lanes)) if axis == 0]
        count = max((np.shape(jax.tree.leaves(a)[0])[0] for a in mapped), default=1)
        return self._summed(how, asked, np.full(count, True), arrays)

    def looked(self, look: Callable[..., Any], going: np.ndarray, wanted: tuple[Any, ...]) -> Any:
        """What a look sees of every start that is `going`, in one pass over the rows, and zeros of the others; on
        the host."""
        how, asked = _of_look(look, wanted)
        if how.by_objective and self.summary is not None:
            seen = self.summary.compiled(look, lanes=asked.lanes)(*wanted)
            return jax.tree.map(np.asarray, seen)
        return self._summed(how, asked, going, wanted)

    def _summed(self, how: Parts, asked: Asked, going: np.ndarray, arrays: tuple[Any, ...]) -> Any:
        """The whole function from one pass; the starts one after the other on every chunk."""
        with processes.telling():
            if self.streamed.spread is None:
                total = self.over_chunks(asked, going, arrays)
            else:
                prior = self.problem.with_prior
                total = self.streamed.spread(self.fixed, prior, asked, going, arrays)
        step = f"the sums of '{told(asked.part)}' over the rows"
        return self._whole(how, asked, processes.summed(total, asked.join, step), arrays)

    def over_chunks(self, asked: Asked, going: np.ndarray, arrays: tuple[Any, ...]) -> Any:
        """What a part gives of all chunks that the feed has, joined in their order."""
        run, total, begun = self._of_chunk(asked), None, deque[Any]()
        for given in self._given():
            begun.append(run(*given, self.fixed, going, arrays))  # not waited for
            if len(begun) > max(len(self.streamed.devices), 1):
                total = _joined(asked.join, total, begun.popleft())
        for own in begun:
            total = _joined(asked.join, total, own)
        return total

    def _of_chunk(self, asked: Asked) -> Callable[..., Any]:
        """(what a chunk is laid out from, weights, fixed, which lanes, arrays) -> what the part gives, compiled."""
        if self.kept is None:
            raise RuntimeError("this target is part of what is being compiled.")
        problem = self.once(("part of", self.problem), self._part_problem)
        return self.kept(
            _on_chunk, asked, problem, self.streamed.lay, effort=self.part_work.steady,
            name=f"{asked.part.__name__}_of_a_chunk",
        )  # fmt: skip

    def _given(self) -> Iterator[tuple[Any, Any]]:
        """The chunks of one pass, each on the device whose turn it is."""
        devices = self.streamed.devices
        for i, given in enumerate(self.streamed.feed()):
            yield jax.device_put(given, devices[i % len(devices)]) if devices else given

    def _whole(self, how: Parts, asked: Asked, total: Any, arrays: tuple[Any, ...]) -> Any:
        inside = jax.tree.map(lambda a: np.asarray(a, _plain(a, self.dtype)), total)
        axes = None if asked.lanes is None else (0, *asked.lanes)
        whole = super().compiled(_whole, how.whole, asked.static, lanes=axes)
        with processes.telling():
            found = jax.tree.map(np.asarray, whole(inside, *arrays))
        return processes.of_first(found, f"'{told(asked.part)}'")

    def each_chunk(
        self, look: Callable[..., Any], wanted: Callable[[], tuple[Any, ...]]
    ) -> Iterator[tuple[Any, float]]:
        """Of every chunk in turn what the part of a look gives where it is `wanted` then, for all starts, and how many
        units the chunk has; on the host."""
        arrays = wanted()
        run = self._of_chunk(_of_look(look, arrays)[1])
        going = np.full(len(arrays[0]), True)
        for data, weights in self._given():
            part = run(data, weights, self.fixed, going, wanted())
            yield jax.tree.map(_wide, part), float(np.sum(np.asarray(weights)))

    def whole_of(self, look: Callable[..., Any], total: Any, wanted: tuple[Any, ...]) -> Any:
        """What a look sees where its parts add up to this."""
        return self._whole(*_of_look(look, wanted), total, wanted)

    def _part_problem(self) -> PartProblem:
        own = {f.name: getattr(self.problem, f.name) for f in fields(Problem)}
        return PartProblem(**{**own, "with_prior": False}, rows=self.streamed.rows)

    def ahead(
        self,
        function: Callable[..., Any],
        arrays: tuple,
        *static: Hashable,
        effort: Effort = Effort.QUICK,
        lanes: tuple[int | None, ...] | None = None,
        on_threads: bool = False,
    ) -> Future | None:
        return None

    @property
    def work(self) -> Work:
        """Of a pass over all rows."""
        own = self.part_work
        return replace(own, sweep=own.sweep * self.streamed.chunks)

    @property
    def part_work(self) -> Work:
        """Of a chunk."""
        return self.problem.work

    @property
    def unit_weights(self) -> np.ndarray:
        raise NotImplementedError(
            "the data come in chunks: there is no one array of their units' weights."
        )

    @property
    def units(self) -> float:
        return max(self.streamed.units, 1.0)


def _whole(
    target: Target,
    whole: Callable[..., Any],
    static: tuple[Hashable, ...],
    total: Any,
    *arrays: Any,
) -> Any:
    return whole(target, total, *static, *arrays)


def told(function: Callable[..., Any]) -> str:
    """A function's name in words."""
    return getattr(function, "__name__", str(function)).strip("_").replace("_", " ")


def _joined(join: Callable[[Any, Any], Any], total: Any, part: Any) -> Any:
    """The total with one more part, in float64."""
    if part is None:
        return total
    part = jax.tree.map(_wide, part)
    return part if total is None else join(total, part)


def _wide(array: Any) -> np.ndarray:
    host = np.asarray(array)
    return host.astype(np.float64) if host.dtype.kind == "f" else host


def _plain(array: np.ndarray, dtype: np.dtype) -> np.dtype:
    return dtype if array.dtype.kind == "f" else array.dtype


def _of_look(look: Callable[..., Any], wanted: tuple[Any, ...]) -> tuple[Parts, Asked]:
    """How a look adds up over rows, and what it asks of every chunk for all starts."""
    how = over_rows(look)
    if not isinstance(how, Parts):
        raise NotImplementedError(f"{look.__name__} needs all rows at once.")
    return how, Asked(how.part, how.join, (), (0,) * len(wanted))


def _on_chunk(
    asked: Asked,
    problem: Problem,
    lay: Callable[..., ProgramData],
    data: Any,
    weights: jax.Array,
    fixed: Any,
    going: jax.Array,
    arrays: tuple[Any, ...],
) -> Any:
    """What a part gives of one chunk; of several lanes one after the other. Traceable."""
    target = Target(problem, lay(problem.marginal, data, weights), fixed)
    if asked.lanes is None:
        return asked.part(target, *asked.static, *arrays)
    placed = list(zip(arrays, asked.lanes, strict=True))

    def one(*own: Any) -> Any:
        each = iter(own)
        given = [next(each) if axis == 0 else a for a, axis in placed]
        return asked.part(target, *asked.static, *given)

    return in_turn(one, going, tuple(a for a, axis in placed if axis == 0))
