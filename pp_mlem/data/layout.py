"""The data of each factor, checked on the host and laid out with rows last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.designs import Designs
from pp_mlem.data.observations import at_edge, refuse_impossible, refuse_no_data
from pp_mlem.data.predictors import find_designs
from pp_mlem.factors.factor import Factor
from pp_mlem.factors.gathers import Gathers
from pp_mlem.families import Family
from pp_mlem.program.bindings import iota_parameters, site_arguments
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.space import describe
from pp_mlem.program.trace import Message, is_factor, unwrap


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SiteData:
    """Data of one observed site. `value` is (*event, *columns, rows); `mask` (*columns, rows).

    `known` are data arguments in the layout of the batch; `shift` the reference point in the
    layout of the arguments, `shift_rows` the same as (*event, *columns, 1). `base` is log h
    (rows), summed over columns.
    """

    value: Any
    mask: Any
    known: dict[str, Any]
    shift: Any
    shift_rows: Any
    base: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProgramData:
    """All that a fit needs of the data, in one pytree.

    `weights[site]` are case weights (broadcast over the site's plates, right-aligned); `clamps`
    log-indicators (*plates, values) of latents that are observed; `index[site][argument]` the
    global parameter index of each entry of a directly bound argument; `maps[child, parent]` says
    to which unit of plate `parent` each unit of `child` belongs, where a latent is gathered;
    `valid[state]` (steps, *plates) where a masked sequence still runs; `designs[site]` the linear
    predictor of a site that varies by row, or why it has none.
    """

    dynamic: tuple
    sites: dict[str, SiteData]
    weights: dict[str, Any]
    clamps: dict[str, Any]
    index: dict[str, dict[str, Any]]
    maps: dict[tuple[str, str], Any]
    valid: dict[str, Any]
    designs: Designs = field(default_factory=dict)

    @property
    def shifts(self) -> dict[str, Any]:
        return {name: d.shift for name, d in self.sites.items()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Argument:
    """Stands for an observed value that is an array argument itself, so that no copy is made."""

    position: int = field(metadata={"static": True})


def to_layout(factor: Factor, value: np.ndarray, event_dim: int) -> np.ndarray:
    """(*plates, *columns, *event) to (*event, *columns, rows)."""
    batch = tuple(size for _, size, _ in factor.layout)
    shape = batch + (value.shape[value.ndim - event_dim :] if event_dim else ())
    xp = jnp if isinstance(value, jax.Array) else np
    value = xp.broadcast_to(value, shape)
    n = len(batch)
    columns = [i for i, (_, _, column) in enumerate(factor.layout) if column]
    rows = [i for i, (_, _, column) in enumerate(factor.layout) if not column]
    moved = xp.transpose(value, [*range(n, n + event_dim), *columns, *rows])
    return moved.reshape(moved.shape[: event_dim + len(columns)] + (-1,))


def _positional_shift(factor: Factor, shift: jax.Array, event_dim: int) -> jax.Array:
    """(*event, *columns, 1) to the layout of the arguments (*plates, *columns, *event)."""
    moved = jnp.moveaxis(shift[..., 0], tuple(range(event_dim)), tuple(range(-event_dim, 0)))
    batch = tuple(size if column else 1 for _, size, column in factor.layout)
    return moved.reshape(batch + shift.shape[:event_dim])


def _over_plates(mask: jax.Array, ndim: int) -> jax.Array:
    """NumPyro broadcasts a mask over enumerated latents; take those axes off again."""
    return mask[(0,) * (mask.ndim - ndim)] if mask.ndim > ndim else mask


def observed_parts(m: Message, factor: Factor) -> dict[str, Any]:
    """The value of an observed site, and its family's data arguments."""
    bare = unwrap(m.fn)
    found = {"value": m.placed(m.value, bare.columns + len(bare.fn.event_shape))}
    if factor.family is not None:
        args = bare.fn.get_args()
        found["known"] = {
            k: m.placed(_over_plates(jnp.asarray(args[k]), len(factor.layout)), bare.columns)
            for k in factor.family.known
        }
    return found


def base_measure(family: Family, x: Any, mask: Any, known: Any) -> Any:
    """log h of every row, summed over columns; None where the family has none."""
    if type(family).base is Family.base:
        return None
    base = family.base(x, known)
    base = base if mask is None else jnp.where(mask, base, 0.0)
    return base.sum(tuple(range(base.ndim - 1)))


def _check_support(name: str, kind: str, support: Any, value: Any, missing: Any) -> None:
    filled = np.where(missing, 0, value) if missing.any() else value
    inside = np.asarray(quick_jit(support.check)(jnp.asarray(filled)))
    event = support.event_dim
    hidden = missing.all(tuple(range(missing.ndim - event, missing.ndim))) if event else missing
    # Along the values of latents that move the support, one that contains the datum is enough.
    inside = (inside | hidden).any(tuple(range(inside.ndim - hidden.ndim)))
    if np.all(inside):
        return
    where = tuple(int(i) for i in np.argwhere(~inside)[0])
    bad = np.asarray(value)[where]
    raise ValueError(
        f"observed site '{name}': the value {bad} at index {where} is outside the support of "
        f"{kind} ({describe(support)}). Correct the data, or choose a distribution whose support "
        "contains them."
    )


def _labels(reading: Reading, name: str, given: Any, raw: dict) -> np.ndarray:
    """User-given latent values to log-indicators (*plates, values); NaN and -1 are unknown, and
    so is the label of a masked unit, which does not count."""
    support = np.asarray(reading.values[name], float)
    site = reading.sites[name]
    shape = reading.plate_shape(site.dims)
    try:
        labels = np.asarray(given, float)
    except (TypeError, ValueError):
        raise TypeError(
            f"observe: '{name}' received labels that are no numbers, expected values in "
            f"{support.tolist()}, or NaN or -1 where unknown."
        ) from None
    if labels.shape != shape:
        try:
            labels = np.broadcast_to(labels.reshape(labels.shape), shape)
        except ValueError:
            squeezed = tuple(n for n in shape if n > 1)
            if labels.shape == squeezed:
                labels = labels.reshape(shape)
            else:
                raise ValueError(
                    f"observe: labels of '{name}' have shape {np.shape(given)}, expected {shape}."
                ) from None
    unknown = np.isnan(labels) | ((labels == -1) & ~np.isin(-1, support))
    match = labels[..., None] == support
    bad = ~unknown & ~match.any(-1)
    if bad.any():
        raise ValueError(
            f"observe: '{name}' received {np.unique(labels[bad])[:5]}, expected values in "
            f"{support.tolist()}, or NaN or -1 where unknown."
        )
    logs = np.where(unknown[..., None] | match, 0.0, -1.0)
    scan = reading.scans.get(site.scan)
    logs = logs[::-1] if scan is not None and scan.reverse else logs
    shown = _shown(reading, reading.sites[name], raw)
    return logs if shown is None else np.where(shown[..., None], logs, 0.0)


def prepare_data(
    reading: Reading,
    factors: tuple[Factor, ...],
    observe: Mapping[str, Any],
    dtype: np.dtype,
    gathers: Gathers,
) -> ProgramData:
    """Run the program on the data, check every observed value, and lay the data out.

    Raises ValueError for values outside a support, NaN where they cannot be integrated out,
    non-finite covariates, and weights or masks that do not cover a latent and its observations
    alike.
    """
    dynamic = reading.arguments.device_arrays()
    by_site = {f.site: f for f in factors}
    observed = frozenset(s.name for s in reading.observed)
    probed = frozenset(
        f.site for f in factors if any(b.kind == "direct" for b in f.bindings.values())
    )

    def extract(m: Message) -> dict[str, Any]:
        found: dict[str, Any] = {}
        name = m.name
        if reading.sites[name].role not in (Role.OBSERVED, Role.LATENT, Role.LAW):
            return found
        bare = unwrap(m.fn)
        own = not reading.sites[name].hidden and not reading.dependencies[name]["mask"]
        if bare.wrapped and own:
            depth = max((-d for d in reading.sites[name].dims.values()), default=0)
            found["mask"] = tuple(
                m.placed(_over_plates(mask, depth + bare.columns), bare.columns)
                for mask in bare.masks
            )
        if m.scale is not None:
            found["scale"] = m.placed(m.scale)
        if name not in observed or is_factor(m.fn):
            return found
        found |= observed_parts(m, by_site[name])
        found["support"] = (
            jax.tree.map(lambda a: m.placed(a, bare.columns), bare.fn.support)
            if m.in_scan
            else bare.fn.support
        )
        return found

    params = iota_parameters(reading)
    names = frozenset(by_site) | observed

    def run(values: dict[str, Any], given: tuple) -> dict[str, Any]:
        def without_copies(m: Message) -> dict[str, Any]:
            found = extract(m)
            for i, array in enumerate(given):
                if found.get("value") is array:
                    found["value"] = Argument(i)
            return found

        return reading.run(values, given, without_copies, reading.zeros(), wanted=names, wide=True)

    run = gathers.keep("observed", run)
    by_name = run(params, dynamic)
    raw: dict[str, Any] = {
        k: {n: found[k] for n, found in by_name.items() if k in found}
        for k in ("value", "mask", "scale", "known", "support")
    }
    raw["value"] = {
        name: dynamic[value.position] if isinstance(value, Argument) else value
        for name, value in raw["value"].items()
    }
    # A support that moves with the parameters cannot be checked against the data.
    shifted = run({k: np.asarray(v) + 0.37 for k, v in params.items()}, dynamic)
    raw["support"] = {
        name: (support, _same(support, shifted[name]["support"]))
        for name, support in raw["support"].items()
    }
    del by_name, shifted
    raw["seen"], raw["edge"] = {}, {}

    def indices(values: dict[str, Any], given: tuple) -> dict[str, Any]:
        return reading.run(values, given, site_arguments, reading.zeros(), wanted=probed)

    indices = gathers.keep("indices", indices)
    raw["index"] = indices(params, dynamic) if probed else {}
    fns = _concrete_observed(reading, dynamic, observed)
    sites = {
        name: _site_data(reading, by_site[name], fns[name], raw, name)
        for name in list(raw["value"])
    }
    _check_observations(reading, dynamic, factors, raw, gathers)
    maps = gathers.maps(reading, dynamic)
    weights = _weights(reading, factors, raw, maps)
    valid = _valid_steps(reading, raw)
    _check_masks(reading, factors, raw, valid, maps)
    clamps = {}
    for name, given in observe.items():
        clamps[name] = jnp.asarray(_labels(reading, name, given, raw))
    index = {
        name: {
            a: jnp.asarray(np.rint(np.asarray(v)).astype(np.int32))
            for a, v in args.items()
            if a in by_site[name].bindings and by_site[name].bindings[a].kind == "direct"
        }
        for name, args in raw["index"].items()
    }
    return ProgramData(
        dynamic,
        {k: v for k, v in sites.items() if v is not None},
        weights,
        clamps,
        index,
        maps,
        {name: jnp.asarray(mask) for name, mask in valid.items()},
        find_designs(reading, factors, dynamic, gathers.keep),
    )


def _concrete_observed(reading: Reading, dynamic: tuple, observed: frozenset[str]) -> dict:
    """The distributions of observed sites (shapes only, where they depend on parameters)."""
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


def _site_data(reading: Reading, factor: Factor, fn: Any, raw: dict, name: str) -> SiteData | None:
    bare = unwrap(fn)
    event_dim = len(bare.fn.event_shape)
    if reading.dependencies[name].get("value"):
        return None
    host = np.asarray(raw["value"][name])
    missing = np.isnan(host) if host.dtype.kind == "f" else np.zeros(host.shape, bool)
    if np.any(np.isinf(host)) if host.dtype.kind == "f" else False:
        where = tuple(int(i) for i in np.argwhere(np.isinf(host))[0])
        raise ValueError(f"observed site '{name}': infinite value at index {where}.")
    if missing.any() and event_dim:
        rows = missing.reshape(missing.shape[: missing.ndim - event_dim] + (-1,))
        if np.any(rows.any(-1) & ~rows.all(-1)):
            where = tuple(int(i) for i in np.argwhere(missing)[0])
            raise ValueError(
                f"observed site '{name}': NaN at index {where} inside a {type(bare.fn).__name__} "
                "vector. Missing coordinates of a joint distribution cannot be integrated out "
                "yet; drop these rows, or use independent columns with to_event."
            )
    keep = ~missing
    if event_dim:
        keep = keep.reshape(keep.shape[: keep.ndim - event_dim] + (-1,)).all(-1)
    has_mask = bool(missing.any()) or bool(bare.wrapped)
    for mask in raw["mask"].get(name, ()):
        keep = keep & np.asarray(mask)
    raw["seen"][name] = keep
    support, fixed = raw["support"][name]
    above = frozenset().union(*reading.dependencies[name].values())
    if fixed and not any(s.vmapped and s.name in above for s in reading.slots):
        _check_support(name, type(bare.fn).__name__, support, raw["value"][name], missing)
        edge = at_edge(support, host)
        if edge is not None and (edge & keep).any():
            raw["edge"][name] = (edge & keep, host)
    if factor.family is None:
        return None
    if missing.any():
        safe = np.asarray(support.feasible_like(jnp.zeros(host.shape)))
        host = np.where(np.isnan(host), safe, host)
    mask = jnp.asarray(to_layout(factor, keep, 0)) if has_mask else None
    if missing.any():
        arranged = jnp.asarray(to_layout(factor, host, event_dim))
    else:  # straight from the device's copy: the host makes none
        del host
        value = raw["value"].pop(name)
        arranged = quick_jit(lambda v: to_layout(factor, v, event_dim))(value)
        del value
    cells = arranged.shape[event_dim:]
    known = {
        k: jnp.asarray(np.broadcast_to(to_layout(factor, np.asarray(v), 0), cells))
        for k, v in raw["known"][name].items()
    }

    @quick_jit
    def derive(x: Any, mask: Any, known: Any) -> Any:
        shown = True if mask is None else mask[(None,) * event_dim]
        shift = factor.family.shift(x, jnp.broadcast_to(shown, x.shape))
        base = base_measure(factor.family, x, mask, known)
        placed = None if shift is None else _positional_shift(factor, shift, event_dim)
        return placed, shift, base

    return SiteData(arranged, mask, known, *derive(arranged, mask, known))


def _check_observations(
    reading: Reading, dynamic: tuple, factors: tuple[Factor, ...], raw: dict, gathers: Gathers
) -> None:
    """There are data, and some parameters allow each of them."""
    refuse_impossible(reading, dynamic, raw["edge"], gathers.keep)
    every = [s.name for s in reading.observed]
    if any(n not in raw["seen"] for n in every):  # a numpyro.factor, a value out of parameters
        return
    seen, weighed = {}, False
    for name, keep in raw["seen"].items():
        scale = np.asarray(raw["scale"].get(name, 1.0))
        columns = reading.sites[name].columns
        scale = scale.reshape(scale.shape + (1,) * (columns if scale.ndim else 0))
        weighed = weighed or not np.all(scale)
        if scale.ndim <= keep.ndim:
            seen[name] = bool((keep & (scale != 0)).any())
        else:
            seen[name] = bool(keep.any() and (scale != 0).any())
    refuse_no_data(seen, weighed)


def _aligned(reading: Reading, site: str, value: Any) -> np.ndarray:
    shape = reading.plate_shape(reading.sites[site].dims)
    value = np.asarray(value)
    return np.broadcast_to(value, np.broadcast_shapes(shape, value.shape))


def _gathered(
    reading: Reading, factor: Factor, latent: str, value: np.ndarray, maps: dict
) -> np.ndarray:
    """What is known of each unit of a latent, at the rows of a site that gathers it."""
    site, own = reading.sites[factor.site], reading.sites[latent]
    for (child, parent), rows in maps.items():
        missing = parent in own.plates and parent not in site.plates
        if not missing or child not in site.plates or np.ndim(value) < -own.dims[parent]:
            continue
        along = np.ndim(value) + own.dims[parent]
        if np.shape(value)[along] > 1 or own.dims[parent] != site.dims[child]:
            moved = np.moveaxis(np.asarray(value), along, 0)
            moved = np.broadcast_to(moved, (reading.plates[parent].size, *moved.shape[1:]))
            value = moved[np.asarray(rows)].reshape((-1,) + (1,) * (-site.dims[child] - 1))
    return value


def _weights(
    reading: Reading, factors: tuple[Factor, ...], raw: dict, maps: dict
) -> dict[str, Any]:
    for name, scale in raw["scale"].items():
        host = np.asarray(scale)
        if not np.all(np.isfinite(host)) or np.any(host < 0):
            raise ValueError(
                f"handlers.scale at site '{name}': weights must be finite and not negative."
            )
    scales: dict[str, np.ndarray] = {}
    for name, scale in raw["scale"].items():
        host, site = np.asarray(scale), reading.sites[name]
        if site.scan and host.ndim >= reading.depth:
            steps = host.ndim - reading.depth
            host = np.moveaxis(host, steps, 0)
            if np.any(host != host[:1]):
                raise ValueError(
                    f"handlers.scale at site '{name}' varies along the scan. A case weight "
                    "multiplies the log-likelihood of a whole sequence: give each sequence one."
                )
            host = np.moveaxis(host[:1], 0, steps)
        scales[name] = host
    for factor in factors:
        own = scales.get(factor.site)
        for latent in factor.latents:
            above = _of_law(reading, scales, latent)
            if latent == factor.law_of or not reading.sites[latent].plates and above is None:
                continue
            if reading.sites[latent].plates != factor.plates and above is None:
                if not reading.sites[latent].scan:
                    continue
            if above is not None:
                above = _gathered(reading, factor, latent, above, maps)
            same = (own is None) == (above is None) and (
                own is None
                or np.array_equal(
                    _aligned(reading, factor.site, own),
                    np.broadcast_to(
                        _aligned(reading, factor.site, own) * 0 + np.asarray(above),
                        np.shape(_aligned(reading, factor.site, own)),
                    ),
                )
            )
            if not same:
                raise ValueError(
                    f"handlers.scale covers one of '{latent}' and '{factor.site}' but not the "
                    "other. A case weight multiplies the log-likelihood of a whole unit: put "
                    "the latent and its observations under the same scale."
                )
    return {name: jnp.asarray(scale, float) for name, scale in scales.items()}


def _of_law(reading: Reading, values: dict[str, Any], latent: str) -> Any:
    """What is known of the (last) distribution of a latent."""
    name = reading.sites[latent].origin or latent
    found = [values[s.name] for s in reading.laws if s.law_of == name and s.name in values]
    return found[-1] if found else None


def _valid_steps(reading: Reading, raw: dict) -> dict[str, np.ndarray]:
    """Where a state is not masked: (steps, *plates). A masked state keeps its own law, which sums
    to one: before a sequence begins, in gaps and after its end."""
    carried = {s.origin for s in reading.with_role(Role.BEFORE)}
    states = [s for s in reading.latents if s.scan and s.name in carried]
    found = {s.name: _shown(reading, s, raw) for s in states}
    return {name: shown for name, shown in found.items() if shown is not None}


def _shown(reading: Reading, latent: Site, raw: dict) -> np.ndarray | None:
    """Where a latent is not masked, (*plates,), of a state (steps, *plates); None if no mask."""
    laws = [s for s in reading.laws if s.law_of == latent.name]
    if not any(s.name in raw["mask"] for s in laws):
        return None
    shape = reading.plate_shape(latent.dims)
    scan = reading.scans.get(latent.scan)
    pieces = []
    for law in laws:
        own = np.ones((), bool)
        for mask in raw["mask"].get(law.name, ()):
            own = own & np.asarray(mask)
        if scan is None:
            return np.broadcast_to(own, shape)
        alone = law.step is not None
        size = 1 if alone else shape[0] if len(laws) == 1 else reading.plates[scan.rest].size
        pieces.append(np.broadcast_to(own, (size, *shape[1:])))
    return np.concatenate(pieces)


def _check_masks(
    reading: Reading,
    factors: tuple[Factor, ...],
    raw: dict,
    valid: dict[str, np.ndarray],
    maps: dict,
) -> None:
    """A latent's mask must cover all that hangs on the latent."""
    for factor in factors:
        for latent in factor.latents:
            above = np.ones((), bool)
            if latent in valid:
                if reading.sites[factor.site].scan != reading.sites[latent].scan:
                    continue
                above = valid[latent]
                site = reading.sites[factor.site]
                scan = reading.scans[site.scan]
                if site.step is not None:
                    above = above[site.step]
                elif scan.rest in site.dims:
                    above = above[scan.start :]
            elif latent == factor.law_of or latent not in raw["mask"]:
                continue
            for mask in raw["mask"].get(latent, ()):
                above = above & np.asarray(mask)
            above = _gathered(reading, factor, latent, above, maps)
            own = np.ones((), bool)
            for mask in raw["mask"].get(factor.site, ()):
                mask = np.asarray(mask)
                columns = reading.sites[factor.site].columns
                own = own & (
                    mask.reshape(mask.shape[: mask.ndim - columns] + (-1,)).any(-1)
                    if columns
                    else mask
                )
            if factor.law_of and factor.site in raw["mask"]:
                continue
            if np.any(own & ~above):
                raise ValueError(
                    f"handlers.mask hides latent '{latent}' where '{factor.site}', which depends "
                    "on it, is not hidden. Put both under the same mask."
                )
