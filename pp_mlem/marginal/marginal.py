"""log Z of a whole program: factors to terms, terms to log Z, statistics by its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Work, lean_jit
from pp_mlem.base.precision import tiny_log
from pp_mlem.data.points import ROWS, points_of
from pp_mlem.data.program_data import ProgramData
from pp_mlem.data.rows import Rows, plan_rows
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.registry import Given, natural_parameters
from pp_mlem.factors.summed import Summed
from pp_mlem.marginal.steps.base import Step, layout_of
from pp_mlem.marginal.steps.chain import Chain
from pp_mlem.marginal.steps.joint import JointStep
from pp_mlem.marginal.steps.kalman import Kalman
from pp_mlem.marginal.steps.registry import plan_steps
from pp_mlem.marginal.summaries import sums_over_rows
from pp_mlem.potentials.modes import SUM, Mode
from pp_mlem.potentials.quadratic import ROW, Known, Potential
from pp_mlem.potentials.table import Table
from pp_mlem.potentials.term import LAST, Layout, Pass, Term, Weight, without_value
from pp_mlem.program.reading import Reading

Natural = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Marginal:
    """log Z as a function of natural parameters and data, and its gradient by blocks of rows.

    `steps` take the latents out, in order; `layout` has the sizes of latents and plates; `rows` says
    which rows the data can be cut into.
    """

    reading: Reading
    factors: tuple[Factor, ...]
    steps: tuple[Step, ...]
    layout: Layout
    rows: Rows

    @property
    def chains(self) -> tuple[Chain, ...]:
        return tuple(s for s in self.steps if isinstance(s, Chain))

    @property
    def kalmans(self) -> tuple[Kalman, ...]:
        return tuple(s for s in self.steps if isinstance(s, Kalman))

    @property
    def sequences(self) -> tuple[Chain | Kalman, ...]:
        """The steps that go along a scan."""
        return (*self.chains, *self.kalmans)

    @property
    def sequential(self) -> bool:
        """Whether all data hang on one sequence, so that its steps are not independent."""
        outer = {p for f in self.factors if not self.reading.sites[f.site].scan for p in f.plates}
        return len(self.sequences) == 1 and not self.sequences[0].plates and not outer

    @cached_property
    def work(self) -> Work:
        """What one sweep over the data costs."""
        total = 1.0
        for factor in self.factors:
            values = float(np.prod([self.layout.sizes[v] for v in factor.latents] or [1]))
            rows = float(np.prod([size for _, size, _ in factor.layout] or [1]))
            total += values * rows * factor.width
        return Work(total, bool(self.reading.scans))

    @property
    def entries(self) -> int:
        """How many numbers the steps hold besides the terms."""
        return sum(step.entries for step in self.steps)

    def natural(
        self, params: dict[str, Any], data: ProgramData, sites: frozenset[str] | None = None
    ) -> Natural:
        """Natural parameters (and tables) of the factors at `params`."""
        given = Given(data.dynamic, data.shifts, data.partly, data.summed)
        return natural_parameters(self.reading, self.factors, params, given, sites)

    # --- terms ------------------------------------------------------------------------------

    def terms(
        self,
        eta: Natural,
        data: ProgramData,
        extra: Mapping[str, Potential] | None = None,
        reduce: bool = False,
    ) -> list[Term]:
        """Every factor as a term, clamps of observed latents and `extra` tables included.

        `reduce` sums statistics over rows that no latent needs.
        """
        terms = self.terms_of(self.factors, self.for_value(eta), data, reduce)
        terms += self.clamp_terms(data)
        return terms + [self._on_latent(n, table, data) for n, table in (extra or {}).items()]

    def for_value(self, eta: Natural) -> Natural:
        """See `Factor.for_value`."""
        return {f.site: f.for_value(eta[f.site]) for f in self.factors if f.site in eta}

    def for_statistics(self, eta: Natural) -> Natural:
        """See `Factor.for_statistics`."""
        return {f.site: f.for_statistics(eta[f.site]) for f in self.factors if f.site in eta}

    def terms_of(
        self, factors: Iterable[Factor], eta: Natural, data: ProgramData, reduce: bool = False
    ) -> list[Term]:
        """The given factors as terms."""
        sites, terms = self.reading.sites, []
        for factor in factors:
            weight, array = self.weight(factor, data), eta[factor.site]
            if factor.site in data.summed:
                terms += _summed(factor, array, data.summed[factor.site])
                continue
            free = weight is None or not weight.plates
            laid = data.sites.get(factor.site)
            table, plates = factor.term(self.reading, array, laid, reduce and free)
            ends = not sites[factor.site].scan and any(sites[v].scan for v in factor.latents)
            place = LAST if ends else sites[factor.site].step
            terms.append(Term(table, frozenset(factor.latents), plates, weight, place))
        return terms

    def clamp_terms(self, data: ProgramData) -> list[Term]:
        """The latents that are observed, wholly or in part."""
        terms = []
        for name, array in data.clamps.items():
            site = self.reading.sites[name]
            order = sorted(site.dims, key=site.dims.__getitem__)
            shape = tuple(array.shape[array.ndim - 1 + site.dims[p]] for p in order)
            flat = array.reshape((*shape, array.shape[-1])) * -tiny_log(array.dtype)
            axes = tuple("" if n == 1 else p for p, n in zip(order, shape, strict=True))
            axes += (name if array.shape[-1] > 1 else "",)
            terms.append(self._on_latent(name, Table.of(flat, axes), data))
        return terms

    def _on_latent(self, name: str, table: Potential, data: ProgramData) -> Term:
        law = [f for f in self.factors if name in (f.law_of, f.own)][-1]
        plates = self.reading.sites[name].plates
        return Term(table, frozenset({name}), plates, self.weight(law, data))

    def weight(self, factor: Factor, data: ProgramData) -> Weight | None:
        """The case weights of a factor's units."""
        if factor.site not in data.weights:
            return None
        array = data.weights[factor.site]
        table = Table.of(array, table_axes(self.reading, factor.site, (), array.shape))
        laws = {f.law_of or f.own for f in self.factors if f.site in data.weights}
        under = frozenset(laws - {""})
        return Weight(table, under)

    # --- log Z ------------------------------------------------------------------------------

    def context(self, data: ProgramData, mode: Mode = SUM, once: bool = False) -> Pass:
        known = {n: self._known(n, *values) for n, values in data.known.items()}
        return Pass(mode, data.maps, data.valid, once, known=known, pattern=data.pattern)

    def _known(self, name: str, value: jax.Array, shown: jax.Array) -> Known:
        """The known values of a real latent over its plates."""
        site = self.reading.sites[name]
        axes = [""] * (shown.ndim - 1)
        for plate, dim in site.dims.items():
            axes[dim] = plate if shown.shape[dim - 1] > 1 else ""
        tables = (Table.of(array, (*axes, ROW)) for array in (value, shown.astype(value.dtype)))
        return Known(*tables)

    def summed(self, data: ProgramData) -> ProgramData:
        """The data with what is found once: who meets whom, and sums over rows. On the host."""
        patterns = (s.pattern(data.maps) for s in self.steps)
        data = replace(data, pattern=next((p for p in patterns if p is not None), None))
        joint = frozenset(n for s in self.steps if isinstance(s, JointStep) for n in s.latents)
        data = replace(data, summed=sums_over_rows(self.reading, self.factors, joint, data))
        return replace(data, points=self._points(data))

    def _points(self, data: ProgramData) -> dict[str, Laid]:
        """Few rows in the place of all, where the log density of a row is quadratic in its values."""
        gaussian = all(isinstance(f, AffineFactor) for f in self.factors)
        seen = {f.site: data.sites[f.site] for f in self.factors if f.site in data.sites}
        whole = all(s.mask is None for s in seen.values()) and not data.weights and not data.clamps
        width = sum(int(np.prod(s.value.shape[:-1])) for s in seen.values())
        if not (self.rows.plate and gaussian and seen and whole and not self.reading.latents):
            return {}
        if self.rows.size < ROWS * (width + 1) or any(
            not f.own and f.site not in seen for f in self.factors
        ):
            return {}
        return dict(lean_jit(points_of)(seen))

    def at_points(self, data: ProgramData) -> ProgramData:
        """The data with few weighted rows in the place of all, where they have such."""
        if not data.points:
            return data
        count = next(iter(data.points.values())).value.shape[-1]
        share = jnp.full(count, self.rows.size / count)
        weights = {
            n: share.reshape(-1, *(1,) * (-self.rows.dims[n] - 1)) for n in self.rows.factors
        }
        return replace(data, sites={**data.sites, **data.points}, weights=weights, points={})

    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        """Take every latent out, step after step."""
        for step in self.steps:
            terms = step.run(terms, context)
        return terms

    def before_chains(self, terms: list[Term], context: Pass) -> list[Term]:
        """Take out what lies inside the steps of the chains."""
        for step in self.steps:
            if isinstance(step, (Chain, Kalman)):
                break
            terms = step.run(terms, context)
        return terms

    def log_z(self, eta: Natural, data: ProgramData) -> jax.Array:
        """The marginal log-likelihood in nats; differentiable to any order."""
        eta = self.for_value(eta)
        if data.points or self.rows.blocks(data) == 1:
            return self._log_z_of(eta, self.at_points(data))
        body = jax.checkpoint(lambda part: self._log_z_of(eta, part))
        return self.rows.fold(body, data, _zero(eta))

    def log_z_and_statistics(
        self, eta: Natural, data: ProgramData, assigned: jax.Array | None = None
    ) -> tuple[jax.Array, Natural]:
        """log Z and its gradient, the expected sufficient statistics, in one sweep over rows.

        Where `assigned` (a scalar) is true, the latents' posterior is given by `data.clamps` alone, and
        the value means nothing.
        """

        def value(eta: Natural, part: ProgramData) -> jax.Array:
            return self._log_z_of(self.for_statistics(eta), part, assigned)

        function = jax.value_and_grad(value)
        if data.points:
            return function(eta, self.at_points(data))
        zero = (_zero(eta), jax.tree.map(jnp.zeros_like, eta))
        return self.rows.fold(lambda part: function(eta, part), data, zero)

    def _log_z_of(
        self, eta: Natural, data: ProgramData, assigned: jax.Array | None = None
    ) -> jax.Array:
        terms = self.terms_of(self.factors, eta, data, reduce=True)
        context = self.context(data)
        if assigned is not None:
            terms = [_without_value(term, assigned) for term in terms]
            context = replace(context, assigned=assigned)
        terms = self.run(terms + self.clamp_terms(data), context)
        return self.layout.total(terms)

    def unit_values(
        self,
        eta: Natural,
        data: ProgramData,
        mode: Mode = SUM,
        with_weights: bool = True,
        extra: Mapping[str, Potential] | None = None,
    ) -> list[Table]:
        """log Z of every independent unit. Without weights these still say how much a unit tells about
        latents above it, and the derivative counts every unit once."""
        context = self.context(data, mode, once=not with_weights)
        terms = self.run(self.terms(eta, data, extra), context)
        return self.layout.units(terms, context, with_weights)


def _summed(factor: Factor, eta: jax.Array, summed: Summed) -> list[Term]:
    """A site that is summed over its rows: a number, and what it says of the units of its latents."""
    constant, potential = summed.potentials(eta)
    plates = factor.term_plates if summed.axes is None else frozenset(summed.axes)
    return [
        Term(Table(constant, ()), frozenset(), frozenset()),
        Term(potential, frozenset(factor.latents), plates),
    ]


def _without_value(term: Term, condition: jax.Array) -> Term:
    """A term of finite latents alone, without its value where the condition holds."""
    table = term.table
    return (
        replace(term, table=without_value(table, condition)) if isinstance(table, Table) else term
    )


def _zero(eta: Natural) -> jax.Array:
    return jnp.zeros((), jax.tree.leaves(eta)[0].dtype)


def build_marginal(reading: Reading, factors: tuple[Factor, ...]) -> Marginal:
    """Plan how the latents of these factors are summed."""
    layout = layout_of(reading, factors)
    rows = plan_rows(reading, factors, layout.gathers)
    return Marginal(reading, factors, plan_steps(reading, factors), layout, rows)
