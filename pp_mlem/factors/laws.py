"""Whether the laws of the latents are laws: probabilities that sum to one, states that are reached."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from pp_mlem.factors.base import Factor
from pp_mlem.program.errors import SiteValueError
from pp_mlem.program.reading import Reading
from pp_mlem.program.scans.scan import Scan, at_step


def check_laws(reading: Reading, factors: tuple[Factor, ...], tables: dict[str, Any]) -> None:
    """Every latent's probabilities sum to one, and every state of a chain can be reached."""
    possible: dict[str, np.ndarray] = {}
    for factor in factors:
        if not factor.law_of or reading.sites[factor.site].hidden:
            continue
        table = np.asarray(tables[factor.site])
        axis = _axis_of_values(reading, factor, table)
        if axis < 0:
            continue
        _check_sums(factor, table, axis)
        if reading.sites[factor.site].scan:
            rows = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])
            possible[factor.site] = rows > np.log(np.finfo(table.dtype).tiny)
    for scan in reading.scans.values():
        for name in scan.carried:
            _warn_of_unreachable(scan, name, possible)


def _axis_of_values(reading: Reading, factor: Factor, table: np.ndarray) -> int:
    """The axis of a law's table along which its own latent lies; negative if there is none."""
    outer = [s.name for s in reading.slots if s.vmapped and s.name in factor.latents]
    if factor.law_of in outer:
        return outer.index(factor.law_of)
    return table.ndim + reading.latent_dim(factor.law_of)


def _check_sums(factor: Factor, table: np.ndarray, axis: int) -> None:
    total = np.exp(table).sum(axis)
    tolerance = 1e-4 if table.dtype == np.float32 else 1e-6
    if np.any(np.abs(total - 1) > tolerance):
        worst = total.ravel()[np.abs(total - 1).argmax()]
        raise SiteValueError(
            f"latent '{factor.law_of}': the probabilities of {factor.site} sum to {worst:.6g} "
            "instead of one. Divide each row by its sum, or pass logits=."
        )


def _warn_of_unreachable(scan: Scan, state: str, possible: dict[str, np.ndarray]) -> None:
    """`possible` says of each law which values have a probability, in its rows."""
    begin, moves = possible.get(at_step(state, 0)), possible.get(scan.later(state))
    if scan.start > 1 or begin is None or moves is None or moves.shape[0] != moves.shape[1]:
        return
    reached = np.asarray(begin.any(0))
    for _ in range(len(reached)):
        reached = reached | moves[reached].any(0)
    if not reached.all():
        states = np.flatnonzero(~reached).tolist()
        warnings.warn(
            f"state(s) {states} of '{state}' cannot be reached from the first step: what "
            "depends on them alone does not enter the likelihood. Check the zeros of the "
            "transition and of the first state's law.",
            stacklevel=2,
        )
