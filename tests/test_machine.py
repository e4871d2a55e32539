"""What an accelerator would be given computes the same: its sizes and recursion, on the CPU that is here."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base import compiling
from pp_mlem.base import machine as machines
from pp_mlem.estimate import loop
from pp_mlem.marginal import recursions
from pp_mlem.marginal.recursions import PARALLEL_LANES, PARALLEL_STATES, in_sequence

rng = np.random.default_rng(2)
X = rng.normal(size=30_000) + 4 * (rng.random(30_000) < 0.4)
COUNTS = rng.poisson(np.where(np.arange(60) // 15 % 2, 8.0, 2.0)).astype(float)
COUNTS[17] = np.nan


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([K]).to_event(1))
    s = numpyro.sample("s", dist.LogNormal(0, 1).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]), obs=x)


def chain(x, K=2):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(2, 0.1).expand([K]).to_event(1))

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x_t)
        return z, None

    scan(step, 0, x)


@pytest.fixture
def accelerator(monkeypatch):
    """Sizes and recursion of an accelerator; compiled for the CPU."""
    device = machines.Machine(**{**vars(machines.ACCELERATOR), "cpu": True})
    monkeypatch.setattr(machines, "CPU", device)


@pytest.mark.parametrize(("program", "data"), [(mixture, X), (chain, COUNTS)])
def test_an_accelerator_fits_the_same(program, data, request):
    here = fit_em(Model(program, data), starts=3)
    posterior = here.posterior()["z"]
    request.getfixturevalue("accelerator")
    taken, parallel = [], recursions.sum_product_parallel
    spy = lambda *given: taken.append(1) or parallel(*given)  # noqa: E731
    request.getfixturevalue("monkeypatch").setattr(recursions, "sum_product_parallel", spy)
    model = Model(program, data)
    assert ("all steps in parallel" in str(model)) == (program is chain)
    there = fit_em(model, starts=3)
    assert bool(taken) == (program is chain)
    assert there.status == here.status == "converged"
    assert there.log_likelihood == pytest.approx(here.log_likelihood, rel=1e-12)
    order = np.argsort(next(v for n, v in there.params.items() if n in ("mu", "rate")))
    own = np.argsort(next(v for n, v in here.params.items() if n in ("mu", "rate")))
    found = model.posterior(there.params)["z"][..., order]
    np.testing.assert_allclose(found, posterior[..., own], atol=1e-6)


PLANE = np.random.default_rng(4).normal(size=(400, 3)) + 3.0 * (np.arange(400) % 2)[:, None]


def clouds(x, K=2):
    """Whose factorisations are a batch."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("clouds", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([3]).to_event(1))
        root = numpyro.sample("root", dist.LKJCholesky(3))
        s = numpyro.sample("s", dist.LogNormal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        law = dist.MultivariateNormal(mu[z], scale_tril=(s[..., None] * root)[z])
        numpyro.sample("x", law, obs=x)


@pytest.fixture
def on_threads(monkeypatch):
    """Starts that are computations of their own, however few rows there are."""
    monkeypatch.setattr(machines, "CPU", replace(machines.CPU, lane_work=1.0))


@pytest.mark.parametrize(("fit", "long"), [(fit_em, True), (fit_mle, False)])
def test_starts_on_threads_end_where_they_do_together(fit, long, request):
    together = fit(Model(clouds, PLANE), starts=5)
    request.getfixturevalue("on_threads")
    if long:  # as many at a time as there are cores
        request.getfixturevalue("monkeypatch").setattr(compiling, "LONG_WORK", 0.0)
    apart = fit(Model(clouds, PLANE), starts=5)
    assert apart.status == together.status == "converged"
    found, expected = (f.starts["objective"].to_numpy() for f in (apart, together))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    for name, value in together.params.items():
        np.testing.assert_allclose(apart.params[name], value, atol=1e-5)


def test_ctrl_c_on_threads_keeps_every_start(on_threads, monkeypatch):
    looks = []

    def stopped(function, items, inside):
        looks.append(items)
        if len(looks) == 9:
            raise KeyboardInterrupt
        return compiling.at_once(function, items, inside)

    monkeypatch.setattr(loop, "at_once", stopped)
    fit = fit_em(Model(clouds, PLANE), starts=4)
    assert fit.status == "interrupted" and len(fit.starts) == 4
    assert np.isfinite(fit.log_likelihood)


def test_chains_are_summed_in_parallel_where_that_pays(accelerator):
    assert not in_sequence(2, 1) and not in_sequence(PARALLEL_STATES, PARALLEL_LANES)
    assert in_sequence(PARALLEL_STATES + 1, 1) and in_sequence(2, PARALLEL_LANES + 1)


def test_a_cpu_sums_step_by_step():
    assert in_sequence(2, 1)


def test_sums_in_float32_keep_their_digits():
    """Over many blocks of rows: value and statistics within what float32 can hold of those in float64."""
    x = np.tile(X, 20)
    at = {"w": np.array([0.6, 0.4]), "mu": np.array([0.0, 4.0]), "s": np.array([1.0, 1.0])}
    double, single = Model(mixture, x), Model(mixture, x, dtype="float32")
    exact = double.log_likelihood(at)
    assert abs(single.log_likelihood(at) - exact) <= 2 * np.spacing(np.float32(-exact))
    found = fit_em(single, init=at, max_iter=1).params
    expected = fit_em(double, init=at, max_iter=1).params
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=3e-5, atol=3e-5)


def test_what_has_no_likelihood_has_none_in_float32():
    """An impossible row makes the sum over blocks minus infinity, and no NaN."""
    single = Model(mixture, X, dtype="float32")
    at = {"w": np.array([0.6, 0.4]), "mu": np.array([0.0, 4.0]), "s": np.array([1e-25, 1e-25])}
    assert np.isneginf(single.log_likelihood(at))
