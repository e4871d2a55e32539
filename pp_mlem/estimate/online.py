"""Online EM: an M-step after every chunk, so that one pass over very many rows does what several would.

Cappe & Moulines (2009), doi:10.1111/j.1467-9868.2009.00698.x: expected statistics are averaged with steps that
shrink as k^-0.6, and the parameters of the second half of the pass are averaged (Polyak & Juditsky 1992,
doi:10.1137/0330046). What it ends with is a start for passes over all rows, which alone say that a fit has
converged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.joined import added, times
from pp_mlem.estimate.em import em_look
from pp_mlem.maximise.blocks.closed import Closed
from pp_mlem.maximise.blocks.idle import Idle
from pp_mlem.maximise.blocks.numeric import Numeric
from pp_mlem.target.streamed import StreamedTarget

CHUNKS = 24  # from which an online pass is worth its time
POWER = 0.6  # of the steps
FIRST = 3  # chunks whose statistics are collected before the parameters move
STEPS = 2  # of an M-step without closed form


def takes_online(target: Any) -> bool:
    """Whether every block's statistics mean the same at any parameters, so that they can be averaged along the way,
    and there are many chunks, all of which this process passes over."""
    return (
        isinstance(target, StreamedTarget)
        and target.summary is None
        and target.streamed.chunks >= CHUNKS
        and processes.count() == 1
        and target.streamed.spread is None
        and all(
            isinstance(b, (Closed, Idle))
            or (isinstance(b, Numeric) and not any(f.varies_by_row for f in _members(target, b)))
            for b in target.problem.blocks
        )
    )


def _members(target: StreamedTarget, block: Any) -> list[Any]:
    return [f for f in target.marginal.factors if f.site in block.sites]


def after_online_pass(target: StreamedTarget, vectors: np.ndarray) -> np.ndarray:
    """Where the starts (starts, size) have come to after one pass; a start that was lost on the way stays."""
    wanted = [np.array(vectors), np.full(len(vectors), STEPS)]
    mean, averaged, total = np.zeros_like(vectors), 0, None
    half = target.streamed.chunks // 2
    for k, (part, units) in enumerate(target.each_chunk(em_look, lambda: tuple(wanted))):
        scaled = times(part, target.units / max(units, 1.0))
        gain = 1.0 if k == 0 else float((k + 1) ** -POWER) if k >= FIRST else 1.0 / (k + 1)
        total = scaled if total is None else added(times(total, 1.0 - gain), times(scaled, gain))
        if k + 1 < FIRST:
            continue
        seen = target.whole_of(em_look, total, tuple(wanted))
        following = np.asarray(seen.following)
        wanted[0] = np.where(np.isfinite(following).all(-1, keepdims=True), following, wanted[0])
        if k >= half:
            mean, averaged = mean + wanted[0], averaged + 1
    found = mean / averaged if averaged else wanted[0]
    return np.where(np.isfinite(found).all(-1, keepdims=True), found, vectors)
