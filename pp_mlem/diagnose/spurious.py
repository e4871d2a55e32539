"""Recognises components that rest on nothing: collapses and spurious maxima."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import of_program
from pp_mlem.base.status import Status
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.base import Factor
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.sites import Role
from pp_mlem.target.parts import of_rows_alone, without_rows
from pp_mlem.target.priors import at_one_value
from pp_mlem.target.target import Natural, Params, Target

Index = tuple[Any, ...]
ValueAt = Callable[[np.ndarray], np.ndarray]  # (count, size) -> the objective at each
SCALE_NAMES = ("scale", "covariance_matrix", "precision_matrix", "scale_tril")
HATHAWAY_RATIO = 1e-3
COLLAPSE_RATIO = 1e-6
TIED = 1e-3  # of the smallest gap between values


@dataclass(frozen=True)
class _Scaled:
    """A factor whose scale `argument` each value of a latent has for itself."""

    factor: Factor
    latent: str
    argument: str

    @property
    def is_matrix(self) -> bool:
        return self.argument != "scale"

    def parameters(self, target: Target) -> frozenset[str]:
        """The free parameters behind the scale."""
        behind = target.reading.dependencies[self.factor.site][f"argument {self.argument}"]
        return behind & frozenset(target.space.names)


def _scaled_factors(target: Target) -> list[_Scaled]:
    reading, free = target.reading, frozenset(target.space.names)
    scaled = []
    for factor in target.marginal.factors:
        arguments = reading.dependencies[factor.site]
        if isinstance(factor, AffineFactor) and factor.own:
            continue  # a variance of a real latent may vanish: no density grows there without bound
        for latent in factor.latents:
            site = reading.sites[latent]
            if latent == factor.law_of or site.vmapped or site.role is not Role.LATENT:
                continue
            for name in SCALE_NAMES:
                behind = arguments.get(f"argument {name}", frozenset())
                if latent in behind and behind & free:
                    scaled.append(_Scaled(factor, latent, name))
                    break
    return scaled


@dataclass(frozen=True)
class Scales:
    """All parameters at a vector, and the arguments of distributions there whose scale each value of a
    latent has for itself, by site."""

    params: Params
    arguments: dict[str, Any]

    @classmethod
    def at(cls, target: Target, vector: np.ndarray) -> Scales:
        sites = frozenset(s.factor.site for s in _scaled_factors(target))
        return cls(*jax.device_get(target.compiled(_params_and_scales, sites)(vector)))


@without_rows
def _params_and_scales(
    target: Target, sites: frozenset[str], vector: jax.Array
) -> tuple[Params, dict[str, Any]]:
    params = target.params(vector)
    if not sites:
        return params, {}
    return params, at_one_value(target.reading, params, target.data, site_arguments, sites)


def rows_of(target: Target, statistics: Natural) -> dict[str, jax.Array]:
    """The expected number of units at each value of the latents, of expected statistics. Traceable."""
    reading, rows = target.reading, dict[str, jax.Array]()
    for law in target.marginal.factors:
        if not law.law_of or reading.sites[law.law_of].vmapped:
            continue
        table = statistics[law.site]
        own = table.ndim + reading.latent_dim(law.law_of)
        counts = jnp.moveaxis(table, own, 0).reshape(table.shape[own], -1).sum(1)
        rows[law.law_of] = rows.get(law.law_of, jnp.zeros(())) + counts
    return rows


def rows_at(target: Target, vector: np.ndarray) -> dict[str, np.ndarray]:
    """The same at a vector, on the host; nothing where no component has a scale of its own."""
    if not _scaled_factors(target):
        return {}
    run = target.compiled(_rows_at, effort=of_program(target.reading.is_long))
    rows: dict[str, np.ndarray] = jax.device_get(run(vector))
    return rows


@of_rows_alone
def _rows_at(target: Target, vector: jax.Array) -> dict[str, jax.Array]:
    return rows_of(target, target.expectation(vector)[1])


def judge_components(
    target: Target, scales: Scales, rows: Mapping[str, Any]
) -> tuple[Status | None, str]:
    """How a component rests on nothing, and which (None, "" where none does): of its scale and the
    expected number of units at each value of the latents.

    A component is set aside when its effective rows, rounded, do not exceed the rows needed to
    determine a location and a scale (dimension + 1), or when its scale is below 1e-3 of the
    largest (the ratio of Hathaway 1985, doi:10.1214/aos/1176349557; below 1e-6 it has collapsed, and so it
    has below 1e-3 of the smallest gap between distinct values).
    Both hold only for components with a scale of their own: elsewhere the likelihood is bounded.
    """
    scaled = _scaled_factors(target)
    if not scaled:
        return None, ""
    # Sites that share their scale (a chain's first step and the others) share their rows.
    shared: dict[tuple[frozenset[str], int], np.ndarray] = {}
    for s in scaled:
        count = np.asarray(rows[s.latent]) * _observations_per_unit(target, s)
        key = s.parameters(target), count.size
        shared[key] = shared.get(key, np.zeros(count.size)) + count
    for s in scaled:
        size = target.reading.sites[s.latent].size
        value = np.asarray(scales.arguments[s.factor.site][s.argument])
        own = _component_scales(target, s, value)
        if own is None:
            continue
        status, note = _judge(target, s, own, shared[s.parameters(target), size])
        if status is not None:
            return status, note
    return None, ""


def _component_scales(target: Target, scaled: _Scaled, value: np.ndarray) -> np.ndarray | None:
    """(values of the latent, others): smallest standard deviation of each distribution; None where
    the argument has no axis of the latent."""
    reading, name = target.reading, scaled.argument
    batch_ndim = value.ndim - 2 * scaled.is_matrix
    columns = reading.sites[scaled.factor.site].columns
    axis = batch_ndim - columns + reading.latent_dim(scaled.latent)
    if axis < 0 or value.shape[axis] != reading.sites[scaled.latent].size:
        return None
    if scaled.is_matrix:
        if name == "scale_tril":
            value = value @ np.swapaxes(value, -1, -2)
        eigen = np.linalg.eigvalsh(np.where(np.isfinite(value), value, 0.0))
        extreme = 1 / eigen[..., -1] if name == "precision_matrix" else eigen[..., 0]
        value = np.sqrt(np.maximum(extreme, 0.0))
    moved = np.moveaxis(value, axis, 0)
    return moved.reshape(moved.shape[0], -1)


def _judge(
    target: Target, scaled: _Scaled, scales: np.ndarray, effective: np.ndarray
) -> tuple[Status | None, str]:
    """The verdict on one factor: `scales` (values, others) and effective rows (values,)."""
    factor, latent = scaled.factor, scaled.latent
    ratio = scales / scales.max(0, keepdims=True)
    k = int(ratio.min(1).argmin())
    note = (
        f"component {k} of '{latent}': {effective[k]:.1f} effective rows, scale "
        f"{scales[k].min():.3g} against {scales.max():.3g}"
    )
    if ratio.min() < COLLAPSE_RATIO or not np.all(np.isfinite(scales)):
        return Status.COLLAPSED, note
    if _between_values(target, factor, float(scales.min())):
        return Status.COLLAPSED, note + ", far below the smallest gap between the values"
    if ratio.min() < HATHAWAY_RATIO:
        return Status.SPURIOUS, note + f" (ratio below {HATHAWAY_RATIO:g})"
    needed = factor.family.rows_needed(factor.event_size) if factor.family else 2
    if factor.kind == "table":
        needed = max(needed, _own_parameters(target, factor.parameters, len(scales)))
    few = np.flatnonzero((np.round(effective) <= needed) & (effective >= 0.5))  # or it is empty
    if len(few):
        k = int(few[0])
        return Status.SPURIOUS, (
            f"component {k} of '{latent}' rests on {effective[k]:.1f} effective rows, not "
            f"more than the {needed} that its own parameters need"
        )
    return None, ""


def _between_values(target: Target, factor: Factor, scale: float) -> bool:
    """Whether a scale is so small that a component can hold nothing but equal values (all of its rows tied): its
    density then grows without bound, though every component may shrink alike."""
    laid = target.data.sites.get(factor.site)
    if laid is None or factor.kind == "table":
        return False
    values = np.asarray(laid.value, float)
    values = values.reshape(-1, values.shape[-1])  # (columns, rows)
    for column in values:
        seen = column[np.isfinite(column)]
        if not scale < TIED * np.ptp(seen) if seen.size else True:
            continue
        gaps = np.diff(np.unique(seen))
        if gaps.size and scale < TIED * gaps.min():
            return True
    return False


def _observations_per_unit(target: Target, scaled: _Scaled) -> float:
    """How many draws of the site hang on one unit of the latent."""
    reading, factor = target.reading, scaled.factor
    steps = {p for s in reading.scans.values() for p in (s.time, s.rest)}
    extra = factor.plates - reading.sites[scaled.latent].plates - steps
    columns = {n for n, _, c in factor.layout if c}
    return float(np.prod([reading.plates[p].size for p in extra - columns] or [1]))


def _own_parameters(target: Target, names: frozenset[str], size: int) -> int:
    """Scalars that each value of a latent has for itself in these parameters."""
    total = 0
    for site in target.reading.space.sites:
        if site.name in names and size in site.shape:
            total += int(np.prod(site.shape)) // size
    return total
