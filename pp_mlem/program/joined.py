"""A program whose real latents, written as a batch or in plates, are one vector each.

`dist.Normal(F @ x, q)` in the body of a scan has a batch dimension that no plate declares. If its entries
move together, they are one state: what `to_event` would say. So are the units of a plate that one row reads
together, as in `K @ u` or `u[i] - u[j]`, and those of states that meet another, or an observation, outside of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from numpyro.primitives import Messenger

from pp_mlem.program.reading import Reading


class _Joined(Messenger):
    """Joins the last batch dimensions of some sites, as many as `ranks` says (or all), into events."""

    def __init__(self, fn: Callable[..., Any], ranks: Mapping[str, int | None]) -> None:
        super().__init__(fn)
        self.ranks = ranks

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["name"] not in self.ranks:
            return
        rank = self.ranks[msg["name"]]
        rank = len(msg["fn"].batch_shape) if rank is None else rank
        msg["fn"] = msg["fn"].to_event(rank)
        msg["cond_indep_stack"] = [f for f in msg["cond_indep_stack"] if f.dim < -rank]


def joined(program: Callable[..., Any], ranks: Mapping[str, int | None]) -> Callable[..., Any]:
    """The program with these batches, and the plates that they fill, as events."""

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        return _Joined(program, ranks)(*args, **kwargs)

    return run


def told_joined(reading: Reading, ranks: Mapping[str, int | None]) -> Reading:
    """The reading of a joined program, which says of each latent that it is."""
    why = "; one vector, since a row reads several of its units"
    sites = {n: replace(reading.sites[n], reason=reading.sites[n].reason + why) for n in ranks}
    return replace(reading, sites={**reading.sites, **sites})


def undeclared(reading: Reading) -> dict[str, int]:
    """The states of scans with batch dimensions that no plate declares, and how many these are."""
    ranks: dict[str, int] = {}
    for scan in reading.scans.values():
        for name in scan.movers:
            inner = [p for p in reading.sites[name].dims if p != scan.time]
            if inner and all(reading.plates[p].implicit for p in inner):
                ranks[name] = len(inner)
    return ranks
