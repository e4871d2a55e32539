"""The kinds of M-step blocks: a new one is a file of its own and a line here, or a call of `register`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pp_mlem.base.no import No
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.maximise.blocks.base import Block, Group
from pp_mlem.maximise.blocks.closed import plan_closed
from pp_mlem.maximise.blocks.coefficients import plan_regression
from pp_mlem.maximise.blocks.direct import plan_direct
from pp_mlem.maximise.blocks.gaussian import plan_gaussian
from pp_mlem.maximise.blocks.idle import plan_idle
from pp_mlem.maximise.blocks.numeric import plan_numeric
from pp_mlem.maximise.blocks.vectors import plan_vectors
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role

Kind = Callable[[Group], Block | No]  # the block of a group of parameters, or why there is none

BLOCKS: list[Kind] = [
    plan_idle,
    plan_direct,
    plan_gaussian,
    plan_closed,
    plan_vectors,
    plan_regression,
    plan_numeric,
]


def register(kind: Kind) -> None:
    """Add a kind of block, before those that are there: it is asked first."""
    BLOCKS.insert(0, kind)


def connected(
    reading: Reading, factors: tuple[Factor, ...], free: frozenset[str]
) -> list[tuple[str, ...]]:
    """Groups of free parameters that share a factor or a prior, in program order."""
    parent = {p: p for p in free}

    def root(p: str) -> str:
        while parent[p] != p:
            p = parent[p]
        return p

    links = [f.parameters & free for f in factors]
    for site in reading.with_role(Role.PARAMETER):
        links.append((site.parents | {site.name}) & free)
    for link in links:
        for other in sorted(link):
            parent[root(other)] = root(min(link))
    groups: dict[str, list[str]] = {}
    for name in reading.space.names:
        if name in free:
            groups.setdefault(root(name), []).append(name)
    return [tuple(names) for names in groups.values()]


def plan_blocks(
    reading: Reading,
    factors: tuple[Factor, ...],
    data: ProgramData,
    fixed: frozenset[str],
    priors: dict[str, Any] | None,
) -> tuple[Block, ...]:
    """The M-step of each group of parameters, and why. `priors` is None for MLE."""
    free = frozenset(reading.space.names) - fixed
    blocks = []
    for names in connected(reading, factors, free):
        members = tuple(f for f in factors if f.parameters & set(names))
        blocks.append(_plan(Group(reading, names, members, data, free, priors)))
    return tuple(blocks)


def _plan(group: Group) -> Block:
    """The block of the first kind that does not decline, with the reasons of those that did."""
    declined: list[No] = []
    for kind in BLOCKS:
        found = kind(group)
        if isinstance(found, Block):
            return replace(found, declined=tuple(declined))
        declined.append(found)
    raise RuntimeError(f"no kind of M-step block takes {group.names}.")
