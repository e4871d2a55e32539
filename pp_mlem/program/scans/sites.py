"""The sites of a scan's body as sites over its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pp_mlem.program.depend import Dependencies
from pp_mlem.program.errors import Refused
from pp_mlem.program.scans.carried import Carried
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


def sites_of_carry(
    scan: Scan, carried: Carried, depth: int, dependencies: Dependencies
) -> dict[str, Site]:
    """What a scan carries of real latents: into every step, with what becomes of it there; and
    before the first step."""
    every = Site(
        scan.carry,
        Role.CARRIED,
        f"carried from step to step: {', '.join(sorted(scan.movers))}",
        "",
        dims={scan.time: -depth, **dict(carried.plates)},
        parents=dependencies.parents(scan.carry, scan.carry),
        event_shape=(carried.size,),
        size=carried.size,
        real=True,
        scan=scan.time,
        timed=scan.carry in dependencies.timed,
    )
    first = replace(
        every,
        name=scan.first_carry,
        dims=dict(carried.plates),
        parents=dependencies.parents(scan.first_carry, scan.first_carry),
        timed=False,
        step=0,
    )
    return {every.name: every, first.name: first}


def carried_of(scan: Scan, dims: dict[str, dict[str, int]], sizes: dict[str, int]) -> Carried:
    """What a scan carries of its real latents, `dims` the plates of each site, `sizes` those of plates."""
    if scan.formed:
        raise Refused(
            f"scan: its carry holds real latents ({', '.join(sorted(scan.movers))}) and has not its later "
            "form from the start. Give scan an initial carry of the form that the body returns."
        )
    first = dims[min(scan.movers)]
    leaves = []
    for i, (held, leaf) in enumerate(zip(scan.held, scan.leaves, strict=True)):
        if held:
            leaves.append((i, _of_unit(leaf.shape, first, sizes)))
    return Carried(tuple(leaves), tuple(first.items()))


def _of_unit(
    shape: tuple[int, ...], plates: dict[str, int], sizes: dict[str, int]
) -> tuple[int, ...]:
    """What one unit of the plates has of a leaf: its dimensions right of those of the plates."""
    by_dim = {dim: sizes[plate] for plate, dim in plates.items()}
    depth = max((-d for d in by_dim), default=0)
    for own in range(len(shape) + 1):
        batch = shape[: len(shape) - own]
        if len(batch) < depth:
            break
        fits = all(n == by_dim.get(i - len(batch), 1) for i, n in enumerate(batch))
        if fits:
            return shape[len(shape) - own :]
    raise Refused(
        f"scan: a leaf of its carry has shape {shape} and holds real latents of plates "
        f"{', '.join(f'{n}[{sizes[n]}]' for n in plates)}. Keep the dimension of each plate where the plate has "
        "it, dimensions of vectors right of it."
    )


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
