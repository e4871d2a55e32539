"""Parameters whose maximum given expected statistics has a closed form."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.joined import Joined
from pp_mlem.base.no import No
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.factors.family import FamilyFactor
from pp_mlem.families import Entries, Family
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params, Prior
from pp_mlem.maximise.blocks.roles import argument_rows, find_roles, lookup_table, nested, ties
from pp_mlem.program.bindings import site_arguments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Collected(Joined):
    """Expected statistics (entries, F), which parameter value each argument of an entry has, what is
    known of its arguments, and the reference that was subtracted from the data."""

    statistics: jax.Array
    index: dict[str, jax.Array]
    constant: dict[str, jax.Array]
    shift: jax.Array | None

    def joined(self, other: Collected) -> Collected:
        return replace(self, statistics=self.statistics + other.statistics)

    def times(self, share: float) -> Collected:
        return replace(self, statistics=self.statistics * share)


@dataclass(frozen=True, eq=False)
class Closed(Block):
    """The family's own maximum. `arguments[a]` are the parameters behind argument `a`, and `lookup[a]`
    maps global parameter indices to the positions of their values."""

    family: Family = field(kw_only=True)
    arguments: dict[str, tuple[str, ...]] = field(kw_only=True)
    lookup: dict[str, np.ndarray] = field(kw_only=True)
    method: ClassVar[str] = "closed"

    def collect(self, context: Context, params: Params, statistics: Natural) -> Collected:
        """Expected statistics of every distribution of the block; those of a table by rows
        (responsibility times statistics) summed over the rows that share all arguments."""
        constants = _constants(context, self, params)
        pieces = [
            self._entries(context, member, statistics[member.site], constants.get(member.site, {}))
            for member in sorted(context.members(self), key=lambda m: self.sites.index(m.site))
        ]

        def join(values: list[Any]) -> Any:
            return None if values[0] is None else jnp.concatenate(values)

        return Collected(
            statistics=join([p.statistics for p in pieces]),
            index={a: join([p.index[a] for p in pieces]) for a in self.arguments},
            constant={a: join([p.constant[a] for p in pieces]) for a in pieces[0].constant},
            shift=join([p.shift for p in pieces]),
        )

    def maximise(
        self, context: Context, params: Params, collected: Collected, prior: Prior | None
    ) -> Params:
        family = self.family
        shapes = {s.name: s.shape for s in context.reading.space.sites}
        pseudo: dict[str, tuple[jax.Array, jax.Array]] = {}
        if prior is not None:
            found = prior.distributions(params)
            for argument, listed in self.arguments.items():
                rank = family.arguments[argument]
                pairs = [_pseudo(family, argument, found.get(p), shapes[p], rank) for p in listed]
                first, second = zip(*pairs, strict=True)
                pseudo[argument] = jnp.concatenate(first), jnp.concatenate(second)
        values = {
            a: [_rows(params[p], family.arguments[a]) for p in listed]
            for a, listed in self.arguments.items()
        }
        entries = Entries(
            statistics=collected.statistics,
            index=collected.index,
            constant=collected.constant,
            current={a: jnp.concatenate(v) for a, v in values.items()},
            prior=pseudo,
            shift=collected.shift,
        )
        result = family.maximum(entries)
        if result is None:
            raise RuntimeError(f"{family.name} has no maximum in {sorted(self.arguments)}.")
        new: Params = {}
        for argument, listed in self.arguments.items():
            row = 0
            for p, old in zip(listed, values[argument], strict=True):
                new[p] = result[argument][row : row + len(old)].reshape(shapes[p])
                row += len(old)
        return new

    def _entries(
        self,
        context: Context,
        factor: Factor,
        statistic: jax.Array,
        constants: dict[str, jax.Array],
    ) -> Collected:
        """Statistics, indices, constants and shift of one site's distributions."""
        family, data = self.family, context.data
        if isinstance(factor, FamilyFactor):
            laid = _laid_statistics(family, factor, statistic, data)
        elif factor.law_of:
            laid = _counts(context, factor, statistic)
        else:
            laid = _row_statistics(family, factor, statistic, data)
        flat = laid.statistics
        if factor.law_of and not isinstance(factor, FamilyFactor):
            known = {a: laid.spread(v, 0) for a, v in constants.items() if a in family.known}
            flat = family.counted(flat, jnp.asarray(context.reading.values[factor.law_of]), known)
        index = {}
        for argument in self.arguments:
            rows = argument_rows(data.index[factor.site][argument], family.arguments[argument])
            index[argument] = laid.spread(jnp.asarray(self.lookup[argument])[rows], 0)
        constant = {
            a: laid.spread(v, family.arguments[a])
            for a, v in constants.items()
            if a in family.arguments
        }
        collected = Collected(flat, index, constant, laid.shift)
        return self._summed(collected, *laid.by_row) if laid.by_row else collected

    def _summed(self, entries: Collected, columns: int, rows: int) -> Collected:
        """Entries (latents, columns, rows) with those added up that share a column and all arguments;
        as they are where what is known may differ by row, or as many arguments meet as entries."""
        sizes = {a: int(self.lookup[a].max()) + 1 for a in self.arguments}
        total, count = len(entries.statistics), columns * int(np.prod(list(sizes.values())))
        if entries.constant or count >= total:
            return entries
        cell, number = jnp.arange(total) // rows % columns, np.arange(count)
        for argument, size in sizes.items():
            cell = cell * size + entries.index[argument]
        index = {}
        for argument, size in reversed(sizes.items()):
            index[argument] = jnp.asarray(number % size)
            number = number // size
        zero = jnp.zeros((count, entries.statistics.shape[1]), entries.statistics.dtype)
        shift = None if entries.shift is None else entries.shift[number * rows]
        return Collected(zero.at[cell].add(entries.statistics), index, {}, shift)


