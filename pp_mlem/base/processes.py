"""Several processes that fit one model together, by JAX's own runtime (`jax.distributed`).

Each has its share of the rows. What they tell one another is small: sums of a pass, and words about what went
wrong. Without `jax.distributed.initialize()` there is one process, and nothing here does anything.

Every process makes the same exchanges in the same order. What becomes of the others where one is lost:

- it fails, or is interrupted: it says so at their next exchange, and all end with its words;
- it is killed: those that wait for it end at once with an error that says what to do; their processes are gone within
  the `heartbeat_timeout_seconds` of `jax.distributed.initialize` (100), for which JAX waits at the exit;
- it is stopped, or its machine is gone: JAX ends the others, with its own words, within the same time;
- it is process 0, the coordinator: JAX ends the others at once, with its own words;
- it is alive and does not come: it is given up after `PP_MLEM_PATIENCE` seconds (an environment variable; 1800, after
  which gloo, which brings words from CPU to CPU, gives up itself).

A coordinator that does not answer ends `jax.distributed.initialize` with DEADLINE_EXCEEDED after its
`initialization_timeout` (300 s).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ENVELOPE = 4096  # bytes of an exchange that needs no second one
LONGEST = 100  # letters of what an exchange is for
PATIENCE = 1800.0  # seconds for the others
FAREWELL = 60.0  # seconds that a process which has failed waits for the others to hear it
TOLD = "_told_to_all"  # mark of an error
AGAIN = "Start all processes again: with checkpoint= the fit goes on from the last pass that was finished."


@dataclass
class _State:
    """How many exchanges there were; whether one was left in its middle, after which there can be none."""

    exchanges: int = 0
    broken: bool = False


_STATE = _State()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def rank() -> int:
    """Which of them this is; the first one prints and writes."""
    return jax.process_index()


def share(chunks: int) -> tuple[int, int]:
    """The chunks of this process, from one number to another, of so many."""
    own, every = rank(), count()
    return own * chunks // every, (own + 1) * chunks // every


def summed(tree: Any, join: Callable[[Any, Any], Any], step: str) -> Any:
    """The sum of what all processes have, the same bits in each: joined in the order of their ranks. All trees have one
    structure.

    Raises:
        RuntimeError: where another process has failed or cannot be reached; `step` says what for.
    """
    if count() == 1:
        return tree
    total, *others = (_unpacked(own, tree, step) for own in _exchanged(_packed(tree), step))
    for own in others:
        total = join(total, own)
    return total


def of_first(tree: Any, step: str) -> Any:
    """What the first process has, in every one: those of other machines may differ in the last digit."""
    if count() == 1:
        return tree
    return _unpacked(bytes_of_first(_packed(tree) if rank() == 0 else b"", step), tree, step)


def bytes_of_first(content: bytes, step: str) -> bytes:
    """Those of the first process, in every one."""
    return content if count() == 1 else _exchanged(content if rank() == 0 else b"", step)[0]


def met(step: str) -> None:
    """Every process has come so far, and none has failed."""
    if count() > 1:
        _exchanged(b"", step)


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Of an error inside the block the other processes hear at their next exchange: none waits for one that has
    ended."""
    try:
        yield
    except BaseException as error:  # an interrupt too
        if count() > 1 and not _STATE.broken and not _is_known(error):
            setattr(error, TOLD, True)
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            with contextlib.suppress(Exception):  # this error is what there is to say
                _exchanged(words.encode(), "", FAREWELL, failed=True)
        raise


def _is_known(error: BaseException | None) -> bool:
    """Whether the others know of an error, or of its cause."""
    while error is not None:
        if TOLD in vars(error):
            return True
        error = error.__cause__
    return False


def _exchanged(
    content: bytes, step: str, patience: float | None = None, failed: bool = False
) -> list[bytes]:
    """What every process has given, by rank."""
    if _STATE.broken:
        raise RuntimeError(
            f"{step}: an earlier exchange between the processes was cut off. {AGAIN}"
        )
    _STATE.exchanges += 1
    head = json.dumps([len(content), failed, _STATE.exchanges, step[:LONGEST]]).encode().ljust(1024)
    inline, rest = content[: ENVELOPE - len(head)], content[ENVELOPE - len(head) :]
    every = _gathered((head + inline).ljust(ENVELOPE), step, patience)
    heads = [json.loads(own[: len(head)]) for own in every]
    parts = [own[len(head) :] for own in every]
    longest = max(own[0] for own in heads)
    if longest > len(parts[0]):
        more = _gathered(rest.ljust(longest - len(parts[0])), step, patience)
        parts = [own + other for own, other in zip(parts, more, strict=True)]
    given = [part[: own[0]] for part, own in zip(parts, heads, strict=True)]
    _check(heads, given, step, failed)
    return given


