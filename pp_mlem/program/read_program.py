"""Reads a program: its sites and roles, how each latent is enumerated, what depends on what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.depend import (
    Dependencies,
    Varies,
    earlier_states,
    read_dependencies,
    refuse_recurrent,
)
from pp_mlem.program.distributions import is_discrete, unwrap
from pp_mlem.program.errors import NEEDS_VALUES, Refused, control_flow_error
from pp_mlem.program.failures import used_in_python
from pp_mlem.program.first_run import FirstRun, first_run
from pp_mlem.program.messages import Message
from pp_mlem.program.plates import dims_of
from pp_mlem.program.reading import TABLE_LIMIT, Reading
from pp_mlem.program.roles import assign_roles
from pp_mlem.program.rows import thin
from pp_mlem.program.scans.coupled import refuse_coupled
from pp_mlem.program.scans.scan import Scan
from pp_mlem.program.scans.sites import carried_of, sites_of_carry, sites_of_scan
from pp_mlem.program.sites import Plate, Role, Site
from pp_mlem.program.standardised import standardised

Roles = dict[str, tuple[Role, str]]  # the role of each site, and its reason


def read_program(
    arguments: Arguments, latents: frozenset[str], parameters: frozenset[str]
) -> tuple[Reading, tuple]:
    """Read the sites, roles and plates of a program; also return the (thinned) data used."""
    first = first_run(arguments)
    scans = {
        n: s.with_latents(frozenset(s.continuous) - parameters) for n, s in first.scans.items()
    }
    first = replace(first, scans=scans)
    arguments = first.arguments
    dynamic = tuple(jax.device_put(a) for a in thin(arguments)) if arguments.traced else ()
    try:
        dependencies, scans = read_dependencies(arguments, first.messages, first.scans)
    except NEEDS_VALUES as error:
        raise control_flow_error(used_in_python(arguments), error) from None
    first = replace(first, scans=scans)
    parents = _parents(first, dependencies)
    refuse_recurrent(scans, parameters)
    movers = frozenset().union(*(s.movers for s in scans.values()))
    own = standardised(first, dependencies, parents, dynamic)
    roles = assign_roles(
        _over_steps(first), parents, latents, parameters, first.refusals, movers, own
    )
    plates, dims = _plates(first.messages, roles)
    depth = _depth(roles, dims) + bool(scans)
    _add_steps(plates, scans)
    sites: dict[str, Site] = {}
    for name, message in first.messages.items():
        if message.kind == "param":
            sites[name] = _param(message, *roles[name])
            continue
        site = _site(message, roles, first, dims[name], parents[name])
        scan = scan_of(scans, name)
        sites |= {name: site} if scan is None else sites_of_scan(site, scan, depth, dependencies)
    scans = _with_carries(scans, sites, plates, depth, dependencies)
    _check_parameters(sites, first, dependencies)
    values = {
        n: _two_values(s) if s.real else first.enumerated[n]
        for n, s in sites.items()
        if s.role in (Role.LATENT, Role.CARRIED)
    }
    sized = first.sized & set(values)
    reading = Reading(arguments, sites, plates, depth, dependencies.parts, values, scans, sized)
    reading = _mark_steady(reading, dependencies)
    _check_sizes(reading)
    return _mark_gathered(reading), dynamic


def _with_carries(
    scans: dict[str, Scan],
    sites: dict[str, Site],
    plates: dict[str, Plate],
    depth: int,
    dependencies: Dependencies,
) -> dict[str, Scan]:
    """The scans with how their carries hold real latents, of which there are sites as well."""
    sizes, found = {n: p.size for n, p in plates.items()}, dict(scans)
    for name, scan in scans.items():
        if not scan.movers:
            continue
        refuse_coupled(scan, sites, plates)
        inner = {n: {p: d for p, d in sites[n].dims.items() if p != scan.time} for n in scan.movers}
        carried = carried_of(scan, inner, sizes)
        sites |= sites_of_carry(scan, carried, depth, dependencies)
        found[name] = replace(scan, reals=carried)
    return found


def _two_values(site: Site) -> np.ndarray:
    """Zero and another value of a real latent, by which it is found what reads it."""
    return np.stack(
        [np.zeros(site.event_shape), 1.0 + np.arange(site.size).reshape(site.event_shape)]
    )


def scan_of(scans: dict[str, Scan], site: str) -> Scan | None:
    """The scan in whose body a site stands, if any."""
    return next((scan for scan in scans.values() if site in scan.sites), None)


def _parents(first: FirstRun, dependencies: Dependencies) -> dict[str, frozenset[str]]:
    """The unobserved sites that each site depends on, whatever the step."""
    earlier = set(earlier_states(first.scans))
    carries = {s.carry: s.movers | _behind(s, dependencies) for s in first.scans.values()}
    parents = {}
    for name in first.messages:
        scan = scan_of(first.scans, name)
        factors = (name,) if scan is None else scan.names(name)
        every = frozenset().union(*(dependencies.parents(factor, name) for factor in factors))
        moved = frozenset().union(*(m for carry, m in carries.items() if carry in every))
        parents[name] = (every | moved) - earlier - carries.keys() - {name}
    return parents


def _behind(scan: Scan, dependencies: Dependencies) -> frozenset[str]:
    """What a scan computes its carry of real latents from, at the first step and later."""
    names = (dependencies.parents(n, n) for n in (scan.first_carry, scan.carry))
    return frozenset().union(*names) - {scan.carry}


def _over_steps(first: FirstRun) -> dict[str, Message]:
    """The sites, those of a scan with a plate of its steps."""
    messages = {}
    for name, message in first.messages.items():
        scan = scan_of(first.scans, name)
        steps = () if scan is None else ((scan.time, 0, scan.length),)
        messages[name] = replace(message, plates=(*steps, *message.plates))
    return messages


def _plates(
    messages: dict[str, Message], roles: Roles
) -> tuple[dict[str, Plate], dict[str, dict[str, int]]]:
    """The plates, and the dimension of each at every sample site."""
    plates: dict[str, Plate] = {}
    dims = {
        name: dims_of(message, plates, implicit=_counts(roles[name][0]))
        for name, message in messages.items()
        if message.kind != "param"
    }
    return plates, dims


def _counts(role: Role) -> bool:
    """Whether the density of a site is part of the marginal likelihood."""
    return role in (Role.OBSERVED, Role.LATENT)


def _depth(roles: Roles, dims: dict[str, dict[str, int]]) -> int:
    """The number of plate dimensions of what counts."""
    counted = [d for name, own in dims.items() if _counts(roles[name][0]) for d in own.values()]
    return max((-d for d in counted), default=0)


def _add_steps(plates: dict[str, Plate], scans: dict[str, Scan]) -> None:
    """The plates of the steps of each scan."""
    for scan in scans.values():
        rest = max(scan.length - scan.start, 0)
        for name, size in ((scan.time, scan.length), (scan.rest, rest)):
            if name in plates:
                raise Refused(f"plate '{name}' has the name of the scan's steps; rename it.")
            plates[name] = Plate(name, size)


def _param(message: Message, role: Role, reason: str) -> Site:
    """The site of a numpyro.param."""
    return Site(
        message.name,
        role,
        reason,
        "param",
        prior=False,
        support=message.constraint,
        shape=jnp.shape(message.value),
    )


def _site(
    message: Message,
    roles: Roles,
    first: FirstRun,
    dims: dict[str, int],
    parents: frozenset[str],
) -> Site:
    name, bare = message.name, unwrap(message.fn)
    role, reason = roles[name]
    latent, parameter = role is Role.LATENT, role is Role.PARAMETER
    real = latent and not is_discrete(message.fn)
    event = tuple(message.fn.event_shape if real else bare.fn.event_shape)
    return Site(
        name,
        role,
        reason,
        type(bare.fn).__name__,
        dims=dims,
        parents=parents,
        columns=bare.columns,
        event_shape=event,
        size=int(np.prod(event)) if real else len(first.enumerated[name]) if latent else 0,
        real=real,
        support=first.supports[name] if parameter else None,
        shape=_shape_of(message, scan_of(first.scans, name)) if parameter else (),
        law_of=name if latent else "",
        hidden=latent and bare.hidden,
    )


def _shape_of(message: Message, scan: Scan | None) -> tuple[int, ...]:
    """A parameter's shape; one that is sampled in a scan has a value for every step."""
    own = tuple(jnp.shape(message.value))
    return own if scan is None else (scan.length, *own)


