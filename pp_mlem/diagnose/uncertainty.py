"""Covariance of the estimates: observed information, sandwich, outer product; delta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_level
from pp_mlem.base.compiling import Effort, of_derivatives, quick_jit
from pp_mlem.base.lazy import pd, scipy_stats
from pp_mlem.diagnose.directions import SINGULAR, across_of, scales, told_by_data
from pp_mlem.diagnose.edges import edge_masks
from pp_mlem.diagnose.rotations import TURNED, flat_directions, rotated, turns_of
from pp_mlem.diagnose.unidentified import unidentified_by_data
from pp_mlem.marginal.units import step_values, unit_weights
from pp_mlem.program.space import ParameterSpace, scalar_names
from pp_mlem.target.parts import adds_up, of_rows_alone, without_rows
from pp_mlem.target.target import Target

KINDS = ("observed", "sandwich", "opg")
COLUMNS_AT_ONCE = 16
MOST_SCALARS = 4_000  # whose information matrix is computed: 128 MB, and as many passes as scalars
CHAIN_ENTRIES = 2**22  # of all columns at once: what their recursions hold stays near 1 GB
EDGE = 1e-5
SADDLE = 1e-7
CLOSE = 1e-8
NUDGED, NUDGES = 1e-13, 2
STEADY = 0.02
NOISE = 1e6
STEP_LIMIT = 0.05
NEARLY_FLAT, STEPS_TO_REST = 1e-5, 3


def too_many(names: tuple[str, ...]) -> bool:
    """Whether there are more scalars than an information matrix is computed of."""
    return len(names) > MOST_SCALARS


@dataclass(frozen=True)
class Covariance:
    """Covariance of every free scalar on its natural scale, in the order of `names`.

    `free` is the covariance of the unconstrained vector. `reasons[name]` says why a standard
    error is NaN. `flat`, where it is known, are directions (size, count) of the unconstrained vector
    along which a rotation changes nothing.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    free: np.ndarray
    reasons: dict[str, str]
    kind: str
    flat: np.ndarray | None = None

    @classmethod
    def of_too_many(cls, names: tuple[str, ...], size: int, kind: str) -> Covariance:
        """NaN of all, which takes no memory, where the matrix would be too large."""
        reason = (
            f"{len(names):,} free scalars, and an information matrix is computed of up to "
            f"{MOST_SCALARS:,}; hold some (fixed=), or draw from the posterior"
        )
        matrix = np.broadcast_to(np.nan, (len(names), len(names)))
        free = np.broadcast_to(np.nan, (size, size))
        return cls(names, matrix, free, dict.fromkeys(names, reason), kind)

    @property
    def too_large(self) -> bool:
        """Whether it was not computed, for its size."""
        return too_many(self.names)


@dataclass(frozen=True)
class Estimate:
    """A function of the parameters: its value, standard error and interval.

    All are arrays in the shape of the function's value (0-dimensional for a scalar). `reason` says
    why a standard error is NaN.
    """

    value: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    reason: str = ""

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        return self.low, self.high

    @classmethod
    def from_draws(
        cls, values: np.ndarray, value: np.ndarray | None, level: float, reason: str = ""
    ) -> Estimate:
        """From draws (draws, ...) of the function; `value` is their mean unless given."""
        check_level(level)
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        value = values.mean(0) if value is None else value
        spread = values.std(0, ddof=1)
        if reason:
            spread, low, high = (np.full(np.shape(value), np.nan) for _ in range(3))
        return cls(np.asarray(value), np.asarray(spread), low, high, level, reason)

    def __repr__(self) -> str:
        if np.ndim(self.value):
            columns = {"value": self.value, "std err": self.standard_error,
                       "low": self.low, "high": self.high}  # fmt: skip
            table = pd.DataFrame({name: np.ravel(column) for name, column in columns.items()})
            return table.to_string() + (f"\n{self.reason}" if self.reason else "")
        note = f" ({self.reason})" if self.reason else ""
        return (
            f"{float(self.value):.6g} ± {float(self.standard_error):.4g}, "
            f"{100 * self.level:g}% interval [{float(self.low):.6g}, {float(self.high):.6g}]{note}"
        )


