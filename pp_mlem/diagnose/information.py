"""What EM says about the data: complete, observed and missing information; EM's rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Effort, of_derivatives
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd
from pp_mlem.diagnose.uncertainty import (
    COLUMNS_AT_ONCE,
    Covariance,
    information,
    natural_scale,
    numbers_of,
)
from pp_mlem.program.space import scalar_names
from pp_mlem.target.target import Target

WALK = 60
NUDGE = 1e-3
TOLD = 1e-13  # of the largest variance of a direction, below which nothing is told of it


@dataclass(frozen=True)
class MissingInformation:
    """How much the hidden data would have told (Dempster, Laird & Rubin 1977; Meng & Rubin 1991,
    doi:10.1080/01621459.1991.10475130).

    Attributes:
        fractions: for each scalar 1 - (variance had the latents been seen) / (variance), on its
            natural scale: 0 where nothing is lost, near 1 where EM crawls.
        rate: spectral radius of I_complete^-1 I_missing, EM's global rate of convergence.
        rates: all its eigenvalues, the largest first.
        direction: the combination of unconstrained coordinates that converges slowest.
        observed_rate: ratio of successive steps of EM itself, begun beside the estimate.
        complete, observed: information matrices in unconstrained coordinates.
    """

    fractions: pd.Series
    rate: float
    rates: np.ndarray
    direction: np.ndarray
    observed_rate: float
    complete: np.ndarray
    observed: np.ndarray
    reason: str

    @property
    def missing(self) -> np.ndarray:
        return self.complete - self.observed

    def __repr__(self) -> str:
        if self.reason:
            return f"missing information: {self.reason}"
        speed = "" if self.rate <= 0 else (
            f" (a digit every {np.log(0.1) / np.log(self.rate):.0f} iterations)"
            if 0 < self.rate < 1 else " (EM does not converge along it)"
        )  # fmt: skip
        head = (
            f"EM's rate of convergence {self.rate:.6f}{speed}; observed {self.observed_rate:.6f}\n"
            "fraction of missing information"
        )
        return head + "\n" + self.fractions.to_string(float_format=written)


def _complete(target: Target, vector: jax.Array) -> jax.Array:
    """Minus the Hessian of Q(. | vector) at `vector`. Traceable."""
    _, statistics = target.expectation(vector)
    gradient = jax.grad(lambda v: target.expected(v, statistics))

    def column(direction: jax.Array) -> jax.Array:
        return jax.jvp(gradient, (vector,), (direction,))[1]

    basis = jnp.eye(vector.shape[0], dtype=vector.dtype)
    hessian = jax.lax.map(column, basis, batch_size=COLUMNS_AT_ONCE)
    return -0.5 * (hessian + hessian.T)


def _walk(target: Target, vector: jax.Array) -> jax.Array:
    """EM's iterates (WALK + 1, size). Traceable."""

    def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        following = target.em_step(v)[0]
        return following, following

    return jnp.concatenate([vector[None], jax.lax.scan(step, vector, None, length=WALK)[1]])


def missing_information_at(
    target: Target, vector: np.ndarray, covariance: Covariance, settled: bool
) -> MissingInformation:
    """Complete and observed information at an estimate, whose gradient is zero if `settled`, and
    EM's rate; see `MissingInformation`. What the covariance of the estimates does not tell (a boundary, a
    rotation) is left out of both."""
    point = np.asarray(vector)
    effort = of_derivatives(numbers_of(target), target.space.size)
    _, observed = information(target, vector)
    complete = np.asarray(target.compiled(_complete, effort=effort)(point), float)
    _, jacobian = natural_scale(target, vector)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], len(vector))
    step = NUDGE / np.sqrt(np.maximum(np.diag(observed), 1e-12)) * signs
    walk = target.compiled(_walk, effort=Effort.LEAN)
    path = np.asarray(walk(point + step), float)
    reason = ""
    if not settled:
        reason = "the gradient is not zero, so the two informations do not belong together"
    names, size = scalar_names(target.space), len(vector)
    lost = np.full(len(names), np.nan)
    try:
        told = _told_directions(covariance.free, observed)
        values, direction, fractions = _compared(complete, observed, jacobian, told)
    except np.linalg.LinAlgError:
        reason = reason or "an information matrix is singular: a boundary, or not identified"
        values, direction, fractions = np.full(size, np.nan), np.full(size, np.nan), lost.copy()
    fractions[[n in covariance.reasons for n in names]] = np.nan
    order = np.argsort(-values)
    return MissingInformation(
        fractions=pd.Series(lost if reason else fractions, index=list(names)),
        rate=float(values[order[0]]) if len(values) else 0.0,
        rates=values[order],
        direction=direction / max(float(np.abs(direction).max(initial=0.0)), 1e-300),
        observed_rate=_last_rate(path),
        complete=complete,
        observed=observed,
        reason=reason,
    )


def _told_directions(free: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Directions (size, count) that span what a covariance of the unconstrained vector tells of."""
    unit = np.sqrt(np.maximum(np.diag(observed), 1e-300))
    values, vectors = np.linalg.eigh(np.nan_to_num(free) * unit[:, None] * unit)
    told = values > TOLD * max(values.max(initial=0.0), 1e-300)
    return vectors[:, told] / unit[:, None]


def _compared(
    complete: np.ndarray, observed: np.ndarray, jacobian: Any, told: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Eigenvalues of I_complete^-1 I_missing along the directions `told`, the last one's direction, and the
    fraction of each scalar's information that is missing."""
    complete, observed = (told.T @ a @ told for a in (complete, observed))
    jacobian = jacobian @ told
    root = np.linalg.cholesky(complete)
    inner = np.linalg.solve(root, np.linalg.solve(root, complete - observed).T)
    values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
    if not len(values):
        raise np.linalg.LinAlgError("nothing is told")
    direction = told @ np.linalg.solve(root.T, vectors[:, -1])
    before = np.diag(jacobian @ np.linalg.solve(complete, jacobian.T))
    with np.errstate(all="ignore"):
        after = np.diag(jacobian @ np.linalg.inv(observed) @ jacobian.T)
        fractions = np.where(after > 0, 1.0 - before / after, np.nan)
    return values, direction, fractions


def _last_rate(path: np.ndarray) -> float:
    """Ratio of the last two steps that are still well above rounding."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    usable = np.flatnonzero(steps > 1e-9 * (1 + np.linalg.norm(path[-1])))
    if len(usable) < 2 or usable[-1] < 1:
        return 0.0 if len(steps) and not len(usable) else float("nan")
    i = usable[-1]
    return float(steps[i] / steps[i - 1])
