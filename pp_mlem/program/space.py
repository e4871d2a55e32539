"""The parameter space: constrained dictionaries of arrays and one unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.names import Names, scalars
from pp_mlem.program.sites import Site

_SIMPLEX = type(constraints.simplex)
_ORDERED = (type(constraints.ordered_vector), type(constraints.positive_ordered_vector))
_MATRICES = (type(constraints.positive_definite), type(constraints.lower_cholesky))


def _interior_edge(dtype: Any) -> float:
    return 1e-7 if jnp.dtype(dtype) == jnp.float32 else 1e-14


def into_interior(support: Any, value: jax.Array) -> jax.Array:
    """Move a value off the edge of its support by less than rounding matters, so that the
    unconstrained coordinate is finite."""
    edge = _interior_edge(value.dtype)
    if isinstance(support, _SIMPLEX):
        value = jnp.maximum(value, edge)
        return value / value.sum(-1, keepdims=True)
    base = support
    while isinstance(base, type(constraints.independent(constraints.real, 1))):
        base = base.base_constraint
    lower = getattr(base, "lower_bound", None)
    upper = getattr(base, "upper_bound", None)
    if lower is not None and upper is not None:
        width = jnp.asarray(upper) - lower
        return jnp.clip(value, lower + edge * width, upper - 10 * edge * width)
    if lower is not None:
        return jnp.maximum(value, lower + jnp.finfo(value.dtype).tiny ** 0.5)
    return value


@dataclass(frozen=True)
class ParameterSpace:
    """Parameters in program order with their supports, and the map to one vector.

    `size` is the number of free scalars (a simplex of K counts K - 1).
    """

    sites: tuple[Site, ...]
    labels: Names = field(default=Names(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.sites)

    def free_shapes(self) -> dict[str, tuple[int, ...]]:
        return {s.name: dist.biject_to(s.support).inverse_shape(s.shape) for s in self.sites}

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.free_shapes().values())

    def slices(self) -> dict[str, slice]:
        """Where each parameter's unconstrained coordinates lie in the vector."""
        slices, start = {}, 0
        for name, shape in self.free_shapes().items():
            stop = start + int(np.prod(shape))
            slices[name] = slice(start, stop)
            start = stop
        return slices

    def units_of_their_own(self) -> tuple[bool, ...]:
        """Which coordinates have one, as log-odds and logarithms do; real ones have the data's."""
        flags: list[bool] = []
        for site in self.sites:
            base = base_support(site.support)
            bounded = hasattr(base, "lower_bound") or hasattr(base, "upper_bound")
            own = isinstance(base, _SIMPLEX) or bounded
            flags += [own] * int(np.prod(self.free_shapes()[site.name]))
        return tuple(flags)

    def without(self, names: frozenset[str]) -> ParameterSpace:
        kept = tuple(s for s in self.sites if s.name not in names)
        return ParameterSpace(kept, self.labels) if len(kept) < len(self.sites) else self

    def only(self, names: frozenset[str]) -> ParameterSpace:
        return ParameterSpace(tuple(s for s in self.sites if s.name in names), self.labels)

    def constrain(self, vector: jax.Array) -> dict[str, jax.Array]:
        """Unconstrained vector (size,) to a dictionary of constrained arrays."""
        shapes, where = self.free_shapes(), self.slices()
        return {
            s.name: dist.biject_to(s.support)(vector[where[s.name]].reshape(shapes[s.name]))
            for s in self.sites
        }

    def unconstrain(self, params: Mapping[str, jax.Array]) -> jax.Array:
        """Constrained arrays to the unconstrained vector (size,)."""
        parts = [
            jnp.ravel(
                dist.biject_to(s.support)._inverse(
                    into_interior(s.support, jnp.asarray(params[s.name]))
                )
            )
            for s in self.sites
        ]
        return jnp.concatenate(parts) if parts else jnp.zeros((0,))

    @cached_property
    def to_params(self) -> Callable[[Any], dict[str, jax.Array]]:
        """`constrain`, compiled: for use outside of compiled functions."""
        return quick_jit(self.constrain)

    @cached_property
    def to_vector(self) -> Callable[[Mapping[str, Any]], jax.Array]:
        """`unconstrain`, compiled: for use outside of compiled functions."""
        compiled = quick_jit(self.unconstrain)
        return lambda params: compiled({n: np.asarray(params[n]) for n in self.names})

    def log_abs_det_jacobian(self, vector: jax.Array) -> jax.Array:
        """log |d constrained / d unconstrained|, summed over parameters."""
        shapes, where = self.free_shapes(), self.slices()
        total = jnp.zeros((), vector.dtype)
        for s in self.sites:
            transform = dist.biject_to(s.support)
            free = vector[where[s.name]].reshape(shapes[s.name])
            total = total + jnp.sum(transform.log_abs_det_jacobian(free, transform(free)))
        return total

    def check(self, params: Mapping[str, Any], argument: str, partial: bool = False) -> dict:
        """Validate user-given constrained values: names, shapes, finiteness, support."""
        if not isinstance(params, Mapping):
            raise TypeError(
                f"{argument}: received {type(params).__name__}, expected a dict from parameter "
                f"names to values; the parameters are {list(self.names)}."
            )
        unknown = sorted(set(params) - set(self.names))
        if unknown:
            raise ValueError(
                f"{argument}: unknown parameter(s) {unknown}; the parameters are "
                f"{list(self.names)}."
            )
        missing = [n for n in self.names if n not in params]
        if missing and not partial:
            raise ValueError(f"{argument}: value(s) missing for parameter(s) {missing}.")
        checked = {}
        for s in self.sites:
            if s.name not in params:
                continue
            try:
                value = np.asarray(params[s.name], dtype=jnp.result_type(float))
            except (TypeError, ValueError):
                raise TypeError(
                    f"{argument}: '{s.name}' received {params[s.name]!r}, expected numbers of "
                    f"shape {s.shape}."
                ) from None
            if value.shape != s.shape:
                if value.size == 1 or value.shape == s.shape[len(s.shape) - value.ndim :]:
                    value = np.broadcast_to(value, s.shape)
                else:
                    raise ValueError(
                        f"{argument}: '{s.name}' received shape {value.shape}, expected {s.shape}."
                    )
            if not np.all(np.isfinite(value)):
                raise ValueError(
                    f"{argument}: '{s.name}' received NaN or infinite values, expected finite "
                    f"values in its support ({describe(s.support)})."
                )
            on_host = jax.tree.map(np.asarray, s.support)  # nothing is compiled for it
            if not np.all(np.asarray(on_host.check(value))) and not _near(s.support, value):
                raise ValueError(
                    f"{argument}: '{s.name}' received {np.array2string(value, threshold=8)}, "
                    f"which is outside its support ({describe(s.support)})."
                )
            checked[s.name] = value
        return checked


