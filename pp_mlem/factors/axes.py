"""Which axis of a site's arrays is which plate, column or latent."""

from __future__ import annotations

from collections.abc import Collection

import jax

from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Site


def positions(reading: Reading, site: Site, n_batch: int) -> list[tuple[int, str, str]]:
    """(axis, kind, name) of each batch axis of a site's bare distribution, left to right."""
    by_dim = {dim: plate for plate, dim in site.dims.items()}
    latent_by_dim = {reading.latent_dim(s.name): s.name for s in reading.slots}
    found = []
    for axis in range(n_batch):
        from_right = n_batch - axis  # 1 is the last
        if from_right <= site.columns:
            found.append((axis, "column", f"column {site.columns - from_right}"))
            continue
        dim = -(from_right - site.columns)
        if -dim <= reading.depth:
            found.append((axis, "plate", by_dim.get(dim, f"unused {dim}")))
        else:
            found.append((axis, "latent", latent_by_dim.get(dim, f"unused {dim}")))
    return found


def batch_axes(reading: Reading, name: str, shape: tuple[int, ...]) -> list[str]:
    """The plate or latent of each batch axis of a site, those of gathered latents left out."""
    site = reading.sites[name]
    bare = Site(site.name, site.role, "", "", dims=site.dims)
    return [axis for _, _, axis in positions(reading, bare, len(shape))]


def table_axes(
    reading: Reading, site: str, latents: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[str, ...]:
    """Axis names of a table of a site that touches these latents; axes of size one are named ""."""
    outer = [s.name for s in reading.slots if s.vmapped and s.name in latents]
    names = outer + batch_axes(reading, site, shape[len(outer) :])
    return tuple("" if size == 1 else name for name, size in zip(names, shape, strict=True))


def drop_outer(reading: Reading, latents: Collection[str], array: jax.Array) -> jax.Array:
    """Without the leading axes of latents that are enumerated by vmap and are not among these."""
    outer = [s.name for s in reading.slots if s.vmapped]
    for i in reversed(range(len(outer))):
        if outer[i] not in latents:
            array = jax.lax.index_in_dim(array, 0, axis=i, keepdims=False)
    return array


def of_rank(array: jax.Array, rank: int, outer: int) -> jax.Array:
    """With as many dimensions, new ones behind the `outer` first, which are latents' of their own."""
    return array.reshape(array.shape[:outer] + (1,) * (rank - array.ndim) + array.shape[outer:])


def layout_axes(
    reading: Reading, site: Site, column_sizes: tuple[int, ...], varying: frozenset[str]
) -> tuple[tuple[str, int, bool], ...]:
    depth = max((-d for d in site.dims.values()), default=0)
    by_dim = {dim: plate for plate, dim in site.dims.items()}
    found = []
    for dim in range(-depth, 0):
        plate = by_dim.get(dim)
        size = reading.plates[plate].size if plate else 1
        found.append((plate or f"unused {dim}", size, plate in varying))
    found += [(f"column {i}", size, True) for i, size in enumerate(column_sizes)]
    return tuple(found)
