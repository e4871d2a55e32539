"""All that a fit needs of the data, in one pytree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax

from pp_mlem.data.designs import Designs
from pp_mlem.data.known import Known
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.summed import Summed
from pp_mlem.potentials.crossed import Pattern


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProgramData:
    """All that a fit needs of the data, in one pytree.

    `weights[site]` are case weights (broadcast over the site's plates, right-aligned); `clamps`
    log-indicators (*plates, values) of latents that are observed; `index[site][argument]` the
    global parameter index of each entry of a directly bound argument; `maps[child, parent]` says
    to which unit of plate `parent` each unit of `child` belongs, where a latent is gathered;
    `valid[state]` (steps, *plates) where a masked sequence still runs; `designs[site]` the linear
    predictor of a site that varies by row, or why it has none; `known[latent]` the values of a real
    latent (*plates, size), and of the same shape where they are known. `pattern` says which units of crossed
    latents meet, where these are few of all; `summed[site]` what an affine site says of its latents, summed
    over its rows; `points` few weighted rows that say of the parameters what all rows do; `origins` where
    the coordinates of a state space have their zero.
    """

    dynamic: tuple
    sites: dict[str, Laid]
    weights: dict[str, Any]
    clamps: dict[str, Any]
    index: dict[str, dict[str, Any]]
    maps: dict[tuple[str, str], Any]
    valid: dict[str, Any]
    designs: Designs = field(default_factory=dict)
    known: Known = field(default_factory=dict)
    pattern: Pattern | None = None
    summed: dict[str, Summed] = field(default_factory=dict)
    points: dict[str, Laid] = field(default_factory=dict)
    origins: dict[str, Any] = field(default_factory=dict)

    @property
    def by_rows(self) -> ProgramData:
        """The same with every row for itself."""
        return replace(self, summed={}, points={})

    @property
    def shifts(self) -> dict[str, Any]:
        """The reference point of each site, and of each real latent that has one."""
        return {**{name: d.shift for name, d in self.sites.items()}, **self.origins}

    @property
    def partly(self) -> frozenset[str]:
        """The sites with vectors that are missing in part."""
        return frozenset(name for name, d in self.sites.items() if d.patterns is not None)