def plan_closed(group: Group) -> Block | No:
    """A closed-form block, or the reason why there is none."""
    if not group.members:
        return No("only its prior depends on it")
    kinds = {m.family.name if m.family else m.site for m in group.members}
    if len(kinds) > 1:
        return No(f"shared by sites of different kinds ({', '.join(group.sites)})")
    family = group.members[0].family
    if family is None:
        return No(group.members[0].reason)
    roles = find_roles(group, family)
    if isinstance(roles, str):
        return No(roles)
    lookup = {}
    for argument, listed in roles.arguments.items():
        table = lookup_table(group, family, argument, listed)
        if isinstance(table, str):
            return No(table)
        lookup[argument] = table
    refused = nested(group, family, set(lookup))
    if refused:
        return No(refused)
    tied = ties(group.members, group.data, list(lookup))
    told = f"closed form of {family.name}" + (f" ({tied})" if tied else "")
    if group.priors is not None:
        told += ", conjugate or flat priors"
    arguments = {a: tuple(v) for a, v in roles.arguments.items()}
    return Closed(group.names, group.sites, told, family=family, arguments=arguments, lookup=lookup)


# --- the statistics of one site -------------------------------------------------------------


@dataclass(frozen=True)
class Laid:
    """Statistics (entries, F) of a site's distributions over `batch`, whose axes they have in `order`.
    Of a table by rows `by_row` has the number of columns and of rows, else nothing."""

    batch: tuple[int, ...]
    order: tuple[int, ...]
    statistics: jax.Array
    shift: jax.Array | None = None
    by_row: tuple[int, ...] = ()

    def spread(self, array: jax.Array, rank: int) -> jax.Array:
        """What is known over the batch, with `rank` dimensions of its own, as (entries, ...)."""
        event = array.shape[array.ndim - rank :]
        full = jnp.broadcast_to(array, self.batch + event)
        last = range(len(self.batch), len(self.batch) + rank)
        return jnp.transpose(full, [*self.order, *last]).reshape((-1, *event))


def _laid_statistics(
    family: Family, factor: Factor, statistic: jax.Array, data: ProgramData
) -> Laid:
    """Of a family factor: its statistics as they are."""
    batch, shift = statistic.shape[:-1], None
    if data.sites[factor.site].shift is not None:
        shift = data.sites[factor.site].shift
        event = shift.shape[shift.ndim - family.event_dim :]
        shift = jnp.broadcast_to(shift, batch + event).reshape((-1, *event))
    flat = statistic.reshape(-1, statistic.shape[-1])
    return Laid(batch, tuple(range(len(batch))), flat, shift)


