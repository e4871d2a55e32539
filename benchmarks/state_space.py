"""Linear Gaussian state space beside statsmodels' compiled filter and, where it is installed, dynamax: a local
level of 10,000 steps, and 1,000 series of 200. Ratios are of medians, both sides in one run.

    python benchmarks/state_space.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from statsmodels.tsa.statespace.structural import UnobservedComponents

from pp_mlem import Model
from pp_mlem.base.precision import working_precision
from pp_mlem.target.target import Target


def level(y: Any) -> None:
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(x: Any, y_t: Any) -> Any:
        x = numpyro.sample("x", dist.Normal(x, sd))
        numpyro.sample("y", dist.Normal(x, noise), obs=y_t)
        return x, None

    scan(step, 0.0, y)


def levels(y: Any) -> None:
    series = y.shape[1]
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(x: Any, y_t: Any) -> Any:
        with numpyro.plate("series", series):
            x = numpyro.sample("x", dist.Normal(x, sd))
            numpyro.sample("y", dist.Normal(x, noise), obs=y_t)
        return x, None

    scan(step, jnp.zeros(series), y)


def median(function: Callable[[], Any], repeats: int = 15) -> float:
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def told(what: str, ours: float, theirs: float, whose: str) -> None:
    print(f"{what}: {1e3 * ours:.2f} ms, {whose} {1e3 * theirs:.2f} ms: {theirs / ours:.1f}x")


def filter_of(y: np.ndarray, sd: float) -> UnobservedComponents:
    model = UnobservedComponents(y, "llevel")
    model.initialize_known(np.zeros(1), np.array([[sd**2]]))
    model.loglikelihood_burn = 0
    return model


def main() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=10_000).cumsum() + rng.normal(size=10_000)
    params, theirs = {"sd": 1.1, "noise": 0.9}, filter_of(y, 1.1)
    model, at = Model(level, y), [0.81, 1.21]
    print(
        f"log-likelihood: {model.log_likelihood(params):.6f}, statsmodels {theirs.loglike(at):.6f}"
    )
    ours = median(lambda: model.log_likelihood(params))
    told("log-likelihood, T=10,000", ours, median(lambda: theirs.loglike(at)), "statsmodels")
    with working_precision(model.dtype):
        target = model.target()
        vector = np.asarray(target.space.unconstrain(params))
        step = target.compiled(Target.em_step)
        ours = median(lambda: jax.block_until_ready(step(vector)))
    print(f"EM iteration, T=10,000: {1e3 * ours:.2f} ms")
    try:
        told("EM iteration, T=10,000", ours, median(dynamax_step(y), 5), "dynamax")
    except ImportError:
        print("dynamax is not installed: its EM iteration is not measured")
    many = rng.normal(size=(200, 1000)).cumsum(0)
    model = Model(levels, many)
    filters = [filter_of(many[:, i], 1.1) for i in range(1000)]
    ours = median(lambda: model.log_likelihood(params))
    whole = median(lambda: sum(f.loglike(at) for f in filters), 3)
    told("log-likelihood, 1,000 series of 200", ours, whole, "statsmodels")


def dynamax_step(y: np.ndarray) -> Callable[[], Any]:
    """One EM iteration of dynamax's linear Gaussian model."""
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM

    jax.config.update("jax_enable_x64", True)
    model = LinearGaussianSSM(1, 1, has_dynamics_bias=False, has_emissions_bias=False)
    params, props = model.initialize(jax.random.key(0))
    batch = jnp.asarray(y)[None, :, None]

    def em(params: Any) -> Any:
        statistics, value = jax.vmap(lambda one: model.e_step(params, one))(batch)
        return model.m_step(
            params, props, statistics, model.initialize_m_step_state(params, props)
        ), value

    step = jax.jit(em)
    return lambda: jax.block_until_ready(step(params))


if __name__ == "__main__":
    main()
