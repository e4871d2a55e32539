"""Sites as factors: family factors <natural parameters, statistics> and tables of log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from pp_mlem.base.precision import tiny_log
from pp_mlem.families import Family, family_of
from pp_mlem.program.bindings import (
    Binding,
    closed_form_candidates,
    find_bindings,
    given_arguments,
    own_arguments,
)
from pp_mlem.program.densities import law_density, log_density
from pp_mlem.program.distributions import is_factor, unwrap
from pp_mlem.program.errors import SiteValueError
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site


@dataclass(frozen=True)
class Factor:
    """One site as a factor of log Z.

    `kind` is "family" or "table"; `law_of` names the latent whose distribution it is. `latents` are those it touches (a latent's own factor touches
    itself), `keep` the plates of these latents. `layout` holds (name, size, is column) of each
    batch axis of an observed site, plates by name and `to_event` dimensions as "column i": the
    natural parameters of a family factor vary along its columns and are shared along its rows.
    """

    site: str
    kind: str
    family: Family | None
    law_of: str
    latents: tuple[str, ...]
    plates: frozenset[str]
    keep: frozenset[str]
    bindings: dict[str, Binding]
    parameters: frozenset[str]
    layout: tuple[tuple[str, int, bool], ...]
    event_size: int
    varies_by_row: bool
    reason: str

    @property
    def rows(self) -> tuple[str, ...]:
        """The plates along which the natural parameters are shared, in positional order."""
        return tuple(name for name, size, column in self.layout if not column and size > 1)

    @property
    def column_shape(self) -> tuple[int, ...]:
        return tuple(size for _, size, column in self.layout if column)


def _positions(reading: Reading, site: Site, n_batch: int) -> list[tuple[int, str, str]]:
    """(axis, kind, name) of each batch axis of a site's bare distribution, left to right."""
    by_dim = {dim: plate for plate, dim in site.dims.items()}
    latent_by_dim = {reading.latent_dim(s.name): s.name for s in reading.slots}
    found = []
    for axis in range(n_batch):
        from_right = n_batch - axis  # 1 is the last
        if from_right <= site.columns:
            found.append((axis, "column", f"column {site.columns - from_right}"))
            continue
        dim = -(from_right - site.columns)
        if -dim <= reading.depth:
            found.append((axis, "plate", by_dim.get(dim, f"unused {dim}")))
        else:
            found.append((axis, "latent", latent_by_dim.get(dim, f"unused {dim}")))
    return found


def argument_batch(family: Family, args: dict[str, Any]) -> tuple[int, ...]:
    """Broadcast batch shape of a family's arguments."""
    shapes = [
        jnp.shape(v)[: jnp.ndim(v) - family.arguments[k]]
        for k, v in args.items()
        if k in family.arguments
    ]
    return tuple(jnp.broadcast_shapes(*shapes))


_CONSTRAINTS = {
    "positive": "positive",
    "unit": "unit_interval",
    "simplex": "simplex",
    "covariance": "positive_definite",
    "cholesky": "lower_cholesky",
}


def _check_supports(
    reading: Reading, site: Site, family: Family, bindings: dict[str, Binding]
) -> None:
    """A numpyro.param without a constraint that is a probability or a scale is told."""
    params = {s.name: s for s in reading.space.sites if not s.prior}
    for argument, binding in bindings.items():
        kinds = family.natural_support.get(argument, ("real",))
        if binding.kind != "direct" or "real" in kinds:
            continue
        for name in binding.parameters:
            if name in params and params[name].support is constraints.real:
                who = f"latent '{site.law_of}'" if site.law_of else f"observed site '{site.name}'"
                raise SiteValueError(
                    f"{who}: its {argument} is numpyro.param '{name}', which has no constraint and "
                    f"may take any real value. Declare numpyro.param('{name}', ..., "
                    f"constraint=dist.constraints.{_CONSTRAINTS[kinds[0]]})."
                )