def _mark_steady(reading: Reading, dependencies: Dependencies) -> Reading:
    """Sites whose arguments are computed from the step's number, but are the same at every step
    (as in jnp.where(t == 0, initial, transition[z]), after the first step), do not vary."""
    counted = frozenset(n for n, how in dependencies.timed.items() if how is Varies.COUNT)
    if not counted:
        return reading
    space = reading.space
    rng = np.random.default_rng(5)

    def extract(message: Message) -> Any:
        if message.fn is None:  # what a scan carries
            return message.placed(message.value, jnp.ndim(message.value))
        return {
            k: message.placed(v, jnp.ndim(v)) for k, v in unwrap(message.fn).fn.get_args().items()
            if v is not None and jnp.issubdtype(jnp.result_type(v), jnp.number)
        }  # fmt: skip

    def spread(vector: Any, reals: dict[str, Any], dynamic: tuple) -> dict[str, Any]:
        given = {**reading.zeros(), **reals}
        arguments = reading.run(space.constrain(vector), dynamic, extract, given, wanted=counted)
        return {
            n: jnp.asarray([jnp.any(a != a[:1]) for a in jax.tree.leaves(tree)]).any()
            for n, tree in arguments.items()
        }

    dynamic = tuple(jax.device_put(a) for a in reading.arguments.dynamic)
    function = quick_jit(spread) if reading.arguments.traced else spread
    varies: dict[str, bool] = dict.fromkeys(counted, False)
    for _ in range(2):
        reals = {  # the same in all units and steps
            s.name: np.broadcast_to(rng.normal(size=s.event_shape), reading.real_shape(s))
            for s in reading.coordinates
        }
        for n, v in function(rng.uniform(-1, 1, space.size), reals, dynamic).items():
            varies[n] = varies[n] or bool(v)
    sites = {
        n: replace(s, timed=False) if n in varies and not varies[n] else s
        for n, s in reading.sites.items()
    }
    return replace(reading, sites=sites)


