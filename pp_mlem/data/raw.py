"""What a run of the program on the data shows: values, masks, weights, supports, indices."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.axes import drop_outer
from pp_mlem.factors.base import Factor
from pp_mlem.factors.gathers import Gathers
from pp_mlem.factors.lay import observed_parts, over_plates
from pp_mlem.program.bindings import iota_parameters, site_arguments
from pp_mlem.program.distributions import is_factor, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role


@dataclass(frozen=True)
class Support:
    """Of an observed site's distribution; `fixed` if no parameter moves it."""

    constraint: Any
    fixed: bool


@dataclass(frozen=True)
class Raw:
    """By site: the observed `value`, `mask`s and `scale` (case weights), the family's data arguments
    (`known`), the `support`, and for each argument the global number of the parameter entry behind
    every entry of it (`index`). `laws` are the observed distributions, shapes only where they depend on
    parameters."""

    value: dict[str, Any]
    mask: dict[str, tuple]
    scale: dict[str, Any]
    known: dict[str, dict[str, Any]]
    support: dict[str, Support]
    index: dict[str, dict[str, Any]]
    laws: dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Argument:
    """Stands for an observed value that is an array argument itself, so that no copy is made."""

    position: int = field(metadata={"static": True})


def read_raw(
    reading: Reading, factors: tuple[Factor, ...], dynamic: tuple, gathers: Gathers
) -> Raw:
    """Run the program on the data, at two settings of the parameters."""
    by_site = {f.site: f for f in factors}
    observed = frozenset(s.name for s in reading.observed)
    names = frozenset(by_site) | observed

    def run(values: dict[str, Any], given: tuple) -> dict[str, Any]:
        def extract(m: Message) -> dict[str, Any]:
            parts = _parts(reading, by_site, observed, m)
            for i, array in enumerate(given):
                if parts.get("value") is array:
                    parts["value"] = Argument(i)
            return parts

        return reading.run(values, given, extract, reading.zeros(), wanted=names, wide=True)

    run = gathers.keep("observed", run)
    params = iota_parameters(reading)
    shown = run(params, dynamic)
    # A support that moves with the parameters cannot be checked against the data.
    shifted = run({k: np.asarray(v) + 0.37 for k, v in params.items()}, dynamic)

    def every(part: str) -> dict[str, Any]:
        return {name: parts[part] for name, parts in shown.items() if part in parts}

    return Raw(
        value={
            name: dynamic[value.position] if isinstance(value, Argument) else value
            for name, value in every("value").items()
        },
        mask=every("mask"),
        scale=every("scale"),
        known=every("known"),
        support={
            name: Support(support, _same(support, shifted[name]["support"]))
            for name, support in every("support").items()
        },
        index=_indices(reading, factors, dynamic, gathers),
        laws=_laws(reading, dynamic, observed),
    )


def _parts(
    reading: Reading, by_site: dict[str, Factor], observed: frozenset[str], m: Message
) -> dict[str, Any]:
    """Mask, weight, value, known arguments and support of a site as the program ran it."""
    parts: dict[str, Any] = {}
    site = reading.sites[m.name]
    if site.role not in (Role.OBSERVED, Role.LATENT, Role.LAW):
        return parts
    bare = unwrap(m.fn)
    if bare.wrapped and not site.hidden and not reading.dependencies[m.name]["mask"]:
        depth = max((-d for d in site.dims.values()), default=0)
        parts["mask"] = tuple(
            m.placed(over_plates(mask, depth + bare.columns), bare.columns) for mask in bare.masks
        )
    if m.scale is not None:
        parts["scale"] = m.placed(m.scale)
    if m.name not in observed or is_factor(m.fn):
        return parts
    parts |= observed_parts(m, by_site[m.name])
    parts["support"] = (
        jax.tree.map(lambda a: m.placed(a, bare.columns), bare.fn.support)
        if m.in_scan
        else bare.fn.support
    )
    return parts


def _indices(
    reading: Reading, factors: tuple[Factor, ...], dynamic: tuple, gathers: Gathers
) -> dict[str, dict[str, jax.Array]]:
    """Global parameter numbers behind the arguments that are bound directly. Gathered latents are at one
    value, but where a site is affine: there their axes lead."""
    probed = frozenset(
        f.site for f in factors if any(b.kind == "direct" for b in f.bindings.values())
    )
    if not probed:
        return {}

    outer = {f.site: f for f in factors if f.kind == "affine" and reading.one_at_a_time(f.latents)}
    outer = {name: f for name, f in outer.items() if name in probed}

    def indices(values: dict[str, Any], given: tuple) -> dict[str, Any]:
        rest = probed - outer.keys()
        found = reading.run(values, given, site_arguments, reading.zeros(), wanted=rest)
        if outer:
            wide = reading.run(values, given, site_arguments, wanted=frozenset(outer))
            for name, factor in outer.items():
                drop = partial(drop_outer, reading, factor.latents)
                found[name] = {a: drop(v) for a, v in wide[name].items()}
        return found

    numbered = gathers.keep("indices", indices)(iota_parameters(reading), dynamic)
    direct = {f.site: {a for a, b in f.bindings.items() if b.kind == "direct"} for f in factors}
    return {
        name: {
            a: jnp.asarray(np.rint(np.asarray(v)).astype(np.int32))
            for a, v in arguments.items()
            if a in direct[name]
        }
        for name, arguments in numbered.items()
    }


def _laws(reading: Reading, dynamic: tuple, observed: frozenset[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}

    def extract(message: Message) -> int:
        kept[message.name] = message.fn
        return 0

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    jax.eval_shape(lambda p, d: reading.run(p, d, extract, wanted=observed), params, dynamic)
    return kept


def _same(a: Any, b: Any) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
