"""A pass over chunks by other processes: a client of Dask, or an executor of `concurrent.futures`.

One pass is cut into ranges of chunks, each a task. What the tasks give is joined in the order of the ranges, and how
many there are follows from the data alone: the sums do not depend on who did what, nor on how many there are.
"""

from __future__ import annotations

import functools
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NamedTuple

import jax
import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.precision import working_precision
from pp_mlem.model.summary import Moments
from pp_mlem.target.streamed import Asked

TASKS = 64  # of a pass, where there are so many chunks
CHUNKS_OF_TASK = 64  # at most: a task that is lost is done again
LARGEST = 50_000_000  # bytes of a model that is sent to workers
MOST_MODELS = 4  # of a worker
Task = Callable[..., Any]  # (model, begin, end, *given) -> what it gives of these chunks


class Failed(NamedTuple):
    """The error of a task, as a value: what a future itself raises is of the workers."""

    error: Exception


@dataclass(frozen=True)
class Workers:
    """`client` takes tasks by `submit(function, *args)`, whose futures have `result()` and `cancel()`; `recipe` is how a worker
    makes the model, and `key` its digest."""

    client: Any
    recipe: bytes
    key: str
    chunks: int

    @classmethod
    def of(cls, client: Any, recipe: tuple[Callable[..., Any], tuple], chunks: int) -> Workers:
        """
        Raises:
            TypeError: for a source or program that cannot be sent to another process.
            ValueError: for data in memory that are too large to be sent.
        """
        try:
            packed = pickle.dumps(recipe)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"workers: the model cannot be sent to other processes ({error}). Open files, which every worker can read, "
                "or a function at the top of a module."
            ) from None
        if len(packed) > LARGEST:
            raise ValueError(
                f"workers: the model has {len(packed):,} bytes with its data in memory, too many to be sent to each of them. Write "
                "the data to files that every worker can read (Parquet, .npy), and open those."
            )
        return cls(client, packed, sha256(packed).hexdigest(), chunks)

    def each_range(self, task: Task, *given: Any) -> list[Any]:
        """What a function of a module gives of every range of chunks, in their order.

        Raises:
            RuntimeError: where the workers are lost; what a task raises is raised as it is.
        """
        wanted = pickle.dumps((task, given))
        every = ranges(self.chunks)
        found = self._done(every, wanted, None)
        lacking = [i for i, own in enumerate(found) if own is None]
        again = self._done([every[i] for i in lacking], wanted, self.recipe)
        for i, own in zip(lacking, again, strict=True):
            found[i] = own
        return found

    def _done(self, every: list[tuple[int, int]], wanted: bytes, recipe: bytes | None) -> list[Any]:
        """What the tasks give; None of one whose worker does not know the model yet."""
        futures: list[Any] = []
        found: list[Any] = []
        try:
            for begin, end in every:
                own = self.client.submit(_run, self.key, recipe, wanted, begin, end)
                futures.append(own)
            for future in futures:
                found.append(future.result())
                if isinstance(found[-1], Failed):
                    break
        except Exception as error:  # whatever the client raises, it is not of a task
            raise RuntimeError(
                f"workers: {type(self.client).__name__} has lost tasks ({type(error).__name__}: {error}). See what the workers "
                "have printed (memory, a machine that went away), start them again, and fit again: with checkpoint= the "
                "fit goes on from the last pass that was finished."
            ) from error
        finally:
            for future in futures[len(found) :]:
                future.cancel()
        if found and isinstance(found[-1], Failed):
            raise found[-1].error
        return found


def client_of(workers: Any, devices: Any) -> Any:
    """What was given as workers, if it can be that."""
    if workers is None:
        return None
    if not callable(getattr(workers, "submit", None)):
        raise TypeError(
            f"workers: received {type(workers).__name__}, expected a client of Dask or an executor: something with a method "
            "submit(function, *args)."
        )
    if devices is not None:
        raise ValueError(
            "devices, workers: received both. Workers are processes of their own, and each computes on its own device."
        )
    if processes.count() > 1:
        raise ValueError(
            f"workers: received some in one of {processes.count()} processes of jax.distributed, which share the rows already. "
            "Use one of the two."
        )
    return workers


def ranges(chunks: int) -> list[tuple[int, int]]:
    """The chunks of each task, from one number to another."""
    count = min(chunks, max(TASKS, -(-chunks // CHUNKS_OF_TASK)))
    return [(i * chunks // count, (i + 1) * chunks // count) for i in range(count)]


_MODELS: OrderedDict[str, Any] = OrderedDict()
_READING = threading.Lock()


def _run(key: str, recipe: bytes | None, wanted: bytes, begin: int, end: int) -> Any:
    """A task, in a worker; the model is read once. None without it and its recipe."""
    try:
        with _READING:
            if key not in _MODELS:
                if recipe is None:
                    return None
                make, args = pickle.loads(recipe)
                _MODELS[key] = make(*args)
            _MODELS.move_to_end(key)
            while len(_MODELS) > MOST_MODELS:
                _MODELS.popitem(last=False)
            model = _MODELS[key]
        task, given = pickle.loads(wanted)
        return task(model, begin, end, *given)
    except Exception as error:
        return Failed(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same and survives a pickle."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Checked(NamedTuple):
    """Of chunks that were looked at: how many units they have, each with its case weight; the moments of their numbers,
    where these say all; whether all of them are laid out from their arrays alone."""

    units: float
    moments: Moments | None
    quick: bool


def check_range(model: Any, begin: int, end: int, summarised: bool) -> Checked:
    """What a worker sees of some chunks."""
    with working_precision(model.dtype):
        return model._checked(summarised, model.part_of_stream(begin, end))


def of_ranges(found: list[Checked]) -> Checked:
    """The same of all ranges."""
    moments = [own.moments for own in found if own.moments is not None]
    every = functools.reduce(Moments.joined, moments) if len(moments) == len(found) else None
    return Checked(sum(own.units for own in found), every, all(own.quick for own in found))


def sum_range(
    model: Any,
    begin: int,
    end: int,
    fixed: Any,
    with_prior: bool,
    asked: Asked,
    going: np.ndarray,
    arrays: tuple[Any, ...],
) -> Any:
    """What a worker sums up of some chunks."""
    with working_precision(model.dtype):
        target = model.target(fixed, with_prior)
        feed = functools.partial(model.feed, model.part_of_stream(begin, end))
        own = replace(target, streamed=replace(target.streamed, feed=feed))
        return own.over_chunks(asked, going, arrays)


def on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
