"""Splits the parameters into M-step blocks and chooses closed form or numeric for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.families import Family, natural_supports
from pp_mlem.program.bindings import offsets
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role
from pp_mlem.program.space import base_support

ENTRY_LIMIT = 2**24


@dataclass(frozen=True)
class Block:
    """Parameters that are maximised together.

    `method` is "closed", "numeric" or "none" (nothing depends on them). For a closed form,
    `arguments[a]` are the parameters behind argument `a` and `lookup[a]` maps global parameter
    indices to their values' positions.
    """

    parameters: tuple[str, ...]
    sites: tuple[str, ...]
    method: str
    reason: str
    family: Family | None = None
    arguments: dict[str, tuple[str, ...]] | None = None
    lookup: dict[str, np.ndarray] | None = None


def _is_natural(support: Any, kinds: tuple[str, ...]) -> bool:
    base = base_support(support)
    if any(type(base) in natural_supports()[k] for k in kinds):
        return True
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if "unit" in kinds and lower is not None and upper is not None:
        return bool(np.all(np.asarray(lower) == 0) and np.all(np.asarray(upper) == 1))
    if "positive" in kinds and type(base) is type(constraints.greater_than(0.0)):
        return bool(np.all(np.asarray(lower) == 0))
    return False


def connected(reading: Reading, factors: tuple[Factor, ...], free: frozenset[str]) -> list[tuple]:
    """Groups of free parameters that share a factor or a prior, with the sites they meet in."""
    parent = {p: p for p in free}

    def root(p: str) -> str:
        while parent[p] != p:
            p = parent[p]
        return p

    links = [f.parameters & free for f in factors]
    for site in reading.with_role(Role.PARAMETER):
        links.append((site.parents | {site.name}) & free)
    for link in links:
        first = next(iter(sorted(link)), None)
        for other in link:
            parent[root(other)] = root(first)
    groups: dict[str, list[str]] = {}
    for name in reading.space.names:
        if name in free:
            groups.setdefault(root(name), []).append(name)
    return [
        (tuple(names), tuple(f.site for f in factors if f.parameters & set(names)))
        for names in groups.values()
    ]


def plan_blocks(
    reading: Reading,
    factors: tuple[Factor, ...],
    data: ProgramData,
    fixed: frozenset[str],
    priors: dict[str, Any] | None,
) -> tuple[Block, ...]:
    """The M-step of each group of parameters, and why. `priors` is None for MLE."""
    free = frozenset(reading.space.names) - fixed
    by_site = {f.site: f for f in factors}
    blocks = []
    for names, sites in connected(reading, factors, free):
        if not sites and priors is None:
            blocks.append(Block(names, sites, "none", "no factor depends on it: kept as it is"))
            continue
        members = [by_site[s] for s in sites]
        found = _closed(reading, members, names, data, free, priors)
        if isinstance(found, Block):
            blocks.append(found)
        else:
            size = reading.space.only(frozenset(names)).size
            how = "Newton" if size <= NEWTON_LIMIT else "BFGS" if size <= BFGS_LIMIT else "L-BFGS"
            passes = any(f.kind == "table" and f.varies_by_row for f in members)
            where = "each step passes over the rows" if passes else "free of the data"
            blocks.append(Block(names, sites, "numeric", f"{how}, {where}: {found}"))
    return tuple(blocks)


NEWTON_LIMIT = 64
BFGS_LIMIT = 512


def _closed(
    reading: Reading,
    members: list[Factor],
    names: tuple[str, ...],
    data: ProgramData,
    free: frozenset[str],
    priors: dict[str, Any] | None,
) -> Block | str:
    """A closed-form block, or the reason why there is none."""
    if not members:
        return "only its prior depends on it"
    families = {m.family.name if m.family else m.site: m for m in members}
    if len(families) > 1:
        return f"shared by sites of different kinds ({', '.join(m.site for m in members)})"
    family = members[0].family
    if family is None:
        return members[0].reason
    arguments: dict[str, list[str]] = {}
    constant: set[str] = set()
    for member in members:
        single = reading.one_at_a_time(set(member.latents) - {member.law_of})
        if single:
            return f"'{member.site}': {single}"
        if reading.sites[member.site].timed:
            return f"the arguments of '{member.site}' vary with the step"
        if (
            member.kind == "table"
            and member.site not in data.sites
            and (reading.sites[member.site].role is Role.OBSERVED)
        ):
            return f"'{member.site}' has no statistics of its own"
        if reading.sites[member.site].role is Role.OBSERVED and member.kind == "table":
            cells = data.sites[member.site].value.size
            cells *= int(np.prod([reading.sites[v].size for v in member.latents] or [1]))
            event = member.event_size
            width = event * (event + 3) // 2 + 1 if family.event_dim else 3
            if cells * width > ENTRY_LIMIT:
                return f"'{member.site}' has too many rows with parameters of their own"
        elsewhere = member.parameters - {p for b in member.bindings.values() for p in b.parameters}
        if elsewhere & free:
            return f"{', '.join(sorted(elsewhere))} enters '{member.site}' outside its arguments"
        for argument, binding in member.bindings.items():
            involved = set(binding.parameters) & free
            if not involved:
                constant.add(argument)
            elif binding.kind == "computed":
                return f"argument {argument} of '{member.site}' is computed"
            elif set(binding.parameters) - free:
                return f"argument {argument} of '{member.site}' is partly fixed"
            else:
                listed = arguments.setdefault(argument, [])
                listed += [p for p in binding.parameters if p not in listed]
    free_arguments = frozenset(arguments)
    if free_arguments & constant:
        return f"{', '.join(sorted(free_arguments & constant))} is known at one site only"
    if not family.closed_form(free_arguments):
        return f"the {family.name} maximum has no closed form in {', '.join(sorted(arguments))}"
    roles = [p for listed in arguments.values() for p in listed]
    if len(roles) != len(set(roles)):
        return "one parameter serves as two arguments"
    spaces = {s.name: s for s in reading.space.sites}
    for argument, listed in arguments.items():
        for p in listed:
            if not _is_natural(spaces[p].support, family.natural_support.get(argument, ())):
                return f"the support of '{p}' is narrower than argument {argument} allows"
            if priors is not None and not _conjugate(family, argument, p, priors, constant):
                return f"the prior of '{p}' is not conjugate to argument {argument}"
    lookup = {}
    for argument, listed in arguments.items():
        table = _lookup(reading, members, argument, listed, family, data)
        if isinstance(table, str):
            return table
        lookup[argument] = table
    nested = _nested(family, members, data, lookup, constant)
    if nested:
        return nested
    tied = _ties(members, data, lookup)
    reason = f"closed form of {family.name}" + (f" ({tied})" if tied else "")
    if priors is not None:
        reason += ", conjugate or flat priors"
    return Block(
        names,
        tuple(m.site for m in members),
        "closed",
        reason,
        family,
        {a: tuple(v) for a, v in arguments.items()},
        lookup,
    )


def _conjugate(
    family: Family, argument: str, name: str, priors: dict[str, Any], constant: set[str]
) -> bool:
    prior = priors.get(name)
    return prior is None or family.conjugate(argument, prior, frozenset(constant))


def _lookup(
    reading: Reading,
    members: list[Factor],
    argument: str,
    listed: list[str],
    family: Family,
    data: ProgramData,
) -> np.ndarray | str:
    """Global parameter index (of the first element) to the value's row, or why it is none."""
    spaces = {s.name: s for s in reading.space.sites}
    start = offsets(reading)
    total = sum(int(np.prod(s.shape)) for s in reading.space.sites)
    table = np.zeros(total + 1, int)
    rank, row = family.arguments[argument], 0
    for p in listed:
        shape = spaces[p].shape
        event = int(np.prod(shape[len(shape) - rank :])) if rank else 1
        if len(shape) < rank:
            return f"'{p}' has fewer dimensions than argument {argument}"
        rows = int(np.prod(shape)) // event
        for r in range(rows):
            table[start[p] + r * event] = row + r
        row += rows
    for member in members:
        index = np.asarray(data.index[member.site][argument])
        if rank:
            flat = index.reshape(index.shape[: index.ndim - rank] + (-1,))
            heads = {
                start[p] + r * flat.shape[-1]
                for p in listed
                for r in range(int(np.prod(spaces[p].shape)) // flat.shape[-1])
            }
            step = np.arange(flat.shape[-1])
            if (
                not np.array_equal(flat, flat[..., :1] + step)
                or not set(np.unique(flat[..., 0]).tolist()) <= heads
            ):
                return f"argument {argument} of '{member.site}' mixes entries of '{listed[0]}'"
    return table


def argument_rows(index: Any, rank: int) -> Any:
    """The first element of each event of an index array."""
    return index.reshape(index.shape[: index.ndim - rank] + (-1,))[..., 0] if rank else index


def _nested(
    family: Family,
    members: list[Factor],
    data: ProgramData,
    lookup: dict[str, np.ndarray],
    constant: set[str],
) -> str | None:
    """A location shared by entries of different scales has no joint closed form."""
    if "loc" not in lookup or not family.scale_arguments:
        return None
    scale = next((a for a in family.scale_arguments if a in lookup), None)
    pairs: dict[int, set[int]] = {}
    counts: dict[int, int] = {}
    for member in members:
        loc = argument_rows(np.asarray(data.index[member.site]["loc"]), family.arguments["loc"])
        if scale is None:
            for i in np.unique(loc):
                counts[int(i)] = counts.get(int(i), 0) + int((loc == i).sum())
            continue
        other = argument_rows(np.asarray(data.index[member.site][scale]), family.arguments[scale])
        for a, b in np.unique(
            np.stack([x.ravel() for x in np.broadcast_arrays(loc, other)]), axis=1
        ).T:
            pairs.setdefault(int(a), set()).add(int(b))
    del constant
    if any(len(v) > 1 for v in pairs.values()):
        return "a location is shared by entries of different scales"
    if family.event_dim and scale is None and any(n > 1 for n in counts.values()):
        return "a location is shared under known covariances"
    return None


def _ties(members: list[Factor], data: ProgramData, lookup: dict[str, np.ndarray]) -> str:
    shared = []
    for argument in lookup:
        sizes = [np.unique(np.asarray(data.index[m.site][argument])).size for m in members]
        other = max(
            (np.asarray(data.index[m.site][a]).size for m in members for a in lookup), default=1
        )
        if sizes and max(sizes) == 1 and other > 1:
            shared.append(argument)
    return f"{', '.join(shared)} shared: statistics pooled" if shared else ""
