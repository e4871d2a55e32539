"""Crossed latents: real latents of several plates, each unit of which meets units of the others.

The largest is taken out unit by unit; what is left is one dense quadratic over all units of the others
(the Schur complement of lme4 and MixedModels.jl: Bates et al. 2015, doi:10.18637/jss.v067.i01).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.marginal.steps.base import Graph, Step
from pp_mlem.potentials.modes import Mode
from pp_mlem.potentials.quadratic import (
    COLUMN,
    ROW,
    Law,
    Potential,
    Quadratic,
    inverse_root,
    value_of,
)
from pp_mlem.potentials.table import Table, add
from pp_mlem.potentials.term import Layout, Pass, Term, weighted
from pp_mlem.program.reading import Reading

COORDINATES = 4000  # of all units but those of the largest latent: a matrix of 128 MB
CROSSED = 5e7  # numbers of the largest latent times the others'
WHOLE = "\0all units"


@dataclass(frozen=True, eq=False)
class JointStep(Step):
    """Takes out real latents together, the largest first. `plates` are those of each in positional order,
    `sizes` the numbers of one unit."""

    latents: tuple[str, ...]
    plates: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    layout: Layout

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
        step = cls(tuple(names), plates, sizes, graph.layout)
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

    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        own = frozenset(self.latents)
        others = [t for t in terms if not t.latents & own]
        touching = [t for t in terms if t.latents & own]
        if all(isinstance(t.table, Table) for t in touching):  # counts of units, say
            parts = [self.layout.project(t, frozenset(), context).of_finite for t in touching]
            return [*others, Term(add(parts), frozenset(), frozenset())]
        begins = dict(zip(self.latents, [0, *self.ends[:-1]], strict=True))
        blocks = _Blocks.zero(
            self.units(self.latents[0]), self.sizes[self.latents[0]], self.ends[-1]
        )
        mean, roots = jnp.zeros(self.ends[-1]), dict[str, jax.Array]()
        for term in touching:
            potential: Potential = term.table
            if term.weight is not None:
                potential = weighted(potential, term.weight, context.once)
            if isinstance(potential, Law) and self._alone(potential):
                at = begins[potential.latent]
                centre, roots[potential.latent] = self._of_units(potential)
                mean = mean.at[at : at + centre.size].set(centre.reshape(-1))
                potential = potential.further
            form = potential.canonical() if isinstance(potential, Law) else potential
            blocks = self._with(blocks, form, term, context, begins)
        blocks = blocks.centred(mean)
        for latent, lower in roots.items():
            blocks = blocks.standardised(begins[latent], lower)
        value, form = blocks.first_out(context.mode)
        left = form.take(WHOLE, context.mode)
        if not isinstance(left, Table):
            raise RuntimeError("crossed latents are not taken out whole")
        table = Table(left.array + value, ())
        return [*others, Term(table, frozenset(), frozenset())]

    def _alone(self, law: Law) -> bool:
        return {n for n, _ in law.further.coordinates} == {law.latent}

    def _of_units(self, law: Law) -> tuple[jax.Array, jax.Array]:
        """Mean (units, size) and root (units, size, size) of every unit."""
        plates, size = self.plates[law.latent], self.sizes[law.latent]
        shape = tuple(self.layout.sizes[p] for p in plates)
        centre = jnp.broadcast_to(law.mean.aligned((*plates, ROW)), (*shape, size))
        lower = jnp.broadcast_to(law.root.aligned((*plates, ROW, COLUMN)), (*shape, size, size))
        return centre.reshape(-1, size), lower.reshape(-1, size, size)

    def _with(
        self,
        blocks: _Blocks,
        form: Table | Quadratic,
        term: Term,
        context: Pass,
        begins: dict[str, int],
    ) -> _Blocks:
        """The blocks with a potential of every cell of its plates added at the places of its
        coordinates."""
        plates = tuple(sorted(term.plates))
        shape = tuple(self.layout.sizes[p] for p in plates)
        if isinstance(form, Table):
            return blocks.plus(jnp.broadcast_to(form.aligned(plates), shape).sum())
        blocks = blocks.plus(jnp.broadcast_to(form.constant.aligned(plates), shape).sum())
        size = sum(n for _, n in form.coordinates)
        places = [self._places(n, plates, shape, context, begins[n]) for n, _ in form.coordinates]
        linear = jnp.broadcast_to(form.linear.aligned((*plates, ROW)), (*shape, size))
        precision = form.precision.aligned((*plates, ROW, COLUMN))
        precision = jnp.broadcast_to(precision, (*shape, size, size)).reshape(-1, size, size)
        mine = np.concatenate([np.full(n, name == self.latents[0]) for name, n in form.coordinates])
        flat = jnp.concatenate(places, -1).reshape(-1, size)
        return blocks.with_cells(flat, linear.reshape(-1, size), precision, mine)

    def _places(
        self,
        latent: str,
        plates: tuple[str, ...],
        shape: tuple[int, ...],
        context: Pass,
        begin: int,
    ) -> jax.Array:
        """The numbers of a latent's coordinates that every cell of the plates reads: (*shape, size)."""
        unit = jnp.zeros(shape, int)
        for plate in self.plates[latent]:
            unit = unit * self.layout.sizes[plate]
            if plate in plates:
                axis = plates.index(plate)
                own = jnp.arange(shape[axis])
            else:
                child = next(c for c, p in self.layout.gathers if p == plate and c in plates)
                axis, own = plates.index(child), context.maps[child, plate]
            unit = unit + own.reshape(-1, *(1,) * (len(shape) - axis - 1))
        size = self.sizes[latent]
        return begin + unit[..., None] * size + jnp.arange(size)

    def told(self, reading: Reading) -> Iterator[str]:
        each = ", ".join(f"{n} ({self.units(n)} units)" for n in self.latents)
        yield f"{each}: crossed, integrated together, {self.ends[-1]} real numbers"

    @property
    def entries(self) -> int:
        return (self.ends[-1] - self.ends[0]) * self.ends[-1]