def _counts(context: Context, factor: Factor, statistic: jax.Array) -> Laid:
    """Of a latent's distribution: the expected count of each of its values, last."""
    reading = context.reading
    outer = [s.name for s in reading.slots if s.vmapped and s.name in factor.latents]
    if factor.law_of in outer:
        moved = jnp.moveaxis(statistic, outer.index(factor.law_of), -1)
    else:
        axis = statistic.ndim + reading.latent_dim(factor.law_of)
        moved = jnp.expand_dims(jnp.moveaxis(statistic, axis, -1), axis)
    batch = moved.shape[:-1]
    return Laid(batch, tuple(range(len(batch))), moved.reshape(-1, moved.shape[-1]))


def _row_statistics(
    family: Family, factor: Factor, statistic: jax.Array, data: ProgramData
) -> Laid:
    """Of a site whose parameters differ by row: responsibility times statistics, an entry for each
    value of the latents, column and row."""
    site = data.sites[factor.site]
    sizes = tuple(size for _, size, _ in factor.layout)
    n_rows = sum(1 for _, _, column in factor.layout if not column)
    lead = max(statistic.ndim - n_rows, 0)
    latent_shape = statistic.shape[:lead]
    responsibility = jnp.broadcast_to(statistic, latent_shape + sizes[:n_rows])
    if family.coded:
        categories = next(iter(data.index[factor.site].values())).shape[-1]
        values = family.indicator(site.value, categories)
    else:
        values = family.statistics(site.value, site.known, site.shift_rows)
    if site.mask is not None:
        values = jnp.where(site.mask, values, 0.0)
    rows = site.value.shape[-1]
    columns = int(np.prod(factor.column_shape))
    values = values.reshape(values.shape[0], columns, rows)
    weight = responsibility.reshape(-1, 1, rows)
    entries = jnp.einsum("lor,fcr->lcrf", weight, values)
    order = (
        *range(lead),
        *range(lead + n_rows, lead + len(sizes)),
        *range(lead, lead + n_rows),
    )
    shift = None
    if site.shift_rows is not None:
        event = site.shift_rows.shape[: family.event_dim]
        moved = jnp.moveaxis(
            site.shift_rows, tuple(range(family.event_dim)), tuple(range(-family.event_dim, 0))
        ).reshape((1, columns, 1, *event))
        shift = jnp.broadcast_to(moved, (weight.shape[0], columns, rows, *event))
        shift = shift.reshape((-1, *event))
    flat = entries.reshape(-1, entries.shape[-1])
    return Laid(latent_shape + sizes, order, flat, shift, (columns, rows))


# --- what is known --------------------------------------------------------------------------


def _rows(value: jax.Array, rank: int) -> jax.Array:
    value = jnp.asarray(value)
    return value.reshape((-1,) + value.shape[value.ndim - rank :])


def _pseudo(
    family: Family, argument: str, prior: Any, shape: tuple[int, ...], rank: int
) -> tuple[jax.Array, jax.Array]:
    batch = shape[: len(shape) - rank]
    n = int(np.prod(batch))
    if prior is None:
        event = shape[len(shape) - rank :]
        return jnp.zeros((n, *event)), jnp.zeros(n)
    first, second = family.pseudo_statistics(argument, prior)
    event = shape[len(shape) - rank :] if rank else ()
    first = jnp.broadcast_to(first, batch + event).reshape((n, *event))
    second = jnp.broadcast_to(second, batch).reshape(n)
    return first, second


def _constants(context: Context, block: Closed, params: Params) -> dict[str, dict[str, jax.Array]]:
    """Arguments of the block's sites that are known, at their own (positional) shapes; those that
    are statistics (a total count) for latents alone, the data of the others hold them."""
    family = block.family
    wanted = [a for a in family.arguments if a not in block.arguments]
    present = {
        f.site: [a for a in (*wanted, *(family.known if f.law_of else ())) if a in f.bindings]
        for f in context.members(block)
    }
    if not any(present.values()):
        return {}
    reading, names = context.reading, frozenset(block.sites)
    found = reading.run(params, context.data.dynamic, site_arguments, reading.zeros(), wanted=names)
    return {name: {a: found[name][a] for a in present[name]} for name in names}
