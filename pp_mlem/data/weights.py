"""handlers.scale: case weights of units."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from pp_mlem.data.raw import Raw
from pp_mlem.factors.base import Factor
from pp_mlem.program.reading import Reading


def _aligned(reading: Reading, site: str, value: Any) -> np.ndarray:
    shape = reading.plate_shape(reading.sites[site].dims)
    value = np.asarray(value)
    return np.broadcast_to(value, np.broadcast_shapes(shape, value.shape))


def at_rows(
    reading: Reading, factor: Factor, latent: str, value: np.ndarray, maps: dict
) -> np.ndarray:
    """What is known of each unit of a latent, at the rows of a site that gathers it."""
    site, own = reading.sites[factor.site], reading.sites[latent]
    for (child, parent), rows in maps.items():
        missing = parent in own.plates and parent not in site.plates
        if not missing or child not in site.plates or np.ndim(value) < -own.dims[parent]:
            continue
        along = np.ndim(value) + own.dims[parent]
        if np.shape(value)[along] > 1 or own.dims[parent] != site.dims[child]:
            moved = np.moveaxis(np.asarray(value), along, 0)
            moved = np.broadcast_to(moved, (reading.plates[parent].size, *moved.shape[1:]))
            value = moved[np.asarray(rows)].reshape((-1,) + (1,) * (-site.dims[child] - 1))
    return value


def weights_of(
    reading: Reading, factors: tuple[Factor, ...], raw: Raw, maps: dict
) -> dict[str, jax.Array]:
    """Case weights of each site, broadcast over its plates; those of a scan are the same at all steps.

    Raises ValueError for weights that are negative, not finite or vary along a scan, and for those
    that cover a latent without its observations or the other way round.
    """
    scales = {name: _scale(reading, name, scale) for name, scale in raw.scale.items()}
    for factor in factors:
        own = scales.get(factor.site)
        for latent in factor.latents:
            above = _of_law(reading, scales, latent)
            site = reading.sites[latent]
            if latent == factor.law_of or not site.plates and above is None:
                continue
            if site.plates != factor.plates and above is None and not site.scan:
                continue
            if above is not None:
                above = at_rows(reading, factor, latent, above, maps)
            if not _agree(reading, factor.site, own, above):
                raise ValueError(
                    f"handlers.scale covers one of '{latent}' and '{factor.site}' but not the "
                    "other. A case weight multiplies the log-likelihood of a whole unit: put "
                    "the latent and its observations under the same scale."
                )
    return {name: jax.device_put(np.asarray(scale, float)) for name, scale in scales.items()}


def _scale(reading: Reading, name: str, scale: Any) -> np.ndarray:
    host, site = np.asarray(scale), reading.sites[name]
    if not np.all(np.isfinite(host)) or np.any(host < 0):
        raise ValueError(
            f"handlers.scale at site '{name}': weights must be finite and not negative."
        )
    if not site.scan or host.ndim < reading.depth:
        return host
    steps = host.ndim - reading.depth
    host = np.moveaxis(host, steps, 0)
    if np.any(host != host[:1]):
        raise ValueError(
            f"handlers.scale at site '{name}' varies along the scan. A case weight "
            "multiplies the log-likelihood of a whole sequence: give each sequence one."
        )
    return np.moveaxis(host[:1], 0, steps)


def _agree(reading: Reading, site: str, own: Any, above: Any) -> bool:
    """Whether a site and a latent above it have the same weights, or none."""
    if own is None or above is None:
        return own is None and above is None
    aligned = _aligned(reading, site, own)
    return np.array_equal(
        aligned, np.broadcast_to(aligned * 0 + np.asarray(above), np.shape(aligned))
    )


def _of_law(reading: Reading, values: dict[str, Any], latent: str) -> Any:
    """What is known of the (last) distribution of a latent."""
    name = reading.sites[latent].origin or latent
    found = [values[s.name] for s in reading.laws if s.law_of == name and s.name in values]
    return found[-1] if found else None
