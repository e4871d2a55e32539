"""Flat laws: a real latent with an improper uniform law, as the coefficients of a restricted likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.base.no import No
from pp_mlem.factors.base import Factor, Plates, Probe, common
from pp_mlem.factors.laid import Laid
from pp_mlem.potentials.quadratic import COLUMN, ROW, Quadratic
from pp_mlem.potentials.table import Table
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading


@dataclass(frozen=True, eq=False)
class FlatFactor(Factor):
    """The law of a real latent that is one everywhere: nothing but its place among the coordinates. Where
    regression coefficients have such a law, log Z is the restricted likelihood (REML)."""

    own: str = ""
    size: int = 0
    kind = "flat"
    of_family = False
    by_step = False

    @classmethod
    def read(cls, probe: Probe) -> Factor | No:
        site = probe.site
        if not site.real or site.distribution != "ImproperUniform":
            return No("")  # no flat law of a real latent
        return cls(
            **common(probe, frozenset()) | {"law_of": ""},
            varies_by_row=False,
            reason="an improper law, flat",
            own=site.name,
            size=site.size,
        )

    def natural(self, reading: Reading, message: Message, shift: Any) -> Any:
        """Nothing."""
        return jnp.zeros(())

    def term(
        self, reading: Reading, eta: jax.Array, laid: Laid | None, reduce: bool
    ) -> tuple[Any, Plates]:
        nothing = Quadratic(
            Table(eta, ()),
            Table(jnp.zeros(self.size, eta.dtype), (ROW,)),
            Table(jnp.zeros((self.size, self.size), eta.dtype), (ROW, COLUMN)),
            ((self.own, self.size),),
        )
        return nothing, self.plates

    def told(self) -> str:
        return f"one: {self.reason}"
