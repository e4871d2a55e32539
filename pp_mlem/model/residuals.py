"""Pseudo-residuals of the observations along a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import pd, scipy_stats
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.base import Factor
from pp_mlem.factors.carried import CarriedFactor
from pp_mlem.factors.tables import log_table
from pp_mlem.marginal.recursions import smooth
from pp_mlem.marginal.steps.chain import Chain
from pp_mlem.model.bound import Bound, Values
from pp_mlem.model.imputation import site_moments
from pp_mlem.model.sequences import along, chains_of, of_all_steps, own_states
from pp_mlem.model.states import refuse_mixed
from pp_mlem.program.distributions import is_discrete, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading


def pseudo_residuals(bound: Bound, values: Values) -> dict[str, pd.DataFrame]:
    """Columns "lower", "upper" and "mid" for each scalar observed site of a scan."""
    real = _of_real_states(bound, values)
    if real and not bound.marginal.chains:
        return real
    return {**_of_finite_states(bound, values), **real}


def _of_real_states(bound: Bound, values: Values) -> dict[str, pd.DataFrame]:
    """Of Normals that read a real state: the standardised smoothed disturbances of their noise, also called
    auxiliary residuals (Harvey & Koopman 1992, doi:10.1080/07350015.1992.10509913)."""
    times = {c.time: c for c in bound.marginal.kalmans}
    for chain in times.values():
        refuse_mixed(bound, chain, "a value given all others")
    sites = bound.reading.sites
    own = {
        f.site: times[sites[f.site].scan]
        for f in bound.marginal.factors
        if isinstance(f, AffineFactor) and not f.own and sites[f.site].scan in times
        if sites[f.site].distribution == "Normal"
    }
    residuals = {}
    for name, moments in site_moments(bound, values, own.keys()).items():
        mid = moments.left_out()
        mid = (mid[::-1] if own[name].reverse else mid).ravel()
        residuals[name] = pd.DataFrame({"lower": mid, "upper": mid, "mid": mid})
    return residuals


def _of_finite_states(bound: Bound, values: Values) -> dict[str, pd.DataFrame]:
    """Of sites that read finite states of a chain."""
    reading, chains = bound.reading, chains_of(bound)
    residuals: dict[str, pd.DataFrame] = {}
    posterior = {}
    for chain in chains:
        smoothed, _ = along(bound, chain, values, smooth)
        posterior[chain.states] = _log(of_all_steps(chain, np.asarray(smoothed.states)))
    for factor in bound.marginal.factors:
        site = reading.sites[factor.site]
        if factor.law_of or not site.scan or isinstance(factor, (AffineFactor, CarriedFactor)):
            continue
        _refuse_residuals(bound, factor, chains)
        mine = [c for c in chains if set(factor.latents) == set(c.states) and site.scan == c.time]
        scalar = not site.columns and not site.event_shape
        if mine and scalar and not any(s.vmapped for s in reading.slots):
            observed = _Observed.of(bound, values, factor.site, mine[0])
            residuals[factor.site] = observed.residuals(mine[0], posterior[mine[0].states])
    return residuals


@dataclass(frozen=True)
class _Observed:
    """Of a site, (steps, joint states, sequences): log density, P(X < x) and P(X <= x) of each value; the
    values (steps, sequences)."""

    density: np.ndarray
    low: np.ndarray
    high: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, bound: Bound, values: Values, name: str, chain: Chain) -> _Observed:
        reading = bound.reading

        def extract(m: Message) -> Any:
            bare = unwrap(m.fn)
            value = jnp.asarray(m.value, jnp.result_type(float))
            shown = jnp.where(jnp.isnan(value), 0.0, value)
            density = log_table(m, reading.sites[m.name])
            low, high = _cumulative(bare.fn, shown)
            return m.placed(density), m.placed(low), m.placed(high), m.placed(value)

        parts = reading.run(
            values, bound.data.dynamic, extract, wanted=frozenset({name}), wide=True
        )[name]
        density, low, high, value = (np.asarray(a) for a in parts)
        own = _arranged(reading, chain, density)
        seen = np.broadcast_to(value.reshape(len(own), -1), (len(own), own.shape[-1]))
        return cls(own, _arranged(reading, chain, low), _arranged(reading, chain, high), seen)

    def residuals(self, chain: Chain, posterior: np.ndarray) -> pd.DataFrame:
        """`posterior` is log p(states | data), (steps, joint states, sequences)."""
        logs = np.broadcast_to(
            posterior.reshape(len(posterior), own_states(chain), -1), self.density.shape
        )
        with np.errstate(invalid="ignore"):  # what the states are without this observation
            weight = np.where(np.isfinite(logs), logs - self.density, -np.inf)
        weight = np.exp(weight - weight.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        bounds = []
        for part in (self.low, self.high):
            u = np.clip((weight * part).sum(1), 0.0, 1.0)
            u = np.where(np.isnan(self.value), np.nan, u)
            bounds.append((u[::-1] if chain.reverse else u).ravel())
        lower, upper = bounds
        return pd.DataFrame(
            {
                "lower": scipy_stats.norm.ppf(lower),
                "upper": scipy_stats.norm.ppf(upper),
                "mid": scipy_stats.norm.ppf((lower + upper) / 2),
            }
        )


def _arranged(reading: Reading, chain: Chain, array: np.ndarray) -> np.ndarray:
    """(steps, joint states, sequences)"""
    dims = [array.ndim + reading.latent_dim(s) for s in chain.states]
    moved = np.moveaxis(array, dims, range(len(dims)))
    inner = array.shape[array.ndim - reading.depth + 1 :]
    moved = moved.reshape(*moved.shape[: len(dims)], -1, *inner)
    wide = np.broadcast_to(moved, (*chain.sizes, chain.length, *inner))
    return np.moveaxis(wide.reshape(own_states(chain), chain.length, -1), 0, 1)


def _refuse_residuals(bound: Bound, factor: Factor, chains: tuple[Chain, ...]) -> None:
    """Pseudo-residuals are of observations that meet nothing but the states of their step."""
    site = bound.reading.sites[factor.site]
    name = site.origin or factor.site
    own = frozenset().union(*(c.states for c in chains))
    others = sorted(bound.reading.sites[v].origin or v for v in set(factor.latents) - own)
    reason = ""
    if name in bound.reading.scans[site.scan].fed:
        reason = "its distribution depends on earlier observations, which it therefore explains"
    elif site.step is not None or any(bound.reading.sites[v].lag for v in factor.latents):
        reason = "its distribution depends on the state before"
    elif others:
        reason = f"it depends on {', '.join(others)} besides the states of its chain"
    elif site.distribution == "Unit":
        reason = "a numpyro.factor is no distribution"
    if reason:
        raise ValueError(
            f"pseudo_residuals: observed site '{name}' has none: {reason}. Use "
            "pointwise_log_likelihood(), the one-step-ahead densities of a single sequence."
        )


def _log(table: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(table)


def _cumulative(fn: Any, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P(X < value) and P(X <= value)."""
    if not is_discrete(fn):
        at = fn.cdf(value)
        return at, at
    top = jax.lax.stop_gradient(value).max()

    def step(i: jax.Array, carry: tuple) -> tuple:
        low, high = carry
        mass = jnp.exp(fn.log_prob(jnp.minimum(i, top).astype(int)))
        mass = jnp.where(i <= top, mass, 0.0)
        return low + jnp.where(i < value, mass, 0.0), high + jnp.where(i <= value, mass, 0.0)

    zero = jnp.zeros(jnp.broadcast_shapes(value.shape, fn.batch_shape))
    return jax.lax.fori_loop(0, top.astype(int) + 1, step, (zero, zero))
