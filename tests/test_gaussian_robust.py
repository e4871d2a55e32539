"""Real latents with data in other units, of other types and sizes; weights, fixed parameters, other data."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from pp_mlem import Model, fit_em, fit_mle

GROUPS = 6
RNG = np.random.default_rng(4)
GROUP = RNG.integers(0, GROUPS, 40)
X = RNG.normal(size=40)
Y = 1.0 + 0.5 * X + RNG.normal(size=GROUPS)[GROUP] + 0.6 * RNG.normal(size=40)


def intercepts(y, x, group, groups=GROUPS):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("groups", groups):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[0] + b[1] * x + u[group], sigma), obs=y)


@pytest.fixture(scope="module")
def plain():
    return fit_mle(Model(intercepts, Y, X, GROUP), starts=1)


@pytest.mark.parametrize("fit_by", [fit_em, fit_mle])
@pytest.mark.parametrize(("unit", "offset"), [(1e-3, 0.0), (1e6, 0.0), (1.0, 1e5)])
def test_the_unit_and_the_origin_of_the_data_do_not_decide(fit_by, unit, offset, plain):
    model = Model(intercepts, unit * Y + offset, X, GROUP)
    fit = fit_by(model, starts=1)
    assert fit.converged
    expected = plain.log_likelihood - len(Y) * np.log(unit)
    assert fit.log_likelihood == pytest.approx(expected, abs=1e-6)
    assert fit.params["tau"] == pytest.approx(unit * plain.params["tau"], rel=1e-5)


def test_types_and_order_of_the_data_do_not_decide(plain):
    order = np.argsort(GROUP)
    again = Model(intercepts, Y[order], X[order], GROUP[order].astype(float).astype(np.int32))
    value = again.log_likelihood(plain.params)
    assert value == pytest.approx(plain.log_likelihood, abs=1e-10)
    whole = np.round(3 * Y)
    params = {**plain.params, "sigma": 2.0}
    counted = Model(intercepts, whole.astype(int), X, GROUP).log_likelihood(params)
    assert counted == pytest.approx(Model(intercepts, whole, X, GROUP).log_likelihood(params))
    narrow = Model(intercepts, Y.astype(np.float32), X.astype(np.float32), GROUP)
    assert narrow.log_likelihood(plain.params) == pytest.approx(plain.log_likelihood, abs=1e-4)


def test_a_group_without_rows_says_nothing(plain):
    model = Model(intercepts, Y, X, GROUP, groups=GROUPS + 2)
    assert model.log_likelihood(plain.params) == pytest.approx(plain.log_likelihood, abs=1e-10)
    told = model.posterior(plain.params)["u"]
    np.testing.assert_allclose(told.mean[GROUPS:], 0.0, atol=1e-12)
    np.testing.assert_allclose(told.sd[GROUPS:], plain.params["tau"], rtol=1e-10)


def test_other_data_of_other_sizes(plain):
    model = Model(intercepts, Y, X, GROUP)
    rows = np.arange(25)
    smaller = model.with_data(y=Y[rows], x=X[rows], group=GROUP[rows])
    again = Model(intercepts, Y[rows], X[rows], GROUP[rows])
    value = again.log_likelihood(plain.params)
    assert smaller.log_likelihood(plain.params) == pytest.approx(value, rel=1e-12)
    one = Model(intercepts, Y[:1], X[:1], np.zeros(1, int), groups=1)
    spread = np.hypot(plain.params["tau"], plain.params["sigma"])
    away = (Y[0] - plain.params["b"] @ [1.0, X[0]]) / spread
    expected = -0.5 * away**2 - np.log(spread) - 0.5 * np.log(2 * np.pi)
    assert one.log_likelihood(plain.params) == pytest.approx(expected, rel=1e-10)


def test_parameters_that_are_fixed(plain):
    given = {"tau": plain.params["tau"]}
    for fit_by in (fit_em, fit_mle):
        fit = fit_by(Model(intercepts, Y, X, GROUP), starts=1, fixed=given)
        assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-8)
        assert fit.params["sigma"] == pytest.approx(plain.params["sigma"], rel=1e-4)
        assert "tau" not in fit.standard_errors().index


def test_weights_are_duplicated_units():
    """A scale around a unit's latent and observations counts its own log-likelihood so often."""

    def program(x, weight=None):
        W = numpyro.sample("W", dist.Normal(0, 1).expand([3]).to_event(1))
        psi = numpyro.sample("psi", dist.HalfNormal(1).expand([3]).to_event(1))
        weight = np.ones(len(x)) if weight is None else weight
        with numpyro.plate("rows", len(x)), handlers.scale(scale=weight):
            u = numpyro.sample("u", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(u[:, None] * W, psi).to_event(1), obs=x)

    x = np.random.default_rng(1).normal(size=(8, 1)) + RNG.normal(size=(8, 3))
    weight = np.array([1, 2, 1, 3, 1, 1, 2, 1])
    weighed = Model(program, x, weight=weight.astype(float), latents={"u"})
    twice = Model(program, np.repeat(x, weight, 0), latents={"u"})
    params = {"W": [0.8, -0.3, 0.5], "psi": [0.7, 1.1, 0.4]}
    value = twice.log_likelihood(params)
    assert weighed.log_likelihood(params) == pytest.approx(value, rel=1e-12)
    once = Model(program, x, latents={"u"}).posterior(params)["u"]
    np.testing.assert_allclose(weighed.posterior(params)["u"].sd, once.sd, rtol=1e-10)
    fits = [fit_em(m, starts=1, init=params, max_iter=5) for m in (weighed, twice)]
    np.testing.assert_allclose(fits[0].params["psi"], fits[1].params["psi"], rtol=1e-8)