def plan_factors(reading: Reading, dynamic: tuple) -> tuple[Factor, ...]:
    """Decide for each observed or latent site whether it is a family factor or a table."""
    static: dict[str, Any] = {}

    def extract(m: Message) -> dict[str, Any]:
        if m.kind != "sample":
            return {}
        bare = unwrap(m.fn)
        family = None if is_factor(m.fn) else family_of(bare.fn)
        columns = tuple(m.fn.event_shape[: bare.columns])
        static[m.name] = (family, m.fn, tuple(bare.fn.event_shape), columns)
        found = {"weight": m.placed(jnp.ones(() if m.scale is None else jnp.shape(m.scale)))}
        if family is not None:
            batch = argument_batch(family, given_arguments(family, bare.fn.get_args()))
            found["batch"] = m.placed(jnp.ones(batch), bare.columns)
        return found

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    shapes = jax.eval_shape(lambda p, d: reading.run(p, d, extract), params, dynamic)
    candidates = closed_form_candidates(reading, {n: s[1] for n, s in static.items()})
    bindings = find_bindings(reading, dynamic, candidates) if candidates else {}
    for name, found in bindings.items():
        _check_supports(reading, reading.sites[name], static[name][0], found)
    parameters = frozenset(reading.space.names)
    slot_names = frozenset(s.name for s in reading.slots)
    factors = []
    for site in (*reading.laws, *reading.observed):
        depends = reading.dependencies[site.name]
        every = frozenset().union(*depends.values())
        touched = (every | {site.law_of}) & slot_names
        latents = tuple(s.name for s in reading.slots if s.name in touched)
        keep = frozenset().union(*(reading.sites[v].plates for v in latents))
        if any(reading.sites[v].scan for v in latents):
            keep |= {p for p, d in site.dims.items() if d == -reading.depth}
        family, _, event, column_sizes = static[site.name]
        batch = tuple(shapes[site.name]["batch"].shape) if family is not None else None
        weight = tuple(shapes[site.name]["weight"].shape)
        kind, by_row, varying = "table", True, []
        value_parents = depends.get("value", frozenset())
        if site.law_of:
            reason = "a latent's own distribution over its values"
            by_row = (
                (site.timed or not site.scan)
                if family is None
                else any(
                    k == "plate" and batch[axis] > 1
                    for axis, k, _ in _positions(reading, site, len(batch))
                )
            )
        elif family is None:
            reason = f"{site.distribution} is no known exponential family"
        else:
            positions = _positions(reading, site, len(batch))
            varying = [n for axis, k, n in positions if k == "plate" and batch[axis] > 1]
            known = [depends.get(f"argument {k}", frozenset()) for k in family.known]
            blocked = keep & set(varying)
            single = reading.one_at_a_time(latents)
            if site.timed:
                reason = "its parameters vary with the step"
            elif single:
                reason = single
            elif depends.get("mask"):
                reason = f"its mask depends on {', '.join(sorted(depends['mask']))}"
            elif value_parents:
                reason = f"its value depends on {', '.join(sorted(value_parents))}"
            elif frozenset().union(*known):
                reason = f"{', '.join(family.known)} depends on unobserved sites"
            elif blocked:
                reason = f"its parameters vary along {', '.join(sorted(blocked))}"
            elif any(len(weight) >= -site.dims[p] and weight[site.dims[p]] > 1 for p in varying):
                reason = "its weights vary along plates with parameters of their own"
            elif site.plates and site.plates <= set(varying):
                reason = "its parameters vary along every plate"
            else:
                kind, by_row = "family", False
                reason = "known family, the same parameters for every row"
        factors.append(
            Factor(
                site=site.name,
                kind=kind,
                family=family if site.name in candidates else None,
                law_of=site.law_of,
                latents=latents,
                plates=site.plates,
                keep=keep,
                bindings={k: b for k, b in bindings.get(site.name, {}).items()},
                parameters=every & parameters,
                layout=_layout(
                    reading,
                    site,
                    column_sizes,
                    frozenset(varying if kind == "family" else ()),
                ),
                event_size=int(np.prod(event)) if event else 1,
                varies_by_row=by_row,
                reason=reason,
            )
        )
    return tuple(factors)


def _layout(
    reading: Reading, site: Site, column_sizes: tuple[int, ...], varying: frozenset[str]
) -> tuple[tuple[str, int, bool], ...]:
    depth = max((-d for d in site.dims.values()), default=0)
    by_dim = {dim: plate for plate, dim in site.dims.items()}
    found = []
    for dim in range(-depth, 0):
        plate = by_dim.get(dim)
        size = reading.plates[plate].size if plate else 1
        found.append((plate or f"unused {dim}", size, plate in varying))
    found += [(f"column {i}", size, True) for i, size in enumerate(column_sizes)]
    return tuple(found)


# --- evaluation: natural parameters, tables and data of the factors -------------------------


