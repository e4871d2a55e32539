"""States of a scan whose units meet: those of a plate that another state, or an observation, is not in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pp_mlem.program.errors import StatesMeet
from pp_mlem.program.scans.scan import Scan
from pp_mlem.program.sites import Plate, Role, Site

VECTOR = 100  # numbers of one vector of states, beyond which its matrices are too large


@dataclass(frozen=True)
class _Body:
    """The states of a scan and the sites of its body, with the plates that each has besides the steps."""

    scan: Scan
    sites: Mapping[str, Site]

    def inner(self, site: Site) -> frozenset[str]:
        return site.plates - {self.scan.time, self.scan.rest}

    def states(self) -> list[Site]:
        return [self.sites[n] for n in sorted(self.scan.movers)]

    def met(self) -> dict[str, tuple[str, str]]:
        """The plates whose units meet: a state that is in each, and a site that is not."""
        found: dict[str, tuple[str, str]] = {}
        states = self.states()
        own = {s.name: self.inner(s) for s in states}
        carried = frozenset().union(*own.values())
        readers = [s for s in self.sites.values() if s.scan == self.scan.time and s not in states]
        for reader in (*states, *readers):
            read = {n for n in own if n in reader.parents}
            if reader in states:
                read = set(own)
            elif self.scan.carry in reader.parents:
                read |= {n for n in own if own[n] == carried}
            for name in sorted(read):
                for plate in own[name] - self.inner(reader):
                    found.setdefault(plate, (name, reader.origin or reader.name))
        return found


def refuse_coupled(scan: Scan, sites: Mapping[str, Site], plates: Mapping[str, Plate]) -> None:
    """Raise `StatesMeet` where the units of a plate of states meet, with all real latents that are then one
    vector each, and the dimensions that it is made of."""
    body = _Body(scan, sites)
    met = body.met()
    if not met:
        return
    states = body.states()
    rank = max(-s.dims[p] for s in states for p in met if p in s.dims)
    joining = [
        s
        for s in sites.values()
        if s.real and s.role is Role.LATENT and s.scan in ("", scan.time)
        if any(-d <= rank and p not in (scan.time, scan.rest) for p, d in s.dims.items())
        and (s.scan or body.inner(s) & set(met))
    ]
    plate, (state, reader) = next(iter(met.items()))
    told = f"the units of plate '{plate}' of the state '{state}' meet in '{reader}', which is not in that plate"
    size = sum(int(np.prod([plates[p].size for p in body.inner(s)])) * s.size for s in joining)
    ranks = {
        s.name: min(rank, max((-s.dims[p] for p in body.inner(s)), default=0)) for s in joining
    }
    raise StatesMeet(
        f"scan: {told}. Sample it as one vector, with to_event or as a MultivariateNormal, outside of the plate.",
        ranks if size <= VECTOR else {},
    )