def delta_method(
    target: Target,
    vector: np.ndarray,
    covariance: Covariance,
    function: Callable[[dict[str, Any]], Any],
    level: float,
) -> Estimate:
    """Standard error of a function of the parameters from its gradient (delta method).

    A function that leans on a scalar whose own standard error cannot be trusted has none either.
    """
    check_level(level)
    value, slope = _function_at(target, vector, function)
    if covariance.too_large:
        none = np.full(value.shape, np.nan)
        return Estimate(value, none, none, none, level, next(iter(covariance.reasons.values())))
    variance = np.einsum("ij,jk,ik->i", slope, covariance.free, slope)
    _, jacobian = natural_scale(target, vector)
    bad, reason = _untold(covariance, slope, jacobian)
    error = np.where(bad | ~(variance >= 0), np.nan, np.sqrt(np.maximum(variance, 0.0)))
    half = scipy_stats.norm.ppf((1 + level) / 2) * error
    error, half = error.reshape(value.shape), half.reshape(value.shape)
    return Estimate(value, error, value - half, value + half, level, reason)


def _function_at(
    target: Target, vector: np.ndarray, function: Callable[[dict[str, Any]], Any]
) -> tuple[np.ndarray, np.ndarray]:
    """A function of the parameters at a vector, and its Jacobian (entries, coordinates)."""

    def of(v: jax.Array) -> jax.Array:
        value = jnp.asarray(function(target.params(v)))
        return value.astype(v.dtype)

    point = jnp.asarray(vector)
    value = np.asarray(of(point))
    return value, np.asarray(quick_jit(jax.jacfwd(of))(point), float).reshape(value.size, -1)


def restricted(
    target: Target,
    vector: np.ndarray,
    covariance: Covariance,
    function: Callable[[dict[str, Any]], Any],
) -> tuple[np.ndarray, np.ndarray, str]:
    """A function of the parameters (entries,), its covariance by the delta method, and why that cannot be
    trusted, if so."""
    value, slope = _function_at(target, vector, function)
    _, jacobian = natural_scale(target, vector)
    bad, reason = _untold(covariance, slope, jacobian)
    matrix = slope @ covariance.free @ slope.T
    return value.ravel(), matrix, reason if np.any(bad) else ""


def _untold(
    covariance: Covariance, slope: np.ndarray, jacobian: np.ndarray
) -> tuple[np.ndarray, str]:
    """Which values of a function have no standard error, by its slope (values, coordinates), and why: they
    change with a rotation, or lean on a scalar without one."""
    bad, reason = np.zeros(len(slope), bool), ""
    lost = np.array([n in covariance.reasons for n in covariance.names], bool)
    if covariance.flat is not None and covariance.flat.size:
        lost &= ~(np.abs(jacobian @ covariance.flat).max(1, initial=0.0) > TURNED)
        steep = np.abs(slope).max(1, initial=0.0)
        bad = np.abs(slope @ covariance.flat).max(1, initial=0.0) > TURNED * (steep + 1e-300)
        reason = "it changes with a rotation of parameters that fit as well" if bad.any() else ""
    if lost.any():
        # what of the function's slope lies along the scalars without a standard error
        inner = np.linalg.lstsq(jacobian.T, slope.T, rcond=None)[0].T
        touches = np.abs(inner[:, lost]) > 1e-8 * (np.abs(inner).max(1, keepdims=True) + 1e-300)
        if touches.any():
            which = covariance.names[int(np.flatnonzero(lost)[touches.any(0).argmax()])]
            reason = f"it depends on {which}: {covariance.reasons[which]}"
        bad = bad | touches.any(1)
    return bad, reason


def flatten(space: ParameterSpace, params: Any) -> jax.Array:
    """All scalars of constrained parameters, in order."""
    parts = [jnp.ravel(jnp.asarray(params[s.name])) for s in space.sites]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


