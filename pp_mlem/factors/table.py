"""Table factors: log-probabilities over the values of finite latents and rows, of any distribution."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax

from pp_mlem.base.no import No
from pp_mlem.factors.axes import positions, table_axes
from pp_mlem.factors.base import Factor, Plates, Probe, common
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.tables import log_table
from pp_mlem.potentials.table import Table
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading


@dataclass(frozen=True, eq=False)
class TableFactor(Factor):
    """Any site with finite latents, and the law of a latent itself: its table is its natural parameters."""

    partly: bool = False  # whether its vectors may be missing in part
    kind = "table"
    of_family = True
    by_step = True

    @classmethod
    def read(cls, probe: Probe) -> Factor | No:
        reason = "" if probe.site.law_of else "no other kind of factor takes it"
        return cls(
            **common(probe, frozenset()),
            varies_by_row=not probe.site.law_of or _law_varies(probe),
            reason=reason or "a latent's own distribution over its values",
        )

    def natural(self, reading: Reading, message: Message, shift: Any) -> Any:
        """log-probability of each (latent value, unit), latents that are gathered leading, then
        right-aligned (*latents, *plates)."""
        return message.placed(log_table(message, reading.sites[self.site], self.partly))

    def term(
        self, reading: Reading, eta: jax.Array, laid: Laid | None, reduce: bool
    ) -> tuple[Table, Plates]:
        axes = table_axes(reading, self.site, self.latents, eta.shape)
        return Table.of(eta, axes), self.plates

    def told(self) -> str:
        over = "values and rows" if self.varies_by_row else "values"
        return f"table over {over}: {self.reason}"


def as_table(factor: Factor) -> TableFactor:
    """Another kind of factor as the table that it could be as well."""
    own = {f.name for f in fields(TableFactor)}
    return TableFactor(**{f.name: getattr(factor, f.name) for f in fields(factor) if f.name in own})


def _law_varies(probe: Probe) -> bool:
    """Whether the law of a latent is another for every unit."""
    site = probe.site
    if probe.family is None:
        return site.timed or not site.scan
    return any(
        kind == "plate" and probe.batch[axis] > 1
        for axis, kind, _ in positions(probe.reading, site, len(probe.batch))
    )
