"""Residual scales that vanish beside real latents: Heywood cases, where a column of the data is what its
factors are and nothing else (Heywood 1931, doi:10.1098/rspa.1931.0209).

The density of the rest is bounded there, and far below the spread of the data nothing but rounding: the
precision of what vanishes cancels against that of the latents, and leaves an error of eps / (scale /
spread)^2 nats a row. What it costs to stop short of zero grows with that square: a floor of eps^(1/4) spreads
stands for zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from pp_mlem.factors.affine import AffineFactor
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.space import is_half_line
from pp_mlem.target.parts import without_rows
from pp_mlem.target.priors import Params, at_one_value
from pp_mlem.target.target import Target

NEAR = 1e-2  # of a column's standard deviation, within which a scale may be at zero
ROWS = 10_000  # of the data, by which their spread is judged
POWERS = (1.0, 0.5)  # of a parameter that is a scale, a variance


class Floor(NamedTuple):
    """What stands for zero, in the shape of a parameter, and below what it may be there."""

    zero: np.ndarray
    near: np.ndarray


def floors(target: Target, params: Mapping[str, Any]) -> dict[str, Floor]:
    """The floor of each free parameter that is the scale or the variance of an observed site which real latents
    enter."""
    share = float(np.finfo(target.dtype).eps) ** 0.25
    half_lines = {s.name for s in target.space.sites if is_half_line(s.support)}
    found: dict[str, Floor] = {}
    for factor in target.marginal.factors:
        if not isinstance(factor, AffineFactor) or factor.own:
            continue
        behind = target.reading.dependencies[factor.site].get("argument scale", frozenset())
        for name in sorted(behind & half_lines):
            key = "power", target.problem, factor.site, name
            power = target.once(key, partial(_power, target, factor.site, name, params))
            if power is None:
                continue
            shape = np.shape(params[name])
            spread = _spread(target, factor, int(np.prod(shape)))
            spread = np.broadcast_to(spread, (int(np.prod(shape)),)).reshape(shape)
            zero, near = ((s * spread) ** (1 / power) for s in (share, max(NEAR, share)))
            if name not in found or zero.min() < found[name].zero.min():
                found[name] = Floor(zero, near)
    return found


def _spread(target: Target, factor: AffineFactor, size: int) -> np.ndarray:
    """Standard deviations of the data of a site: of each column where the parameter has an entry for each, or
    of all."""
    laid = target.data.sites[factor.site]
    some = slice(None, None, 1 + laid.value.shape[-1] // ROWS)
    value = np.asarray(laid.value[..., some], float)
    if laid.mask is not None:
        seen = np.broadcast_to(np.asarray(laid.mask[..., some], bool), value.shape)
        value = np.where(seen, value, np.nan)
    value = value.reshape(-1, value.shape[-1])
    if len(value) != size:
        value = value.reshape(1, -1)
    with np.errstate(all="ignore"):
        known = np.isfinite(value)
        count = np.maximum(known.sum(1), 1)
        mean = np.where(known, value, 0.0).sum(1) / count
        square = np.where(known, (value - mean[:, None]) ** 2, 0.0).sum(1) / count
    spread: np.ndarray = np.sqrt(square)
    return np.where(spread > 0, spread, 1.0)


def _power(target: Target, site: str, name: str, params: Mapping[str, Any]) -> float | None:
    """How the scale of a site grows with a parameter; None where that is no power."""
    scale, values = target.compiled(_scale, site), {k: np.asarray(v) for k, v in params.items()}
    before, after = scale(values), scale({**values, name: 4.0 * values[name]})
    grown = np.log(np.asarray(after) / np.asarray(before)) / np.log(4.0)
    return next((p for p in POWERS if np.allclose(grown, p, atol=1e-9)), None)


@without_rows
def _scale(target: Target, site: str, params: Params) -> jax.Array:
    """The scale of a site. Traceable."""
    sites = frozenset({site})
    told = at_one_value(target.reading, params, target.data, site_arguments, sites)
    scale: jax.Array = told[site]["scale"]
    return scale