@without_rows
def _natural_scale(target: Target, vector: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    space = target.space
    slope = jax.jacfwd(lambda v: flatten(space, space.constrain(v)))(vector)
    return space.constrain(vector), slope


def natural_scale(target: Target, vector: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Constrained free parameters at a vector, and their Jacobian (scalars, coordinates)."""
    run = target.compiled(_natural_scale)
    values, jacobian = jax.device_get(run(np.asarray(vector)))
    return values, np.asarray(jacobian, float)


def numbers_of(target: Target) -> int:
    """How many numbers the data are."""
    return sum(int(np.size(a)) for a in jax.tree.leaves(target.data))


@adds_up
def _information(
    target: Target, columns: int, vector: jax.Array, basis: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradient and minus the Hessian, `columns` of which share a sweep. Traceable."""
    gradient = jax.grad(target.value)

    def column(direction: jax.Array) -> jax.Array:
        return jax.jvp(gradient, (vector,), (direction,))[1]

    hessian = jax.lax.map(column, basis.T, batch_size=columns) @ basis
    return gradient(vector), -0.5 * (hessian + hessian.T)


@without_rows
def _prior_information(
    target: Target, columns: int, vector: jax.Array, basis: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the log prior adds to it. Traceable."""
    return _information(target.prior_alone, columns, vector, basis)


def information(
    target: Target, vector: Any, basis: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(gradient, minus the Hessian) of the objective, on the host; the Hessian along the columns of
    `basis`, those of the identity where none is given. Fewer columns share a sweep along chains
    that are long."""
    entries = max(target.marginal.entries, 1)
    columns = max(1, min(COLUMNS_AT_ONCE, CHAIN_ENTRIES // entries))
    size = target.space.size
    effort = of_derivatives(numbers_of(target), size)
    basis = np.eye(size) if basis is None else basis
    point = np.asarray(vector), np.asarray(basis, target.dtype)
    # Second derivatives of log Z are dear to compile, and with a prior or without the same.
    likelihood = target.likelihood_alone.compiled(_information, columns, effort=effort)
    gradient, matrix = (np.asarray(a, float) for a in likelihood(*point))
    if target.problem.with_prior:
        slope, bend = target.compiled(_prior_information, columns)(*point)
        gradient, matrix = gradient + np.asarray(slope), matrix + np.asarray(bend)
    return gradient, matrix


def _scores(target: Target, vector: jax.Array) -> jax.Array:
    target = target.on(target.data.by_rows)

    def pointwise(v: jax.Array) -> jax.Array:
        if target.marginal.sequential:  # scores of one-step-ahead predictions do not correlate
            return step_values(target.marginal, target.natural(v), target.data)
        units = target.marginal.unit_values(target.natural(v), target.data)
        return jnp.concatenate([t.array.ravel() for t in units])

    def column(direction: jax.Array) -> jax.Array:
        return jax.jvp(pointwise, (vector,), (direction,))[1]

    return jax.lax.map(column, jnp.eye(vector.shape[0], dtype=vector.dtype)).T


def scores(target: Target, vector: Any) -> np.ndarray:
    """(units, size): gradient of each unit's log Z, on the host."""
    return np.asarray(target.compiled(_scores, effort=Effort.LEAN)(np.asarray(vector)), float)


def invert_information(
    information: np.ndarray, gradient: np.ndarray, active: np.ndarray
) -> tuple[np.ndarray, str, np.ndarray]:
    """Inverse over the active coordinates, a reason that spoils all, and flat directions, as long
    as a unit of the coordinates that the diagonal would scale to one."""
    size = len(gradient)
    inverse = np.zeros((size, size))
    flat = np.zeros((size, 0))
    if not active.any():
        return inverse, "", flat
    block = information[np.ix_(active, active)]
    if not np.all(np.isfinite(block)):
        return inverse, "the information matrix is not finite", flat
    scale = scales(np.diag(block))
    values, vectors = np.linalg.eigh(block * scale[:, None] * scale[None, :])
    if values.min() < -SADDLE * max(values.max(), 1.0):
        return inverse, "not a maximum: the information has a negative eigenvalue", flat
    null = values < SINGULAR * values.max()
    kept = np.where(null, 0.0, 1.0 / np.where(null, 1.0, values))
    inner = (vectors * kept) @ vectors.T * scale[:, None] * scale[None, :]
    inverse[np.ix_(active, active)] = inner
    if null.any():
        flat = np.zeros((size, int(null.sum())))
        flat[active] = vectors[:, null] * scale[:, None]
    step = gradient[active] @ inner @ gradient[active]
    if not np.isfinite(step) or step > STEP_LIMIT**2:
        return inverse, "the gradient is not zero: the fit has not converged", flat
    return inverse, "", flat


def closer_basis(information: np.ndarray, active: np.ndarray) -> np.ndarray | None:
    """Its eigenvectors, as long as one standard error, as columns; None where it is well told as it
    is. Far from the origin of a covariate, intercept and slope are so nearly one direction that the
    digits of their information cannot tell them apart; along those columns they can."""
    block = information[np.ix_(active, active)]
    if not active.any() or not np.all(np.isfinite(block)):
        return None
    scale = scales(np.diag(block))
    values, vectors = np.linalg.eigh(block * scale[:, None] * scale[None, :])
    if values.max() <= 0:
        return None
    if values.min() > CLOSE * values.max() or values.min() < -SADDLE * max(values.max(), 1.0):
        return None
    smallest = np.finfo(float).eps * values.max()
    basis = np.zeros(information.shape)
    basis[np.ix_(active, active)] = scale[:, None] * vectors / np.sqrt(np.maximum(values, smallest))
    return basis


def resolved_inverse(
    inform: Callable[[np.ndarray, np.ndarray], np.ndarray],
    information: np.ndarray,
    gradient: np.ndarray,
    active: np.ndarray,
    point: np.ndarray,
) -> tuple[np.ndarray, str, np.ndarray]:
    """`invert_information`, after a closer look where coordinates are nearly one direction.
    `inform` gives the information at a point along a basis. Curvature that changes when the point moves by
    rounding is rounding itself, and its direction flat."""
    basis = closer_basis(information, active)
    if basis is None:
        return invert_information(information, gradient, active)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (NUDGES, len(point)))
    now = inform(point, basis)
    near = np.array([np.diag(inform(point * (1 + NUDGED * s), basis)) for s in signs])
    curvature = np.diag(now)
    scale = scales(np.diag(information))
    reach = np.abs(basis / scale[:, None])[active].max(0, initial=0.0)
    steady = (np.abs(near - curvature) <= STEADY * curvature).all(0)
    steady &= curvature > NOISE * (np.finfo(float).eps * reach) ** 2
    used = active & steady
    inverse, spoiled, flat = invert_information(now, basis.T @ gradient, used)
    unsteady = np.eye(len(active))[:, active & ~steady]
    flat = basis @ np.concatenate([flat, unsteady], 1)
    reach = np.abs(flat / scale[:, None])[active].max(0, initial=0.0)
    return basis @ inverse @ basis.T, spoiled, flat / np.where(reach > 0, reach, 1.0)


def covariance_at(target: Target, vector: np.ndarray, kind: str = "observed") -> Covariance:
    """Covariance of the estimates at a point, on the natural scale by the delta method.

    kind: "observed" (inverse of minus the Hessian of the objective), "sandwich" (White 1982,
    doi:10.2307/1912526, from per-unit scores) or "opg" (inverse outer product of scores). Scalars
    at a boundary of their support are held fixed there and get NaN, as do scalars along
    directions that the data do not identify.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: received {kind!r}, expected one of {[*KINDS, 'bootstrap']}.")
    point = np.asarray(vector, float)
    gradient, curvature = information(target, vector)
    natural, jacobian = natural_scale(target, vector)
    masks = edge_masks(target, vector, natural)
    edge = np.concatenate([m.ravel() for m in masks.values()] or [np.zeros(0, bool)])
    active = _active(target.space, natural, jacobian, edge)
    names, reasons = scalar_names(target.space), unidentified_by_data(target)
    point, gradient, curvature = _at_rest(target, point, gradient, curvature, active)

    def along(at: np.ndarray, basis: np.ndarray) -> np.ndarray:
        return information(target, at, basis)[1]

    turned = flat_directions(target, vector, turns_of(target))
    if reasons:
        across, used = told_by_data(jacobian, active, [n not in reasons for n in names])
    else:
        across, used = across_of(turned, curvature, active)
    seen = across.T @ curvature @ across
    inverse, spoiled, flat = resolved_inverse(
        lambda at, basis: along(at, across @ basis), seen, across.T @ gradient, used, point
    )
    inverse, flat = across @ inverse @ across.T, across @ flat
    if kind != "observed" and not spoiled:
        meat = _outer_product(target, vector)
        if kind == "opg":
            basis = closer_basis(seen, used)
            basis = across if basis is None else across @ basis
            inverse, spoiled, flat = invert_information(
                basis.T @ meat @ basis, np.zeros(len(used)), used
            )
            inverse, flat = basis @ inverse @ basis.T, basis @ flat
        else:
            inverse = inverse @ meat @ inverse
    matrix = jacobian @ inverse @ jacobian.T
    reach = np.abs(jacobian * scales(np.diag(curvature))).max(1, initial=0.0)
    shifts = np.abs(jacobian @ flat).max(1, initial=0.0) > 1e-4 * np.maximum(reach, 1e-300)
    along_flat = _direction(flat, jacobian, names) if shifts.any() else ""
    turning = rotated(target, vector)
    for i, name in enumerate(names):
        moved = along_flat if shifts[i] else ""
        why = _no_error(bool(edge[i]), spoiled, turning.get(name, ""), moved, matrix[i, i])
        if why:
            reasons.setdefault(name, why)
    bad = np.array([n in reasons for n in names], bool)
    matrix[bad, :] = matrix[:, bad] = np.nan
    return Covariance(names, matrix, inverse, reasons, kind, turned)


def _no_error(edge: bool, spoiled: str, turning: str, moved: str, variance: float) -> str:
    """Why a scalar has no standard error, if it has none; `moved` is the flat direction that it moves along."""
    if edge:
        return "at the boundary of its support"
    if spoiled or turning:
        return spoiled or turning
    if moved:
        return f"not identified: the likelihood is flat along {moved}"
    return "" if variance > 0 else "no curvature in this direction"


def _at_rest(
    target: Target,
    point: np.ndarray,
    gradient: np.ndarray,
    curvature: np.ndarray,
    active: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Point, gradient and information after steps of Newton's, where some direction is all but flat: along a
    curve on which nothing changes the gradient that a fit has left looks like curvature."""
    for _ in range(STEPS_TO_REST):
        block = curvature[np.ix_(active, active)]
        if not active.any() or not np.all(np.isfinite(block)):
            break
        scale = scales(np.diag(block))
        values, vectors = np.linalg.eigh(block * scale[:, None] * scale)
        flat = values < NEARLY_FLAT * values.max()
        if not flat.any() or np.any(values < -SADDLE * max(values.max(), 1.0)):
            break
        steep = vectors[:, ~flat]
        step = scale * (steep / values[~flat] @ (steep.T @ (scale * gradient[active])))
        moved = point.copy()
        moved[active] += step
        slope, bend = information(target, moved)
        if not np.linalg.norm(scale * slope[active]) < np.linalg.norm(scale * gradient[active]):
            break
        point, gradient, curvature = moved, slope, bend
    return point, gradient, curvature


@of_rows_alone
def _outer(target: Target, vector: jax.Array) -> jax.Array:
    own, weights = _scores(target, vector), unit_weights(target.marginal, target.data)
    return (own / jnp.where(weights > 0, weights, 1.0)[:, None]).T @ own


def _outer_product(target: Target, vector: Any) -> np.ndarray:
    """Sum over units of the outer product of each one's score, as often as it counts."""
    return np.asarray(target.compiled(_outer, effort=Effort.LEAN)(np.asarray(vector)), float)


def _active(
    space: ParameterSpace, natural: dict[str, Any], jacobian: np.ndarray, edge: np.ndarray
) -> np.ndarray:
    """Which coordinates are free. One that moves a parameter's scalars away from the edge by
    nothing next to their size belongs to those at the edge, and is held fixed there."""
    active = np.abs(jacobian).max(0, initial=0.0) > 0.0
    start, where = 0, space.slices()
    for site in space.sites:
        count = int(np.prod(site.shape))
        rows = slice(start, start + count)
        start += count
        if not edge[rows].any():
            continue
        size = np.maximum(np.abs(np.ravel(np.asarray(natural[site.name], float))), 1e-300)
        moves = np.abs(jacobian[rows, where[site.name]]) / size[:, None]
        active[where[site.name]] &= moves[~edge[rows]].max(0, initial=0.0) > EDGE
    return active


def _direction(flat: np.ndarray, jacobian: np.ndarray, names: tuple[str, ...]) -> str:
    moved = jacobian @ flat[:, 0]
    order = np.argsort(-np.abs(moved))[:3]
    top = moved[order[0]] or 1.0
    parts = [f"{moved[i] / top:+.2g} {names[i]}" for i in order if abs(moved[i] / top) > 0.05]
    return " ".join(parts)
