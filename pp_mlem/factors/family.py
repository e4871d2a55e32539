"""Family factors: <eta, T(x)> of a known exponential family, the same parameters for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor, Plates, Probe, common
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.patterns import Patterns, rest_of_cells, scores
from pp_mlem.families import Family
from pp_mlem.families.multivariate_normal import MultivariateNormal
from pp_mlem.potentials.table import Table
from pp_mlem.program.bindings import own_arguments
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading

LOOKUP_CATEGORIES = 32


@dataclass(frozen=True, eq=False)
class FamilyFactor(Factor):
    """A site of a known family whose parameters do not vary along its rows: two matrix products per
    E-step, and statistics that are as small as the parameters."""

    family: Family
    kind = "family"
    of_family = True
    by_step = False

    @classmethod
    def read(cls, probe: Probe) -> Factor | No:
        site, family = probe.site, probe.family
        if site.law_of:
            return No("a latent's own distribution over its values")
        if family is None:
            return No(f"{site.distribution} is no known exponential family")
        reason = _varies(probe, family)
        if reason:
            return No(reason)
        return cls(
            **common(probe, frozenset(probe.varying)),
            varies_by_row=False,
            reason="known family, the same parameters for every row",
        )

    def natural(self, reading: Reading, message: Message, shift: Any) -> Any:
        """(*latents, *plates, *columns, F), right-aligned batch."""
        eta = self.family.natural(own_arguments(message), shift)
        positional = tuple(size if column else 1 for _, size, column in self.layout)
        batch = jnp.broadcast_shapes(eta.shape[:-1], positional)
        columns = reading.sites[self.site].columns
        return message.placed(jnp.broadcast_to(eta, batch + eta.shape[-1:]), columns + 1)

    def term(
        self, reading: Reading, eta: jax.Array, laid: Laid | None, reduce: bool
    ) -> tuple[Table, Plates]:
        if laid is None:
            raise RuntimeError(f"site '{self.site}' has no data laid out")
        return _scores(reading, self, eta, laid, reduce)

    def told(self) -> str:
        return f"{self.family.name} family: {self.reason}"


def _varies(probe: Probe, family: Family) -> str:
    """What of the site varies by row beside its data ("": nothing)."""
    site, depends = probe.site, probe.depends
    blocked = probe.keep & set(probe.varying)
    single = probe.reading.one_at_a_time(probe.latents)
    known = [depends.get(f"argument {k}", frozenset()) for k in family.known]
    value_parents, weight = depends.get("value", frozenset()), probe.weight
    if site.timed:
        return "its parameters vary with the step"
    if single:
        return single
    if depends.get("mask"):
        return f"its mask depends on {', '.join(sorted(depends['mask']))}"
    if value_parents:
        return f"its value depends on {', '.join(sorted(value_parents))}"
    if frozenset().union(*known):
        return f"{', '.join(family.known)} depends on unobserved sites"
    if blocked:
        return f"its parameters vary along {', '.join(sorted(blocked))}"
    if any(len(weight) >= -site.dims[p] and weight[site.dims[p]] > 1 for p in probe.varying):
        return "its weights vary along plates with parameters of their own"
    if site.plates and site.plates <= set(probe.varying):
        return "its parameters vary along every plate"
    return ""


@dataclass(frozen=True)
class _Shape:
    """Natural parameters with the columns of the data last, (latents..., F, columns), and the sizes of
    the rows, of which those of the axes `surplus` are summed."""

    eta: jax.Array
    latents: tuple[int, ...]
    rows: tuple[int, ...]
    surplus: tuple[int, ...]


def _scores(
    reading: Reading, factor: FamilyFactor, eta: jax.Array, laid: Laid, reduce: bool
) -> tuple[Table, frozenset[str]]:
    """A family factor as a table over (latents, rows): <eta, T(x)> + log h(x), and the plates
    that are left: columns are summed in the product, `reduce` also sums rows that no latent
    of the factor has.
    """
    shape = _shape(reading, factor, eta, laid, reduce)
    total = _direct(factor, shape, laid)
    if laid.patterns is not None:
        total = _of_patterns(factor, shape, laid, laid.patterns)
    if total is None:
        total = (
            _looked_up(shape, laid) if _is_lookup(factor, eta) else _product(factor, shape, laid)
        )
    if laid.base is not None:
        total = total + laid.base.reshape(shape.rows).sum(shape.surplus)
    rows = tuple(p for i, p in enumerate(factor.rows) if i not in shape.surplus)
    depth = len(factor.layout) - reading.sites[factor.site].columns
    names = table_axes(reading, factor.site, factor.latents, shape.latents + (1,) * depth)[
        : len(shape.latents)
    ]
    table = Table.of(total.reshape(shape.latents + total.shape[1:]), names + rows)
    return table, factor.term_plates - {factor.rows[i] for i in shape.surplus}


def _shape(
    reading: Reading, factor: FamilyFactor, eta: jax.Array, laid: Laid, reduce: bool
) -> _Shape:
    flags = [column for _, _, column in factor.layout]
    lead = eta.ndim - 1 - len(flags)
    columns = [lead + i for i, c in enumerate(flags) if c]
    units = [lead + i for i, c in enumerate(flags) if not c]
    order = [*range(lead), *units, eta.ndim - 1, *columns]
    size = int(np.prod(factor.column_shape))
    flat = jnp.transpose(eta, order).reshape(-1, eta.shape[-1], size)
    sizes = [reading.plates[p].size for p in factor.rows]
    rows = laid.value.shape[-1:] if len(sizes) == 1 else tuple(sizes)  # perhaps a block
    surplus = tuple(i for i, p in enumerate(factor.rows) if reduce and p not in factor.keep)
    return _Shape(flat, eta.shape[:lead], rows, surplus)


def _direct(factor: FamilyFactor, shape: _Shape, laid: Laid) -> jax.Array | None:
    """By the family's own way without T(x), where it has one and it is faster."""
    family = factor.family
    if not family.event_dim or shape.eta.shape[-1] != 1 or shape.surplus or laid.patterns:
        return None
    shift = laid.shift_rows
    if shift is not None:
        shift = shift.reshape(shift.shape[: family.event_dim] + (1,))
    event = laid.value.shape[: family.event_dim]
    direct = family.direct_scores(shape.eta[:, :, 0], laid.value.reshape(event + (-1,)), shift)
    if direct is None:
        return None
    direct = direct if laid.mask is None else jnp.where(laid.mask.ravel(), direct, 0.0)
    return direct.reshape(-1, *shape.rows)


