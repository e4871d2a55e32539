"""Plates: log Z by variable elimination over discrete latents in nested plates.

Latents deepest in the plates are summed first; a factor that lives in more plates than the latent
is first multiplied over the surplus plates (a sum of logs). Variable elimination with plates:
Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs,
arXiv:1902.03210.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.marginal.semiring import SUM, Semiring
from pp_mlem.potentials.table import Table, Weight, add
from pp_mlem.program.reading import TABLE_LIMIT

AFTER = "after"


@dataclass(frozen=True)
class Term:
    """A table of logs with its meaning: latents it touches, plates it is repeated over, weight;
    `step` is the number of the first step of a scan that it belongs to, or "after" for what meets
    a scan's last states."""

    table: Table
    latents: frozenset[str]
    plates: frozenset[str]
    weight: Weight | None = None
    step: str = ""


@dataclass(frozen=True)
class Elimination:
    """The order in which latents are summed, found once from scopes and sizes.

    `once`: a weighted unit keeps its value, but its derivative counts it once. A posterior is such
    a derivative: the weight says how much a unit tells about the latents above it, not how often
    its own latents exist.
    """

    order: tuple[str, ...]
    latent_plates: dict[str, frozenset[str]]
    sizes: dict[str, int]
    gathers: dict[tuple[str, str], None]
    once: bool = False

    def run(
        self,
        terms: list[Term],
        maps: dict[tuple[str, str], jax.Array],
        semiring: Semiring = SUM,
    ) -> list[Term]:
        """Sum every latent out; the terms returned have none."""
        for latent in self.order:
            plates = self.latent_plates[latent]
            touching = [t for t in terms if latent in t.latents]
            others = [t for t in terms if latent not in t.latents]
            touching = [self._applied(t, latent) for t in touching]
            if any(t.weight is not None and t.plates <= plates for t in touching):
                # The latent is of the weighted unit, and so is all that hangs on it.
                touching = [_of_unit(t, plates) for t in touching]
            projected = [self.project(t, plates, maps) for t in touching]
            total = add([t.table for t in projected])
            weight = next((t.weight for t in projected if t.weight is not None), None)
            summed = total
            if latent in total.axes:
                axis = total.axes.index(latent)
                kept = total.axes[:axis] + total.axes[axis + 1 :]
                summed = Table(semiring.axis(total.array, axis), kept)
            latents = frozenset().union(*(t.latents for t in projected)) - {latent}
            step = next((t.step for t in projected if t.step), "")
            terms = [*others, Term(summed, latents, plates, weight, step)]
        return terms

    def _applied(self, term: Term, latent: str) -> Term:
        """A term whose weight does not cover `latent`, with that weight multiplied in."""
        if term.weight is None or latent in term.weight.latents:
            return term
        return replace(
            term, table=Table(*_multiply(term.table, term.weight, self.once)), weight=None
        )

    def project(
        self, term: Term, plates: frozenset[str], maps: dict[tuple[str, str], jax.Array]
    ) -> Term:
        """Multiply a term over the plates that are not among `plates`."""
        surplus = term.plates - plates
        if not surplus:
            return term
        table = term.table
        weight = term.weight
        if weight is not None and not set(weight.axes) <= plates:
            table = Table(*_multiply(table, weight, self.once))
            weight = None
        for child, parent in self.gathers:
            if child in surplus and parent in plates and parent not in term.plates:
                table = _segment_sum(table, child, parent, maps[child, parent], self.sizes[parent])
                surplus = surplus - {child}
        absent = [p for p in surplus if p not in table.axes]
        table = table.sum(surplus)
        repeat = int(np.prod([self.sizes[p] for p in absent])) if absent else 1
        if repeat != 1:
            table = Table(table.array * repeat, table.axes)
        return replace(term, table=table, plates=plates, weight=weight)

    def units(self, terms: list[Term], weighted: bool = True) -> list[Table]:
        """The final terms as tables over independent units, one per set of plates."""
        groups: list[frozenset[str]] = []
        for plates in sorted({t.plates for t in terms}, key=len):
            if plates and not any(g <= plates for g in groups):
                groups.append(plates)
        found: dict[frozenset[str], list[Table]] = {}
        scalars: list[Table] = []
        for term in terms:
            home = next((g for g in groups if g <= term.plates), frozenset())
            term = self.project(term, home, {})
            table = term.table
            if weighted and term.weight is not None:
                table = Table(*_multiply(table, term.weight, self.once))
            if home:
                found.setdefault(home, []).append(table)
            else:
                scalars.append(table)
        tables = []
        for home, members in found.items():
            order = tuple(sorted(home))
            shape = tuple(self.sizes[p] for p in order)
            total = add(members)
            order_present = tuple(p for p in order)
            tables.append(Table(jnp.broadcast_to(total.aligned(order_present), shape), order))
        if scalars:
            rest = add(scalars)
            if tables:
                count = sum(t.array.size for t in tables)
                tables = [Table(t.array + rest.array / count, t.axes) for t in tables]
            else:
                tables = [Table(rest.array.reshape(1), ("program",))]
        return tables

    def total(self, terms: list[Term]) -> jax.Array:
        """log Z: every final term multiplied over its plates."""
        value = jnp.zeros(())
        for term in terms:
            table, weight = term.table, term.weight
            if weight is not None:
                table = Table(*_multiply(table, weight))
            absent = [p for p in term.plates if p not in table.axes]
            repeat = int(np.prod([self.sizes[p] for p in absent])) if absent else 1
            value = value + table.array.sum() * repeat
        return value


