"""What is known of a program once it is read: its sites, roles, plates, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.messages import Message
from pp_mlem.program.names import Names
from pp_mlem.program.run import Enumeration
from pp_mlem.program.scans.extraction import Extraction
from pp_mlem.program.scans.scan import Scan
from pp_mlem.program.sites import Plate, Role, Site
from pp_mlem.program.space import ParameterSpace

TABLE_LIMIT = 2**28
LONG_SCAN = 20_000


@dataclass(frozen=True)
class Reading:
    """A program together with the roles of its sites; independent of the values of the data.

    `depth` is the number of plate dimensions; latent i is enumerated in dimension
    -(depth + 1 + i). `dependencies[site][part]` holds the unobserved sites on which a
    distribution argument (or "value", "mask", "scale", "all") of the site depends; `values` are
    the values of each latent, and `sized` the latents whose values come from the data (a total
    count that is an array). `slim`: the program runs with one value of a real latent for all of its
    units, so that what is the same for all of them is computed once. `names` are for those who read results.
    """

    arguments: Arguments
    sites: dict[str, Site]
    plates: dict[str, Plate]
    depth: int
    dependencies: dict[str, dict[str, frozenset[str]]]
    values: dict[str, np.ndarray]
    scans: dict[str, Scan] = field(default_factory=dict)
    sized: frozenset[str] = frozenset()
    slim: bool = True
    names: Names = Names()

    def with_role(self, role: Role) -> tuple[Site, ...]:
        return tuple(s for s in self.sites.values() if s.role is role)

    @property
    def latents(self) -> tuple[Site, ...]:
        """The finite latents."""
        return tuple(s for s in self.with_role(Role.LATENT) if not s.real)

    @property
    def reals(self) -> tuple[Site, ...]:
        """The latents that are vectors of real numbers."""
        return tuple(s for s in self.with_role(Role.LATENT) if s.real)

    @property
    def carries(self) -> tuple[Site, ...]:
        """What each scan carries of real latents into a step."""
        return tuple(s for s in self.with_role(Role.CARRIED) if s.step is None)

    @property
    def coordinates(self) -> tuple[Site, ...]:
        """All that means may be affine in: the real latents, and what scans carry of them."""
        return (*self.reals, *self.carries)

    def probe_shape(self, site: Site) -> tuple[int, ...]:
        """The shape of a real latent's value that is the same in all units."""
        plates = self.plate_shape(site.dims)
        ones = self.slim and not site.gathered
        return (*((1,) * len(plates) if ones else plates), *site.event_shape)

    def real_shape(self, site: Site) -> tuple[int, ...]:
        """The shape of a real latent's value."""
        return (*self.plate_shape(site.dims), *site.event_shape)

    @property
    def observed(self) -> tuple[Site, ...]:
        return self.with_role(Role.OBSERVED)

    @cached_property
    def space(self) -> ParameterSpace:
        return ParameterSpace(self.with_role(Role.PARAMETER), self.names)

    @property
    def is_long(self) -> bool:
        """Whether a scan has so many steps that even a single sweep is worth compiling well."""
        return any(s.length > LONG_SCAN for s in self.scans.values())

    @property
    def slots(self) -> tuple[Site, ...]:
        """Everything that is enumerated: the latents, then states one step earlier."""
        return (*self.latents, *self.with_role(Role.BEFORE))

    @property
    def laws(self) -> tuple[Site, ...]:
        """The sites that are distributions of latents."""
        return tuple(s for s in self.sites.values() if s.law_of)

    def latent_dim(self, name: str) -> int:
        order = [s.name for s in self.slots]
        return -(self.depth + 1 + order.index(name))

    @cached_property
    def mapped(self) -> Reading:
        """The same with every latent enumerated by vmap: the program then meets one value at a time
        and need not broadcast."""
        slots = {s.name for s in self.slots}
        sites = {n: replace(s, vmapped=s.vmapped or n in slots) for n, s in self.sites.items()}
        return replace(self, sites=sites)

    def one_at_a_time(self, latents: Collection[str]) -> str:
        """Why a site is computed for one value of these latents at a time ("": it is not)."""
        own = [self.sites[n] for n in latents if self.sites[n].vmapped]
        if any(s.gathered for s in own):
            return "it is gathered from another plate"
        return "the program is run for one value of its latents at a time" if own else ""

    def zeros(self) -> dict[str, np.ndarray]:
        """Every latent that is enumerated by vmap, at one value."""
        return {s.name: np.zeros(self.plate_shape(s.dims), int) for s in self.latents if s.vmapped}

    def plate_shape(self, dims: dict[str, int]) -> tuple[int, ...]:
        """The batch shape that the given plates span, size one elsewhere."""
        shape = [1] * max((-d for d in dims.values()), default=0)
        for plate, dim in dims.items():
            shape[dim] = self.plates[plate].size
        return tuple(shape)

    def told_plates(self, site: Site) -> str:
        """The plates of a site with their sizes, as text."""
        order = sorted(site.dims, key=lambda p: site.dims[p])
        plates = [self.plates[p] for p in order]
        return ", ".join(
            f"{p.size} values" if p.implicit else f"{p.name}[{p.size}]" for p in plates
        )

    def run(
        self,
        params: dict[str, Any],
        dynamic: tuple[Any, ...],
        extract: Callable[[Message], Any],
        latents: dict[str, Any] | None = None,
        *,
        wanted: frozenset[str] | None = None,
        wide: frozenset[str] | bool = False,
        lengths: dict[str, int] | None = None,
    ) -> dict[str, Any]:
        """Run the program with every latent at all its values; return `extract` of each site.

        `latents` gives values by name instead of enumerating them. Latents that are gathered
        across plates are enumerated by vmap: their axis then leads the extracted arrays, the
        first such latent outermost. `wanted` limits the sites. Sites of a scan are taken at one
        step, unless their distribution varies with the step or they are in `wide` (True: all
        are); the dimension of the steps then stands left of the plates. `lengths` receives the
        number of steps of each scan.
        """
        timed = frozenset(n for n, s in self.sites.items() if s.timed)
        every = frozenset(self.sites) if wide is True else frozenset(wide or ())
        return self._enumeration.run(
            params,
            latents or {},
            dynamic,
            Extraction(extract, wanted, timed | every, self.depth),
            {} if lengths is None else lengths,
        )

    @cached_property
    def _enumeration(self) -> Enumeration:
        slots = {s.name: self.latent_dim(s.name) for s in self.slots}
        return Enumeration(self.arguments, self.sites, self.scans, slots, self.values, self.depth)
