"""Reads a program: its sites and roles, how each latent is enumerated, what depends on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.ops.provenance import eval_provenance

from pp_mlem.precision import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.roles import assign_roles
from pp_mlem.program.sites import Plate, Role, Site
from pp_mlem.program.space import ParameterSpace
from pp_mlem.program.trace import (
    Message,
    Refused,
    enumerated_support,
    is_discrete,
    is_factor,
    neutral_value,
    run_program,
    unwrap,
)

_CONCRETE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
THIN_ROWS = 2000
TABLE_LIMIT = 2**28


@dataclass(frozen=True)
class Reading:
    """A program together with the roles of its sites; independent of the values of the data.

    `depth` is the number of plate dimensions; latent i is enumerated in dimension
    -(depth + 1 + i). `dependencies[site][part]` holds the unobserved sites on which a
    distribution argument (or "value", "mask", "scale", "all") of the site depends; `values` are
    the values of each latent.
    """

    arguments: Arguments
    sites: dict[str, Site]
    plates: dict[str, Plate]
    depth: int
    dependencies: dict[str, dict[str, frozenset[str]]]
    values: dict[str, np.ndarray]

    def with_role(self, role: Role) -> tuple[Site, ...]:
        return tuple(s for s in self.sites.values() if s.role is role)

    @property
    def latents(self) -> tuple[Site, ...]:
        return self.with_role(Role.LATENT)

    @property
    def observed(self) -> tuple[Site, ...]:
        return self.with_role(Role.OBSERVED)

    @property
    def space(self) -> ParameterSpace:
        return ParameterSpace(self.with_role(Role.PARAMETER))

    def latent_dim(self, name: str) -> int:
        order = [s.name for s in self.latents]
        return -(self.depth + 1 + order.index(name))

    def plate_shape(self, dims: dict[str, int]) -> tuple[int, ...]:
        """The batch shape that the given plates span, size one elsewhere."""
        shape = [1] * max((-d for d in dims.values()), default=0)
        for plate, dim in dims.items():
            shape[dim] = self.plates[plate].size
        return tuple(shape)

    def run(
        self,
        params: dict[str, Any],
        dynamic: tuple[Any, ...],
        extract: Callable[[dict[str, Message]], Any],
        latents: dict[str, Any] | None = None,
    ) -> Any:
        """Run the program with every latent at all its values; return `extract(messages)`.

        `latents` gives values by name instead of enumerating them. Latents that are gathered
        across plates are enumerated by vmap: their axis then leads the extracted arrays, the
        first such latent outermost.
        """
        given = latents or {}
        outer = [s for s in self.latents if s.vmapped and s.name not in given]

        def inner(codes: tuple[Any, ...]) -> Any:
            coded = dict(zip([s.name for s in outer], codes, strict=True))

            def supply(msg: dict[str, Any]) -> Any:
                name = msg["name"]
                if name in params:
                    return jnp.asarray(params[name])
                if name in given:
                    return jnp.asarray(given[name])  # a program may index it by a tracer
                site = self.sites[name]
                if site.role is Role.LATENT:
                    support = enumerated_support(name, msg["fn"])
                    if name in coded:
                        return jnp.full(msg["fn"].batch_shape, support[coded[name]])
                    return support.reshape((-1,) + (1,) * (-self.latent_dim(name) - 1))
                return neutral_value(msg, 0)

            messages = run_program(
                lambda p: self.arguments.call(p, dynamic), self.arguments.program, supply
            )
            return extract(messages)

        function = inner
        for i in reversed(range(len(outer))):
            function = _vmap_position(function, i, len(outer))
        return function(tuple(jnp.arange(s.size) for s in outer))


def _vmap_position(function: Callable, i: int, n: int) -> Callable:
    axes = tuple(0 if j == i else None for j in range(n))
    return jax.vmap(function, in_axes=(axes,))


def _neutral_run(arguments: Arguments, dynamic: tuple[Any, ...]) -> dict[str, Message]:
    counter = iter(range(10_000))

    def supply(msg: dict[str, Any]) -> Any:
        return neutral_value(msg, next(counter))

    return run_program(lambda p: arguments.call(p, dynamic), arguments.program, supply)


def thin(arguments: Arguments) -> tuple[np.ndarray, ...]:
    """The data, with long arrays cut to their first rows: enough to read a structure from."""
    longest = max((a.shape[0] for a in arguments.dynamic if a.ndim), default=0)
    if not arguments.traced or longest <= 2 * THIN_ROWS:
        return arguments.dynamic
    return tuple(
        a[:THIN_ROWS] if a.ndim and a.shape[0] == longest else a for a in arguments.dynamic
    )


@dataclass(frozen=True)
class FirstRun:
    """The program's messages (shapes only, unless its data are constants) and its supports.

    `enumerated` holds the values of each discrete unobserved site, `refusals` why there are none;
    `supports` the constraint of each continuous unobserved site.
    """

    arguments: Arguments
    messages: dict[str, Message]
    enumerated: dict[str, np.ndarray]
    refusals: dict[str, str]
    supports: dict[str, Any]
    finite: dict[str, Any]


def first_run(arguments: Arguments) -> FirstRun:
    """Execute the program once; find whether its data can be traced."""
    kept: dict[str, Message] = {}
    refusals: dict[str, str] = {}

    def run(dynamic: tuple) -> tuple[dict, dict, dict]:
        messages = _neutral_run(arguments, dynamic)
        kept.clear()
        kept.update(messages)
        refusals.clear()
        enumerated, supports, finite = {}, {}, {}
        for name, m in messages.items():
            if m.observed:
                continue
            if m.kind == "param":
                finite[name] = jnp.isfinite(m.value).all()
            elif is_discrete(m.fn):
                try:
                    enumerated[name] = enumerated_support(name, m.fn)
                except ValueError as error:
                    refusals[name] = str(error)
            else:
                supports[name] = m.fn.support
                finite[name] = jnp.isfinite(m.value).all()
        return enumerated, supports, finite

    dynamic = tuple(jnp.asarray(a) for a in arguments.dynamic)
    try:
        found = quick_jit(run)(dynamic)
    except (NotImplementedError, Refused):
        raise
    except _CONCRETE_ERRORS:
        arguments = replace(arguments, traced=False)
        try:
            found = run(())
        except Exception as error:
            raise _program_error(error) from error
    except Exception as error:
        raise _program_error(error) from error
    enumerated, supports, finite = jax.device_get(found)
    return FirstRun(arguments, dict(kept), enumerated, dict(refusals), supports, finite)


def _program_error(error: Exception) -> Exception:
    text = str(error).split("\n")[0]
    return ValueError(
        f"the program could not be executed: {type(error).__name__}: {text}. Run it under "
        "numpyro.handlers.seed with the same arguments to see the full traceback; check that the "
        "shapes of the arguments fit its plates."
    )


def _batch_dims(message: Message) -> tuple[int, ...]:
    """Batch shape of a site, the observed value's own batch dimensions included."""
    shape = tuple(message.fn.batch_shape)
    if message.observed and not is_factor(message.fn):
        value = jnp.shape(message.value)
        batch = value[: len(value) - len(message.fn.event_shape)]
        try:
            return tuple(jnp.broadcast_shapes(shape, batch))
        except ValueError:
            raise ValueError(
                f"observed site '{message.name}': its data have shape {value}, its distribution "
                f"has batch shape {shape} and event shape {tuple(message.fn.event_shape)}. Check "
                "the plate sizes against the shape of the data."
            ) from None
    return shape