def _of_unit(term: Term, plates: frozenset[str]) -> Term:
    """A term without its weight where its plates are inside of the unit's."""
    return term if term.plates <= plates else replace(term, weight=None)


def _multiply(table: Table, weight: Table, once: bool = False) -> tuple[jax.Array, tuple[str, ...]]:
    order = table.axes + tuple(a for a in weight.axes if a not in table.axes)
    array = table.aligned(order)
    value = array * weight.aligned(order)
    if not once:
        return value, order
    possible = jnp.isfinite(array)
    unchanged = jnp.where(possible, array - jax.lax.stop_gradient(array), 0.0)
    return jax.lax.stop_gradient(value) + unchanged, order


def _segment_sum(table: Table, child: str, parent: str, index: jax.Array, size: int) -> Table:
    """Multiply the rows of `child` that belong to each unit of `parent`."""
    axis = table.axes.index(child) if child in table.axes else None
    array = table.array
    if axis is None:
        array, axis = jnp.broadcast_to(array[..., None], array.shape + index.shape), array.ndim
        axes = table.axes + (child,)
    else:
        axes = table.axes
    moved = jnp.moveaxis(array, axis, 0)
    summed = jnp.zeros((size,) + moved.shape[1:], moved.dtype).at[index].add(moved)
    named = tuple(parent if a == child else a for a in axes)
    return Table(jnp.moveaxis(summed, 0, axis), named)


def plan_elimination(
    scopes: list[tuple[str, frozenset[str], frozenset[str]]],
    latent_plates: dict[str, frozenset[str]],
    latent_sizes: dict[str, int],
    plate_sizes: dict[str, int],
    gathers: dict[tuple[str, str], None],
) -> Elimination:
    """Choose the order of summation; refuse what is intractable, with the table's size.

    `scopes` are (site, latents, plates) of each factor.
    """
    live = [(site, latents, plates) for site, latents, plates in scopes if latents]
    remaining = dict(latent_plates)
    order: list[str] = []

    def outside(plates: frozenset[str], own: frozenset[str]) -> frozenset[str]:
        """Plates that are neither among `own` nor above them by a gather."""
        return plates - own - {parent for child, parent in gathers if child in own}

    while remaining:
        costs = {}
        for name, own in remaining.items():
            touching = [f for f in live if name in f[1]]
            others = frozenset().union(*(f[1] for f in touching)) - {name}
            if any(outside(remaining[o], own) for o in others & set(remaining)):
                continue  # a deeper latent must go first
            shape = [latent_sizes[name], *(latent_sizes[o] for o in others)]
            shape += [plate_sizes[p] for p in own]
            costs[name] = float(np.prod(np.array(shape, float)))
        if not costs:
            names = ", ".join(f"'{n}'" for n in sorted(remaining))
            raise ValueError(
                f"latents {names} are coupled across plates (each meets every unit of the "
                "other's plate), so their sum does not factorise. Put them in nested plates, or "
                "observe one of them with observe={...}."
            )
        best = min(costs, key=lambda n: (costs[n], n))
        if costs[best] > TABLE_LIMIT:
            touching = [f for f in live if best in f[1]]
            others = sorted(frozenset().union(*(f[1] for f in touching)))
            sizes = " x ".join(f"{n}: {latent_sizes[n]}" for n in others)
            raise ValueError(
                f"summing latent '{best}' needs a table of {costs[best]:.3g} entries "
                f"({sizes}, times its plates {sorted(latent_plates[best])}), more than "
                f"{TABLE_LIMIT:.3g}. Use fewer values or fewer latents that depend on one another."
            )
        touching = [f for f in live if best in f[1]]
        merged = frozenset().union(*(f[1] for f in touching)) - {best}
        live = [f for f in live if best not in f[1]]
        if merged:
            live.append((best, merged, latent_plates[best]))
        order.append(best)
        del remaining[best]
    return Elimination(tuple(order), latent_plates, plate_sizes | latent_sizes, gathers)


__all__ = ["Elimination", "Table", "Term", "jax", "plan_elimination"]
