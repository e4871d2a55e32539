"""Published results of models with real latents, by EM and by maximum likelihood.

Values are those that lme4, R's factanal and lavaan print for their own examples.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from conftest import SHARED
from scipy.optimize import minimize
from test_gold import codes, table

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.show.catalogue import find_model

published = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="the published data are not here"
)
BOTH = pytest.mark.parametrize("fit_by", [fit_em, fit_mle])
FLAT = dist.ImproperUniform(dist.constraints.real, (), ())


def one_way(y, batch, restricted=False):
    mu = numpyro.sample("mu", FLAT if restricted else dist.Normal(0, 1e4))
    tau = numpyro.sample("tau", dist.HalfNormal(100))
    sigma = numpyro.sample("sigma", dist.HalfNormal(100))
    with numpyro.plate("batches", 6):
        b = numpyro.sample("b", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + b[batch], sigma), obs=y)


@published
@BOTH
def test_a_batch_variance_of_zero_by_maximum_likelihood(fit_by):
    """Dyestuff2, simulated: lmer(Yield ~ 1 + (1 | Batch), REML = FALSE)."""
    data = table("C03_dyestuff2_boundary")
    fit = fit_by(Model(one_way, data.Yield.to_numpy(), codes(data.Batch)), starts=2)
    assert -2 * fit.log_likelihood == pytest.approx(162.873, abs=5e-4)
    assert fit.params["mu"] == pytest.approx(5.6656, abs=5e-5)
    assert fit.params["sigma"] == pytest.approx(3.653, abs=5e-4)
    assert fit.status == "boundary" and "tau" in fit.status_note
    assert fit.standard_errors()["mu"] == pytest.approx(0.6669, abs=1e-4)
    assert np.isnan(fit.standard_errors()["tau"])


@published
@pytest.mark.slow
def test_a_batch_variance_of_zero_by_restricted_likelihood():
    data = table("C03_dyestuff2_boundary")
    arrays = data.Yield.to_numpy(), codes(data.Batch)
    model = Model(one_way, *arrays, restricted=True, latents={"mu", "b"})
    fit = fit_em(model, starts=1)
    assert -2 * fit.log_likelihood == pytest.approx(161.828, abs=5e-4)
    assert fit.params["sigma"] == pytest.approx(3.716, abs=5e-4)
    assert fit.status == "boundary"
    assert fit.posterior()["mu"].sd == pytest.approx(0.6784, abs=5e-5)


def casks(y, cask, batch, restricted=False):
    mu = numpyro.sample("mu", FLAT if restricted else dist.Normal(0, 1e3))
    tau = numpyro.sample("tau", dist.HalfNormal(10).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    with numpyro.plate("batches", 10):
        a = numpyro.sample("a", dist.Normal(0, tau[0]))
    with numpyro.plate("casks", 30):
        b = numpyro.sample("b", dist.Normal(0, tau[1]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + a[batch] + b[cask], sigma), obs=y)


@published
@pytest.mark.slow
@BOTH
def test_casks_within_batches_by_maximum_likelihood(fit_by):
    """Pastes: lmer(strength ~ 1 + (1 | sample) + (1 | batch), REML = FALSE)."""
    data = table("C06_pastes_nested_ml")
    arrays = data.strength.to_numpy(), codes(data["sample"]), codes(data.batch)
    fit = fit_by(Model(casks, *arrays), starts=1)
    assert -2 * fit.log_likelihood == pytest.approx(247.9945, abs=5e-5)
    np.testing.assert_allclose(fit.params["tau"], [1.0951, 2.9041], atol=6e-5)
    assert fit.params["sigma"] == pytest.approx(0.8234, abs=5e-5)
    assert fit.params["mu"] == pytest.approx(60.0533, abs=5e-5)
    assert fit.standard_errors()["mu"] == pytest.approx(0.6421, abs=5e-5)
    assert fit.converged


@published
def test_casks_inside_of_their_batches_plate():
    """The same as plates inside of plates: every unit has as many rows, so all have one precision."""

    def program(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1e3))
        tau = numpyro.sample("tau", dist.HalfNormal(10).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(10))
        with numpyro.plate("batches", 10, dim=-3):
            a = numpyro.sample("a", dist.Normal(mu, tau[0]))
            with numpyro.plate("casks", 3, dim=-2):
                b = numpyro.sample("b", dist.Normal(a, tau[1]))
                with numpyro.plate("rows", 2, dim=-1):
                    numpyro.sample("y", dist.Normal(b, sigma), obs=y)

    data = table("C06_pastes_nested_ml").sort_values(["batch", "cask"])
    model = Model(program, data.strength.to_numpy().reshape(10, 3, 2))
    params = {"mu": 60.05333, "tau": [1.09506, 2.90408], "sigma": 0.823408}
    assert -2 * model.log_likelihood(params) == pytest.approx(247.9945, abs=5e-5)


@published
def test_casks_within_batches_by_restricted_likelihood():
    data = table("C06_pastes_nested_ml")
    arrays = data.strength.to_numpy(), codes(data["sample"]), codes(data.batch)
    model = Model(casks, *arrays, restricted=True, latents={"mu", "a", "b"})
    params = {"tau": [1.287365, 2.904078], "sigma": 0.823408}
    assert -2 * model.log_likelihood(params) == pytest.approx(246.9907, abs=5e-5)
    assert model.posterior(params)["mu"].sd == pytest.approx(0.6769, abs=5e-5)


def factors(x, L=1):
    d = x.shape[1]
    W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
    psi = numpyro.sample("psi", dist.HalfNormal(1).expand([d]).to_event(1))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
        numpyro.sample("x", dist.Normal(u @ W.T, psi).to_event(1), obs=x)


def rows_of(R, n):
    """Rows that have exactly these covariances: of the people only these are published."""
    free = np.random.default_rng(0).normal(size=(n, len(R)))
    free -= free.mean(0)
    white = free @ np.linalg.inv(np.linalg.cholesky(free.T @ free / n)).T
    return white @ np.linalg.cholesky(R).T


def correlations(name):
    S = table(name).iloc[:, 1:].to_numpy(float)
    scale = np.sqrt(np.diag(S))
    return S / scale[:, None] / scale


def saturated(S, n):
    return -n / 2 * (len(S) * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(S)[1])


FACTANAL = [  # data, people, factors, the chi-squared statistic that factanal prints
    ("C09_ability_factanal", 112, 1, 75.18),
    ("C09_ability_factanal", 112, 2, 6.11),
    pytest.param("C08_harman74_factanal", 145, 1, 622.91, marks=pytest.mark.slow),
    pytest.param("C08_harman74_factanal", 145, 2, 420.24, marks=pytest.mark.slow),
    pytest.param("C08_harman74_factanal", 145, 3, 295.59, marks=pytest.mark.slow),
    pytest.param("C08_harman74_factanal", 145, 4, 226.68, marks=pytest.mark.slow),
    pytest.param("C08_harman74_factanal", 145, 5, 186.82, marks=pytest.mark.slow),
]


@published
@pytest.mark.parametrize(("name", "n", "L", "statistic"), FACTANAL)
def test_factor_analysis_by_em(name, n, L, statistic):
    R = correlations(name)
    p = len(R)
    fit = fit_em(Model(factors, rows_of(R, n), L=L, latents={"u"}), starts=2)
    discrepancy = 2 / n * (saturated(R, n) - fit.log_likelihood)
    bartlett = n - 1 - (2 * p + 5) / 6 - 2 * L / 3
    assert bartlett * discrepancy == pytest.approx(statistic, abs=0.0051)
    assert fit.converged


def least_discrepancy(R, L):
    """Jöreskog's discrepancy, least over uniquenesses that may be zero (as good as)."""

    def discrepancy(psi):
        values = np.linalg.eigvalsh(R / np.sqrt(psi[:, None] * psi))[: len(R) - L]
        return (values - np.log(values) - 1).sum()

    begin = (1 - 0.5 * L / len(R)) / np.diag(np.linalg.inv(R))
    how = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000, "maxfun": 100_000}
    bounds = [(1e-7, 1)] * len(R)
    return minimize(discrepancy, begin, method="L-BFGS-B", bounds=bounds, options=how).fun


