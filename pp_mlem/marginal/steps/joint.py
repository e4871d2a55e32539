"""Crossed latents: real latents of several plates, each unit of which meets units of the others.

The largest is taken out unit by unit; what is left is one dense quadratic over all units of the others
(the Schur complement of lme4 and MixedModels.jl: Bates et al. 2015, doi:10.18637/jss.v067.i01).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.marginal.steps.base import Graph, Step
from pp_mlem.potentials.blocks import Blocks, Cells
from pp_mlem.potentials.crossed import Pattern, find_pattern
from pp_mlem.potentials.quadratic import (
    COLUMN,
    ROW,
    Law,
    Potential,
    Quadratic,
    pin,
    unmet,
)
from pp_mlem.potentials.sums import Sums
from pp_mlem.potentials.table import Table, add
from pp_mlem.potentials.term import Layout, Pair, Pass, Term, weighted
from pp_mlem.program.reading import Reading

COORDINATES = 4000  # of all units but those of the largest latent: a matrix of 128 MB
CROSSED = 5e7  # numbers of the largest latent times the others'
PAIRS = 2**25  # of edges of one unit, which are held as three whole numbers each
PAIR_COST = 500  # products of dense blocks in the time of one such pair


@dataclass(frozen=True, eq=False)
class JointStep(Step):
    """Takes out real latents together, the largest first. `plates` are those of each in positional order,
    `sizes` the numbers of one unit; `meetings` are plates whose cells read the largest and these others."""

    latents: tuple[str, ...]
    plates: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    layout: Layout
    meetings: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()

    @classmethod
    def plan(cls, graph: Graph) -> tuple[Step, Graph] | No:
        sites = graph.reading.sites
        names = sorted(n for n in graph.latents if sites[n].real)
        if not names:
            return No("no real latent is left")
        met = frozenset().union(*(s.latents for s in graph.scopes if s.latents & set(names)))
        finite = sorted(met - set(names))
        if finite:
            raise ValueError(
                f"latents {', '.join(map(repr, sorted(names)))} are crossed (each unit of one meets units of "
                f"the other) and meet the finite latent '{finite[0]}': no structure takes out both. "
                "Observe one of them with observe={...}, or put them in nested plates."
            )
        plates = {n: tuple(sorted(sites[n].dims, key=sites[n].dims.__getitem__)) for n in names}
        sizes = {n: sites[n].size for n in names}
        counted = cls(tuple(names), plates, sizes, graph.layout)
        names.sort(key=lambda n: -counted.units(n) * sizes[n])
        scopes = [(s.plates, _with_parents(s.latents, graph)) for s in graph.scopes]
        meetings = tuple(
            (tuple(sorted(cells)), tuple(n for n in names[1:] if n in latents))
            for cells, latents in scopes
            if names[0] in latents and len(latents) > 1
        )
        step = cls(tuple(names), plates, sizes, graph.layout, meetings)
        first = step.ends[0]
        rest = step.ends[-1] - first
        if rest > COORDINATES or first * rest > CROSSED:
            each = ", ".join(f"{n}: {step.units(n)} x {step.sizes[n]}" for n in names)
            raise ValueError(
                f"crossed latents {', '.join(map(repr, names))} have {step.ends[-1]} numbers together "
                f"({each}); all but the largest may have {COORDINATES}, and {CROSSED:.0e} times its own, "
                "for their precision is one dense matrix. Use fewer units, or estimate one of them with "
                'parameters={"..."}.'
            )
        return step, graph.without(frozenset(names), frozenset())

    def units(self, latent: str) -> int:
        """How many units a latent has."""
        return int(np.prod([self.layout.sizes[p] for p in self.plates[latent]] or [1]))

    @property
    def ends(self) -> list[int]:
        """Where the numbers of each latent end."""
        return np.cumsum([self.units(n) * self.sizes[n] for n in self.latents]).tolist()

    def pattern(self, maps: Mapping[Pair, Any]) -> Pattern | None:
        """Which units of the largest latent meet which of the others', where these pairs are few."""
        begins, met = self._begins, dict[tuple[tuple[str, ...], str], tuple]()
        first, rest = self.ends[0], self.ends[-1] - self.ends[0]
        for plates, latents in self.meetings:
            shape = tuple(self.layout.sizes[p] for p in plates)
            first_places = self._places(self.latents[0], plates, shape, maps, 0)[..., 0]
            unit = np.asarray(first_places).ravel() // self.sizes[self.latents[0]]
            for name in latents:
                places = self._places(name, plates, shape, maps, begins[name] - first)
                met[plates, name] = unit, np.asarray(places).reshape(len(unit), -1)
        if not met:
            return None
        return find_pattern(met, rest, min(PAIRS, first * float(rest) ** 2 / PAIR_COST))

    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        own = frozenset(self.latents)
        others = [t for t in terms if not t.latents & own]
        touching = [t for t in terms if t.latents & own]
        if all(isinstance(t.table, Table) for t in touching):  # counts of units, say
            parts = [self.layout.project(t, frozenset(), context).of_finite for t in touching]
            return [*others, Term(add(parts), frozenset(), frozenset())]
        begins = self._begins
        blocks = Blocks.zero(
            self.units(self.latents[0]), self.sizes[self.latents[0]], self.ends[-1], context.pattern
        )
        blocks = self._with_pinned(blocks, context)
        mean, roots = jnp.zeros(self.ends[-1]), dict[str, jax.Array]()
        forms, hanging = list[Form](), dict[str, Law]()
        for term in touching:
            potential: Potential = term.table
            if term.weight is not None:
                potential = weighted(potential, term.weight, context.once)
            if isinstance(potential, Sums):
                blocks = blocks.with_sums(potential, begins)
                continue
            if isinstance(potential, Law) and self._alone(potential, context):
                at = begins[potential.latent]
                centre, roots[potential.latent] = self._of_units(potential)
                mean = mean.at[at : at + centre.size].set(centre.reshape(-1))
                potential = potential.further
            elif isinstance(potential, Law) and potential.latent not in context.known:
                hanging[potential.latent], potential = potential, potential.further
            form = potential.canonical() if isinstance(potential, Law) else potential
            forms.append((form, tuple(sorted(term.plates))))
        for latent in _children_first(hanging):
            forms = [self._substituted(hanging[latent], f, p, context) for f, p in forms]
            blocks = self._with_normal(blocks, latent, jnp.ones(self.ends[-1]))
        for form, plates in forms:
            blocks = self._with(blocks, form, plates, context)
        blocks = blocks.centred(mean)
        for latent, lower in roots.items():
            blocks = blocks.standardised(begins[latent], lower)
        table = Table(blocks.integral(context.mode), ())
        return [*others, Term(table, frozenset(), frozenset())]

    @property
    def _begins(self) -> dict[str, int]:
        """Where the numbers of each latent begin."""
        return dict(zip(self.latents, [0, *self.ends[:-1]], strict=True))

    def _alone(self, law: Law, context: Pass) -> bool:
        """Whether the law of a latent depends on no other, and none of its numbers is known."""
        own = {n for n, _ in law.further.coordinates} == {law.latent}
        return own and law.latent not in context.known

    def _known(self, context: Pass) -> tuple[jax.Array, jax.Array]:
        """The values of all numbers, zero where unknown, and one where they are known."""
        value, shown = jnp.zeros(self.ends[-1]), jnp.zeros(self.ends[-1])
        for name in self.latents:
            if name not in context.known:
                continue
            begin, known = self._begins[name], context.known[name]
            shape = tuple(self.layout.sizes[p] for p in self.plates[name]) + (self.sizes[name],)
            here, where = (
                jnp.broadcast_to(t.aligned((*self.plates[name], ROW)), shape).reshape(-1)
                for t in (known.value, known.shown)
            )
            value = value.at[begin : begin + here.size].set(here)
            shown = shown.at[begin : begin + here.size].set(where)
        return value, shown

    def _with_pinned(self, blocks: Blocks, context: Pass) -> Blocks:
        """The blocks with a standard normal number in the place of each known one, whose value all terms
        take in."""
        _, shown = self._known(context)
        for name in self.latents:
            blocks = self._with_normal(blocks, name, shown) if name in context.known else blocks
        return blocks

    def _with_normal(self, blocks: Blocks, name: str, where: jax.Array) -> Blocks:
        """The blocks with a standard normal law of each number of a latent at which `where` is one."""
        begin, units, size = self._begins[name], self.units(name), self.sizes[name]
        places = begin + jnp.arange(units * size).reshape(units, size)
        precision = where[places][..., None] * jnp.eye(size)
        mine = np.full(size, name == self.latents[0])
        cells = Cells(places, jnp.zeros((units, size)), precision, mine, None)
        return blocks.with_cells(cells).plus(unmet(where[places]).sum())

    def _substituted(
        self, law: Law, form: Table | Quadratic, plates: tuple[str, ...], context: Pass
    ) -> Form:
        """A form of the cells of some plates with a latent of law u = mean + slope @ parents + root @ z as z:
        its precision, which grows without bound where its variance vanishes, never enters."""
        if isinstance(form, Table) or law.latent not in dict(form.coordinates):
            return form, plates
        coordinates = tuple(dict.fromkeys((*form.coordinates, *law.further.coordinates)))
        mean, slope, root = (
            self._at_cells(t, plates, context.maps) for t in (law.mean, law.slope, law.root)
        )
        size = sum(n for _, n in law.further.coordinates)
        none = Quadratic(
            Table(jnp.zeros(()), ()),
            Table(jnp.zeros(size), (ROW,)),
            Table(jnp.zeros((size, size)), (ROW, COLUMN)),
            law.further.coordinates,
        )
        at_cells = replace(law, mean=mean, slope=slope, root=root, further=none)
        return at_cells.substituted(form.spread(coordinates)), plates

    def _of_units(self, law: Law) -> tuple[jax.Array, jax.Array]:
        """Mean (units, size) and root (units, size, size) of every unit."""
        plates, size = self.plates[law.latent], self.sizes[law.latent]
        shape = tuple(self.layout.sizes[p] for p in plates)
        centre = jnp.broadcast_to(law.mean.aligned((*plates, ROW)), (*shape, size))
        lower = jnp.broadcast_to(law.root.aligned((*plates, ROW, COLUMN)), (*shape, size, size))
        return centre.reshape(-1, size), lower.reshape(-1, size, size)

    def _with(
        self,
        blocks: Blocks,
        form: Table | Quadratic,
        plates: tuple[str, ...],
        context: Pass,
    ) -> Blocks:
        """The blocks with a potential of every cell of some plates added at the places of its
        coordinates."""
        shape = tuple(self.layout.sizes[p] for p in plates)
        if isinstance(form, Table):
            return blocks.plus(jnp.broadcast_to(form.aligned(plates), shape).sum())
        blocks = blocks.plus(jnp.broadcast_to(form.constant.aligned(plates), shape).sum())
        size, begins = sum(n for _, n in form.coordinates), self._begins
        names = [n for n, _ in form.coordinates]
        places = [self._places(n, plates, shape, context.maps, begins[n]) for n in names]
        linear = jnp.broadcast_to(form.linear.aligned((*plates, ROW)), (*shape, size))
        precision = form.precision.aligned((*plates, ROW, COLUMN))
        precision = jnp.broadcast_to(precision, (*shape, size, size))
        where = jnp.concatenate(places, -1)
        if context.known.keys() & set(names):
            value, shown = (a[where] for a in self._known(context))
            told, linear, precision = pin(value, shown, linear, precision)
            blocks = blocks.plus(told.sum())
        precision = precision.reshape(-1, size, size)
        mine = np.concatenate([np.full(n, name == self.latents[0]) for name, n in form.coordinates])
        edges = None
        if context.pattern is not None and mine.any() and not mine.all():
            known = context.pattern.edges
            edges = jnp.concatenate([known[plates, n] for n in names if n != self.latents[0]], -1)
        cells = Cells(
            where.reshape(-1, size), linear.reshape(-1, size), precision, mine, edges,
        )  # fmt: skip
        return blocks.with_cells(cells)

    def _places(
        self,
        latent: str,
        plates: tuple[str, ...],
        shape: tuple[int, ...],
        maps: Mapping[Pair, Any],
        begin: int,
    ) -> jax.Array:
        """The numbers of a latent's coordinates that every cell of the plates reads: (*shape, size)."""
        unit = jnp.zeros(shape, int)
        for plate in self.plates[latent]:
            axis, own = self._units_read(plate, plates, maps)
            unit = unit * self.layout.sizes[plate]
            unit = unit + own.reshape(-1, *(1,) * (len(shape) - axis - 1))
        size = self.sizes[latent]
        return begin + unit[..., None] * size + jnp.arange(size)

    def _units_read(
        self, plate: str, plates: tuple[str, ...], maps: Mapping[Pair, Any]
    ) -> tuple[int, jax.Array]:
        """Which unit of a plate each cell reads: the axis along which it differs, and the numbers there. From a
        plate that is gathered into another that is gathered in turn, one map after the other."""
        if plate in plates:
            axis = plates.index(plate)
            return axis, jnp.arange(self.layout.sizes[plate])
        children = [c for c, p in self.layout.gathers if p == plate]
        child = next((c for c in children if c in plates), None)
        if child is None:
            child = next(c for c in children if _reaches(self.layout, c, plates))
        axis, between = self._units_read(child, plates, maps)
        return axis, jnp.asarray(maps[child, plate])[between]

    def _at_cells(self, table: Table, plates: tuple[str, ...], maps: Mapping[Pair, Any]) -> Table:
        """A table over units of plates as one over the cells that read them."""
        for axis in table.axes:
            if axis in (ROW, COLUMN) or axis in plates:
                continue
            at, units = self._units_read(axis, plates, maps)
            i = table.axes.index(axis)
            axes = tuple(plates[at] if a == axis else a for a in table.axes)
            table = Table(jnp.take(table.array, units, i), axes)
        return table

    def told(self, reading: Reading) -> Iterator[str]:
        each = ", ".join(f"{n} ({self.units(n)} units)" for n in self.latents)
        yield f"{each}: crossed, integrated together, {self.ends[-1]} real numbers"

    @property
    def entries(self) -> int:
        return (self.ends[-1] - self.ends[0]) * self.ends[-1]


Form = tuple[Table | Quadratic, tuple[str, ...]]  # over the cells of some plates


def _with_parents(latents: frozenset[str], graph: Graph) -> frozenset[str]:
    """Latents with the real ones that their laws depend on, directly or not."""
    sites, every = graph.reading.sites, set(latents)
    while more := {
        p for n in every if n in sites and sites[n].real for p in sites[n].parents
        if p in graph.latents and sites[p].real
    } - every:  # fmt: skip
        every |= more
    return frozenset(every)


def _children_first(laws: Mapping[str, Law]) -> list[str]:
    """The latents of these laws, each before those that its law depends on."""
    left, order = dict(laws), list[str]()
    while left:
        above = {p for n, law in left.items() for p, _ in law.further.coordinates if p != n}
        order += (now := sorted(left.keys() - above))
        left = {n: law for n, law in left.items() if n not in now}
    return order


def _reaches(layout: Layout, plate: str, plates: tuple[str, ...]) -> bool:
    """Whether cells of these plates read units of a plate, by other plates between."""
    children = (c for c, p in layout.gathers if p == plate)
    return plate in plates or any(_reaches(layout, c, plates) for c in children)