@dataclass(frozen=True)
class _Blocks:
    """A quadratic over all units: the first latent's own precision, block by block (units, size, size), for
    no two of its units meet; `cross` (its numbers, the others'); and the others' (others, others)."""

    constant: jax.Array
    linear: jax.Array
    own: jax.Array
    cross: jax.Array
    others: jax.Array

    @classmethod
    def zero(cls, units: int, size: int, total: int) -> _Blocks:
        first = units * size
        return cls(
            jnp.zeros(()), jnp.zeros(total), jnp.zeros((units, size, size)),
            jnp.zeros((first, total - first)), jnp.zeros((total - first, total - first)),
        )  # fmt: skip

    @property
    def first(self) -> int:
        """How many numbers are the first latent's."""
        return self.own.shape[0] * self.own.shape[1]

    def plus(self, constant: jax.Array) -> _Blocks:
        return replace(self, constant=self.constant + constant)

    def with_cells(
        self, places: jax.Array, linear: jax.Array, precision: jax.Array, mine: np.ndarray
    ) -> _Blocks:
        """With a quadratic of every cell added: (cells, coordinates) and (cells, coordinates, coordinates);
        `mine` says which coordinates are the first latent's."""
        a, b = np.flatnonzero(mine), np.flatnonzero(~mine)
        size, first = self.own.shape[1], self.first
        new = replace(self, linear=self.linear.at[places].add(linear))
        if a.size:
            unit = places[:, a[0]] // size
            new = replace(new, own=new.own.at[unit].add(precision[:, a[:, None], a]))
        if b.size:
            rows, columns = places[:, b][:, :, None] - first, places[:, b][:, None, :] - first
            new = replace(new, others=new.others.at[rows, columns].add(precision[:, b[:, None], b]))
        if a.size and b.size:
            rows, columns = places[:, a][:, :, None], places[:, b][:, None, :] - first
            new = replace(new, cross=new.cross.at[rows, columns].add(precision[:, a[:, None], b]))
        return new

    def centred(self, mean: jax.Array) -> _Blocks:
        """In coordinates whose zero is at `mean`."""
        mine, rest = mean[: self.first], mean[self.first :]
        own = (self.own @ mine.reshape(*self.own.shape[:2], 1)).reshape(-1)
        pull = jnp.concatenate([own + self.cross @ rest, mine @ self.cross + self.others @ rest])
        constant = self.constant + (self.linear * mean).sum() - (pull * mean).sum() / 2
        return replace(self, constant=constant, linear=self.linear - pull)

    def standardised(self, begin: int, lower: jax.Array) -> _Blocks:
        """In coordinates z with u = lower z of a latent that begins there, times their standard normal law:
        where a variance vanishes, the precision of z stays one."""
        units, size, _ = lower.shape
        at = slice(begin, begin + units * size)
        linear = self.linear.at[at].set(_turned(lower, self.linear[at, None])[:, 0])
        constant = self.constant - units * size / 2 * jnp.log(2 * jnp.pi)
        if begin < self.first:
            own = jnp.swapaxes(lower, 1, 2) @ self.own @ lower + jnp.eye(size)
            return replace(
                self, constant=constant, linear=linear, own=own, cross=_turned(lower, self.cross)
            )
        at = slice(begin - self.first, begin - self.first + units * size)
        others = self.others.at[at].set(_turned(lower, self.others[at]))
        others = others.at[:, at].set(_turned(lower, others[:, at].T).T)
        place = np.arange(at.start, at.stop)
        cross = self.cross.at[:, at].set(_turned(lower, self.cross[:, at].T).T)
        return replace(
            self, constant=constant, linear=linear, cross=cross,
            others=others.at[place, place].add(1.0),
        )  # fmt: skip

    def first_out(self, mode: Mode) -> tuple[jax.Array, Quadratic]:
        """(value, the quadratic over the others) once the first latent is out, unit by unit."""
        units, size, _ = self.own.shape
        given = self.linear[: self.first].reshape(units, size)
        root = inverse_root(self.own)
        own = jnp.squeeze(root @ given[..., None], -1)
        cross = (root @ self.cross.reshape(units, size, -1)).reshape(self.first, -1)
        value = value_of(root, own, given, mode).sum()
        linear = self.linear[self.first :] - own.reshape(-1) @ cross
        form = Quadratic(
            Table(self.constant, ()),
            Table(linear, (ROW,)),
            Table(self.others - cross.T @ cross, (ROW, COLUMN)),
            ((WHOLE, cross.shape[1]),),
        )
        return value, form


def _turned(lower: jax.Array, rows: jax.Array) -> jax.Array:
    """root' of each unit times its rows: (units, size, size) and (units x size, columns)."""
    units, size, _ = lower.shape
    turned = jnp.swapaxes(lower, 1, 2) @ rows.reshape(units, size, -1)
    return turned.reshape(units * size, -1)