@published
@pytest.mark.slow
@pytest.mark.parametrize("L", [3, 4])
@BOTH
def test_a_uniqueness_of_zero_is_at_the_boundary(fit_by, L):
    """Harman's 305 girls: with three and four factors factanal stops at its bound of 0.005."""
    R = correlations("C07_harman23_factanal")
    fit = fit_by(Model(factors, rows_of(R, 305), L=L, latents={"u"}), starts=3)
    discrepancy = 2 / 305 * (saturated(R, 305) - fit.log_likelihood)
    assert discrepancy == pytest.approx(least_discrepancy(R, L), abs=2e-6)
    assert fit.status == "boundary" and "psi (1 of 8)" in fit.status_note
    assert np.isnan(fit.standard_errors()["psi[1]"])


@published
@pytest.mark.slow
@BOTH
def test_confirmatory_factors_of_holzinger_and_swineford(fit_by):
    """lavaan's first example: log L = -3737.745, AIC 7517.490 (without intercepts)."""

    def program(x):
        nu = numpyro.sample("nu", dist.Normal(0, 10).expand([9]).to_event(1))
        load = numpyro.sample("load", dist.Normal(0, 2).expand([6]).to_event(1))
        S = numpyro.param(
            "S", 0.5 * jnp.eye(3) + 0.2, constraint=dist.constraints.positive_definite
        )
        noise = numpyro.sample("noise", dist.HalfNormal(2).expand([9]).to_event(1))
        own = jnp.concatenate([jnp.ones((3, 1)), load.reshape(3, 2)], 1).reshape(-1)
        W = jnp.zeros((9, 3)).at[np.arange(9), np.arange(9) // 3].set(own)
        with numpyro.plate("children", len(x)):
            f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(3), S))
            numpyro.sample("x", dist.Normal(nu + f @ W.T, noise).to_event(1), obs=x)

    x = table("C10_holzinger_cfa")[[f"x{i}" for i in range(1, 10)]].to_numpy()
    fit = fit_by(Model(program, x, latents={"f"}), starts=1)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-3737.745, abs=5e-4)
    told = [0.554, 0.729, 1.113, 0.926, 1.180, 1.082]
    np.testing.assert_allclose(fit.params["load"], told, atol=6e-4)
    told = [[0.809, 0.408, 0.262], [0.408, 0.979, 0.173], [0.262, 0.173, 0.384]]
    np.testing.assert_allclose(fit.params["S"], told, atol=6e-4)


