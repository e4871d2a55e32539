"""Labels of exchangeable components, and draws of a posterior that are never lost."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from pp_mlem import Model, fit_laplace, fit_map, fit_nuts
from pp_mlem import nuts as nuts_module
from pp_mlem import sampler as sampler_module
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.space import ParameterSpace, scalar_names
from pp_mlem.summary import attempt, mean_inside

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-2, 0.7, 30), RNG.normal(1.5, 1.0, 50)])


def place(name, support, shape=()):
    return Site(name, Role.PARAMETER, "", "", support=support, shape=shape)


# --- the mean of draws lies inside the support -----------------------------------------------

SUPPORTS = {
    "correlation root": (constraints.corr_cholesky, (3, 3)),
    "correlation matrix": (constraints.corr_matrix, (3, 3)),
    "positive definite": (constraints.positive_definite, (2, 2)),
    "lower triangular": (constraints.lower_cholesky, (2, 2)),
    "simplex": (constraints.simplex, (4,)),
    "rows of simplices": (constraints.independent(constraints.simplex, 1), (2, 3)),
    "ordered": (constraints.ordered_vector, (3,)),
    "increasing and positive": (constraints.positive_ordered_vector, (3,)),
    "angle": (constraints.circular, ()),
    "sum zero": (constraints.zero_sum(1), (3,)),
    "l1 ball": (constraints.l1_ball, (2,)),
    "interval": (constraints.interval(1.0, 2.0), (2,)),
    "positive": (constraints.positive, ()),
    "real": (constraints.real, (2,)),
}


@pytest.mark.parametrize("name", list(SUPPORTS))
def test_mean_lies_inside_the_support(name):
    support, shape = SUPPORTS[name]
    space = ParameterSpace((place("p", support, shape),))
    vectors = np.random.default_rng(1).normal(scale=1.5, size=(50, space.size))
    draws = {"p": np.stack([np.asarray(space.constrain(jnp.asarray(v))["p"]) for v in vectors])}
    mean, reasons = mean_inside(space, draws)
    assert not reasons
    assert mean["p"].shape == shape
    assert np.all(np.asarray(support.check(mean["p"])))


def test_mean_of_angles_and_directions_does_not_cancel():
    space = ParameterSpace((place("a", constraints.circular), place("u", constraints.sphere, (2,))))
    angles = np.array([np.pi - 0.1, -np.pi + 0.1, np.pi - 0.2])
    found, _ = mean_inside(space, {"a": angles, "u": np.stack([np.cos(angles), np.sin(angles)], 1)})
    assert abs(abs(found["a"]) - np.pi) < 0.1
    np.testing.assert_allclose(np.linalg.norm(found["u"]), 1)
    assert found["u"][0] < -0.9


def test_mean_of_correlation_roots_is_that_of_the_correlations():
    space = ParameterSpace((place("L", constraints.corr_cholesky, (2, 2)),))
    r = np.array([0.9, -0.5, 0.2])
    roots = np.stack([np.linalg.cholesky([[1, a], [a, 1]]) for a in r])
    found, _ = mean_inside(space, {"L": roots})
    np.testing.assert_allclose((found["L"] @ found["L"].T)[0, 1], r.mean(), rtol=1e-12)


def test_a_summary_that_fails_says_why():
    reasons = {}
    assert np.isnan(attempt(lambda: np.linalg.cholesky(-np.eye(2)), np.nan, reasons, "root"))
    assert "LinAlgError" in reasons["root"]


def correlated(y):
    root = numpyro.sample("root", dist.LKJCholesky(2, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=scale[:, None] * root)
        numpyro.sample("y", law, obs=y)


@pytest.fixture(scope="module")
def pairs():
    noise = np.random.default_rng(2).normal(size=(60, 2))
    return Model(correlated, noise @ np.array([[1.0, 0.8], [0.0, 0.6]]))


@pytest.mark.parametrize("estimator", ["nuts", "laplace"])
def test_correlations_keep_their_draws(pairs, estimator):
    if estimator == "nuts":
        fit = fit_nuts(pairs, chains=2, warmup=100, draws=100, seed=0)
    else:
        fit = fit_laplace(pairs, draws=200, seed=0)
    root = fit.params["root"]
    np.testing.assert_allclose((root**2).sum(1), 1.0, rtol=1e-9)
    roots = fit.draws["root"].reshape(-1, 2, 2)
    expected = np.einsum("nij,nkj->nik", roots, roots).mean(0)[0, 1]
    np.testing.assert_allclose((root @ root.T)[0, 1], expected, rtol=1e-9)
    np.testing.assert_allclose(fit.log_likelihood, pairs.log_likelihood(fit.params), rtol=1e-12)
    assert np.isfinite(fit.summary()["mean"]).all()


# --- an interrupted run keeps what is finished -----------------------------------------------


def one_normal(x):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.fixture(scope="module")
def normal():
    return Model(one_normal, X)


@pytest.fixture
def stop_after(monkeypatch):
    """Ctrl-C during the block after so many; blocks of a given length."""

    def arrange(blocks, steps=50):
        monkeypatch.setattr(sampler_module, "ROOM", steps)
        monkeypatch.setattr(sampler_module, "FIRST_STEPS", steps)
        advance = sampler_module._Chain.advance
        left = [blocks]

        def limited(*args):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return advance(*args)

        monkeypatch.setattr(sampler_module._Chain, "advance", limited)

    return arrange


def test_draws_survive_a_summary_that_fails(normal, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no such diagnosis")

    monkeypatch.setattr(nuts_module, "ess", broken)
    monkeypatch.setattr(nuts_module, "align_draws", broken)
    fit = fit_nuts(normal, chain_method="vectorized", **OPTIONS)
    assert fit.draws["mu"].shape == (2, 100)
    assert np.isnan(fit.diagnostics["min_ess"])
    assert "no such diagnosis" in fit.story


OPTIONS = {"chains": 2, "warmup": 100, "draws": 100, "seed": 3}


def test_blocks_of_any_length_give_the_same_draws(normal, monkeypatch):
    whole = fit_nuts(normal, chain_method="vectorized", **OPTIONS)
    monkeypatch.setattr(sampler_module, "ROOM", 7)
    cut = fit_nuts(Model(one_normal, X), chain_method="vectorized", **OPTIONS)
    np.testing.assert_array_equal(whole.draw_vectors, cut.draw_vectors)


def test_interrupted_chains_side_by_side_keep_their_draws(normal, stop_after):
    whole = fit_nuts(normal, chain_method="vectorized", **OPTIONS)
    stop_after(blocks=3)  # two of warm-up, one of draws
    fit = fit_nuts(Model(one_normal, X), chain_method="vectorized", **OPTIONS)
    assert fit.status == "interrupted" and not fit.converged
    assert fit.draws["mu"].shape == (2, 50)
    np.testing.assert_array_equal(fit.draws["mu"], whole.draws["mu"][:, :50])
    assert "stopped by the user" in fit.story and "stopped by the user" in fit.status_note
    assert np.isfinite(fit.summary()["mean"]).all()


def test_interrupted_sequence_of_chains_keeps_the_finished_ones(normal, stop_after):
    stop_after(blocks=7)  # one whole chain and most of the second
    fit = fit_nuts(Model(one_normal, X), chain_method="sequential", **OPTIONS)
    assert fit.status == "interrupted"
    assert fit.draws["mu"].shape == (1, 100)
    assert "1 of 2 chains" in fit.story


def test_interrupted_in_the_first_of_the_chains(normal, stop_after):
    stop_after(blocks=3)
    fit = fit_nuts(Model(one_normal, X), chain_method="sequential", **OPTIONS)
    assert fit.draws["mu"].shape == (1, 50)
    assert fit.status == "interrupted"


def test_interrupted_warm_up_is_told(normal, stop_after):
    stop_after(blocks=1)
    fit = fit_nuts(Model(one_normal, X), chain_method="vectorized", **OPTIONS)
    assert fit.status == "interrupted" and fit.diagnostics["warmup_only"]
    assert "not draws of the posterior" in fit.story
    assert fit.draws["mu"].shape == (2, 25)


# --- names of rows ---------------------------------------------------------------------------


def test_rows_of_tables_have_names_of_their_own():
    real = constraints.real
    space = ParameterSpace((place("mu", real, (2,)), place("mu[0]", real), place("nu", real)))
    assert scalar_names(space) == ("mu[0]", "mu[1]", "'mu[0]'", "nu")
    more = (place("'mu[0]'", real), *space.sites)
    assert len(set(scalar_names(ParameterSpace(more)))) == 5


def test_a_site_named_like_a_scalar_is_told():
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
        other = numpyro.sample("mu[0]", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu[0] + mu[1] + other, 1.0), obs=x)

    model = Model(program, X)
    assert "site 'mu[0]' as 'mu[0]'" in repr(model)
    fit = fit_map(model)
    assert list(fit.summary().index) == ["mu[0]", "mu[1]", "'mu[0]'"]