def _dims_of(message: Message, plates: dict[str, Plate], implicit: bool) -> dict[str, int]:
    dims = {name: dim for name, dim, _ in message.plates}
    for name, _, size in message.plates:
        known = plates.get(name)
        if known is not None and known.size != size:
            raise ValueError(
                f"plate '{name}' has size {size} at site '{message.name}' and {known.size} "
                "elsewhere. Use one size per plate name (subsampling is not supported)."
            )
        plates[name] = Plate(name, size)
    if implicit:
        taken = set(dims.values())
        batch = _batch_dims(message)
        for i, size in enumerate(reversed(batch)):
            if -(i + 1) not in taken and size > 1:
                name = f"dim {-(i + 1)} of {size}"
                plates[name] = Plate(name, size, implicit=True)
                dims[name] = -(i + 1)
        for name, dim in dims.items():
            size = batch[dim] if len(batch) >= -dim else 1
            if size not in (1, plates[name].size):
                raise ValueError(
                    f"site '{message.name}': batch size {size} in dimension {dim} does not fit "
                    f"plate '{name}' of size {plates[name].size}."
                )
    return dims


def site_parts(message: Message) -> dict[str, Any]:
    """The arrays that define a site: the distribution's arguments, value, masks and scale."""
    bare = unwrap(message.fn)
    parts = {f"argument {k}": v for k, v in bare.fn.get_args().items() if v is not None}
    parts["mask"] = bare.masks
    parts["scale"] = 0.0 if message.scale is None else message.scale
    parts["all"] = jax.tree.leaves(bare.fn)
    if message.observed:
        parts["value"] = message.value
        if not is_factor(message.fn):
            parts["log_prob"] = bare.fn.log_prob(message.value)
    return parts


_DATA = "the data"


def _dependencies(
    arguments: Arguments, messages: dict[str, Message], dynamic: tuple
) -> dict[str, dict[str, frozenset[str]]]:
    values = {
        n: jnp.zeros(jnp.shape(m.value), m.value.dtype)
        for n, m in messages.items()
        if not m.observed
    }

    def parts(**given: Any) -> dict[str, dict[str, Any]]:
        found = run_program(
            lambda p: arguments.call(p, given[_DATA]),
            arguments.program,
            lambda msg: given[msg["name"]],
        )
        return {n: site_parts(m) for n, m in found.items() if m.kind == "sample"}

    flat = eval_provenance(parts, **values, **{_DATA: dynamic})

    def union(tree: Any) -> frozenset[str]:
        leaves = jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, frozenset))
        return frozenset().union(*leaves) - {_DATA}

    return {n: {part: union(tree) for part, tree in found.items()} for n, found in flat.items()}