@published
@pytest.mark.slow
def test_political_democracy():
    """lavaan's second example: log L = -1547.791."""
    pairs = np.array([(0, 4), (1, 3), (1, 5), (2, 6), (3, 7), (5, 7)])

    def program(x):
        nu = numpyro.sample("nu", dist.Normal(0, 10).expand([11]).to_event(1))
        load = numpyro.sample("load", dist.Normal(1, 1).expand([8]).to_event(1))
        b = numpyro.sample("b", dist.Normal(0, 2).expand([3]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(2).expand([3]).to_event(1))
        noise = numpyro.sample("noise", dist.HalfNormal(2).expand([11]).to_event(1))
        rho = numpyro.sample("rho", dist.Uniform(-1, 1).expand([6]).to_event(1))
        R = jnp.eye(11).at[pairs[:, 0], pairs[:, 1]].set(rho).at[pairs[:, 1], pairs[:, 0]].set(rho)
        one = jnp.ones(1)
        with numpyro.plate("countries", len(x)):
            ind60 = numpyro.sample("ind60", dist.Normal(0, s[0]))
            dem60 = numpyro.sample("dem60", dist.Normal(b[0] * ind60, s[1]))
            dem65 = numpyro.sample("dem65", dist.Normal(b[1] * ind60 + b[2] * dem60, s[2]))
            parts = [
                dem60[:, None] * jnp.concatenate([one, load[:3]]),
                dem65[:, None] * jnp.concatenate([one, load[3:6]]),
                ind60[:, None] * jnp.concatenate([one, load[6:]]),
            ]
            S = noise[:, None] * R * noise
            mean = nu + jnp.concatenate(parts, -1)
            numpyro.sample("x", dist.MultivariateNormal(mean, covariance_matrix=S), obs=x)

    names = [*(f"y{i}" for i in range(1, 9)), "x1", "x2", "x3"]
    x = table("C11_political_democracy_sem")[names].to_numpy()
    fit = fit_mle(Model(program, x), starts=2)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-1547.791, abs=5e-4)
    told = [1.257, 1.058, 1.265, 1.186, 1.280, 1.266, 2.180, 1.819]
    np.testing.assert_allclose(fit.params["load"], told, atol=6e-4)
    np.testing.assert_allclose(fit.params["b"], [1.483, 0.572, 0.837], atol=6e-4)


@published
@pytest.mark.parametrize("centred", [True, False])
def test_eight_schools_do_not_differ(centred):
    def program(y, s):
        mu = numpyro.sample("mu", dist.Normal(0, 50))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("schools", 8):
            if centred:
                theta = numpyro.sample("theta", dist.Normal(mu, tau))
            else:
                theta = mu + tau * numpyro.sample("raw", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(theta, s), obs=y)

    data = table("C14_eight_schools_mle")
    arrays = data.y.to_numpy(), data.sigma.to_numpy()
    fit = fit_mle(Model(program, *arrays, latents={"theta" if centred else "raw"}), starts=1)
    assert fit.status == "boundary" and "tau" in fit.status_note
    assert fit.params["mu"] == pytest.approx(7.686, abs=1e-3)
    assert fit.standard_errors()["mu"] == pytest.approx(4.072, abs=1e-3)


@pytest.mark.parametrize("fit_by", [fit_em, pytest.param(fit_mle, marks=pytest.mark.slow)])
def test_growth_of_orange_trees(fit_by):
    """lme4: nlmer(circumference ~ SSlogis(age, Asym, xmid, scal) ~ Asym | Tree, Orange)."""
    shelf = find_model("growth_curves")
    fit = fit_by(Model(shelf.program, **shelf.data()), init={"middle": 700.0, "scale": 300.0})
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-131.5719, abs=5e-5)
    told = {"mu": 192.05, "middle": 727.90, "scale": 348.07, "tau": 31.646, "sigma": 7.843}
    for name, value in told.items():
        assert fit.params[name] == pytest.approx(value, abs=1e-2)


@pytest.mark.slow
@BOTH
def test_stability_of_alienation(fit_by):
    """Fox (2006): Model Chisquare = 6.3307, Df = 5."""
    shelf = find_model("structural_equations")
    data = shelf.data()
    x = np.concatenate(list(data.values()), 1)
    fit = fit_by(Model(shelf.program, **data), starts=1)
    discrepancy = 2 / 932 * (saturated(np.cov(x.T, bias=True), 932) - fit.log_likelihood)
    assert 931 * discrepancy == pytest.approx(6.3307, abs=5e-5)
    assert fit.converged and fit.standard_errors().notna().all()
