"""Parameters whose maximum given expected statistics has a closed form: the planning of it.

The arguments of the sites are entries of the parameters themselves, and the family knows the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.factors.family import FamilyFactor
from pp_mlem.factors.table import TableFactor
from pp_mlem.families import Family, natural_supports
from pp_mlem.maximise.blocks.base import Group
from pp_mlem.program.bindings import offsets
from pp_mlem.program.sites import Role
from pp_mlem.program.space import base_support

ENTRY_LIMIT = 2**24


@dataclass
class Roles:
    """Which parameters stand behind which argument, and the arguments that are known."""

    arguments: dict[str, list[str]] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)


def is_natural(support: Any, kinds: tuple[str, ...]) -> bool:
    """Whether a parameter may take every value that an argument of these kinds allows."""
    base = base_support(support)
    if any(type(base) in natural_supports()[k] for k in kinds):
        return True
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if "unit" in kinds and lower is not None and upper is not None:
        return bool(np.all(np.asarray(lower) == 0) and np.all(np.asarray(upper) == 1))
    if "positive" in kinds and type(base) is type(constraints.greater_than(0.0)):
        return bool(np.all(np.asarray(lower) == 0))
    return False


def find_roles(group: Group, family: Family) -> Roles | str:
    """The parameters behind each argument of the family, or why they are none."""
    roles = Roles()
    for member in group.members:
        refused = _unfit(group, member, family) or _bind(group, member, roles)
        if refused:
            return refused
    arguments, constant = roles.arguments, roles.constant
    free_arguments = frozenset(arguments)
    if free_arguments & constant:
        return f"{', '.join(sorted(free_arguments & constant))} is known at one site only"
    if not family.closed_form(free_arguments):
        return f"the {family.name} maximum has no closed form in {', '.join(sorted(arguments))}"
    every = [p for listed in arguments.values() for p in listed]
    if len(every) != len(set(every)):
        return "one parameter serves as two arguments"
    return _outside(group, family, roles) or roles


def _unfit(group: Group, member: Factor, family: Family) -> str:
    """Why a site has no statistics by the values of its arguments."""
    reading, data = group.reading, group.data
    site = reading.sites[member.site]
    single = reading.one_at_a_time(set(member.latents) - {member.law_of})
    if single:
        return f"'{member.site}': {single}"
    if site.timed:
        return f"the arguments of '{member.site}' vary with the step"
    if not isinstance(member, (FamilyFactor, TableFactor)):
        return f"'{member.site}' has statistics of another kind ({member.kind})"
    if isinstance(member, FamilyFactor) or site.role is not Role.OBSERVED:
        return ""
    if member.site not in data.sites:
        return f"'{member.site}' has no statistics of its own"
    if member.site in data.partly:
        return (
            f"'{member.site}' has vectors that are missing in part, and parameters that vary by row"
        )
    hidden = [k for k in family.known if reading.dependencies[member.site].get(f"argument {k}")]
    if hidden:
        return f"{', '.join(hidden)} of '{member.site}' depends on unobserved sites"
    cells = data.sites[member.site].value.size
    cells *= int(np.prod([reading.sites[v].size for v in member.latents] or [1]))
    event = member.event_size
    width = event * (event + 3) // 2 + 1 if family.event_dim else 3
    if cells * width > ENTRY_LIMIT:
        return f"'{member.site}' has too many rows with parameters of their own"
    return ""


def _bind(group: Group, member: Factor, roles: Roles) -> str:
    """Add the arguments of one site to the roles, or say why one of them has no place there."""
    free = group.free
    elsewhere = member.parameters - {p for b in member.bindings.values() for p in b.parameters}
    if elsewhere & free:
        return f"{', '.join(sorted(elsewhere))} enters '{member.site}' outside its arguments"
    for argument, binding in member.bindings.items():
        involved = set(binding.parameters) & free
        if not involved:
            roles.constant.add(argument)
        elif binding.kind == "computed":
            return f"argument {argument} of '{member.site}' is computed"
        elif set(binding.parameters) - free:
            return f"argument {argument} of '{member.site}' is partly fixed"
        else:
            listed = roles.arguments.setdefault(argument, [])
            listed += [p for p in binding.parameters if p not in listed]
    return ""


def _outside(group: Group, family: Family, roles: Roles) -> str:
    """Why the maximum may lie outside of a parameter's support, or its prior does not join it."""
    supports = {s.name: s.support for s in group.reading.space.sites}
    for argument, listed in roles.arguments.items():
        for p in listed:
            if not is_natural(supports[p], family.natural_support.get(argument, ())):
                return f"the support of '{p}' is narrower than argument {argument} allows"
            prior = (group.priors or {}).get(p)
            known = frozenset(roles.constant)
            if prior is not None and not family.conjugate(argument, prior, known):
                return f"the prior of '{p}' is not conjugate to argument {argument}"
    return ""


