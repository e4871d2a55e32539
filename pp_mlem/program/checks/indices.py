"""No index that depends on data may lie beyond what it indexes, nor count from the end."""

from __future__ import annotations

import numpy as np

from pp_mlem.program.checks.case import Case
from pp_mlem.program.checks.dataflow import Lookup


def check_indices(case: Case) -> None:
    """Raise for the first lookup by data, read by a site, whose index is no place."""
    for lookup in case.followed.lookups:
        index = np.asarray(case.values.of(lookup.index))
        bad = ~((index >= 0) & ((index < lookup.size) | lookup.ends))  # NaN, too
        if not bad.any():
            continue
        sites = _readers(case, lookup)
        bad &= ~case.hidden(sites, bad.shape)
        if sites and bad.any():
            raise ValueError(
                f"{case.cell(lookup.index, bad)} is used as an index into an array of {lookup.size} "
                f"places (at site '{sites[0]}'), expected 0 to {lookup.size - 1}. "
                + _remedy(index[bad])
            )


def _remedy(index: np.ndarray) -> str:
    if index.dtype.kind == "f" and np.isnan(index).any():
        return "A missing value is no index: drop these rows, mask them, or fill them in."
    if index.min() < 0:
        return "A missing code (-1 of pandas.factorize) is no group: drop these rows, or mask them."
    return "Count from 0, and make the array as long as there are groups."


def _readers(case: Case, lookup: Lookup) -> list[str]:
    return [
        name
        for name, site in case.followed.sites.items()
        if any(node.depends & lookup.bit for node in site.arguments.values())
    ]
