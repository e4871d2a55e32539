"""Predictions of observed sites, scores and residuals, against closed forms."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats

from pp_mlem import Model, fit_mle

RNG = np.random.default_rng(3)
N = 60
X = pd.DataFrame({"one": np.ones(N), "x": RNG.normal(size=N)})
GROUP = np.arange(N) % 6
Y = 1 + 2 * X["x"].to_numpy() + RNG.normal(size=6)[GROUP] + 0.5 * RNG.normal(size=N)
COUNTS = RNG.poisson(np.exp(0.3 + 0.5 * X["x"].to_numpy()))
NEW = pd.DataFrame({"one": 1.0, "x": [0.0, 1.0, -2.0]})


def regression(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(X.values @ b, s), obs=y)


def poisson(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Poisson(jnp.exp(X.values @ b)), obs=y)


def intercepts(X, group, y=None):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("groups", 6):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(X.values @ b + u[group], s), obs=y)


@pytest.fixture(scope="module")
def fits():
    programs = {
        "regression": Model(regression, X, Y),
        "poisson": Model(poisson, X, COUNTS),
        "intercepts": Model(intercepts, X, GROUP, Y),
    }
    return {name: fit_mle(model, starts=1) for name, model in programs.items()}


def test_means_without_the_values(fits):
    normal, counts = fits["regression"], fits["poisson"]
    found = normal.predict(NEW)
    assert list(found) == ["y"]
    np.testing.assert_allclose(found["y"], NEW.to_numpy() @ normal.params["b"], rtol=1e-12)
    expected = np.exp(NEW.to_numpy() @ counts.params["b"])
    own = counts.predictive(NEW, draws=400)["y"]
    np.testing.assert_allclose(own.mean, expected, rtol=1e-12)
    np.testing.assert_allclose(own.sd, np.sqrt(expected), rtol=1e-12)
    assert own.draws.shape == (400, 3)
    np.testing.assert_allclose(own.quantile([0.1, 0.9]), np.quantile(own.draws, [0.1, 0.9], 0))


def test_marginal_over_latents(fits):
    fit = fits["intercepts"]
    p = fit.params
    own = fit.predictive(NEW, np.zeros(3, int), draws=2000)["y"]
    sd = np.hypot(p["tau"], p["s"])
    error = sd / np.sqrt(2000)
    np.testing.assert_allclose(own.mean, NEW.to_numpy() @ p["b"], atol=5 * error)
    np.testing.assert_allclose(own.sd, np.full(3, sd), rtol=0.1)
    # of one group, all three share its effect
    correlation = np.corrcoef(own.draws.T)[0, 1]
    assert abs(correlation - (p["tau"] / sd) ** 2) < 0.1
    assert set(fit.predict()) == {"u", "y"}
    np.testing.assert_allclose(fit.predict()["u"], fit.posterior()["u"].mean)


def test_labels_and_means_of_a_mixture(galaxies_em):
    p, new = galaxies_em.params, np.array([9.0, 20.0, 33.0])
    found = galaxies_em.predict(new, K=3)
    assert set(found) == {"z", "x"}
    np.testing.assert_array_equal(found["z"], np.argsort(p["mu"]))
    np.testing.assert_allclose(found["x"], np.full(3, p["w"] @ p["mu"]), atol=1.0)
    density = np.log(stats.norm.pdf(new[:, None], p["mu"], p["sigma"]) @ p["w"])
    assert galaxies_em.score(new, K=3) == pytest.approx(density.mean(), rel=1e-10)


def test_scores_of_draws(small_nuts):
    """The posterior predictive density of each unit, over the same draws."""
    several = small_nuts.several_params(100, small_nuts.seed)
    x = small_nuts.model.arguments.dynamic[0]
    density = np.stack([
        stats.norm.pdf(x[:, None], several["mu"][i], several["sigma"][i]) @ several["w"][i]
        for i in range(100)
    ])  # fmt: skip
    assert small_nuts.score() == pytest.approx(np.log(density.mean(0)).mean(), rel=1e-10)


def test_residuals(fits):
    normal, counts = fits["regression"], fits["poisson"]
    standard = (Y - X.to_numpy() @ normal.params["b"]) / normal.params["s"]
    np.testing.assert_allclose(normal.residuals()["y"], standard, atol=0.35)
    mean = np.exp(X.to_numpy() @ counts.params["b"])
    low, high = stats.poisson.cdf(COUNTS - 1, mean), stats.poisson.cdf(COUNTS, mean)
    score = stats.norm.cdf(counts.residuals(seed=2)["y"])
    assert np.all((score > low - 0.08) & (score < high + 0.08))
    holes = np.where(np.arange(N) < 5, np.nan, Y)
    partly = fit_mle(normal.model.with_data(y=holes), starts=1)
    assert np.isnan(partly.residuals()["y"]).sum() == 5


def test_new_rows_keep_their_plate_and_have_labels_of_their_own():
    """Of as many rows too; labels of plates that parameters run along stay."""

    def grouped(x, g, y=None):
        with numpyro.plate("groups", 2):
            mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(mu[g] + x.to_numpy(), 1.0), obs=y)

    old = pd.Series([0.0, 1.0, 2.0, 3.0], index=["a", "b", "c", "d"])
    g = np.array([0, 1, 0, 1])
    fit = fit_mle(Model(grouped, old, g, np.ones(4), coords={"groups": ["low", "high"]}), starts=1)
    held = fit.posterior_predictive(draws=10)["posterior_predictive"]
    assert list(held["rows"].values) == ["a", "b", "c", "d"]
    for names in (["e", "f", "g", "h"], ["e", "f"]):
        new = pd.Series(np.zeros(len(names)), index=names)
        found = fit.posterior_predictive(new, g[: len(names)], draws=10)["posterior_predictive"]
        assert found["y"].dims == ("chain", "draw", "rows") and list(found["rows"].values) == names
    bare = fit.posterior_predictive(pd.Series(np.zeros(4)), g, draws=10)["posterior_predictive"]
    assert list(bare["rows"].values) == [0, 1, 2, 3]
    prior = fit.model.prior_predictive(new, g[:2], draws=5)
    assert list(prior["prior_predictive"]["rows"].values) == ["e", "f"]
    assert list(prior["prior"]["groups"].values) == ["low", "high"]


def test_posterior_predictive_in_a_tree(fits, small_nuts):
    own = fits["regression"].posterior_predictive(draws=300)["posterior_predictive"]
    assert own["y"].dims == ("chain", "draw", "rows") and own["y"].shape == (1, 300, N)
    assert "asymptotic" in own.attrs["draws"]
    sampled = small_nuts.posterior_predictive(draws=40)["posterior_predictive"]
    assert sampled.sizes["chain"] == small_nuts.draw_vectors.shape[0]
    assert sampled.attrs["draws"] == "posterior draws"


def test_bad_requests(fits):
    with pytest.raises(ValueError, match=r"does not run on the new data.*'b': .2,."):
        fits["regression"].predict(NEW.assign(z=0.0), np.zeros(3))["y"]
    with pytest.raises(ValueError, match="draws"):
        fits["regression"].predictive(draws=0)
    with pytest.raises(ValueError, match="q: received"):
        fits["regression"].predictive(NEW, draws=5)["y"].quantile(2)