def _check(heads: list[list], given: list[bytes], step: str, failed: bool) -> None:
    """That none has failed, and all are at the same exchange."""
    for other, (_, lost, _, _) in enumerate(heads):
        if lost and not failed:
            text = given[other].decode(errors="replace")
            raise _known(f"process {other} of {count()} has failed: {text}")
    for other, (_, lost, number, where) in enumerate(heads):
        if not (lost or failed) and (number, where) != (_STATE.exchanges, step[:LONGEST]):
            raise _known(
                f"the processes have come apart: process {rank()} is at '{step}' (exchange {_STATE.exchanges}) and process "
                f"{other} at '{where}' (exchange {number}). Every process must ask the same of the same model and fit, in the "
                "same order: nothing of it under an `if` on the number of the process."
            )


def _known(message: str) -> RuntimeError:
    error = RuntimeError(message)
    setattr(error, TOLD, True)
    return error


def _gathered(block: bytes, step: str, patience: float | None) -> list[bytes]:
    """The blocks of all processes, of one length; waited for in a thread, so that the wait can end."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    limit = _patience() if patience is None else patience

    def gather() -> None:
        try:
            found.put(_of_all(block))
        except BaseException as error:  # it is raised where it is waited for
            found.put(error)

    threading.Thread(target=gather, name="pp_mlem exchange", daemon=True).start()
    try:
        every = found.get(timeout=limit)
    except queue.Empty:
        _STATE.broken = True
        raise RuntimeError(
            f"{step}: process {rank()} of {count()} has waited {limit:g} s for the others (PP_MLEM_PATIENCE sets how long). "
            f"One of them hangs, or has far more to do. {AGAIN}"
        ) from None
    except BaseException:
        _STATE.broken = True
        raise
    if isinstance(every, BaseException):
        _STATE.broken = True
        told = next(iter(str(every).splitlines()), "")
        raise RuntimeError(
            f"{step}: process {rank()} of {count()} cannot reach the others ({told}). One of them has ended, or the network "
            f"between them: see what each has printed. {AGAIN}"
        ) from every
    return every


def _patience() -> float:
    given = os.environ.get("PP_MLEM_PATIENCE", "").strip()
    try:
        found = float(given or PATIENCE)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise ValueError(f"PP_MLEM_PATIENCE: received {given!r}, expected seconds.")
    return min(found, threading.TIMEOUT_MAX)


def _of_all(block: bytes) -> list[bytes]:
    own, gather = _line()
    words = np.frombuffer(block.ljust(-(-len(block) // 4) * 4), np.int32)[None]
    array = jax.make_array_from_process_local_data(own, words, (count(), words.shape[1]))
    found = np.asarray(gather(array).addressable_data(0))
    return [row.tobytes()[: len(block)] for row in found]


@functools.cache
def _line() -> tuple[NamedSharding, Any]:
    """Where the blocks of the processes lie, one on the first device of each, and what brings them to all."""
    first: dict[int, jax.Device] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    mesh = Mesh(np.array([first[p] for p in sorted(first)]), ("processes",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("processes")), jax.jit(_same, out_shardings=everywhere)


def _same(array: jax.Array) -> jax.Array:
    return array


def _packed(tree: Any) -> bytes:
    return b"".join(np.ascontiguousarray(a).tobytes() for a in jax.tree.leaves(tree))


def _unpacked(content: bytes, like: Any, step: str) -> Any:
    """A tree of another process, in the shapes and kinds of this one."""
    leaves, structure = jax.tree.flatten(like)
    found, at = [], 0
    for leaf in map(np.asarray, leaves):
        piece = content[at : at + leaf.nbytes]
        at += leaf.nbytes
        if len(piece) == leaf.nbytes:
            found.append(np.frombuffer(piece, leaf.dtype).reshape(leaf.shape))
    if at != len(content):
        raise RuntimeError(
            f"{step}: another process has {len(content)} bytes, and this one {at}: they do not run the same script on the "
            "same data."
        )
    return jax.tree.unflatten(structure, found)