def read_program(
    arguments: Arguments, latents: frozenset[str], parameters: frozenset[str]
) -> tuple[Reading, tuple]:
    """Read the sites, roles and plates of a program; also return the (thinned) data used."""
    first = first_run(arguments)
    arguments, messages = first.arguments, first.messages
    dynamic = tuple(jnp.asarray(a) for a in thin(arguments)) if arguments.traced else ()
    try:
        dependencies = _dependencies(arguments, messages, arguments.dynamic)
    except _CONCRETE_ERRORS as error:
        names = [n for n, m in messages.items() if not m.observed]
        raise control_flow_error(names, error) from None
    parents = {}
    for name in messages:
        parts = dependencies.get(name, {})
        found = frozenset().union(*(d for p, d in parts.items() if p != "value"), frozenset())
        parents[name] = (found | parts.get("value", frozenset())) - {name}
    roles = assign_roles(messages, parents, latents, parameters, first.refusals)
    plates: dict[str, Plate] = {}
    sites: dict[str, Site] = {}
    for name, message in messages.items():
        role, reason = roles[name]
        if message.kind == "param":
            sites[name] = Site(
                name,
                role,
                reason,
                "param",
                prior=False,
                support=message.constraint,
                shape=jnp.shape(message.value),
            )
            continue
        bare = unwrap(message.fn)
        dims = _dims_of(message, plates, implicit=role in (Role.OBSERVED, Role.LATENT))
        size = len(first.enumerated[name]) if role is Role.LATENT else 0
        sites[name] = Site(
            name,
            role,
            reason,
            type(bare.fn).__name__,
            dims=dims,
            parents=parents[name],
            columns=bare.columns,
            event_shape=tuple(bare.fn.event_shape),
            size=size,
            support=first.supports[name] if role is Role.PARAMETER else None,
            shape=tuple(jnp.shape(message.value)) if role is Role.PARAMETER else (),
        )
    _check_parameters(sites, first)
    depth = max(
        (
            -d
            for s in sites.values()
            if s.role in (Role.OBSERVED, Role.LATENT)
            for d in s.dims.values()
        ),
        default=0,
    )
    values = {n: first.enumerated[n] for n, s in sites.items() if s.role is Role.LATENT}
    reading = Reading(arguments, sites, plates, depth, dependencies, values)
    _check_sizes(reading)
    return _mark_gathered(reading), dynamic


def _check_parameters(sites: dict[str, Site], first: FirstRun) -> None:
    for site in sites.values():
        if site.role is Role.PARAMETER and not np.all(first.finite[site.name]):
            raise ValueError(
                f"parameter '{site.name}': its support or initial value is not finite. Check the "
                "arguments of its prior for NaN and infinities."
            )


def _check_sizes(reading: Reading) -> None:
    """Refuse a site whose table over its latents could not be held, before running it."""
    names = {s.name for s in reading.latents}
    for site in (*reading.latents, *reading.observed):
        touched = sorted((site.parents | {site.name}) & names)
        entries = float(np.prod([float(reading.sites[v].size) for v in touched] or [1.0]))
        entries *= float(np.prod([float(reading.plates[p].size) for p in site.plates] or [1.0]))
        if len(touched) > 1 and entries > TABLE_LIMIT:
            sizes = " x ".join(f"{v}: {reading.sites[v].size}" for v in touched)
            raise ValueError(
                f"site '{site.name}': summing its latents needs a table of {entries:.3g} entries "
                f"({sizes}, times its plates), more than {TABLE_LIMIT:.3g}. Use fewer values, or "
                "fewer latents that meet in one site."
            )


def control_flow_error(names: list[str], error: Exception) -> ValueError:
    """For a program that branches in Python on the value of an unobserved site."""
    return ValueError(
        "the program uses the value of an unobserved site in Python control flow or as a Python "
        f"number (unobserved: {', '.join(names)}): {str(error).splitlines()[0]} Replace `if z:` by "
        "jnp.where(z, a, b), and int(z) by indexing with z."
    )


def _mark_gathered(reading: Reading) -> Reading:
    """Latents that reach a site outside their plates (`g[group]`) are enumerated by vmap."""
    sites = dict(reading.sites)
    for latent in reading.latents:
        children = [
            s
            for s in sites.values()
            if latent.name in s.parents and s.role in (Role.OBSERVED, Role.LATENT)
        ]
        if any(not latent.plates <= child.plates for child in children):
            sites[latent.name] = replace(latent, vmapped=True)
    return replace(reading, sites=sites)
