"""Which groups of parameters are coefficients of linear predictors, and how they are maximised."""

from __future__ import annotations

import numpy as np
import numpyro.distributions as dist

from pp_mlem.base.no import No
from pp_mlem.data.designs import Design, NoDesign
from pp_mlem.factors.base import Factor
from pp_mlem.families.normal import Normal
from pp_mlem.maximise.blocks.base import Block, Group
from pp_mlem.maximise.blocks.regression import NormalRegression, ReweightedRegression
from pp_mlem.maximise.blocks.roles import is_natural
from pp_mlem.program.bindings import offsets

TOGETHER = 512  # coefficients that may be solved for in one system


def plan_regression(group: Group) -> Block | No:
    """A block of coefficients, perhaps with the scales of Normal sites; or why there is none."""
    designs: dict[str, Design] = {}
    if not any(m.site in group.data.designs for m in group.members):
        return No("")
    for member in group.members:
        design = group.data.designs.get(member.site)
        if isinstance(design, NoDesign):
            return No(design.reason)
        if design is None:
            return No(f"'{member.site}' has no linear predictor")
        designs[member.site] = design
    mine = set(group.names) & group.free
    coefficients = mine & {p for d in designs.values() for p in d.parameters}
    scales: set[str] = set()
    for member in group.members:
        found = _scales(group, member, designs[member.site], mine)
        if isinstance(found, No):
            return found
        scales |= found
    refused = _refused(group, coefficients, scales)
    if refused:
        return No(refused)
    entries = _entries(group, coefficients)
    local = {n: _numbers(np.asarray(d.owner), entries) for n, d in designs.items()}
    if len(entries) > TOGETHER and _meet(local, len(entries)):
        return No(f"more than {TOGETHER} coefficients meet one another")
    told = _told(group, designs)
    if not scales:
        told = f"iteratively reweighted least squares: {told}"
        return ReweightedRegression(
            group.names, group.sites, told, coefficients=entries, local=local
        )
    places = _entries(group, scales)
    scale_of = {n: _numbers(np.asarray(d.direct["scale"]), places) for n, d in designs.items()}
    shared = _is_nested(local, scale_of, len(entries))
    together = shared or (group.priors is not None and bool(coefficients & group.priors.keys()))
    how = "normal equations at the current scales, then the scales (ECM)" if together else (
        "normal equations"
    )  # fmt: skip
    return NormalRegression(
        group.names, group.sites, f"{how}: {told}",
        coefficients=entries, local=local, scales=places, scale_of=scale_of,
        nested=together,
    )  # fmt: skip


def _scales(group: Group, member: Factor, design: Design, mine: set[str]) -> set[str] | No:
    """The free scales of a Normal site; none where its density depends on the block's parameters
    through its predictor alone; or why it is neither."""
    depends = group.reading.dependencies[member.site]
    beside = {
        part: names & mine
        for part, names in depends.items()
        if part.startswith("argument ") or part in ("value", "mask", "scale")
    }
    beside.pop(f"argument {design.argument}", None)
    used = set().union(*beside.values())
    if not used:
        return set()
    both = used & set(design.parameters)
    if both:
        return No(f"{', '.join(sorted(both))} enters '{member.site}' twice")
    free = beside.pop("argument scale", frozenset())
    if not isinstance(member.family, Normal) or design.link != "identity":
        return No(f"{', '.join(sorted(used))} of '{member.site}' is no coefficient")
    if any(beside.values()):
        return No(f"{', '.join(sorted(used))} of '{member.site}' is neither coefficient nor scale")
    if "scale" not in design.direct:
        return No(f"the scale of '{member.site}' is computed, or varies by row")
    return set(free)


def _refused(group: Group, coefficients: set[str], scales: set[str]) -> str:
    """Why these parameters cannot be maximised so."""
    sites = {s.name: s for s in group.reading.space.sites}
    if not coefficients:
        return "none of its parameters is a coefficient"
    if coefficients & scales:
        return f"{', '.join(sorted(coefficients & scales))} is a coefficient and a scale"
    for names, kind in ((coefficients, "real"), (scales, "positive")):
        for p in sorted(names):
            if not is_natural(sites[p].support, (kind,)):
                return f"the support of '{p}' is narrower than {kind} numbers"
    if scales:
        for member in group.members:
            known = not group.reading.dependencies[member.site].get("argument scale")
            if known or not _all_free(group, member):
                return f"the scale of '{member.site}' is known, that of other sites is not"
    if group.priors is None:
        return ""
    rest = set(group.names) - coefficients - scales
    if rest:
        return f"{', '.join(sorted(rest))} enters by a prior alone"
    for p in sorted(coefficients):
        law = group.priors.get(p)
        if law is not None and type(law) is not dist.Normal:
            return f"the prior of '{p}' is no Normal"
        if group.reading.sites[p].parents & group.free:
            return f"the prior of '{p}' depends on free parameters"
    for p in sorted(scales):
        if group.reading.sites[p].parents & group.free:
            return f"the prior of '{p}' depends on free parameters"
    return ""


def _all_free(group: Group, member: Factor) -> bool:
    design = group.data.designs[member.site]
    if not isinstance(design, Design) or "scale" not in design.direct:
        return False
    names = {p for p in group.free if p in group.names}
    return bool(np.isin(np.asarray(design.direct["scale"]), _entries(group, names)).all())


def _entries(group: Group, names: set[str]) -> np.ndarray:
    """The global indices of all entries of these parameters."""
    start = offsets(group.reading)
    pieces = [
        start[s.name] + np.arange(int(np.prod(s.shape)))
        for s in group.reading.space.sites
        if s.name in names
    ]
    return np.concatenate(pieces)


def _numbers(owner: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """The place of each global index among `entries`, their number where it is not there."""
    place = np.searchsorted(entries, owner)
    hit = entries[np.minimum(place, len(entries) - 1)] == owner
    return np.where(hit, place, len(entries))


def _meet(local: dict[str, np.ndarray], count: int) -> bool:
    every = np.concatenate([own.ravel() for own in local.values()])
    return bool(np.bincount(every, minlength=count + 1)[:count].max() > 1)


def _is_nested(local: dict[str, np.ndarray], scale_of: dict[str, np.ndarray], count: int) -> bool:
    """Whether a coefficient meets, directly or through others, more than one scale."""
    group = np.arange(count + 1)
    lanes = [
        (own[own < count], int(s))
        for n in local
        for own, s in zip(local[n], scale_of[n], strict=True)
    ]
    for own, _ in lanes:
        if len(own):
            group[np.isin(group, group[own])] = group[own].min()
    seen: dict[int, set[int]] = {}
    for own, scale in lanes:
        for g in set(group[own].tolist()):
            seen.setdefault(g, set()).add(scale)
    return any(len(s) > 1 for s in seen.values())


def _told(group: Group, designs: dict[str, Design]) -> str:
    """Which arguments are linear in what."""
    pieces = []
    for name, design in designs.items():
        own = [p for p in design.parameters if p in group.names]
        inverse = {"identity": "", "exp": "log ", "expit": "logit "}[design.link]
        pieces.append(f"{inverse}{design.argument} of '{name}' is linear in {', '.join(own)}")
    return "; ".join(pieces)