def natural_parameters(
    reading: Reading,
    factors: tuple[Factor, ...],
    params: dict[str, Any],
    dynamic: tuple,
    shifts: dict[str, Any],
    sites: frozenset[str] | None = None,
) -> dict[str, jax.Array]:
    """Natural parameters of every factor at `params`.

    Family factors: (*latents, *plates, *columns, F), right-aligned batch. Tables: log-probability
    of each (latent value, unit), latents that are gathered leading, then right-aligned
    (*latents, *plates).
    """
    wanted = [f for f in factors if sites is None or f.site in sites]
    by_name = {f.site: f for f in wanted}

    def extract(message: Message) -> Any:
        factor = by_name[message.name]
        if factor.kind == "family":
            family = factor.family
            args = own_arguments(message)
            eta = family.natural(args, shifts.get(factor.site))
            positional = tuple(size if column else 1 for _, size, column in factor.layout)
            batch = jnp.broadcast_shapes(eta.shape[:-1], positional)
            columns = reading.sites[factor.site].columns
            return message.placed(jnp.broadcast_to(eta, batch + eta.shape[-1:]), columns + 1)
        return message.placed(log_table(message, reading.sites[factor.site]))

    wide = frozenset(
        f.site for f in wanted if f.kind == "table" and reading.sites[f.site].role is Role.OBSERVED
    )
    values = reading.run(params, dynamic, extract, wanted=frozenset(by_name), wide=wide)
    outer = [s for s in reading.slots if s.vmapped]
    for factor in wanted:  # drop the axes of gathered latents on which a factor does not depend
        for i in reversed(range(len(outer))):
            if outer[i].name not in factor.latents:
                values[factor.site] = jax.lax.index_in_dim(
                    values[factor.site], 0, axis=i, keepdims=False
                )
    return values


def log_table(message: Message, site: Site) -> jax.Array:
    """log f of each element, missing and masked ones zero, summed over `to_event` columns."""
    bare = unwrap(message.fn)
    value = message.value
    if is_factor(message.fn):
        return _masked(bare.fn.log_prob(value), bare.masks)
    if site.law_of:
        density = law_density(bare.fn, value)
        return jnp.zeros_like(density) if bare.hidden else density
    value = jnp.asarray(value)
    masks = list(bare.masks)
    support = bare.fn.support
    moves = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(support))
    inside = support.check(value) if moves else None
    if moves:  # latents and parameters may widen it
        event = value.shape[value.ndim - len(bare.fn.event_shape) :]
        value = jnp.broadcast_to(value, (*inside.shape, *event))
    if jnp.issubdtype(value.dtype, jnp.floating):
        missing = _rows(jnp.isnan(value), bare.fn)
        value = jnp.where(_cells(missing, bare.fn), support.feasible_like(value), value)
        masks.append(~missing)
        inside = inside | missing if moves else None
    if moves:
        value = jnp.where(_cells(inside, bare.fn), value, support.feasible_like(value))
    density = log_density(bare.fn, value)
    if moves:  # outside of a support that the latents move: probability zero, to be summed
        density = jnp.where(inside, density, tiny_log(density.dtype))
    if bare.columns:
        columns = tuple(message.fn.event_shape[: bare.columns])
        density = jnp.broadcast_to(density, jnp.broadcast_shapes(density.shape, columns))
    density = _masked(density, tuple(masks))
    return density.sum(tuple(range(-bare.columns, 0))) if bare.columns else density


def _rows(cells: jax.Array, fn: Any) -> jax.Array:
    """Whether any cell of an element is marked."""
    for _ in fn.event_shape:
        cells = cells.any(-1)
    return cells


def _cells(rows: jax.Array, fn: Any) -> jax.Array:
    """The same for all cells of an element."""
    return rows.reshape(rows.shape + (1,) * len(fn.event_shape))


def own_density(message: Message, value: jax.Array) -> jax.Array:
    """The log density, weights applied, of each element of a site at its value's own shape.

    A prior that a latent's enumeration broadcasts (as a Normal of `mu[z]` does whose scale is
    reparametrised away) is the same at all values of the latent, and counts once.
    """
    density = message.fn.log_prob(value)
    density = density if message.scale is None else message.scale * density
    surplus = jnp.ndim(density) - (jnp.ndim(value) - len(message.fn.event_shape))
    return density[(0,) * surplus] if surplus > 0 else density


def _masked(density: jax.Array, masks: tuple) -> jax.Array:
    for mask in masks:
        density = jnp.where(mask, density, 0.0)
    return density


def batch_axes(reading: Reading, name: str, shape: tuple[int, ...]) -> list[str]:
    """The plate or latent of each batch axis of a site, those of gathered latents left out."""
    site = reading.sites[name]
    bare = Site(site.name, site.role, "", "", dims=site.dims)
    return [axis for _, _, axis in _positions(reading, bare, len(shape))]


def table_axes(reading: Reading, factor: Factor, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Axis names of a table of this factor; axes of size one are named ""."""
    outer = [s.name for s in reading.slots if s.vmapped and s.name in factor.latents]
    names = outer + batch_axes(reading, factor.site, shape[len(outer) :])
    return tuple("" if size == 1 else name for name, size in zip(names, shape, strict=True))
