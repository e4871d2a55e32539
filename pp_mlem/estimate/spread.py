"""Starts of Gaussians with real latents in the units of the data.

A variance far below the data's own is near an edge that its logarithm hardly leaves, and a noise far below
the residuals at the start lets the latents explain what coefficients would. So the scales of the latents
begin at the spread of the data, and those of the observations at their root mean square: whatever the
coefficients are then, little of it is left unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pp_mlem.diagnose.spurious import SCALE_NAMES
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.program.space import base_support, is_half_line
from pp_mlem.target.target import Target


def in_units_of_the_data(target: Target, vector: Any, given: Mapping[str, Any]) -> Any:
    """The vector with scales that are parameters of their own multiplied by the size of the data."""
    sizes = _sizes(target, frozenset(given))
    if not sizes:
        return vector
    params: dict[str, Any] = jax.device_get(target.space.to_params(vector))
    moved = {name: np.asarray(params[name]) * size for name, size in sizes.items()}
    return target.space.to_vector({**params, **moved})


def _sizes(target: Target, given: frozenset[str]) -> dict[str, float]:
    """What each scale is multiplied by."""
    factors = [f for f in target.marginal.factors if isinstance(f, AffineFactor)]
    sizes: dict[str, float] = {}
    spreads: dict[str, float] = {}  # of the observations that read a latent
    for factor in factors:
        if factor.own:
            continue
        spread, root_mean_square = _of_values(target, factor)
        for name, _ in factor.coordinates:
            spreads[name] = max(spread, spreads.get(name, 0.0))
        _note(target, factor, root_mean_square, sizes)
    widest = max(spreads.values(), default=0.0)
    for factor in factors:
        if factor.own:
            _note(target, factor, spreads.get(factor.own, widest), sizes)
    return {n: s for n, s in sizes.items() if n not in given and np.isfinite(s) and s > 0}


def _of_values(target: Target, factor: AffineFactor) -> tuple[float, float]:
    """Standard deviation and root mean square of what is observed."""
    laid = target.data.sites[factor.site]
    value = np.asarray(laid.value, float)
    if laid.mask is not None:
        value = np.where(np.broadcast_to(np.asarray(laid.mask), value.shape), value, np.nan)
    value = value[np.isfinite(value)]
    if not value.size:
        return 0.0, 0.0
    return float(value.std()), float(np.sqrt((value**2).mean()))


def _note(target: Target, factor: AffineFactor, size: float, sizes: dict[str, float]) -> None:
    """The parameters behind a site's scale, of this size; those that are elsewhere already stay."""
    supports = {s.name: s.support for s in target.space.sites}
    parts = target.reading.dependencies[factor.site]
    for argument in SCALE_NAMES:
        for name in parts.get(f"argument {argument}", ()):
            if name not in supports or name in sizes:
                continue
            kind = type(base_support(supports[name])).__name__.lstrip("_")
            square = argument in ("covariance_matrix", "precision_matrix")
            power = -2 if argument == "precision_matrix" else 2 if square else 1
            binding = factor.bindings.get(argument)
            if binding is None or binding.kind != "direct":
                power = 1  # some function of it: most often a standard deviation
            if kind in ("PositiveDefinite", "LowerCholesky") or is_half_line(supports[name]):
                sizes[name] = size**power


def widest(target: Target) -> float:
    """The largest spread of what is observed with real latents."""
    factors = [f for f in target.marginal.factors if isinstance(f, AffineFactor) and not f.own]
    return max((_of_values(target, f)[0] for f in factors), default=0.0)
