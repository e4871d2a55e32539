"""Sites as factors: family factors <natural parameters, statistics> and tables of log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.families import Family, family_of
from pp_mlem.program.bindings import (
    Binding,
    closed_form_candidates,
    find_bindings,
    given_arguments,
    site_arguments,
)
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.trace import Message, is_factor, unwrap


@dataclass(frozen=True)
class Factor:
    """One site as a factor of log Z.

    `kind` is "family" or "table". `latents` are those it touches (a latent's own factor touches
    itself), `keep` the plates of these latents. `layout` holds (name, size, is column) of each
    batch axis of an observed site, plates by name and `to_event` dimensions as "column i": the
    natural parameters of a family factor vary along its columns and are shared along its rows.
    """

    site: str
    kind: str
    family: Family | None
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
    latent_by_dim = {reading.latent_dim(s.name): s.name for s in reading.latents}
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


def plan_factors(reading: Reading, dynamic: tuple) -> tuple[Factor, ...]:
    """Decide for each observed or latent site whether it is a family factor or a table."""
    shapes: dict[str, Any] = {}

    def extract(messages: dict[str, Message]) -> int:
        for name, m in messages.items():
            if m.kind != "sample":
                continue
            fn = m.fn
            bare = unwrap(fn)
            family = None if is_factor(fn) else family_of(bare.fn)
            batch = None
            if family is not None:
                batch = argument_batch(family, given_arguments(family, bare.fn.get_args()))
            columns = tuple(fn.event_shape[: bare.columns])
            weight = () if m.scale is None else jnp.shape(m.scale)
            shapes[name] = (family, batch, fn, tuple(bare.fn.event_shape), columns, weight)
        return 0

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    jax.eval_shape(lambda p, d: reading.run(p, d, extract), params, dynamic)
    candidates = closed_form_candidates(reading, {n: s[2] for n, s in shapes.items()})
    bindings = find_bindings(reading, dynamic, candidates) if candidates else {}
    parameters = frozenset(reading.space.names)
    latent_names = frozenset(s.name for s in reading.latents)
    vmapped = frozenset(s.name for s in reading.latents if s.vmapped)
    factors = []
    for site in (*reading.latents, *reading.observed):
        depends = reading.dependencies[site.name]
        every = frozenset().union(*depends.values())
        touched = (every & latent_names) | ({site.name} & latent_names)
        latents = tuple(s.name for s in reading.latents if s.name in touched)
        keep = frozenset().union(*(reading.sites[v].plates for v in latents))
        family, batch, _, event, column_sizes, weight = shapes[site.name]
        kind, by_row, varying = "table", True, []
        value_parents = depends.get("value", frozenset())
        if site.role is Role.LATENT:
            reason = "a latent's own distribution over its values"
            by_row = family is None or any(
                k == "plate" and batch[axis] > 1
                for axis, k, _ in _positions(reading, site, len(batch))
            )
        elif family is None:
            reason = f"{site.distribution} is no known exponential family"
        else:
            positions = _positions(reading, site, len(batch))
            varying = [n for axis, k, n in positions if k == "plate" and batch[axis] > 1]
            known = [depends.get(f"argument {k}", frozenset()) for k in family.known]
            blocked = keep & set(varying)
            if set(latents) & vmapped:
                reason = "it is gathered from another plate"
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

    def extract(messages: dict[str, Message]) -> dict[str, jax.Array]:
        found = {}
        for factor in wanted:
            message = messages[factor.site]
            if factor.kind == "family":
                args = site_arguments(messages, frozenset({factor.site}))[factor.site]
                eta = factor.family.natural(args, shifts.get(factor.site))
                positional = tuple(size if column else 1 for _, size, column in factor.layout)
                batch = jnp.broadcast_shapes(eta.shape[:-1], positional)
                found[factor.site] = jnp.broadcast_to(eta, batch + eta.shape[-1:])
            else:
                found[factor.site] = log_table(message, reading.sites[factor.site])
        return found

    values = reading.run(params, dynamic, extract)
    outer = [s for s in reading.latents if s.vmapped]
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
    if site.role is Role.LATENT:
        return bare.fn.log_prob(value)
    value = jnp.asarray(value)
    masks = list(bare.masks)
    if jnp.issubdtype(value.dtype, jnp.floating):
        missing = jnp.isnan(value)
        safe = bare.fn.support.feasible_like(value)
        for _ in bare.fn.event_shape:
            missing = missing.any(-1)
        expand = missing.reshape(missing.shape + (1,) * len(bare.fn.event_shape))
        value = jnp.where(expand, safe, value)
        masks.append(~missing)
    density = bare.fn.log_prob(value)
    if bare.columns:
        columns = tuple(message.fn.event_shape[: bare.columns])
        density = jnp.broadcast_to(density, jnp.broadcast_shapes(density.shape, columns))
    density = _masked(density, tuple(masks))
    return density.sum(tuple(range(-bare.columns, 0))) if bare.columns else density


def _masked(density: jax.Array, masks: tuple) -> jax.Array:
    for mask in masks:
        density = jnp.where(mask, density, 0.0)
    return density


def table_axes(reading: Reading, factor: Factor, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Axis names of a table of this factor; axes of size one are named ""."""
    outer = [s.name for s in reading.latents if s.vmapped and s.name in factor.latents]
    site = reading.sites[factor.site]
    bare = Site(site.name, site.role, "", "", dims=site.dims)
    inner = _positions(reading, bare, len(shape) - len(outer))
    names = list(outer) + [name for _, _, name in inner]
    return tuple("" if size == 1 else name for name, size in zip(names, shape, strict=True))