def _check_parameters(sites: dict[str, Site], first: FirstRun, dependencies: Dependencies) -> None:
    for site in sites.values():
        own = dependencies.parts.get(site.name, {})
        above = own.get("support", frozenset()) - {site.name}
        if site.role is Role.PARAMETER and above:
            names = ", ".join(f"'{n}'" for n in sorted(above))
            raise ValueError(
                f"parameter '{site.name}': its support depends on {names}, so that its "
                "unconstrained coordinates would mean something else at every value. Give it a "
                "support of its own and compute the rest: for Uniform(0, high), "
                f"'{site.name}' = high * u with u ~ Uniform(0, 1)."
            )
        if site.role is Role.PARAMETER and not np.all(first.finite[site.name]):
            raise ValueError(
                f"parameter '{site.name}': its support or initial value is not finite. Check the "
                "arguments of its prior for NaN and infinities."
            )


def _check_sizes(reading: Reading) -> None:
    """Refuse a site whose table over its latents could not be held, before running it."""
    names = {s.name for s in reading.slots}
    for site in (*reading.laws, *reading.observed):
        touched = sorted((site.parents | {site.law_of}) & names)
        entries = float(np.prod([float(reading.sites[v].size) for v in touched] or [1.0]))
        still = set() if site.timed or not site.scan else {p for p, d in site.dims.items()
                                                           if d == -reading.depth}  # fmt: skip
        rows = [float(reading.plates[p].size) for p in site.plates - still]
        entries *= float(np.prod(rows or [1.0]))
        if len(touched) > 1 and entries > TABLE_LIMIT:
            sizes = " x ".join(f"{v}: {reading.sites[v].size}" for v in touched)
            raise ValueError(
                f"site '{site.name}': summing its latents needs a table of {entries:.3g} entries "
                f"({sizes}, times its plates), more than {TABLE_LIMIT:.3g}. Use fewer values, or "
                "fewer latents that meet in one site."
            )


def _mark_gathered(reading: Reading) -> Reading:
    """Latents that reach a site outside their plates (`g[group]`) are enumerated by vmap."""
    sites = dict(reading.sites)
    for latent in (*reading.latents, *reading.reals):
        children = [
            s
            for s in sites.values()
            if latent.name in s.parents
            and s.role in (Role.OBSERVED, Role.LATENT, Role.LAW)
            and not latent.scan
        ]
        if any(not latent.plates <= child.plates for child in children):
            sites[latent.name] = replace(latent, vmapped=not latent.real, gathered=True)
    return replace(reading, sites=sites)
