"""Reading programs: roles, overrides, labels, data as arguments, what the plan says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pp_mlem import Model, fit_em

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-2, 1, 60), RNG.normal(2, 1, 40)])
LABELS = np.repeat([0, 1], [60, 40])


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma), obs=x)


def test_roles_and_reasons():
    model = Model(mixture, X)
    assert model.roles == {
        "w": "parameter", "mu": "parameter", "sigma": "parameter", "z": "latent", "x": "observed",
    }  # fmt: skip
    text = repr(model)
    for part in ("z: 2 values", "closed form of Normal", "scale shared", "rows[100]"):
        assert part in text


def test_complete_data_is_the_textbook_estimate():
    fit = fit_em(Model(mixture, X, observe={"z": LABELS}), starts=1)
    first, second = X[LABELS == 0], X[LABELS == 1]
    np.testing.assert_allclose(fit.params["mu"], [first.mean(), second.mean()], rtol=1e-8)
    pooled = np.concatenate([first - first.mean(), second - second.mean()])
    np.testing.assert_allclose(fit.params["sigma"], pooled.std(), rtol=1e-8)
    np.testing.assert_allclose(fit.params["w"], [0.6, 0.4], rtol=1e-8)
    assert fit.converged


def test_partly_known_labels_lie_between():
    some = np.where(np.arange(100) % 2, LABELS, -1)
    missing = np.where(np.arange(100) % 2, LABELS, np.nan)
    fits = [
        fit_em(Model(mixture, X, observe=o), starts=4) for o in ({"z": LABELS}, {"z": some}, None)
    ]
    errors = [f.standard_errors()["mu[0]"] for f in fits]
    assert errors[0] < errors[1] < errors[2]
    same = Model(mixture, X, observe={"z": missing})
    assert same.log_likelihood(fits[1].params) == pytest.approx(fits[1].log_likelihood, abs=1e-9)
    assert "50 of 100 known" in repr(same)


def test_labels_as_data_argument_have_a_closed_form():
    def program(x, label):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu[label], sigma[label]), obs=x)

    model = Model(program, X, LABELS)
    assert "closed form" in repr(model)
    fit = fit_em(model)
    np.testing.assert_allclose(fit.params["mu"][1], X[LABELS == 1].mean(), rtol=1e-8)
    np.testing.assert_allclose(fit.params["sigma"][0], X[LABELS == 0].std(), rtol=1e-8)


def test_data_are_arguments_and_shared_compilations():
    model = Model(mixture, X)
    fit_em(model, starts=2)
    count = len(model.bound.kept)
    other = model.with_data(x=X[::-1].copy() + 1.0)
    fit = fit_em(other, starts=2)
    assert len(model.bound.kept) == count
    np.testing.assert_allclose(
        fit.log_likelihood, Model(mixture, X[::-1] + 1.0).log_likelihood(fit.params), rtol=1e-12
    )


def test_program_that_needs_concrete_values():
    def program(x, g):
        groups = int(g.max()) + 1
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([groups]).to_event(1))
        numpyro.sample("x", dist.Normal(mu[g], 1.0), obs=x)

    model = Model(program, X, LABELS)
    assert not model.arguments.traced and "concrete values" in repr(model)
    np.testing.assert_allclose(
        fit_em(model).params["mu"], [X[:60].mean(), X[60:].mean()], rtol=1e-8
    )


def test_ambiguous_site_is_refused_and_settled():
    def program(x, own):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("columns", 2, dim=-1), numpyro.plate("rows", 5, dim=-2):
            a = numpyro.sample("a", dist.Normal(0, 1)) if own else 0.0
            numpyro.sample("x", dist.Normal(mu + a, 1.0), obs=x)

    def by_column(x):
        with numpyro.plate("columns", 2, dim=-1):
            a = numpyro.sample("a", dist.Normal(0, 1))
            with numpyro.plate("rows", 5, dim=-2):
                numpyro.sample("x", dist.Normal(a, 1.0), obs=x)

    x = np.zeros((5, 2))
    with pytest.raises(ValueError, match=r"ambiguous.*'a'.*parameters=\{\"a\"\}"):
        Model(program, x, True)
    assert Model(program, x, True, parameters={"a"}).roles["a"] == "parameter"
    assert Model(program, x, True, latents={"a"}).roles["a"] == "latent"
    assert Model(by_column, x).roles["a"] == "parameter"  # no unit has one of its own


def test_real_latents_that_no_step_takes_out_are_refused_by_name():
    def program(x):
        tau = numpyro.sample("tau", dist.LogNormal(0, 1))
        with numpyro.plate("groups", 5):
            b = numpyro.sample("b", dist.Laplace(0, tau))
            numpyro.sample("x", dist.Normal(b, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"latent 'b'.*tau.*Laplace.*parameters="):
        Model(program, np.zeros(5))


def test_a_prediction_site_integrates_to_one():
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)
        numpyro.sample("next", dist.Poisson(jnp.exp(mu)))

    model = Model(program, X)
    assert model.roles["next"] == "ignored"
    assert fit_em(model).params["mu"] == pytest.approx(X.mean(), rel=1e-8)


def test_observation_mask_is_missing_data():
    def program(x, seen):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x, obs_mask=seen)

    seen = np.arange(100) % 3 > 0
    fit = fit_em(Model(program, X, seen))
    assert fit.params["mu"] == pytest.approx(X[seen].mean(), rel=1e-8)


def test_parameter_supports_of_every_kind():
    x = RNG.normal(size=(60, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]]) + 3

    def program(x):
        mu = numpyro.param("mu", jnp.zeros(3))
        scale = numpyro.sample("scale", dist.LogNormal(0, 1).expand([3]).to_event(1))
        factor = numpyro.sample("factor", dist.LKJCholesky(3, 1.0))
        with numpyro.plate("rows", x.shape[0]):
            tril = scale[:, None] * factor
            numpyro.sample("x", dist.MultivariateNormal(mu, scale_tril=tril), obs=x)

    fit = fit_em(Model(program, x))
    assert fit.converged and fit.n_parameters == 9
    tril = fit.params["scale"][:, None] * fit.params["factor"]
    np.testing.assert_allclose(tril @ tril.T, np.cov(x.T, bias=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.params["mu"], x.mean(0), rtol=1e-6)

    def ordered(x):
        cuts = numpyro.sample(
            "cuts",
            dist.TransformedDistribution(
                dist.Normal(0, 2).expand([2]).to_event(1), dist.transforms.OrderedTransform()
            ),
        )
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.OrderedLogistic(0.0, cuts), obs=x)

    y = np.repeat([0, 1, 2], [20, 50, 30])
    cuts = fit_em(Model(ordered, y)).params["cuts"]
    np.testing.assert_allclose(1 / (1 + np.exp(-cuts)), [0.2, 0.7], rtol=1e-6)


def test_mixture_same_family_is_a_table_factor():
    def program(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
        parts = dist.Normal(mu, sigma)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(w), parts), obs=x)

    explicit = fit_em(Model(mixture, X), starts=4)
    model = Model(program, X)
    assert model.log_likelihood(explicit.params) == pytest.approx(explicit.log_likelihood, abs=1e-9)


def test_simulate_has_the_shapes_of_the_data():
    model = Model(mixture, X)
    params = {"w": [0.3, 0.7], "mu": [-50.0, 50.0], "sigma": 0.1}
    drawn = model.simulate(params, seed=3)
    assert drawn["x"].shape == X.shape and drawn["z"].shape == X.shape
    assert np.array_equal(drawn["x"] > 0, drawn["z"] == 1)
    assert np.array_equal(drawn["x"], model.simulate(params, seed=3)["x"])


def test_float32_leaves_global_configuration_alone():
    before = jax.config.jax_enable_x64
    double = Model(mixture, X)
    single = Model(mixture, X, dtype=np.float32)
    params = {"w": [0.3, 0.7], "mu": [-2.0, 2.0], "sigma": 1.1}
    assert single.log_likelihood(params) == pytest.approx(double.log_likelihood(params), rel=1e-5)
    assert jax.config.jax_enable_x64 == before


def _columns(first, second):
    def program(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate(first, 4, dim=-2):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            with numpyro.plate(second, 3, dim=-1):
                numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    return program


@pytest.mark.parametrize("names", [("column b", "column 1"), ("unused -1", "program"), ("a", "0")])
def test_plates_may_have_any_name(names):
    y = np.random.default_rng(0).normal(size=(4, 3))
    params = {"mu": np.array([0.0, 1.0])}
    plain = Model(_columns("rows", "columns"), y)
    odd = Model(_columns(*names), y)
    assert odd.log_likelihood(params) == pytest.approx(plain.log_likelihood(params), rel=1e-12)
    np.testing.assert_allclose(odd.posterior(params)["z"], plain.posterior(params)["z"])
