"""Terms: the factors of a product while latents are taken out of it, and how plates are multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.potentials.crossed import Pattern
from pp_mlem.potentials.modes import SUM, Mode
from pp_mlem.potentials.quadratic import Known, Law, Potential, Quadratic
from pp_mlem.potentials.sums import Sums
from pp_mlem.potentials.table import Table, add

Pair = tuple[str, str]  # child plate, parent plate
LAST = -1  # the place of what meets a scan's last states


@dataclass(frozen=True)
class Weight:
    """A unit's case weight and the latents whose own distributions are under it. It is applied
    where the first latent that is not among them is summed: from there on the unit is a factor
    like any other, whatever the sizes of the plates (an axis of size one is dropped)."""

    table: Table
    latents: frozenset[str] = frozenset()

    @property
    def plates(self) -> frozenset[str]:
        return frozenset(self.table.axes)


@dataclass(frozen=True)
class Term:
    """A potential with its meaning: latents it touches, plates it is repeated over, weight; `place` is
    the number of the first step of a scan that it belongs to, `LAST` for what meets the last states."""

    table: Potential
    latents: frozenset[str]
    plates: frozenset[str]
    weight: Weight | None = None
    place: int | None = None

    @property
    def of_finite(self) -> Table:
        """Its table, once no real latent is left."""
        if not isinstance(self.table, Table):
            raise RuntimeError(f"real latents are left: {sorted(self.latents)}.")
        return self.table


@dataclass(frozen=True)
class Layout:
    """Sizes of latents and plates by name, and the pairs of plates across which latents are gathered."""

    sizes: Mapping[str, int]
    gathers: tuple[Pair, ...]

    def repeats(self, plates: frozenset[str], table: Table) -> int:
        """How often a table stands for one and the same over these plates."""
        absent = [self.sizes[p] for p in plates if p not in table.axes]
        return int(np.prod(absent)) if absent else 1

    def project(self, term: Term, plates: frozenset[str], context: Pass) -> Term:
        """Multiply a term over the plates that are not among `plates`."""
        surplus = term.plates - plates
        if not surplus:
            return term
        table, weight = term.table, term.weight
        if weight is not None and not weight.plates <= plates:
            table, weight = weighted(table, weight, context.once), None
        for child, parent in self.gathers:
            if child in surplus and parent in plates and parent not in term.plates:
                index = context.maps[child, parent]
                table = table.gather(child, parent, index, self.sizes[parent])
                surplus = surplus - {child}
        table = table.reduced(surplus, self.sizes)
        return replace(term, table=table, plates=plates, weight=weight)

    def units(self, terms: list[Term], context: Pass, with_weights: bool = True) -> list[Table]:
        """The final terms as tables over independent units, one per set of plates."""
        groups: list[frozenset[str]] = []
        for plates in sorted({t.plates for t in terms}, key=len):
            if plates and not any(g <= plates for g in groups):
                groups.append(plates)
        members: dict[frozenset[str], list[Table]] = {}
        scalars: list[Table] = []
        for term in terms:
            home = next((g for g in groups if g <= term.plates), frozenset())
            term = self.project(term, home, context)
            table = term.of_finite
            if with_weights and term.weight is not None:
                table = _weighted(table, term.weight, context.once)
            members.setdefault(home, []).append(table) if home else scalars.append(table)
        tables = []
        for home, own in members.items():
            order = tuple(sorted(home))
            shape = tuple(self.sizes[p] for p in order)
            tables.append(Table(jnp.broadcast_to(add(own).aligned(order), shape), order))
        if not scalars:
            return tables
        rest = add(scalars)
        if not tables:
            return [Table(rest.array.reshape(1), ("program",))]
        count = sum(t.array.size for t in tables)
        return [Table(t.array + rest.array / count, t.axes) for t in tables]

    def total(self, terms: list[Term]) -> jax.Array:
        """log Z: every final term multiplied over its plates."""
        value = jnp.zeros(())
        for term in terms:
            table = term.of_finite
            table = table if term.weight is None else _weighted(table, term.weight, False)
            value = value + table.array.sum() * self.repeats(term.plates, table)
        return value


@dataclass(frozen=True)
class Pass:
    """What a pass over the terms needs besides them: the mode; of the data, which unit of a parent plate
    each row of a child reads (`maps`), where masked sequences still run (`valid`), and which units of
    crossed latents meet (`pattern`).

    `once`: a weighted unit keeps its value, but its derivative counts it once. A posterior is such
    a derivative: the weight says how much a unit tells about the latents above it, not how often
    its own latents exist. `assigned`: where it is true, what real latents say of finite ones has no
    value: clamps alone assign these. `known` are the values of real latents that have some.
    """

    mode: Mode = SUM
    maps: Mapping[Pair, jax.Array] = field(default_factory=dict)
    valid: Mapping[str, jax.Array] = field(default_factory=dict)
    once: bool = False
    assigned: jax.Array | None = None
    known: Mapping[str, Known] = field(default_factory=dict)
    pattern: Pattern | None = None


def without_value(table: Table, condition: jax.Array) -> Table:
    """Where the condition holds, a table of no value and with the same derivatives; what is impossible
    stays so."""
    array = table.array
    nothing = jnp.where(jnp.isfinite(array), array - jax.lax.stop_gradient(array), array)
    return Table(jnp.where(condition, nothing, array), table.axes)


def weighted(table: Potential, weight: Weight, once: bool = False) -> Table | Quadratic:
    """A potential with a case weight multiplied in."""
    if isinstance(table, (Quadratic, Law, Sums)):
        return table.each(lambda part: _weighted(part, weight, once))
    return _weighted(table, weight, once)


def _weighted(table: Table, weight: Weight, once: bool) -> Table:
    order = table.axes + tuple(a for a in weight.table.axes if a not in table.axes)
    array = table.aligned(order)
    value = array * weight.table.aligned(order)
    if not once:
        return Table(value, order)
    possible = jnp.isfinite(array)
    unchanged = jnp.where(possible, array - jax.lax.stop_gradient(array), 0.0)
    return Table(jax.lax.stop_gradient(value) + unchanged, order)
