"""What suits the processor that JAX computes on: a CPU, or an accelerator (GPU, TPU)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Machine:
    """Sizes by which work is cut, and what the compiler is asked.

    block_rows, block_numbers: at most, of a block of rows of in-memory data that is swept at once. On a CPU it stays in
        the cache of a core; an accelerator has thousands of lanes to keep busy.
    chunk_rows, chunk_numbers: at most, of a chunk of data on disk and of all its columns: some megabytes, or enough for a
        kernel to be worth its launch and the copy to the device.
    lane_work: multiplications of a sweep up to which starts run in one computation, side by side; beyond, each is a
        computation of its own. A core is busy with one of them; an accelerator is not.
    parallel_scans: whether the steps of a few chains of few states are summed by a parallel prefix scan (depth: the
        logarithm of the steps) in place of one after the other.
    cpu: whether XLA's options for CPUs, and what works around its thread pool, are of any use.
    """

    block_rows: int
    block_numbers: int
    chunk_rows: int
    chunk_numbers: int
    lane_work: float
    parallel_scans: bool
    cpu: bool


CPU = Machine(
    block_rows=2**11,
    block_numbers=2**14,
    chunk_rows=2**18,
    chunk_numbers=2**20,
    lane_work=3e5,
    parallel_scans=False,
    cpu=True,
)
ACCELERATOR = Machine(
    block_rows=2**20,
    block_numbers=2**24,
    chunk_rows=2**21,
    chunk_numbers=2**24,
    lane_work=1e9,
    parallel_scans=True,
    cpu=False,
)  # by what such devices hold and launch; measured on none yet


def machine() -> Machine:
    """That of JAX's default backend."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