def _of_patterns(factor: FamilyFactor, shape: _Shape, laid: Laid, patterns: Patterns) -> jax.Array:
    """Of vectors that are missing in part, their missing entries integrated out."""
    family = factor.family
    if not isinstance(family, MultivariateNormal):
        raise TypeError(f"'{factor.site}' is no MultivariateNormal.")
    matrix = family.form(jnp.swapaxes(shape.eta, 1, 2))  # (lanes, columns, D + 1, D + 1)
    nothing = jnp.zeros(matrix.shape[:2], matrix.dtype)
    if len(shape.surplus) == len(shape.rows) and patterns.sums is not None:
        return scores(matrix, nothing, patterns, patterns.sums)
    cells = rest_of_cells(matrix, nothing, patterns).constant
    cells = cells if laid.mask is None else jnp.where(_flat(laid, cells), cells, 0.0)
    cells = cells.sum(1).reshape(-1, *shape.rows)
    return cells.sum(tuple(i + 1 for i in shape.surplus))


def _flat(laid: Laid, cells: jax.Array) -> jax.Array:
    """The mask over (columns, rows)."""
    return jnp.broadcast_to(laid.mask, laid.value.shape[1:]).reshape(cells.shape[1:])


def _product(factor: FamilyFactor, shape: _Shape, laid: Laid) -> jax.Array:
    """By one matrix product of natural parameters and statistics."""
    statistics = statistics_of(factor, laid, shape.eta.shape[1])
    flat = statistics.reshape(-1, *shape.rows).sum(tuple(i + 1 for i in shape.surplus))
    kept = flat.shape[1:]
    eta = shape.eta.reshape(-1, flat.shape[0])
    return (eta @ flat.reshape(flat.shape[0], -1)).reshape(-1, *kept)


def statistics_of(factor: FamilyFactor, laid: Laid, width: int) -> jax.Array:
    """T(x), (F, *columns, rows), zero where a value is missing or masked; `width` is F."""
    family = factor.family
    if factor.family.coded:
        statistics = family.indicator(laid.value, width)
    else:
        statistics = family.statistics(laid.value, laid.known, laid.shift_rows)
    return statistics if laid.mask is None else jnp.where(laid.mask, statistics, 0.0)


def _is_lookup(factor: FamilyFactor, eta: jax.Array) -> bool:
    """Whether scores are looked up by category rather than multiplied."""
    return factor.family.coded and eta.shape[-1] > LOOKUP_CATEGORIES


def _looked_up(shape: _Shape, laid: Laid) -> jax.Array:
    """Scores of categorical data by indexing: (latents, F, columns) and codes to (latents, rows)."""
    eta = shape.eta
    codes = laid.value.reshape(eta.shape[-1], -1).astype(int)
    total = jnp.zeros((eta.shape[0], codes.shape[-1]), eta.dtype)
    for c in range(eta.shape[-1]):
        picked = eta[:, :, c][:, codes[c]]
        if laid.mask is not None:
            mask = jnp.broadcast_to(laid.mask, laid.value.shape).reshape(codes.shape)
            picked = jnp.where(mask[c], picked, 0.0)
        total = total + picked
    total = total.reshape(-1, *shape.rows)
    return total.sum(tuple(i + 1 for i in shape.surplus))