def lookup_table(
    group: Group, family: Family, argument: str, listed: list[str]
) -> np.ndarray | str:
    """Global parameter index (of the first element) to the value's row, or why it is none."""
    spaces = {s.name: s for s in group.reading.space.sites}
    start = offsets(group.reading)
    total = sum(int(np.prod(s.shape)) for s in group.reading.space.sites)
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
    for member in group.members:
        index = np.asarray(group.data.index[member.site][argument])
        if rank and not are_events(index, rank, [(start[p], spaces[p].shape) for p in listed]):
            return f"argument {argument} of '{member.site}' mixes entries of '{listed[0]}'"
    return table


def are_events(index: Any, rank: int, places: list[tuple[int, tuple[int, ...]]]) -> bool:
    """Whether each event of an index array is one whole event of a parameter, in its order.
    `places` are where each parameter starts, and its shape."""
    flat = index.reshape(index.shape[: index.ndim - rank] + (-1,))
    size = flat.shape[-1]
    heads = {
        start + r * size for start, shape in places for r in range(int(np.prod(shape)) // size)
    }
    in_order = np.array_equal(flat, flat[..., :1] + np.arange(size))
    return in_order and set(np.unique(flat[..., 0]).tolist()) <= heads


def argument_rows(index: Any, rank: int) -> Any:
    """The first element of each event of an index array."""
    return index.reshape(index.shape[: index.ndim - rank] + (-1,))[..., 0] if rank else index


def nested(group: Group, family: Family, arguments: set[str]) -> str:
    """A location shared by entries of different scales has no joint closed form."""
    if "loc" not in arguments or not family.scale_arguments:
        return ""
    scale = next((a for a in family.scale_arguments if a in arguments), None)
    pairs: dict[int, set[int]] = {}
    counts: dict[int, int] = {}
    for member in group.members:
        index = group.data.index[member.site]
        loc = argument_rows(np.asarray(index["loc"]), family.arguments["loc"])
        if scale is None:
            for i in np.unique(loc):
                counts[int(i)] = counts.get(int(i), 0) + int((loc == i).sum())
            continue
        other = argument_rows(np.asarray(index[scale]), family.arguments[scale])
        for a, b in np.unique(
            np.stack([x.ravel() for x in np.broadcast_arrays(loc, other)]), axis=1
        ).T:
            pairs.setdefault(int(a), set()).add(int(b))
    if any(len(v) > 1 for v in pairs.values()):
        return "a location is shared by entries of different scales"
    if family.event_dim and scale is None and any(n > 1 for n in counts.values()):
        return "a location is shared under known covariances"
    return ""


def ties(members: tuple[Factor, ...], data: ProgramData, arguments: list[str]) -> str:
    """The arguments of which one value serves many entries."""
    shared = []
    for argument in arguments:
        sizes = [np.unique(np.asarray(data.index[m.site][argument])).size for m in members]
        other = max(
            (np.asarray(data.index[m.site][a]).size for m in members for a in arguments), default=1
        )
        if sizes and max(sizes) == 1 and other > 1:
            shared.append(argument)
    return f"{', '.join(shared)} shared: statistics pooled" if shared else ""
