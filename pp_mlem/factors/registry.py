"""The kinds of factors, asked in order: a new one is a file of its own and a line here, or a call of
`register`; and how the factors of a program are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from pp_mlem.base.no import No
from pp_mlem.factors.affine import AffineFactor, basis
from pp_mlem.factors.axes import drop_outer, positions
from pp_mlem.factors.base import Factor, Probe
from pp_mlem.factors.carried import carried_factors
from pp_mlem.factors.family import FamilyFactor
from pp_mlem.factors.flat import FlatFactor
from pp_mlem.factors.summed import Summed
from pp_mlem.factors.table import TableFactor
from pp_mlem.families import Family, family_of
from pp_mlem.program.bindings import Binding, closed_form_candidates, find_bindings, given_arguments
from pp_mlem.program.distributions import is_factor, unwrap
from pp_mlem.program.errors import SiteValueError
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site

KINDS: list[type[Factor]] = [FlatFactor, AffineFactor, FamilyFactor, TableFactor]


def register(kind: type[Factor]) -> None:
    """Add a kind of factor, asked before those that are there."""
    KINDS.insert(0, kind)


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
    """Every observed site and every law of a latent as a factor of the first kind that takes it."""
    return (*(_first(probe) for probe in _probes(reading, dynamic)), *carried_factors(reading))


def _first(probe: Probe) -> Factor:
    declined = ""
    for kind in KINDS:
        factor = kind.read(probe)
        if isinstance(factor, Factor):  # the last one tells why those before declined, if they say
            return factor if not declined else replace(factor, reason=declined)
        declined = factor.reason or declined
    raise ValueError(f"site '{probe.site.name}' cannot be a factor of log Z: {declined}.")


def _probes(reading: Reading, dynamic: tuple) -> list[Probe]:
    static: dict[str, Any] = {}

    def extract(m: Message) -> dict[str, Any]:
        if m.kind != "sample":
            return {}
        bare = unwrap(m.fn)
        family = None if is_factor(m.fn) else family_of(bare.fn)
        columns = tuple(m.fn.event_shape[: bare.columns])
        static[m.name] = (family, m.fn, tuple(bare.fn.event_shape), columns)
        shapes = {"weight": m.placed(jnp.ones(() if m.scale is None else jnp.shape(m.scale)))}
        if family is not None:
            batch = argument_batch(family, given_arguments(family, bare.fn.get_args()))
            shapes["batch"] = m.placed(jnp.ones(batch), bare.columns)
        return shapes

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    reals = {s.name: np.zeros(reading.probe_shape(s)) for s in reading.coordinates}
    shapes = jax.eval_shape(lambda p, d: reading.run(p, d, extract, reals), params, dynamic)
    candidates = closed_form_candidates(reading, {n: s[1] for n, s in static.items()})
    bindings = find_bindings(reading, dynamic, candidates) if candidates else {}
    for name, found in bindings.items():
        _check_supports(reading, reading.sites[name], static[name][0], found)
    return [
        _probe(reading, site, static[site.name], shapes[site.name], bindings.get(site.name, {}))
        for site in (*reading.laws, *reading.observed)
    ]


def _probe(
    reading: Reading,
    site: Site,
    static: tuple,
    shapes: dict[str, Any],
    bindings: dict[str, Binding],
) -> Probe:
    family, fn, event, columns = static
    depends = reading.dependencies[site.name]
    touched = frozenset().union(*depends.values()) | {site.law_of}
    latents = tuple(s.name for s in (*reading.slots, *reading.coordinates) if s.name in touched)
    keep = frozenset().union(*(reading.sites[v].plates for v in latents))
    if any(reading.sites[v].scan for v in latents):
        keep |= {p for p, d in site.dims.items() if d == -reading.depth}
    batch = tuple(shapes["batch"].shape) if family is not None else ()
    varying = tuple(
        n
        for axis, kind, n in positions(reading, site, len(batch))
        if kind == "plate" and batch[axis] > 1
    )
    candidates = closed_form_candidates(reading, {site.name: fn})
    return Probe(
        reading=reading,
        site=site,
        family=family,
        batch=batch,
        weight=tuple(shapes["weight"].shape),
        depends=depends,
        varying=varying,
        latents=latents,
        keep=keep,
        columns=columns,
        event_size=int(np.prod(event)) if event else 1,
        bound=site.name in candidates,
        bindings=bindings,
    )


@dataclass(frozen=True)
class Given:
    """What natural parameters need of the data: the `dynamic` arguments of the program, reference points
    (`shifts`), the sites whose vectors are missing in part (`partly`), which a table has to know, and those
    that are `summed` over their rows, whose natural parameters have none."""

    dynamic: tuple
    shifts: Mapping[str, Any]
    partly: frozenset[str]
    summed: Mapping[str, Summed]


def natural_parameters(
    reading: Reading,
    factors: tuple[Factor, ...],
    params: dict[str, Any],
    given: Given,
    sites: frozenset[str] | None = None,
) -> dict[str, jax.Array]:
    """Natural parameters of every factor (of the named sites) at `params`; see `Factor.natural`."""
    dynamic, shifts, summed = given.dynamic, given.shifts, given.summed
    wanted = [f for f in factors if sites is None or f.site in sites]
    wanted = [
        replace(f, partly=True) if isinstance(f, TableFactor) and f.site in given.partly else f
        for f in wanted
    ]
    by_name = {f.site: f for f in wanted}

    def extract(message: Message) -> Any:
        factor = by_name[message.name]
        return factor.natural(reading, message, shifts.get(factor.site))

    wide = frozenset(
        f.site for f in wanted if f.by_step and reading.sites[f.site].role is Role.OBSERVED
    )
    affine = [f for f in wanted if f.by_points]
    others = frozenset(by_name) - {f.site for f in affine}
    values = {}
    if others or not affine:
        values = reading.run(params, dynamic, extract, wanted=others, wide=wide)
    if affine:
        sites = frozenset(f.site for f in affine)

        def at(reals: dict[str, Any]) -> dict[str, Any]:
            return reading.run(params, dynamic, extract, reals, wanted=sites)

        probed = jax.vmap(at)(basis(reading, shifts))
        values |= {f.site: f.canonical(reading, probed[f.site], summed.get(f.site)) for f in affine}
    for factor in wanted:
        if not isinstance(factor, AffineFactor):  # whose axes are its own already
            values[factor.site] = drop_outer(reading, factor.latents, values[factor.site])
    return values


__all__ = ["KINDS", "No", "natural_parameters", "plan_factors", "register"]
