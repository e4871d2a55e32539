"""The data of a program, checked on the host and laid out for its factors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpyro.distributions import MultivariateNormal

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.known import known_values
from pp_mlem.data.labels import clamps_of
from pp_mlem.data.masks import check_masks, valid_steps
from pp_mlem.data.observations import at_edge, refuse_impossible, refuse_no_data
from pp_mlem.data.predictors import find_designs
from pp_mlem.data.program_data import ProgramData
from pp_mlem.data.raw import Raw, read_raw
from pp_mlem.data.weights import weights_of
from pp_mlem.factors.base import Factor
from pp_mlem.factors.gathers import Gathers
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.lay import lay
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import describe


def prepare_data(
    reading: Reading, factors: tuple[Factor, ...], observe: Mapping[str, Any], gathers: Gathers
) -> ProgramData:
    """Run the program on the data, check every observed value, and lay the data out.

    Raises ValueError for values outside a support, NaN where they cannot be integrated out,
    non-finite covariates, and weights or masks that do not cover a latent and its observations
    alike.
    """
    dynamic = reading.arguments.device_arrays()
    by_site = {f.site: f for f in factors}
    raw = read_raw(reading, factors, dynamic, gathers)
    seen, edges, sites = {}, {}, {}
    for name in list(raw.value):
        if reading.dependencies[name].get("value"):
            continue
        shown = _Shown.of(reading, raw, name, gathers.keep)
        seen[name] = shown.keep
        if shown.edge is not None:
            edges[name] = shown.edge, np.asarray(raw.value[name])
        sites[name] = _laid(by_site[name], raw, name, shown)
    refuse_impossible(reading, dynamic, edges, gathers.keep)
    _refuse_no_data(reading, raw, seen)
    maps = gathers.maps(reading, dynamic)
    weights = weights_of(reading, factors, raw, maps)
    valid = valid_steps(reading, raw)
    check_masks(reading, factors, raw, valid, maps)
    return ProgramData(
        dynamic=dynamic,
        sites={k: v for k, v in sites.items() if v is not None},
        weights=weights,
        clamps=clamps_of(reading, observe, raw),
        index=raw.index,
        maps=maps,
        valid={name: jax.device_put(mask) for name, mask in valid.items()},
        designs=find_designs(reading, factors, dynamic, gathers.keep),
        known=known_values(reading, observe),
    )


@dataclass(frozen=True)
class _Shown:
    """Of an observed site, over its elements: where it is neither missing nor masked (`keep`), whether
    that is anywhere so (`masked`), and where it lies on the edge of its support."""

    keep: np.ndarray
    masked: bool
    edge: np.ndarray | None

    @classmethod
    def of(cls, reading: Reading, raw: Raw, name: str, keep_compiled: Callable) -> _Shown:
        bare = unwrap(raw.laws[name])
        event_dim = len(bare.fn.event_shape)
        host = np.asarray(raw.value[name])
        _refuse_other_shape(name, host, raw.laws[name])
        missing = np.isnan(host) if host.dtype.kind == "f" else np.zeros(host.shape, bool)
        _refuse_infinite(name, host)
        if type(bare.fn) is not MultivariateNormal:  # whose missing entries are integrated out
            _refuse_partial(name, missing, event_dim, type(bare.fn).__name__)
        keep = ~missing
        if event_dim:
            size = int(np.prod(keep.shape[keep.ndim - event_dim :]))  # none of a numpyro.factor
            keep = keep.reshape((*keep.shape[: keep.ndim - event_dim], size))
            keep = keep.any(-1) if size else np.ones(keep.shape[:-1], bool)
        for mask in raw.mask.get(name, ()):
            keep = keep & np.asarray(mask)
        support, edge = raw.support[name], None
        above = frozenset().union(*reading.dependencies[name].values())
        if support.fixed and not any(s.vmapped and s.name in above for s in reading.slots):
            kind = type(bare.fn).__name__
            check = _checking(name, support.constraint, keep_compiled)
            _check_support(name, kind, support.constraint, raw.value[name], missing, check)
            edge = at_edge(support.constraint, host)
            edge = edge & keep if edge is not None and (edge & keep).any() else None
        return cls(keep, bool(missing.any()) or bool(bare.wrapped), edge)


def _refuse_other_shape(name: str, host: np.ndarray, law: Any) -> None:
    """A vector of one number each that stands for longer ones: NumPyro broadcasts it, and no shape says so."""
    event = tuple(law.event_shape)
    own = host.shape[host.ndim - len(event) :]
    if any(n == 1 < m for n, m in zip(event, own, strict=True)):
        raise ValueError(
            f"observed site '{name}': values of event shape {own}, and its {type(law).__name__} has event shape {event}. Expand "
            "the parameters to the shape of the values before to_event, as in mean[:, None] + jnp.zeros((1, columns))."
        )


def _refuse_infinite(name: str, host: np.ndarray) -> None:
    if host.dtype.kind == "f" and np.any(np.isinf(host)):
        where = tuple(int(i) for i in np.argwhere(np.isinf(host))[0])
        raise ValueError(f"observed site '{name}': infinite value at index {where}.")


def _refuse_partial(name: str, missing: np.ndarray, event_dim: int, kind: str) -> None:
    """NaN in some coordinates of a vector."""
    if not event_dim or not missing.any():
        return
    rows = missing.reshape(missing.shape[: missing.ndim - event_dim] + (-1,))
    if np.any(rows.any(-1) & ~rows.all(-1)):
        where = tuple(int(i) for i in np.argwhere(missing)[0])
        raise ValueError(
            f"observed site '{name}': NaN at index {where} inside a {kind} "
            "vector. Missing entries are integrated out of a MultivariateNormal and of independent "
            "columns (to_event) alone: write it as one of these, or drop these rows."
        )


def _laid(factor: Factor, raw: Raw, name: str, shown: _Shown) -> Laid | None:
    """What the factor keeps; the value itself is then let go."""
    if factor.family is None:
        return None
    keep = shown.keep if shown.masked else None
    value = raw.value.pop(name)
    return lay(factor, value, keep, raw.known[name], raw.support[name].constraint)


def _refuse_no_data(reading: Reading, raw: Raw, seen: dict[str, np.ndarray]) -> None:
    """There are data, and some of them count."""
    if any(s.name not in seen for s in reading.observed):
        return  # a numpyro.factor, a value out of parameters
    shown, weighed = {}, False
    for name, keep in seen.items():
        scale = np.asarray(raw.scale.get(name, 1.0))
        columns = reading.sites[name].columns
        scale = scale.reshape(scale.shape + (1,) * (columns if scale.ndim else 0))
        weighed = weighed or not np.all(scale)
        if scale.ndim <= keep.ndim:
            shown[name] = bool((keep & (scale != 0)).any())
        else:
            shown[name] = bool(keep.any() and (scale != 0).any())
    refuse_no_data(shown, weighed)


def _checking(name: str, support: Any, keep_compiled: Callable) -> Callable:
    """`support.check`, compiled once for all data of the same shapes."""
    try:
        jax.tree.flatten(support)
    except NotImplementedError:  # a constraint that does not say what it is made of
        return quick_jit(support.check)
    return functools.partial(keep_compiled(("support", name), _is_inside), support)


def _is_inside(support: Any, value: Any) -> Any:
    return support.check(value)


def _check_support(
    name: str, kind: str, support: Any, value: Any, missing: Any, check: Callable
) -> None:
    filled = np.where(missing, 0, value) if missing.any() else value
    inside = np.asarray(check(filled))
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
