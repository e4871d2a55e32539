"""How what a scan carries of real latents moves: an affine map without noise."""

from __future__ import annotations

from dataclasses import dataclass

from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates
from pp_mlem.potentials.table import Table


@dataclass(frozen=True)
class Motion:
    """What is carried on is mean + slope @ coordinates. `mean` has the axis `ROW`, `slope` besides it
    `COLUMN`, the coordinates one after the other."""

    mean: Table
    slope: Table
    coordinates: Coordinates

    @property
    def axes(self) -> tuple[str, ...]:
        own = (*self.mean.axes, *self.slope.axes)
        return tuple(dict.fromkeys(a for a in own if a not in (ROW, COLUMN)))
