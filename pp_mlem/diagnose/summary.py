"""Summaries of posterior draws: a mean inside every support, and failures that never cost draws."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from pp_mlem.model.latents import Moments
from pp_mlem.model.model import Model
from pp_mlem.program.space import ParameterSpace, base_support, into_interior
from pp_mlem.target.target import Target

T = TypeVar("T")
POSTERIOR_DRAWS = 100

FAILURES = (
    ArithmeticError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    np.linalg.LinAlgError,
)


def attempt(function: Callable[[], T], default: T, reasons: dict[str, str], what: str) -> T:
    """What `function` returns; where it fails `default`, with the reason under `reasons[what]`.

    The draws took the time: whatever is computed from them may fail without losing them.
    """
    try:
        return function()
    except FAILURES as error:
        text = str(error).split("\n")[0]
        reasons[what] = f"{type(error).__name__}: {text}"
        return default


def _mean_correlation_root(draws: np.ndarray) -> np.ndarray:
    """The Cholesky factor of the mean correlation matrix."""
    mean = np.mean(draws @ np.swapaxes(draws, -1, -2), 0)
    scale = np.sqrt(np.diagonal(mean, axis1=-2, axis2=-1))
    return np.linalg.cholesky(mean / (scale[..., None] * scale[..., None, :]))


def _mean_direction(draws: np.ndarray) -> np.ndarray:
    """The mean of unit vectors, at length one."""
    mean = draws.mean(0)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def _mean_angle(draws: np.ndarray) -> np.ndarray:
    return np.arctan2(np.sin(draws).mean(0), np.cos(draws).mean(0))


# Supports that are not convex, where the mean of draws lies outside.
_MEANS: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    type(constraints.corr_cholesky): _mean_correlation_root,
    type(constraints.sphere): _mean_direction,
    type(constraints.circular): _mean_angle,
}


def mean_inside(
    space: ParameterSpace, draws: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The mean of draws (draws, ...) of every parameter as a point of its support.

    A Cholesky factor of correlations becomes that of the mean correlation matrix, a unit vector the
    mean direction, an angle the circular mean; all else the mean, or where that lies outside its
    support the image of the mean in unconstrained coordinates. Also why a parameter has none (NaN).
    """
    means: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    for site in space.sites:
        values = np.asarray(draws[site.name], float)
        mean = functools.partial(_mean_of, site.support, values)
        with np.errstate(all="ignore"):
            nowhere = np.full(values.shape[1:], np.nan)
            means[site.name] = attempt(mean, nowhere, reasons, site.name)
    return means, reasons


def _mean_of(support: Any, draws: np.ndarray) -> np.ndarray:
    special = _MEANS.get(type(base_support(support)))
    mean = draws.mean(0) if special is None else special(draws)
    on_host = jax.tree.map(np.asarray, support)
    if np.all(np.isfinite(mean)) and np.all(np.asarray(on_host.check(mean))):
        return mean
    bijection = dist.biject_to(support)
    free = jax.vmap(lambda v: bijection._inverse(into_interior(support, v)))(jnp.asarray(draws))
    inside = np.asarray(bijection(free.mean(0)))
    if not np.all(np.isfinite(inside)):
        raise ValueError("its draws have no mean inside its support")
    return inside


def summarise(
    model: Model, target: Target, draws: Mapping[str, np.ndarray], reasons: dict[str, str]
) -> tuple[dict[str, np.ndarray], np.ndarray, float, float]:
    """(means, their unconstrained vector, log-likelihood and log prior there) of draws
    (draws, ...), fixed parameters included; NaN where there is none, with its reason."""
    space = target.space
    mean, lost = mean_inside(space, draws)
    reasons.update({f"mean of {n}": why for n, why in lost.items()})
    mean |= {n: np.asarray(v).mean(0) for n, v in draws.items() if n not in mean}
    nowhere = np.full(space.size, np.nan)
    vector = attempt(lambda: np.asarray(space.to_vector(mean)), nowhere, reasons, "vector")
    if lost:
        return mean, vector, float("nan"), float("nan")
    likelihood = attempt(
        lambda: model.log_likelihood(mean), float("nan"), reasons, "log_likelihood"
    )
    prior = attempt(lambda: model.log_prior(mean), float("nan"), reasons, "log_prior")
    return mean, vector, likelihood, prior


def told(reasons: Mapping[str, str]) -> str:
    """The failed summaries in a sentence."""
    return "; ".join(f"no {what} ({why})" for what, why in reasons.items())


def thinned(
    flat: Mapping[str, np.ndarray], wanted: int, repeat: bool = False
) -> list[dict[str, np.ndarray]]:
    """The parameters of as many draws (draws, ...) as are wanted, evenly thinned; of fewer some may repeat."""
    count = len(next(iter(flat.values())))
    chosen = np.linspace(0, count - 1, wanted if repeat else min(count, wanted)).astype(int)
    return [{k: v[i] for k, v in flat.items()} for i in chosen]


def average_posterior(model: Model, draws: dict[str, np.ndarray]) -> dict[str, Any]:
    """p(latent | data) averaged over (a thinned set of) posterior draws."""
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in draws.items()}
    each = [model.posterior(params) for params in thinned(flat, POSTERIOR_DRAWS)]
    return {
        name: Moments.mixed([p[name] for p in each])
        if isinstance(first, Moments)
        else np.mean([p[name] for p in each], 0)
        for name, first in each[0].items()
    }
