"""Every family: its scores equal numpyro's log_prob, and its closed form is a maximum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pp_mlem import Model, fit_em
from pp_mlem.base.precision import working_precision

RNG = np.random.default_rng(0)
N, D = 40, 3


def _covariances(k):
    a = RNG.normal(size=(k, D, D))
    return a @ np.swapaxes(a, 1, 2) + np.eye(D)


def positive(*shape):
    return RNG.gamma(3.0, size=shape) + 0.2


SIMPLEX = RNG.dirichlet(np.ones(4), size=2)
SUPPORTS = dist.constraints
# name: (distribution of the parameters indexed by z, parameters with support, observations)
CASES = {
    "normal": (
        lambda p, z: dist.Normal(p["a"][z], p["b"][z]),
        {"a": (RNG.normal(size=2), SUPPORTS.real), "b": (positive(2), SUPPORTS.positive)},
        RNG.normal(size=N) + 1e4,
    ),
    "normal, shared scale": (
        lambda p, z: dist.Normal(p["a"][z], p["b"]),
        {"a": (RNG.normal(size=2), SUPPORTS.real), "b": (positive(), SUPPORTS.positive)},
        RNG.normal(size=N),
    ),
    "normal, shared location": (
        lambda p, z: dist.Normal(p["a"], p["b"][z]),
        {"a": (RNG.normal(), SUPPORTS.real), "b": (positive(2), SUPPORTS.positive)},
        RNG.normal(size=N),
    ),
    "lognormal": (
        lambda p, z: dist.LogNormal(p["a"][z], p["b"][z]),
        {"a": (RNG.normal(size=2), SUPPORTS.real), "b": (positive(2), SUPPORTS.positive)},
        positive(N),
    ),
    "diagonal normal": (
        lambda p, z: dist.Normal(p["a"][z], p["b"][z]).to_event(1),
        {
            "a": (RNG.normal(size=(2, D)), SUPPORTS.real),
            "b": (positive(2, D), SUPPORTS.positive),
        },
        RNG.normal(size=(N, D)),
    ),
    "multivariate normal, covariance": (
        lambda p, z: dist.MultivariateNormal(p["a"][z], p["S"][z]),
        {
            "a": (RNG.normal(size=(2, D)), SUPPORTS.real),
            "S": (_covariances(2), SUPPORTS.positive_definite),
        },
        RNG.normal(size=(N, D)) + 100,
    ),
    "multivariate normal, shared covariance": (
        lambda p, z: dist.MultivariateNormal(p["a"][z], p["S"]),
        {
            "a": (RNG.normal(size=(2, D)), SUPPORTS.real),
            "S": (_covariances(1)[0], SUPPORTS.positive_definite),
        },
        RNG.normal(size=(N, D)),
    ),
    "multivariate normal, precision": (
        lambda p, z: dist.MultivariateNormal(p["a"][z], precision_matrix=p["S"][z]),
        {
            "a": (RNG.normal(size=(2, D)), SUPPORTS.real),
            "S": (_covariances(2), SUPPORTS.positive_definite),
        },
        RNG.normal(size=(N, D)),
    ),
    "multivariate normal, Cholesky factor": (
        lambda p, z: dist.MultivariateNormal(p["a"][z], scale_tril=p["L"][z]),
        {
            "a": (RNG.normal(size=(2, D)), SUPPORTS.real),
            "L": (np.linalg.cholesky(_covariances(2)), SUPPORTS.lower_cholesky),
        },
        RNG.normal(size=(N, D)),
    ),
    "exponential": (
        lambda p, z: dist.Exponential(p["a"][z]),
        {"a": (positive(2), SUPPORTS.positive)},
        positive(N),
    ),
    "gamma": (
        lambda p, z: dist.Gamma(p["a"][z], p["b"][z]),
        {"a": (positive(2), SUPPORTS.positive), "b": (positive(2), SUPPORTS.positive)},
        positive(N),
    ),
    "beta": (
        lambda p, z: dist.Beta(p["a"][z], p["b"][z]),
        {"a": (positive(2), SUPPORTS.positive), "b": (positive(2), SUPPORTS.positive)},
        RNG.uniform(0.1, 0.9, N),
    ),
    "dirichlet": (
        lambda p, z: dist.Dirichlet(p["a"][z]),
        {"a": (positive(2, 4), SUPPORTS.positive)},
        RNG.dirichlet(np.ones(4) * 3, size=N),
    ),
    "bernoulli": (
        lambda p, z: dist.Bernoulli(p["a"][z]),
        {"a": (RNG.uniform(0.2, 0.8, 2), SUPPORTS.unit_interval)},
        RNG.integers(0, 2, N),
    ),
    "bernoulli, logits": (
        lambda p, z: dist.Bernoulli(logits=p["a"][z]),
        {"a": (RNG.normal(size=2), SUPPORTS.real)},
        RNG.integers(0, 2, N),
    ),
    "binomial": (
        lambda p, z: dist.Binomial(7, p["a"][z]),
        {"a": (RNG.uniform(0.2, 0.8, 2), SUPPORTS.unit_interval)},
        RNG.integers(0, 8, N),
    ),
    "geometric": (
        lambda p, z: dist.Geometric(p["a"][z]),
        {"a": (RNG.uniform(0.2, 0.8, 2), SUPPORTS.unit_interval)},
        RNG.integers(0, 5, N),
    ),
    "categorical": (
        lambda p, z: dist.Categorical(p["a"][z]),
        {"a": (SIMPLEX, SUPPORTS.simplex)},
        RNG.integers(0, 4, N),
    ),
    "categorical, logits": (
        lambda p, z: dist.Categorical(logits=p["a"][z]),
        {"a": (RNG.normal(size=(2, 4)), SUPPORTS.real)},
        RNG.integers(0, 4, N),
    ),
    "categorical, looked up": (
        lambda p, z: dist.Categorical(p["a"][z]),
        {"a": (RNG.dirichlet(np.ones(40), size=2), SUPPORTS.simplex)},
        RNG.integers(0, 40, N),
    ),
    "multinomial": (
        lambda p, z: dist.Multinomial(6, p["a"][z]),
        {"a": (SIMPLEX, SUPPORTS.simplex)},
        RNG.multinomial(6, np.ones(4) / 4, size=N),
    ),
    "poisson": (
        lambda p, z: dist.Poisson(p["a"][z]),
        {"a": (positive(2), SUPPORTS.positive)},
        RNG.poisson(3, N),
    ),
    "von Mises": (
        lambda p, z: dist.VonMises(p["a"][z], p["b"][z]),
        {"a": (RNG.normal(size=2), SUPPORTS.real), "b": (positive(2), SUPPORTS.positive)},
        RNG.uniform(-3, 3, N),
    ),
}


def _program(case):
    make, given, _ = CASES[case]

    def program(x, n):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        params = {k: numpyro.param(k, jnp.asarray(v), constraint=c) for k, (v, c) in given.items()}
        with numpyro.plate("rows", n):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", make(params, z), obs=x)

    return program


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request):
    make, given, x = CASES[request.param]
    model = Model(_program(request.param), x, len(x))
    params = {"w": np.array([0.3, 0.7]), **{k: v for k, (v, _) in given.items()}}
    return model, params, make, x


def test_scores_equal_numpyro(case):
    model, params, make, x = case
    factor = next(f for f in model.marginal.factors if f.site == "x")
    assert factor.kind == "family"
    with jax.enable_x64(True):
        values = {k: jnp.asarray(v) for k, v in params.items()}
        each = np.stack([make(values, jnp.asarray(k)).log_prob(jnp.asarray(x)) for k in (0, 1)])
        expected = np.logaddexp(np.log(0.3) + each[0], np.log(0.7) + each[1])
    # The value 1e4 with unit scale costs digits: numpyro's own squares lose them too.
    np.testing.assert_allclose(
        model.pointwise_log_likelihood(params), expected, rtol=1e-9, atol=1e-9
    )


def test_m_step_is_the_maximum(case):
    """After the M-step no parameter in a closed-form or numeric block has a gradient left."""
    model, params, _, _ = case
    with working_precision(model.dtype):
        target = model.target()
        vector = target.space.unconstrain({k: jnp.asarray(v) for k, v in params.items()})

        @jax.jit
        def after(v, data):
            value, statistics = target.on(data).expectation(v)
            new = target.on(data).maximise(v, statistics)
            q = lambda u: target.on(data).expected(u, statistics)
            return value, target.on(data).log_likelihood(new), jax.grad(q)(new), q(new) - q(v)

        before, later, gradient, gain = jax.device_get(after(vector, model.data))
    assert np.abs(gradient).max() < 1e-6 * N
    assert gain >= -1e-9 and later >= before - 1e-9


@pytest.mark.parametrize(
    "name", ["bernoulli", "poisson", "categorical", "exponential", "geometric"]
)
def test_fixed_argument_of_no_interest_stays(name):
    make, given, x = CASES[name]
    model = Model(_program(name), x, len(x))
    value = given["a"][0]
    fit = fit_em(model, fixed={"a": value}, starts=1)
    np.testing.assert_array_equal(fit.params["a"], value)
    assert fit.n_parameters == 1


CONJUGATE = {
    "normal": (lambda p, z: dist.Normal(p[z], 2.0), dist.Normal(1.0, 0.5), RNG.normal(size=N)),
    "bernoulli": (lambda p, z: dist.Bernoulli(p[z]), dist.Beta(3.0, 2.0), RNG.integers(0, 2, N)),
    "geometric": (lambda p, z: dist.Geometric(p[z]), dist.Beta(3.0, 2.0), RNG.integers(0, 4, N)),
    "poisson": (lambda p, z: dist.Poisson(p[z]), dist.Gamma(3.0, 2.0), RNG.poisson(3, N)),
    "exponential": (lambda p, z: dist.Exponential(p[z]), dist.Gamma(3.0, 2.0), positive(N)),
    "gamma": (lambda p, z: dist.Gamma(2.0, p[z]), dist.Gamma(3.0, 2.0), positive(N)),
    "categorical": (
        lambda p, z: dist.Categorical(p[z]), dist.Dirichlet(jnp.array([2.0, 3.0, 1.5])),
        RNG.integers(0, 3, N),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CONJUGATE))
def test_conjugate_map_step_is_the_maximum(name):
    make, prior, x = CONJUGATE[name]

    def program(x):
        with numpyro.plate("k", 2):
            p = numpyro.sample("p", prior)
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])))
            numpyro.sample("x", make(p, z), obs=x)

    model = Model(program, x)
    with working_precision(model.dtype):
        target = model.target(with_prior=True)
        assert [b.method for b in target.problem.blocks] == ["closed"]
        vector = jnp.linspace(-0.5, 0.5, target.space.size)

        @jax.jit
        def after(v, data):
            _, statistics = target.on(data).expectation(v)
            new = target.on(data).maximise(v, statistics)
            return jax.grad(lambda u: target.on(data).expected(u, statistics))(new)

        gradient = jax.device_get(after(vector, model.data))
    assert np.abs(gradient).max() < 1e-9 * N
