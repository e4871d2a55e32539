"""Flat laws that the data do not make proper: a likelihood that is infinite, told before anything is fitted."""

from __future__ import annotations

import numpy as np

from pp_mlem.factors.flat import FlatFactor
from pp_mlem.model.bound import Bound
from pp_mlem.model.latents import Moments, posterior
from pp_mlem.program.neutral import neutral_parameters

NUDGE = 16  # roundings by which parameters are moved
STEADY = 0.01  # what the move may change of a standard deviation; one that is rounding alone changes whole


def refuse_improper(bound: Bound) -> None:
    """Raise ValueError where a real latent has a flat law and the data leave it, or a combination of its
    numbers, undetermined: its posterior variance is no number, or made of rounding errors alone."""
    flat = [f.own for f in bound.marginal.factors if isinstance(f, FlatFactor)]
    if not flat:
        return
    params = neutral_parameters(bound.reading, 3)
    eps = np.finfo(np.result_type(float, *(np.asarray(v).dtype for v in params.values()))).eps
    nudged = {k: v * (1 + NUDGE * eps) for k, v in params.items()}
    with np.errstate(all="ignore"):
        here, near = posterior(bound, params), posterior(bound, nudged)
        lost = {name: _undetermined(here[name], near[name]) for name in flat}
    for name, places in lost.items():
        if len(places):
            told = ", ".join(
                f"{name}[{','.join(map(str, i))}]" if len(i) else name for i in places[:3]
            )
            raise ValueError(
                f"latent '{name}' has a flat law, and the data do not determine it ({told}"
                f"{' ...' if len(places) > 3 else ''}): its posterior is improper and the likelihood infinite. "
                "Look for columns that are sums of others (an intercept beside one for each group) and for "
                "units without data; leave them out, or give the latent a Normal law."
            )


def _undetermined(here: Moments, near: Moments) -> np.ndarray:
    """Which numbers of a latent have no variance that can be told, (count, axes)."""
    sure = np.abs(near.sd / here.sd - 1) <= STEADY  # not where either is no number
    return np.argwhere(~sure)
