"""Carried factors: what a scan carries of real latents, as an affine map of what a step has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.factors.affine import coordinate_places
from pp_mlem.factors.axes import layout_axes, table_axes
from pp_mlem.factors.base import Factor, Plates, Probe
from pp_mlem.factors.laid import Laid
from pp_mlem.potentials.motion import Motion
from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates
from pp_mlem.potentials.table import Table
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site


@dataclass(frozen=True, eq=False)
class CarriedFactor(Factor):
    """What is carried before the first step, or what becomes of it in every step: no law but a map, whose
    natural parameters are its value at coordinates of zero and how they move it."""

    coordinates: Coordinates = ()
    size: int = 0
    kind = "carried"
    of_family = False
    by_step = False
    by_points = True

    @classmethod
    def read(cls, probe: Probe) -> Factor | No:
        return No("")  # a carry is no site of the program: see `carried_factors`

    def natural(self, reading: Reading, message: Message, shift: Any) -> Any:
        """What is carried at one value of the coordinates, from its origin: (*latents, *plates, size)."""
        value = message.value if shift is None else message.value - shift
        return message.placed(value, 1)

    def canonical(self, reading: Reading, probed: Any, summed: Any = None) -> jax.Array:
        at_zero = probed[0]
        if not self.coordinates:
            return at_zero
        moves = probed[self.places(reading)] - at_zero
        moves = jnp.moveaxis(moves, 0, -1)
        return jnp.concatenate([at_zero[..., None], moves], -1).reshape(*at_zero.shape[:-1], -1)

    def places(self, reading: Reading) -> np.ndarray:
        """The numbers of its coordinates among the basis points."""
        return coordinate_places(reading, self.coordinates)

    def term(
        self, reading: Reading, eta: jax.Array, laid: Laid | None, reduce: bool
    ) -> tuple[Any, Plates]:
        finite = tuple(n for n in self.latents if not reading.sites[n].real)
        axes = table_axes(reading, self.site, finite, eta.shape[:-1])
        count = sum(n for _, n in self.coordinates)
        both = eta.reshape(*eta.shape[:-1], self.size, 1 + count)
        mean = Table.of(both[..., 0], (*axes, ROW))
        slope = Table.of(both[..., 1:], (*axes, ROW, COLUMN))
        return Motion(mean, slope, self.coordinates), self.plates

    def told(self) -> str:
        return f"carried: {self.reason}"


def carried_factors(reading: Reading) -> tuple[CarriedFactor, ...]:
    """What scans carry of real latents, before their first steps and in every one."""
    return tuple(_factor(reading, site) for site in reading.with_role(Role.CARRIED))


def _factor(reading: Reading, site: Site) -> CarriedFactor:
    touched = frozenset().union(*reading.dependencies[site.name].values())
    own = {reading.scans[site.scan].carry}
    real = [s for s in reading.coordinates if s.name in touched]
    finite = tuple(s.name for s in reading.slots if s.name in touched)
    latents = (*finite, *(s.name for s in real))
    keep = frozenset().union(site.plates, *(reading.sites[v].plates for v in latents))
    return CarriedFactor(
        site=site.name, family=None, law_of="", latents=tuple(dict.fromkeys((*latents, *own))),
        plates=site.plates, keep=keep, bindings={},
        parameters=touched & frozenset(reading.space.names),
        layout=layout_axes(reading, site, (), frozenset()), event_size=site.size,
        varies_by_row=False,
        reason=f"affine in {', '.join(s.name for s in real)}" if real else "known before the scan",
        coordinates=tuple((s.name, s.size) for s in real), size=site.size,
    )  # fmt: skip
