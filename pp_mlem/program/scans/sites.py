"""The sites of a scan's body as sites over its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pp_mlem.program.depend import Dependencies
from pp_mlem.program.scans.scan import Scan, before
from pp_mlem.program.sites import Role, Site


def sites_of_scan(
    site: Site, scan: Scan, depth: int, dependencies: Dependencies
) -> dict[str, Site]:
    """A site of a scan's body as sites with a dimension of steps, in two parts where it meets the
    carry; a state also one step earlier."""
    site = replace(site, scan=scan.time, origin=site.name)
    if site.role is Role.PARAMETER:
        return {site.name: replace(site, timed=True)}
    made: list[Site] = []
    if site.role is Role.LATENT and site.name in scan.pairs:
        made.append(replace(site, dims={scan.time: -depth, **site.dims}, law_of=""))
    if site.role is Role.LATENT:
        made += _previous(site, scan, depth)
    made += _factors(site, scan, depth, dependencies)
    return {s.name: s for s in made}


def _previous(site: Site, scan: Scan, depth: int) -> Iterator[Site]:
    """A state at the steps before, as it enters what meets it there."""
    for lag in range(1, scan.carried.get(site.name, 0) + 1):
        yield replace(
            site,
            name=before(site.name, lag),
            role=Role.BEFORE,
            reason=f"'{site.name}' {lag} step{'s' * (lag > 1)} earlier",
            dims={scan.rest: -depth, **site.dims},
            law_of="",
            lag=lag,
        )


def _factors(site: Site, scan: Scan, depth: int, dependencies: Dependencies) -> Iterator[Site]:
    """A site as what multiplies: whole, or at its first steps and at all later ones."""
    paired = site.name in scan.pairs
    law = Role.LAW if site.role is Role.LATENT and paired else site.role
    for step, name in enumerate(scan.names(site.name)):
        own = replace(
            site,
            name=name,
            role=law,
            parents=dependencies.parents(name, site.name),
            timed=name in dependencies.timed,
        )
        if not paired:
            yield replace(own, dims={scan.time: -depth, **site.dims})
        elif name == scan.later(site.name):
            reason = "at later steps, given the state before"
            yield replace(own, reason=reason, dims={scan.rest: -depth, **site.dims})
        else:
            yield replace(own, reason=f"at step {step}", step=step)
