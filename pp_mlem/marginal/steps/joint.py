"""Crossed latents: real latents of several plates, each unit of which meets units of the others, as one
vector. log Z by one Cholesky factorisation of its precision, whose size is that of all units together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.marginal.steps.base import Graph, Step
from pp_mlem.potentials.quadratic import COLUMN, ROW, Law, Potential, Quadratic
from pp_mlem.potentials.table import Table, add
from pp_mlem.potentials.term import Layout, Pass, Term, weighted
from pp_mlem.program.reading import Reading

COORDINATES = 4000  # of all units together: a matrix of 128 MB
WHOLE = "\0all units"


@dataclass(frozen=True, eq=False)
class JointStep(Step):
    """Takes out real latents together. `plates` are those of each in positional order, `sizes` the numbers
    of one unit."""

    latents: tuple[str, ...]
    plates: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    layout: Layout

    @classmethod
    def plan(cls, graph: Graph) -> tuple[Step, Graph] | No:
        sites = graph.reading.sites
        names = tuple(n for n in graph.latents if sites[n].real)
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
        step = cls(names, plates, {n: sites[n].size for n in names}, graph.layout)
        total = step.ends[-1]
        if total > COORDINATES:
            each = ", ".join(f"{n}: {step.units(n)} x {step.sizes[n]}" for n in names)
            raise ValueError(
                f"crossed latents {', '.join(map(repr, names))} have {total} numbers together ({each}), more "
                f"than {COORDINATES}, and their precision is one dense matrix. Use fewer units, or estimate "
                'one of them with parameters={"..."}.'
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
        total = self.ends[-1]
        sum_ = _Sum(jnp.zeros(()), jnp.zeros(total), jnp.zeros((total, total)))
        mean = jnp.zeros(total)
        roots: dict[str, jax.Array] = {}
        for term in touching:
            potential: Potential = term.table
            if term.weight is not None:
                potential = weighted(potential, term.weight, context.once)
            if isinstance(potential, Law) and self._alone(potential):
                at = begins[potential.latent]
                centre, lower = self._of_units(potential)
                mean = mean.at[at : at + centre.size].set(centre.reshape(-1))
                roots[potential.latent] = lower
                potential = potential.further
            elif isinstance(potential, Law):
                potential = potential.canonical()
            sum_ = self._with(sum_, potential, term, context, begins)
        form = self._standardised(sum_, mean, roots, begins)
        return [*others, Term(form.take(WHOLE, context.mode), frozenset(), frozenset())]

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
        self, sum_: _Sum, form: Potential, term: Term, context: Pass, begins: dict[str, int]
    ) -> _Sum:
        """The sum with a potential of every cell of its plates added at the places of its coordinates."""
        if isinstance(form, Law):
            raise RuntimeError("a law is added in its canonical form")
        if isinstance(form, Table):
            form = Quadratic(
                form, Table(jnp.zeros(0), (ROW,)), Table(jnp.zeros((0, 0)), (ROW, COLUMN)), ()
            )
        plates = tuple(sorted(term.plates))
        shape = tuple(self.layout.sizes[p] for p in plates)
        constant = jnp.broadcast_to(form.constant.aligned(plates), shape).sum()
        if not form.coordinates:
            return _Sum(sum_.constant + constant, sum_.linear, sum_.precision)
        size = sum(n for _, n in form.coordinates)
        places = jnp.concatenate(
            [self._places(n, plates, shape, context, begins[n]) for n, _ in form.coordinates], -1
        )
        linear = jnp.broadcast_to(form.linear.aligned((*plates, ROW)), (*shape, size))
        precision = form.precision.aligned((*plates, ROW, COLUMN))
        precision = jnp.broadcast_to(precision, (*shape, size, size))
        flat = places.reshape(-1, size)
        return _Sum(
            sum_.constant + constant,
            sum_.linear.at[flat].add(linear.reshape(-1, size)),
            sum_.precision.at[flat[:, :, None], flat[:, None, :]].add(
                precision.reshape(-1, size, size)
            ),
        )

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

    def _standardised(
        self,
        sum_: _Sum,
        mean: jax.Array,
        roots: dict[str, jax.Array],
        begins: dict[str, int],
    ) -> Quadratic:
        """The quadratic over all units, of z with u = mean + root z where a latent's law is by itself: where
        a variance vanishes, its precision stays one."""
        pull = sum_.precision @ mean
        constant = sum_.constant + (sum_.linear * mean).sum() - (pull * mean).sum() / 2
        linear, precision = sum_.linear - pull, sum_.precision
        standard = jnp.zeros(len(mean))
        for latent, lower in roots.items():
            at = slice(begins[latent], begins[latent] + lower.shape[0] * lower.shape[1])
            linear = linear.at[at].set(_turned(lower, linear[at, None])[:, 0])
            precision = precision.at[at].set(_turned(lower, precision[at]))
            columns = _turned(lower, precision[:, at].T).T
            precision = precision.at[:, at].set(columns)
            standard = standard.at[at].set(1.0)
        constant -= standard.sum() / 2 * jnp.log(2 * jnp.pi)
        return Quadratic(
            Table(constant, ()),
            Table(linear, (ROW,)),
            Table(precision + jnp.diag(standard), (ROW, COLUMN)),
            ((WHOLE, len(mean)),),
        )

    def told(self, reading: Reading) -> Iterator[str]:
        each = ", ".join(f"{n} ({self.units(n)} units)" for n in self.latents)
        yield f"{each}: crossed, integrated together, {self.ends[-1]} real numbers"

    @property
    def entries(self) -> int:
        return self.ends[-1] ** 2


@dataclass(frozen=True)
class _Sum:
    """The parts of a quadratic over all units, added up."""

    constant: jax.Array
    linear: jax.Array
    precision: jax.Array


def _turned(lower: jax.Array, rows: jax.Array) -> jax.Array:
    """root' of each unit times its rows: (units, size, size) and (units x size, columns)."""
    units, size, _ = lower.shape
    turned = jnp.swapaxes(lower, 1, 2) @ rows.reshape(units, size, -1)
    return turned.reshape(units * size, -1)