def _near(support: Any, value: np.ndarray) -> bool:
    """True when only rounding (published digits of a simplex) keeps the value off its support."""
    if isinstance(support, _SIMPLEX):
        return bool(np.all(value >= 0) and np.all(np.abs(value.sum(-1) - 1) < 1e-5))
    base = base_support(support)
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    above = lower is None or bool(np.all(value >= np.asarray(lower)))
    below = upper is None or bool(np.all(value <= np.asarray(upper)))
    return (lower is not None or upper is not None) and above and below


def off_the_edge(support: Any, value: np.ndarray) -> np.ndarray:
    """The value of a fit, moved inside where rounding has made a covariance singular."""
    value = np.asarray(value)
    if not is_matrix(support) or not np.all(np.isfinite(value)):
        return value
    if isinstance(base_support(support), type(constraints.lower_cholesky)):
        least = np.finfo(value.dtype).tiny ** 0.5 * np.eye(value.shape[-1])
        return np.where(least > 0, np.maximum(value, least), value)
    size = np.trace(value, axis1=-2, axis2=-1)[..., None, None]
    more = np.finfo(value.dtype).eps * np.where(size > 0, size, 1.0) * np.eye(value.shape[-1])
    moved = value
    for power in range(12):
        least = np.linalg.eigvalsh(moved).min(-1)[..., None, None]
        outside = ~(least > 0.5 * np.finfo(value.dtype).eps * size)
        if not outside.any():
            break
        moved = np.where(outside, value + 4.0**power * more, value)
    return moved


def is_simplex(support: Any) -> bool:
    """Whether the last axis adds up to one."""
    return isinstance(base_support(support), _SIMPLEX)


def is_half_line(support: Any) -> bool:
    """Whether the values are positive, with no upper bound."""
    support = base_support(support)
    return hasattr(support, "lower_bound") and not hasattr(support, "upper_bound")


def is_ordered(support: Any) -> bool:
    """Whether the entries of the last axis increase."""
    return isinstance(base_support(support), _ORDERED)


def is_matrix(support: Any) -> bool:
    """Whether the values are covariance matrices or their Cholesky factors."""
    return isinstance(base_support(support), _MATRICES)


def base_support(support: Any) -> Any:
    """The constraint of one entry or event, without the dimensions that repeat it."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def describe(support: Any) -> str:
    """A constraint in words."""
    base = base_support(support)
    text = str(base)
    return text if len(text) < 60 else type(base).__name__.strip("_").lower()


def scalar_names(space: ParameterSpace) -> tuple[str, ...]:
    """`mu[0]`, `b[age]`, `Sigma[0,1,1]`, ... in order. Where a site is itself named like another's scalar,
    its name stands in quotation marks: `'mu[0]'` beside the first of the site `mu`."""
    rows = {s.name: tuple(_scalars(space, s, s.name)) for s in space.sites}
    shown = {s.name: s.name for s in space.sites}
    while True:
        owners: dict[str, list[str]] = {}
        for site, names in rows.items():
            for name in names:
                owners.setdefault(name, []).append(site)
        shared = [sites for sites in owners.values() if len(sites) > 1]
        if not shared:
            return tuple(name for names in rows.values() for name in names)
        chosen = {max(sites, key=lambda n: (len(n), n)) for sites in shared}
        for own in (s for s in space.sites if s.name in chosen):
            shown[own.name] = f"'{shown[own.name]}'"
            rows[own.name] = tuple(_scalars(space, own, shown[own.name]))


def _scalars(space: ParameterSpace, site: Site, name: str) -> list[str]:
    return scalars(name, site.shape, space.labels.labels(site))


def renamed_rows(space: ParameterSpace) -> dict[str, str]:
    """The first row of every site that tables show under another name than its own."""
    names, start, renamed = scalar_names(space), 0, {}
    for site in space.sites:
        size = int(np.prod(site.shape))
        if size and names[start] != _scalars(space, site, site.name)[0]:
            renamed[site.name] = names[start]
        start += size
    return renamed
