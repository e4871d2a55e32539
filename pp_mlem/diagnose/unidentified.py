"""Scalars of which the data say nothing because of what is missing: means and covariances of entries that are
never seen, covariances of pairs that are never seen together."""

from __future__ import annotations

import numpy as np

from pp_mlem.data.unseen import Unseen, unseen_of
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.base import Factor
from pp_mlem.program.bindings import offsets
from pp_mlem.program.space import scalar_names
from pp_mlem.target.target import Target


def unidentified_by_data(target: Target) -> dict[str, str]:
    """Why each such scalar is not identified, by its name; where a prior tells of it nothing is."""
    if target.problem.with_prior or not target.data.partly:
        return {}
    numbers: dict[int, str] = {}
    seen: set[int] = set()
    for unseen in unseen_of(target.data):
        factor = next(f for f in target.marginal.factors if f.site == unseen.site)
        for own, reason in _numbers(target, factor, unseen):
            (numbers.__setitem__(own, reason) if reason else seen.add(own))
    start, names = offsets(target.reading), {}
    labels = iter(scalar_names(target.space))
    for site in target.space.sites:
        for i in range(int(np.prod(site.shape))):
            label, number = next(labels), start[site.name] + i
            if number in numbers and number not in seen:
                names[label] = numbers[number]
    return names


def _numbers(target: Target, factor: Factor, unseen: Unseen) -> list[tuple[int, str]]:
    """The global number of each parameter entry behind an entry of the mean or of the covariance, and why it is
    not identified ("": it may be)."""
    found: list[tuple[int, str]] = []
    direct = target.data.index.get(factor.site, {})
    latents = isinstance(factor, AffineFactor)  # whose loadings share the covariance
    ranks = {"covariance_matrix": 2} | ({} if latents else {"loc": 1})
    for argument, rank in ranks.items():
        if argument not in direct:
            continue
        index = np.asarray(direct[argument])
        size = index.shape[-1]
        flat = index.reshape(-1, *index.shape[index.ndim - rank :])
        columns = int(np.prod(factor.column_shape))
        for i, own in enumerate(flat):
            column = i % columns if len(flat) >= columns else -1
            lost = {frozenset(p[1:]): p for p in unseen.pairs if column in (-1, p[0])}
            for place in np.ndindex(*(size,) * rank):
                pair = lost.get(frozenset(place))
                found.append((int(own[place]), _reason(unseen.site, *pair[1:]) if pair else ""))
    return found


def _reason(site: str, a: int, b: int) -> str:
    if a == b:
        return f"not identified: entry {a} of '{site}' is never seen"
    return f"not identified: entries {a} and {b} of '{site}' are never seen together"
