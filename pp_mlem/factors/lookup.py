"""What an enumerated table says at given values of the latents, over the plates of its site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.factors.gathers import Pair
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Site


@dataclass(frozen=True)
class Configuration:
    """One value of every latent: its `codes` over its plates, and by `maps` the unit of a plate that
    each row of another reads."""

    reading: Reading
    codes: dict[str, np.ndarray]
    maps: dict[Pair, Any]

    def entries(self, factor: Factor, table: np.ndarray) -> np.ndarray:
        """The entries of a factor's table, over the site's plates; NaN where an axis of the table is
        that of no plate of the site."""
        site = self.reading.sites[factor.site]
        shape = self.reading.plate_shape(site.dims)
        index: list[Any] = []
        for size, name in zip(
            table.shape,
            table_axes(self.reading, factor.site, factor.latents, table.shape),
            strict=True,
        ):
            if name in self.reading.sites:
                index.append(self._codes_over(site, name))
            elif size == 1:
                index.append(0)
            elif name in site.dims:
                index.append(_along(site, name, np.arange(size)))
            else:
                return np.full(shape, np.nan)
        return np.broadcast_to(table[tuple(index)], shape)

    def _codes_over(self, site: Site, latent: str) -> Any:
        """The codes of a latent, laid out over the plates of a site."""
        codes, dims = self._codes_at(site, latent)
        if not dims:
            return int(codes.ravel()[0])
        moved = [p for p in dims if p not in site.dims]
        if moved:
            child = next(c for c, parent in self.maps if parent == moved[0] and c in site.dims)
            rows = np.asarray(self.maps[child, moved[0]])
            return _along(site, child, codes.reshape(-1)[rows])
        view = [1] * _depth(site)
        for plate, dim in dims.items():
            view[site.dims[plate]] = codes.shape[dim]
        order = sorted(dims, key=lambda p: dims[p])
        squeezed = codes.reshape([codes.shape[dims[p]] for p in order])
        rank = np.argsort([site.dims[p] for p in order])
        return np.transpose(squeezed, rank).reshape(view)

    def _codes_at(self, site: Site, latent: str) -> tuple[np.ndarray, dict[str, int]]:
        """The codes of a latent at the steps where a site meets it, and their plate dimensions."""
        reading, own = self.reading, self.reading.sites[latent]
        origin = reading.sites[own.origin or latent]
        codes = self.codes[origin.name]
        if not own.scan:
            return codes, own.dims
        inner = {p: d for p, d in origin.dims.items() if d != -reading.depth}
        scan = reading.scans[own.scan]
        if site.scan != own.scan:
            return codes[len(codes) - 1 - own.lag], inner
        over = next((p for p in site.dims if p in (scan.time, scan.rest)), None)
        if over is None:
            return codes[(site.step or 0) - own.lag], inner
        if over == scan.rest:
            codes = codes[scan.start - own.lag : len(codes) - own.lag]
        return codes, {over: -reading.depth, **inner}


def _depth(site: Site) -> int:
    return max((-d for d in site.dims.values()), default=0)


def _along(site: Site, plate: str, array: np.ndarray) -> np.ndarray:
    """An array with one entry for each unit of a plate, in the dimension of the plate."""
    view = [1] * _depth(site)
    view[site.dims[plate]] = -1
    return array.reshape(view)
