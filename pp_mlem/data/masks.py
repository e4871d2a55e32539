"""handlers.mask: where units do not count, and where masked sequences still run."""

from __future__ import annotations

import numpy as np

from pp_mlem.data.raw import Raw
from pp_mlem.data.weights import at_rows
from pp_mlem.factors.base import Factor
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site


def valid_steps(reading: Reading, raw: Raw) -> dict[str, np.ndarray]:
    """Where a state is not masked: (steps, *plates). A masked state keeps its own law, which sums
    to one: before a sequence begins, in gaps and after its end."""
    carried = {s.origin for s in reading.with_role(Role.BEFORE)}
    states = [s for s in reading.latents if s.scan and s.name in carried]
    found = {s.name: shown_units(reading, s, raw) for s in states}
    return {name: shown for name, shown in found.items() if shown is not None}


def shown_units(reading: Reading, latent: Site, raw: Raw) -> np.ndarray | None:
    """Where a latent is not masked, (*plates,), of a state (steps, *plates); None if no mask."""
    laws = [s for s in reading.laws if s.law_of == latent.name]
    if not any(s.name in raw.mask for s in laws):
        return None
    shape = reading.plate_shape(latent.dims)
    scan = reading.scans.get(latent.scan)
    pieces = []
    for law in laws:
        own = np.ones((), bool)
        for mask in raw.mask.get(law.name, ()):
            own = own & np.asarray(mask)
        if scan is None:
            return np.broadcast_to(own, shape)
        alone = law.step is not None
        size = 1 if alone else shape[0] if len(laws) == 1 else reading.plates[scan.rest].size
        pieces.append(np.broadcast_to(own, (size, *shape[1:])))
    return np.concatenate(pieces)


def check_masks(
    reading: Reading,
    factors: tuple[Factor, ...],
    raw: Raw,
    valid: dict[str, np.ndarray],
    maps: dict,
) -> None:
    """A latent's mask must cover all that hangs on the latent, but for what a scan carries of it on."""
    for factor in factors:
        if reading.sites[factor.site].role is Role.CARRIED:
            continue
        for latent in factor.latents:
            above = np.ones((), bool)
            if latent in valid:
                if reading.sites[factor.site].scan != reading.sites[latent].scan:
                    continue
                above = valid[latent]
                site = reading.sites[factor.site]
                scan = reading.scans[site.scan]
                if site.step is not None:
                    above = above[site.step]
                elif scan.rest in site.dims:
                    above = above[scan.start :]
            elif latent in (factor.law_of, factor.own) or latent not in raw.mask:
                continue
            for mask in raw.mask.get(latent, ()):
                above = above & np.asarray(mask)
            above = at_rows(reading, factor, latent, above, maps)
            own = np.ones((), bool)
            for mask in raw.mask.get(factor.site, ()):
                mask = np.asarray(mask)
                columns = reading.sites[factor.site].columns
                own = own & (
                    mask.reshape(mask.shape[: mask.ndim - columns] + (-1,)).any(-1)
                    if columns
                    else mask
                )
            if (factor.law_of or factor.own) and factor.site in raw.mask:
                continue
            if np.any(own & ~above):
                raise ValueError(
                    f"handlers.mask hides latent '{latent}' where '{factor.site}', which depends "
                    "on it, is not hidden. Put both under the same mask."
                )
