"""log Z of a whole program: factors to terms, terms to log Z, statistics by its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Work
from pp_mlem.base.precision import tiny_log
from pp_mlem.data.layout import ProgramData, SiteData
from pp_mlem.factors.factor import Factor, natural_parameters, table_axes
from pp_mlem.factors.gathers import gathered_factors
from pp_mlem.families.categorical import Categorical, Multinomial
from pp_mlem.marginal.chain import Chain, plan_chains
from pp_mlem.marginal.plates import AFTER, Elimination, Term, plan_elimination
from pp_mlem.marginal.recursions import filtered
from pp_mlem.marginal.semiring import SUM, Semiring
from pp_mlem.potentials.table import Table, Weight
from pp_mlem.program.reading import Reading

LOOKUP_CATEGORIES = 32
BLOCK_ROWS = 2048
BLOCK_ELEMENTS = 2**17

Natural = dict[str, jax.Array]


def _is_lookup(factor: Factor, eta: jax.Array) -> bool:
    """Whether scores are looked up by category rather than multiplied."""
    return (
        isinstance(factor.family, Categorical)
        and not isinstance(factor.family, Multinomial)
        and eta.shape[-1] > LOOKUP_CATEGORIES
    )


@dataclass(frozen=True, eq=False)
class Marginal:
    """log Z as a function of natural parameters and data, and its gradient by blocks of rows.

    `block_plate` is the plate whose rows can be processed in blocks (every factor lives in it and
    is a family factor or the same for all its rows), else None. `inner` takes out the latents
    inside the steps of the `chains`, `elimination` what is left above them.
    """

    reading: Reading
    factors: tuple[Factor, ...]
    elimination: Elimination
    block_plate: str | None
    inner: Elimination
    chains: tuple[Chain, ...] = ()

    @cached_property
    def work(self) -> Work:
        """What one sweep over the data costs."""
        total = 1.0
        for factor in self.factors:
            values = float(np.prod([self.reading.sites[v].size for v in factor.latents] or [1]))
            rows = float(np.prod([size for _, size, _ in factor.layout] or [1]))
            event = factor.event_size
            width = event * (event + 3) / 2 + 1 if factor.family and factor.family.event_dim else 3
            total += values * rows * width
        return Work(total, bool(self.reading.scans))

    @property
    def chain_entries(self) -> int:
        """How many numbers the recursions along all chains hold: steps, states and lanes."""
        plates, sites = self.reading.plates, self.reading.sites
        return sum(
            chain.length * chain.size
            * int(np.prod([plates[p].size for p in chain.plates] or [1]))
            * int(np.prod([sites[v].size for v in chain.above] or [1]))
            for chain in self.chains
        )  # fmt: skip

    # --- natural parameters -----------------------------------------------------------------

    def natural(
        self, params: dict[str, Any], data: ProgramData, sites: frozenset[str] | None = None
    ) -> Natural:
        """Natural parameters (and tables) of the factors at `params`."""
        return natural_parameters(
            self.reading, self.factors, params, data.dynamic, data.shifts, sites
        )

    # --- terms ------------------------------------------------------------------------------

    def _scores(
        self, factor: Factor, eta: jax.Array, site: SiteData, reduce: bool
    ) -> tuple[Table, frozenset[str]]:
        """A family factor as a table over (latents, rows): <eta, T(x)> + log h(x), and the plates
        that are left: columns are summed in the product, `reduce` also sums rows that no latent
        of the factor has.
        """
        family = factor.family
        flags = [column for _, _, column in factor.layout]
        lead = eta.ndim - 1 - len(flags)
        column_axes = [lead + i for i, c in enumerate(flags) if c]
        unit_axes = [lead + i for i, c in enumerate(flags) if not c]
        latent_shape = eta.shape[:lead]
        columns = int(np.prod(factor.column_shape))
        order = [*range(lead), *unit_axes, eta.ndim - 1, *column_axes]
        flat_eta = jnp.transpose(eta, order).reshape(-1, eta.shape[-1], columns)
        sizes = [self.reading.plates[p].size for p in factor.rows]
        row_shape = site.value.shape[-1:] if len(sizes) == 1 else tuple(sizes)  # perhaps a block
        surplus = [i for i, p in enumerate(factor.rows) if reduce and p not in factor.keep]
        base = None if site.base is None else site.base.reshape(row_shape).sum(tuple(surplus))
        direct = None
        if family.event_dim and columns == 1 and not surplus:
            shift = site.shift_rows
            if shift is not None:
                shift = shift.reshape(shift.shape[: family.event_dim] + (1,))
            event = site.value.shape[: family.event_dim]
            direct = family.direct_scores(
                flat_eta[:, :, 0], site.value.reshape(event + (-1,)), shift
            )
        if direct is not None:
            scores = direct if site.mask is None else jnp.where(site.mask.ravel(), direct, 0.0)
            scores = scores.reshape(-1, *row_shape)
        elif _is_lookup(factor, eta):
            scores = _looked_up(flat_eta, site).reshape(-1, *row_shape)
            scores = scores.sum(tuple(i + 1 for i in surplus))
        else:
            if isinstance(family, Categorical) and not isinstance(family, Multinomial):
                statistics = family.indicator(site.value, eta.shape[-1])
            else:
                statistics = family.statistics(site.value, site.known, site.shift_rows)
            if site.mask is not None:
                statistics = jnp.where(site.mask, statistics, 0.0)
            flat = statistics.reshape(-1, *row_shape)
            flat = flat.sum(tuple(i + 1 for i in surplus))
            kept = flat.shape[1:]
            scores = flat_eta.reshape(-1, flat.shape[0]) @ flat.reshape(flat.shape[0], -1)
            scores = scores.reshape(-1, *kept)
        scores = scores if base is None else scores + base
        rows = tuple(p for i, p in enumerate(factor.rows) if i not in surplus)
        depth = len(factor.layout) - self.reading.sites[factor.site].columns
        names = table_axes(self.reading, factor, latent_shape + (1,) * depth)
        table = Table.of(
            scores.reshape(latent_shape + scores.shape[1:]), names[: len(latent_shape)] + rows
        )
        gone = {n for n, _, c in factor.layout if c} | {factor.rows[i] for i in surplus}
        return table, factor.plates - gone

    def terms(
        self,
        eta: Natural,
        data: ProgramData,
        extra: dict[str, Table] | None = None,
        reduce: bool = False,
    ) -> list[Term]:
        """Every factor as a term, clamps of observed latents and `extra` tables included.

        `reduce` sums statistics over rows that no latent needs.
        """
        found = self.terms_of(self.factors, eta, data, reduce)
        found += self._clamp_terms(data)
        for name, table in (extra or {}).items():
            plates = self.reading.sites[name].plates
            found.append(Term(table, frozenset({name}), plates, self._latent_weight(name, data)))
        return found

    def terms_of(
        self, factors: Iterable[Factor], eta: Natural, data: ProgramData, reduce: bool = False
    ) -> list[Term]:
        """The given factors as terms."""
        found = []
        for factor in factors:
            weight = self._weight(factor, data)
            if factor.kind == "family":
                free = weight is None or not weight.axes
                table, plates = self._scores(
                    factor, eta[factor.site], data.sites[factor.site], reduce and free
                )
            else:
                array = eta[factor.site]
                table = Table.of(array, table_axes(self.reading, factor, array.shape))
                plates = factor.plates
            sites = self.reading.sites
            ends = not sites[factor.site].scan and any(sites[v].scan for v in factor.latents)
            number = sites[factor.site].step
            step = AFTER if ends else "" if number is None else str(number)
            found.append(Term(table, frozenset(factor.latents), plates, weight, step))
        return found

    def _clamp_terms(self, data: ProgramData) -> list[Term]:
        found = []
        for name, array in data.clamps.items():
            plates = self.reading.sites[name].plates
            site = self.reading.sites[name]
            order = sorted(site.dims, key=lambda p: site.dims[p])
            shape = tuple(array.shape[array.ndim - 1 + site.dims[p]] for p in order)
            flat = array.reshape((*shape, array.shape[-1])) * -tiny_log(array.dtype)
            axes = tuple("" if n == 1 else p for p, n in zip(order, shape, strict=True))
            axes += (name if array.shape[-1] > 1 else "",)
            table = Table.of(flat, axes)
            found.append(Term(table, frozenset({name}), plates, self._latent_weight(name, data)))
        return found

    def _weight(self, factor: Factor, data: ProgramData) -> Weight | None:
        if factor.site not in data.weights:
            return None
        array = data.weights[factor.site]
        axes = table_axes(self.reading, replace(factor, latents=()), array.shape)
        table = Table.of(array, axes)
        under = frozenset(f.law_of for f in self.factors if f.law_of and f.site in data.weights)
        return Weight(table.array, table.axes, under)

    def _latent_weight(self, name: str, data: ProgramData) -> Table | None:
        factor = [f for f in self.factors if f.law_of == name][-1]
        return self._weight(factor, data)

    # --- log Z ------------------------------------------------------------------------------

    def run(self, terms: list[Term], data: ProgramData, semiring: Semiring = SUM) -> list[Term]:
        """Take every latent out: inside steps, along chains, then above them."""
        terms = self.inner.run(terms, data.maps, semiring)
        for chain in self.chains:
            terms = chain.run(terms, self.elimination, data.valid, self.reading, semiring)
        return self.elimination.run(terms, data.maps, semiring)

    def log_z(self, eta: Natural, data: ProgramData) -> jax.Array:
        """The marginal log-likelihood in nats; differentiable in `eta` to any order."""
        if self.blocks(data) == 1:
            return self._log_z_of(eta, data)
        body = jax.checkpoint(lambda e, i: self._log_z_of(e, self._block(data, i)))

        def step(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            return total + body(eta, i), None

        start = jnp.zeros((), _dtype(eta))
        return jax.lax.scan(step, start, jnp.arange(self.blocks(data)))[0]

    def log_z_and_statistics(self, eta: Natural, data: ProgramData) -> tuple[jax.Array, Natural]:
        """log Z and its gradient, the expected sufficient statistics, in one sweep over rows."""
        function = jax.value_and_grad(self._log_z_of)
        if self.blocks(data) == 1:
            return function(eta, data)

        def step(carry: Any, i: jax.Array) -> tuple[Any, None]:
            found = function(eta, self._block(data, i))
            return jax.tree.map(jnp.add, carry, found), None

        start = (jnp.zeros((), _dtype(eta)), jax.tree.map(jnp.zeros_like, eta))
        return jax.lax.scan(step, start, jnp.arange(self.blocks(data)))[0]

    def _log_z_of(self, eta: Natural, data: ProgramData) -> jax.Array:
        terms = self.terms(eta, data, reduce=True)
        return self.elimination.total(self.run(terms, data))

    def unit_values(
        self,
        eta: Natural,
        data: ProgramData,
        semiring: Semiring = SUM,
        weighted: bool = True,
        extra: dict[str, Table] | None = None,
    ) -> list[Table]:
        """log Z of every independent unit. Where it is not `weighted`, weights still say how much a
        unit tells about latents above it, and the derivative counts every unit once."""
        terms = self.terms(eta, data, extra)
        whole = self if weighted else self._counted_once
        return whole.elimination.units(whole.run(terms, data, semiring), weighted)

    @property
    def _counted_once(self) -> Marginal:
        return replace(
            self,
            inner=replace(self.inner, once=True),
            elimination=replace(self.elimination, once=True),
        )

    def _clamp_axis(self, name: str, clamp: jax.Array) -> int:
        return clamp.ndim - 1 + self.reading.sites[name].dims[self.block_plate]

    # --- one long sequence ------------------------------------------------------------------

    @property
    def sequential(self) -> bool:
        """Whether all data hang on one sequence, so that its steps are not independent."""
        outer = {p for f in self.factors if not self.reading.sites[f.site].scan for p in f.plates}
        return len(self.chains) == 1 and not self.chains[0].plates and not outer

    def step_values(self, eta: Natural, data: ProgramData) -> jax.Array:
        """log p(x_t | x_1, ..., x_{t-1}) of a single sequence, shape (steps,)."""
        (chain,) = self.chains
        terms = self.inner.run(self.terms(eta, data), data.maps)
        (increments, _), lanes, shape = chain.along(
            terms, self.elimination, data.valid, self.reading, filtered
        )
        begin = chain.starts(chain.collect(terms, self.elimination, data.valid), SUM)
        totals = [jnp.broadcast_to(b, increments.shape[1:])[None] for b in begin]
        totals = jnp.concatenate([*totals, increments.cumsum(0)])
        prefix = Table(totals.reshape(-1, *shape), (chain.time, *lanes))
        others = [t for t in terms if not t.latents & chain.own]
        above = Term(prefix, frozenset(lanes), frozenset())
        total = jnp.zeros(())
        for term in self.elimination.run([*others, above], data.maps):
            table = term.table
            if chain.time in table.axes and chain.time not in term.plates:
                total = total + table.array
            else:
                total = total + self.elimination.total([term])
        return jnp.diff(jnp.broadcast_to(total, (chain.length,)), prepend=0.0)

    def step_weights(self, data: ProgramData) -> jax.Array:
        """How many observed sites were seen at each step of a single sequence, at most one; what
        lies before the scan counts with its first step."""
        (chain,) = self.chains
        inside, before_it = jnp.zeros(chain.length), jnp.zeros(())
        for factor in self.factors:
            if factor.law_of:
                continue
            site = data.sites.get(factor.site)
            over = [p for p in (chain.time, chain.rest) if p in factor.plates]
            seen = jnp.ones(chain.length if over else 1)
            if site is not None and site.mask is not None:
                mask = site.mask.any(tuple(range(site.mask.ndim - 1)))
                sizes = [n for _, n, c in factor.layout if not c]
                mask = mask.reshape(sizes[0] if over else 1, -1)
                seen = mask.any(1).astype(float)
            scan = self.reading.scans.get(self.reading.sites[factor.site].scan)
            if scan is not None:
                step = self.reading.sites[factor.site].step
                start = step if step is not None else scan.start if scan.rest in over else 0
                seen = seen[: chain.length - start]
                inside = inside.at[start : start + seen.size].max(seen)
            else:
                before_it = before_it + seen.max()
        return inside.at[0].add(before_it)

    def unit_weights(self, data: ProgramData) -> jax.Array:
        """Case weight of each unit, zero where every observation of the unit is missing."""
        if self.sequential:
            return self.step_weights(data)
        seen: list[Term] = []
        counts: list[Term] = []
        observed = {s.name for s in self.reading.observed}
        for factor in self.factors:
            weight = self._weight(factor, data)
            plates = factor.plates
            ones = Table(jnp.ones(()), ())
            site = data.sites.get(factor.site)
            if factor.site in observed:
                shown = ones
                if site is not None and site.mask is not None:
                    sizes = [self.reading.plates[p].size for p in factor.rows]
                    mask = site.mask.any(tuple(range(site.mask.ndim - 1)))
                    shown = Table(mask.reshape(sizes).astype(float), factor.rows)
                seen.append(Term(shown, frozenset(factor.latents), plates, None))
            zero = Table(jnp.zeros(()), ())
            counts.append(Term(zero, frozenset(factor.latents), plates, weight))

        units = self.elimination.units(self.run(seen + counts, data, _FIRST), weighted=False)
        shown = jnp.concatenate([(t.array > 0).astype(float).ravel() for t in units])
        final = self.run(counts, data, _FIRST)
        weights = []
        for t in self.elimination.units(final, weighted=False):
            own = next(
                (
                    f.weight
                    for f in final
                    if f.weight is not None and set(f.weight.axes) <= set(t.axes)
                ),
                Table(jnp.ones(()), ()),
            )
            weights.append(jnp.broadcast_to(own.aligned(t.axes), t.array.shape).ravel())
        return shown * jnp.concatenate(weights)

    def unit_layout(self, data: ProgramData) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        """(plates, sizes) of each set of independent units, in the order of `unit_weights`."""
        zero = Table(jnp.zeros(()), ())
        terms = [Term(zero, frozenset(f.latents), f.plates, None) for f in self.factors]
        units = self.elimination.units(self.run(terms, data, _FIRST), weighted=False)
        return [(t.axes, t.array.shape) for t in units]

    def reweighted(self, data: ProgramData, weights: jax.Array) -> ProgramData:
        """The data with these case weights (units,) in place of their own.

        Raises ValueError where the units are not the rows of one set of plates that all factors
        share.
        """
        layout = self.unit_layout(data)
        axes, shape = layout[0]
        alone = [f.site for f in self.factors if not set(axes) <= f.plates]
        if self.sequential or axes == ("program",) or len(layout) > 1 or alone:
            what = "one sequence" if self.sequential else f"units {[a for a, _ in layout]}"
            raise ValueError(
                f"units cannot be resampled in a program of {what}"
                + (f" with sites {alone} outside of them" if alone else "")
                + ": there is no one set of independent units. Use the parametric bootstrap."
            )
        placed = {}
        for factor in self.factors:
            dims = self.reading.sites[factor.site].dims
            full = [1] * max(-dims[p] for p in axes)
            order = sorted(axes, key=lambda p, d=dims: d[p])
            for p, n in zip(axes, shape, strict=True):
                full[dims[p]] = n
            moved = jnp.transpose(weights.reshape(shape), [axes.index(p) for p in order])
            placed[factor.site] = moved.reshape(full)
        return replace(data, weights=placed)

    def statistics_at(self, eta: Natural, data: ProgramData) -> Natural:
        """Expected statistics when the latents' posterior is given by `data.clamps` alone."""

        def value(e: Natural) -> jax.Array:
            terms = []
            for term in self.terms(e, replace(data, clamps={}), reduce=True):
                array = term.table.array
                flat = array - jax.lax.stop_gradient(array)  # no value, the same gradient
                terms.append(replace(term, table=Table(flat, term.table.axes)))
            terms += self._clamp_terms(data)
            return self.elimination.total(self.run(terms, data))

        return jax.grad(value)(eta)

    # --- blocks of rows ---------------------------------------------------------------------

    def block_rows(self, data: ProgramData) -> int:
        """Rows per block: small enough that a block's statistics stay in cache."""
        if self.block_plate is None:
            return 0
        rows = self.reading.plates[self.block_plate].size
        width = max((int(np.prod(s.value.shape[:-1])) for s in data.sites.values()), default=1)
        size = min(BLOCK_ROWS, max(BLOCK_ELEMENTS // (8 * width), 256))
        return rows if rows <= 4 * size else size

    def blocks(self, data: ProgramData) -> int:
        # A weight on some factors alone is none of the rows' units, which blocks weigh.
        if self.block_plate is None or 0 < len(data.weights) < len(self.factors):
            return 1
        rows = self.reading.plates[self.block_plate].size
        return -(-rows // self.block_rows(data))

    def _block(self, data: ProgramData, i: jax.Array) -> ProgramData:
        """Block i of the rows; the last block overlaps and its repeated rows weigh nothing."""
        rows = self.reading.plates[self.block_plate].size
        size = self.block_rows(data)
        start = jnp.minimum(i * size, rows - size)

        def cut(array: Any, axis: int) -> Any:
            return jax.lax.dynamic_slice_in_dim(array, start, size, axis)

        fresh = (start + jnp.arange(size) >= i * size).astype(jnp.result_type(float))
        return self._rows_of(data, cut, fresh)

    def subset(self, data: ProgramData, rows: jax.Array) -> ProgramData:
        """The data of some rows of the block plate, each weighing one."""

        def cut(array: Any, axis: int) -> Any:
            return jnp.take(array, rows, axis)

        return self._rows_of(replace(data, weights={}), cut, jnp.ones(rows.shape[0]))

    def _rows_of(
        self, data: ProgramData, cut: Callable[[Any, int], Any], fresh: jax.Array
    ) -> ProgramData:
        rows = self.reading.plates[self.block_plate].size
        size = fresh.shape[0]

        def cut_site(site: SiteData) -> SiteData:
            def last(a: Any) -> Any:
                full = a is not None and a.shape[-1] == rows
                return cut(a, a.ndim - 1) if full else a

            return SiteData(
                last(site.value),
                last(site.mask),
                {k: last(v) for k, v in site.known.items()},
                site.shift,
                site.shift_rows,
                last(site.base),
            )

        weights = {}
        for factor in self.factors:
            given = data.weights.get(factor.site)
            dim = self.reading.sites[factor.site].dims[self.block_plate]
            shape = (size,) + (1,) * (-dim - 1)
            if given is None or given.size == 1:
                given = jnp.ones(()) if given is None else given.reshape(())
                weights[factor.site] = fresh.reshape(shape) * given
            else:
                weights[factor.site] = cut(given, given.ndim + dim) * fresh.reshape(shape)
        return ProgramData(
            data.dynamic,
            {n: cut_site(s) for n, s in data.sites.items()},
            weights,
            {n: cut(c, self._clamp_axis(n, c)) for n, c in data.clamps.items()},
            data.index,
            data.maps,
            data.valid,
        )


def _first_path(initial: Any, transition: Any, emission: Any, running: Any) -> jax.Array:
    del running
    moves = jnp.broadcast_to(transition, (emission.shape[0] - 1, *transition.shape[1:]))
    return initial[0] + moves[:, 0, 0].sum(0) + emission[:, 0].sum(0)


# What the tables hold at the first value of every latent: for counting.
_FIRST = Semiring(lambda array, axis: array.take(0, axis), _first_path)


def _looked_up(eta: jax.Array, site: SiteData) -> jax.Array:
    """Scores of categorical data by indexing: (latents, F, columns) and codes to (latents, rows)."""
    codes = site.value.reshape(eta.shape[-1], -1).astype(int)
    total = jnp.zeros((eta.shape[0], codes.shape[-1]), eta.dtype)
    for c in range(eta.shape[-1]):
        picked = eta[:, :, c][:, codes[c]]
        if site.mask is not None:
            mask = jnp.broadcast_to(site.mask, site.value.shape).reshape(codes.shape)
            picked = jnp.where(mask[c], picked, 0.0)
        total = total + picked
    return total


def _dtype(eta: Natural) -> Any:
    return jax.tree.leaves(eta)[0].dtype


def build_marginal(reading: Reading, factors: tuple[Factor, ...]) -> Marginal:
    """Plan how the latents of these factors are summed."""
    chains = plan_chains(reading, factors)
    sizes = {s.name: s.size for s in reading.slots}
    plates = {name: p.size for name, p in reading.plates.items()}
    gathers = dict.fromkeys(gathered_factors(reading, factors))
    states = frozenset(v for chain in chains for v in chain.own)
    initial = frozenset().union(*(chain.initial for chain in chains))
    places = {s.name: s.plates for s in reading.latents if s.name not in states}
    first = {n: p for n, p in places.items() if n in initial or reading.sites[n].scan}
    scopes = [(f.site, frozenset(f.latents), f.plates) for f in factors]
    inner = plan_elimination(scopes, first, sizes, plates, gathers)
    for name in inner.order:
        scopes = _merged(scopes, frozenset({name}), first[name])
    for chain in chains:
        scopes = _merged(scopes, chain.own, chain.plates)
    above = {n: p for n, p in places.items() if n not in first}
    elimination = plan_elimination(scopes, above, sizes, plates, gathers)
    return Marginal(
        reading,
        factors,
        elimination,
        _block_plate(reading, factors, gathers),
        inner,
        chains,
    )


def _merged(scopes: list[tuple], names: frozenset[str], plates: frozenset[str]) -> list[tuple]:
    """The scopes after `names` are taken out: what met them becomes one."""
    touching = [f for f in scopes if f[1] & names]
    rest = [f for f in scopes if not f[1] & names]
    latents = frozenset().union(*(f[1] for f in touching)) - names
    return [*rest, (touching[0][0], latents, plates)] if latents else rest


def _block_plate(reading: Reading, factors: tuple[Factor, ...], gathers: dict) -> str | None:
    """The one plate of all factors, when none of them holds a table over its rows."""
    if gathers or not factors or reading.scans:
        return None
    shared = {f.plates - {n for n, _, c in f.layout if c} for f in factors}
    if len(shared) != 1:
        return None
    plates = next(iter(shared))
    if len(plates) != 1:
        return None
    (plate,) = plates
    if any(f.kind == "table" and f.varies_by_row for f in factors):
        return None
    return plate
