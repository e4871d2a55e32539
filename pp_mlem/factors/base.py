"""What a factor is: one site of the program, as what it keeps of the data, eta(theta) and its term."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from pp_mlem.base.no import No
from pp_mlem.factors.axes import layout_axes
from pp_mlem.factors.laid import Laid
from pp_mlem.families import Family
from pp_mlem.potentials.table import Table
from pp_mlem.program.bindings import Binding
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Site

Plates = frozenset[str]


@dataclass(frozen=True)
class Probe:
    """What is known of a site before a kind of factor takes it.

    `family` is the exponential family of its distribution, `batch` the batch shape of the family's
    arguments and `weight` that of the case weights; `depends` what each part of the distribution hangs
    on; `varying` the plates along which the arguments vary. `bound` says whether the family's
    arguments were traced to parameters (`bindings`).
    """

    reading: Reading
    site: Site
    family: Family | None
    batch: tuple[int, ...]
    weight: tuple[int, ...]
    depends: Mapping[str, frozenset[str]]
    varying: tuple[str, ...]
    latents: tuple[str, ...]
    keep: Plates
    columns: tuple[int, ...]
    event_size: int
    bound: bool
    bindings: Mapping[str, Binding]


@dataclass(frozen=True, eq=False)
class Factor(abc.ABC):
    """One site as a factor of log Z.

    `law_of` names the latent whose distribution it is. `latents` are those it touches (a latent's own
    factor touches itself), `keep` the plates of these latents. `layout` holds (name, size, is column)
    of each batch axis of an observed site, plates by name and `to_event` dimensions as "column i": the
    natural parameters of a family factor vary along its columns and are shared along its rows.
    """

    site: str
    family: Family | None
    law_of: str
    latents: tuple[str, ...]
    plates: Plates
    keep: Plates
    bindings: Mapping[str, Binding]
    parameters: frozenset[str]
    layout: tuple[tuple[str, int, bool], ...]
    event_size: int
    varies_by_row: bool
    reason: str

    kind: ClassVar[str]
    of_family: ClassVar[bool] = (
        False  # whether S holds its family's statistics, or responsibilities
    )
    by_points: ClassVar[bool] = False  # whether they are found at the basis points of real latents
    by_step: ClassVar[bool]  # whether its natural parameters are taken at every step of a scan

    @property
    def own(self) -> str:
        """The real latent whose law it is; `law_of` is for finite ones."""
        return ""

    @property
    def rows(self) -> tuple[str, ...]:
        """The plates along which the natural parameters are shared, in positional order."""
        return tuple(name for name, size, column in self.layout if not column and size > 1)

    @property
    def column_shape(self) -> tuple[int, ...]:
        return tuple(size for _, size, column in self.layout if column)

    @property
    def term_plates(self) -> Plates:
        """The plates of its term: a factor sums its columns itself."""
        return self.plates - {name for name, _, column in self.layout if column}

    @property
    def width(self) -> int:
        """Multiplications for each row and value of the latents, roughly."""
        event = self.event_size
        return event * (event + 3) // 2 + 1 if self.family and self.family.event_dim else 3

    @classmethod
    @abc.abstractmethod
    def read(cls, probe: Probe) -> Factor | No:
        """The site as a factor of this kind, or why it is none."""

    @abc.abstractmethod
    def natural(self, reading: Reading, message: Message, shift: Any) -> Any:
        """Natural parameters of the site as the program ran it, marked by `message.placed`."""

    def canonical(self, reading: Reading, probed: Any, summed: Any = None) -> jax.Array:
        """Natural parameters from what `natural` gives at the basis points of real latents; `summed` where the
        site is summed over its rows."""
        raise NotImplementedError(f"{type(self).__name__} is not found at points")

    @abc.abstractmethod
    def term(
        self, reading: Reading, eta: jax.Array, laid: Laid | None, reduce: bool
    ) -> tuple[Table, Plates]:
        """The factor over its latents and rows, and the plates that are left; `reduce` allows it to sum
        rows that no latent of it has."""

    def for_value(self, eta: jax.Array) -> jax.Array:
        """Natural parameters as `term` takes them where only its value is wanted, and derivatives with
        respect to the program's parameters."""
        return eta

    def for_statistics(self, eta: jax.Array) -> jax.Array:
        """The same where the derivative with respect to `eta` is wanted: expected statistics."""
        return eta

    @abc.abstractmethod
    def told(self) -> str:
        """How it enters log Z, and why."""


def common(probe: Probe, columns: frozenset[str]) -> dict[str, Any]:
    """What factors of all kinds take over from a probe; along the plates `columns` the parameters vary
    while the data are shared."""
    site, reading = probe.site, probe.reading
    every = frozenset().union(*probe.depends.values())
    return {
        "site": site.name,
        "family": probe.family if probe.bound else None,
        "law_of": site.law_of,
        "latents": probe.latents,
        "plates": site.plates,
        "keep": probe.keep,
        "bindings": dict(probe.bindings),
        "parameters": every & frozenset(reading.space.names),
        "layout": layout_axes(reading, site, probe.columns, columns),
        "event_size": probe.event_size,
    }
